// Command sim runs the soak's simulated clients: many lightweight WebSocket
// clients in one process. They inject faults into their own connections, which is
// cheaper than a relay, and try to resume sessions over outdated connections.
//
// ../lane.js controls it with one JSON object per line on standard input, and reads
// responses from standard output. It records streams like ../stream.js and
// ../clients.js, in the same format.
//
// Each client has one goroutine, which sends, cuts and connects. Events are
// recorded in package sioclient's reading goroutine.
package main
