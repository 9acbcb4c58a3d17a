// Package peerwire is what replicas send each other on the streams and in the notes of package
// cluster.
//
//   - move.go has the messages with which a client moves to the replica that has its session.
//   - request.go has HTTP requests that are forwarded, and their answers.
//
// Replicas of two versions may be connected, so the meaning of a field must not change.
package peerwire
