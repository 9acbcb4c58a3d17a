// Package frame reads and writes what the benchmark says over WebSocket: whole
// text frames, and the opening handshake (RFC 6455, sections 4 and 5).
//
// It works on bytes that are at hand and does no I/O, so that a load generator
// can take all frames of one read, and put many in one write. Fragmented
// messages and extensions are refused: nothing here offers them.
package frame
