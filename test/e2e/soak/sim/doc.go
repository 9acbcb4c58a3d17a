// Command sim is the soak's simulated clients: many light ones in one process,
// over WebSocket, which do to their own connections what a relay cannot do so
// cheaply, and try to resume sessions with connections that are out of date.
//
// It is driven by ../lane.js: calls, one JSON object per line, come on standard
// input, and are answered on standard output. What it notes of the streams,
// and in which form, is that of ../stream.js and ../clients.js.
//
// Each client has one goroutine, which sends, cuts and connects; events are
// noted in the goroutine of package sioclient that reads the connection.
package main
