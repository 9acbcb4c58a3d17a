// Package sioclient is a small Socket.IO v5 client over WebSocket.
//
// As for connection state recovery it does what socket.io-client 4.6 to 4.8
// does: it keeps the pid of the CONNECT reply and the last offset, which is the
// last argument of the last event, if that is a string and the event asks for
// no acknowledgement; it presents both when it connects again, and tells by an
// unchanged pid that it was recovered. Handlers see the arguments as they came,
// an offset included.
//
// Unlike socket.io-client it never reconnects by itself: the demo and the load
// tests that use it decide when.
//
// # Goroutines and locks
//
// Each connection has one goroutine, which reads. Handlers run in it, one at a
// time and in order; they must not call Connect, Reconnect, Cut, Close,
// CloseTransport or EmitAck, which wait for it. Client.connecting is taken before Client.mu, Client.mu
// before Socket.mu; the last two are not held during I/O or callbacks.
package sioclient
