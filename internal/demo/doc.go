// Package demo shows in a terminal what holdfast does, with nothing but Go: it
// starts a legacy Socket.IO server, holdfast in front of it, and a client whose
// connection is cut; it tells what happens to the client, and what the server
// sees of it, and compares that with a client that has no holdfast. Then it
// keeps serving, for people to try clients of their own.
package demo
