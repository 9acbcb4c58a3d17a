// Package accept is holdfast's front door: it accepts clients' connections, counts and limits them,
// and serves simple WebSocket handshakes without net/http. It knows HTTP handshakes, but no clients
// and no sessions.
//
// A Listener works in one of two ways.
//
// On Linux and without TLS an event loop (package netpoll) accepts each connection and reads the
// head of its first request. It may be a WebSocket handshake in the form that all clients write. If
// Options.Match wants it, a goroutine serves it with a ResponseWriter of this package. Anything
// else goes to net/http, with the bytes that were read:
//
//	loop: accept -> pendingConn reads a head -> isSimpleUpgrade? -> Match? -> serveUpgrade (goroutine)
//	                                                 | no            | no
//	                                                 +---------------+--> passToHTTP -> Listener.Accept -> http.Server
//
// The reason is memory: net/http needs a goroutine and two buffers for each connection. All three
// are useless once the connection is a WebSocket. See docs/adr/0006-front.md.
//
// Everywhere else the Listener is an ordinary net.Listener that counts.
package accept
