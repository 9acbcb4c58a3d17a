// Package buffer keeps the packets that one session's client has not confirmed.
//
// A Log numbers packets 1, 2, 3, ... as they are appended, and drops them from its
// front as they are confirmed. A Budget counts what all logs of the process hold.
// Nothing here is safe for concurrent use, but for Budget: a Log belongs to its session's lock.
package buffer
