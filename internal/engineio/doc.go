// Package engineio implements both sides of Engine.IO protocols v4 and v3 for a proxy.
//
// A Socket is the server side of one client's connection, and a Conn is the client side of one
// connection to an upstream server. Both carry opaque messages: nothing here knows Socket.IO.
//
// # Where each section of the protocol is
//
//	Handshake          packet.go (the OPEN packet); dial.go, request.go (Conn)
//	HTTP long-polling  polling.go, post.go, answer.go (Socket)
//	                   conn_polling.go, postqueue.go, keepalive.go, keeping.go (Conn)
//	WebSocket          frame.go, encoder.go; websocket.go (Socket)
//	                   dial_websocket.go, conn_websocket.go (Conn)
//	Upgrade            upgrade.go (Socket); conn_upgrade.go (Conn)
//	Heartbeat          pinger.go, heartbeat.go (Socket); conn_heartbeat.go (Conn)
//	Packet encoding    packet.go, encoder.go
//
// Version 3 differs in payloads and in who pings. packet3.go has its payloads, and socket3.go the
// differences of a Socket. conn_heartbeat.go has a Conn's heartbeat of both versions.
//
// # Parts
//
// A Socket and a Conn each consist of an outer type and of parts with their own state:
//
//	Socket           its life, the packets of both transports, and its heartbeat
//	  wsTransport    one WebSocket of the client: the transport, or one that probes
//	  pollTransport  polls and POSTs; it exists only while the client polls
//	  pinger         which ping is in flight, what the client has answered, and when more is due
//	Conn             its life, the packets of both transports, and its heartbeat
//	  wsLink         the Conn as the handler of its WebSocket's stream
//	  pollingLink    polls and POSTs; it exists only if the Conn began with polling
//	  postQueue      the packets that wait for a POST
//	  upgrade        the goroutine that moves the Conn to WebSocket
//	  ponger         when pings came, and which pongs were sent early
//
// The parts have no lock of their own: the mu of their Socket or Conn guards them. life.go and the
// files of the parts have their states. No type has methods in more than four files.
//
// # Flow control
//
// A Socket pulls. A caller that has something to send calls Wake; the Socket then calls
// Handler.Fill for a batch whenever its transport can take one. Unsent packets therefore stay where
// the caller keeps them, and one place decides their order.
//
// Pause stops reading in both types. A WebSocket is not read, a POST is not answered, and no
// further poll starts, so TCP slows the peer down. The peer's pings and pongs then wait behind
// unread data; the heartbeats allow for that. Conn.Flush returns how much still waits for the
// server, so that a caller can pause the sender.
//
// # Upgrade
//
// A Socket starts with the transport of the handshake. A client that polls may open a WebSocket
// with the same sid: ServeProbe answers its probe, and the UPGRADE packet makes it the transport. A
// polling Conn does the same from the other side: it probes, waits until its poll and POST have
// ended, and sends UPGRADE. If any step fails, it continues to poll.
//
// # Heartbeat
//
// The server pings and the client answers. A Socket also uses pongs as confirmation: a pong shows
// that everything sent before its ping has arrived. A Conn answers pings and closes itself if none
// comes for pingInterval + pingTimeout.
//
// # Goroutines
//
// A WebSocket has no goroutine here: package netpoll calls Read, Flush, Drained and Closed from its
// event loop or its own goroutines. Poll and Post run in their HTTP handler's goroutine. A polling
// Conn has one goroutine for polls, one for POSTs while there is something to post, and one for the
// upgrade. Timers run in goroutines of the runtime. Handlers are called from all of these and must
// not wait.
//
// # Locks
//
// Where several are held together, they are taken in this order:
//
//  1. the input lock of a Socket or a Conn, of which no goroutine holds two
//  2. a Socket's mu
//  3. the locks of a Handler
//  4. a Conn's mu
//  5. the locks of a stream
//
// Handler documents which of its methods are called with mu held. No lock is held across a blocking
// call.
//
// # Panics
//
// A panic ends the connection it happened on, and nothing else. panic.go lists the entry points
// that recover.
package engineio
