// Package buffer keeps the packets that the client of one session has not confirmed.
//
// A Log numbers packets 1, 2, 3, ... as they are appended, and drops them from its front as they
// are confirmed. While the client is away, obsolete packets are dropped from anywhere (Drop,
// Compact), and logs share equal payloads (AppendShared). A Budget counts what all logs of the
// process hold.
//
// A packet's bytes are copied into the log. Small packets share chunks of memory, which move from
// log to log through a pool.
//
// A Log is not safe for concurrent use: its session's lock guards it. A Budget is safe, and so is
// the table of shared payloads in it. That table has its own lock, which is a leaf. While it
// is held, nothing else is locked, and nothing outside this package is called.
//
// After a panic in a method of Log the log's counts may be wrong. Its session must be closed then,
// which releases what is left. Only the function given to Compact comes from outside, and a panic
// in it leaves the log consistent.
package buffer
