// Package sioclient is a small Socket.IO v5 client over WebSocket.
//
// It implements connection state recovery like socket.io-client 4.6 to 4.8. It
// keeps the pid of the CONNECT reply, and the last offset: the last argument of the
// last event, if that is a string and the event asks for no acknowledgement. It
// presents both when it reconnects, and was recovered if the pid is unchanged.
// Handlers see the arguments unchanged, including an offset.
//
// Unlike socket.io-client it never reconnects by itself: its users decide when.
//
// # Goroutines and locks
//
// Each connection has one goroutine, which reads. Handlers run in it, one at a time and in order;
// they must not call Connect, Reconnect, Cut, Close, CloseTransport or EmitAck, which wait for it.
// Client.connecting is taken before Client.mu, Client.mu before Socket.mu; the last two are not
// held during I/O or callbacks.
package sioclient
