// Package frame reads and writes what the benchmark says over WebSocket: whole
// text frames, and the opening handshake (RFC 6455, sections 4 and 5).
//
// It works on buffers and does no I/O, so that a load generator can parse all frames of one read,
// and put many into one write. Fragmented messages and extensions are refused: nothing here offers
// them.
package frame
