// Package sioserver is a Socket.IO server without connection state recovery, as
// socket.io was before 4.6: Engine.IO v4 over polling, WebSocket and the
// upgrade, Socket.IO v5, a CONNECT reply of {"sid":"..."} and nothing more.
//
// On the wire it behaves like socket.io 4.5.4 with engine.io 6.2.1, including
// their flaws, so that the demo and the tests have a realistic server. It is also
// cheap enough for load tests.
// Known differences: no JSONP; a POST of application/octet-stream, which
// engine.io 6.2.1 never answers, gets 400 as from engine.io 6.6; a poll that
// waits when an upgrade ends gets 400, not `1`; ack ids and counts of more than
// 15 digits are malformed.
//
// # Goroutines and locks
//
// A WebSocket has one reader goroutine, and a writer while there is something
// to write. Polling runs in the goroutines of net/http. Callbacks run in the
// goroutine that received the packet: one at a time and in order for each
// connection, and a callback that blocks holds up its connection. OnDisconnect
// callbacks run in whichever goroutine ended the connection.
//
// Locks are taken in this order: conn.inMu, Namespace.mu, conn.mu, wsConn.mu;
// Server.mu and Socket.mu are leaves. No lock but conn.inMu is held during a
// callback, and none during I/O.
package sioserver
