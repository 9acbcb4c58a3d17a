// Package engineio speaks Engine.IO protocol v4 on both sides of a proxy.
//
// A Socket is the server's side of one client's connection: HTTP long-polling,
// WebSocket, and the upgrade between them. A Conn is the client's side of one connection to
// an upstream server. Both carry opaque messages; nothing here knows of Socket.IO.
//
// Sockets pull: whoever has something to send wakes the Socket, and the Socket asks its
// Handler to fill a batch when its transport can take one. So what is not yet sent stays where
// it is kept, and there is one place that decides the order.
//
// Locks, in the order in which they are taken: a Socket's or a Conn's input lock, of which nobody holds two; a
// Socket's state lock; the locks of a Handler; a Conn's state lock; those of a stream. A Handler's method that is
// called under a lock says so. None is held across a blocking call.
package engineio
