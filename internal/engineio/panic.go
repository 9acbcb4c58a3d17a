package engineio

// A panic here or in a handler is a bug. It ends the connection on which it happened; the process
// and all other connections continue. These entry points recover:
//
//   - stream callbacks: package netpoll recovers, closes the stream and calls Panicked
//   - timers: Socket.afterFunc and Conn.afterFunc; AfterFunc for those of a handler
//   - goroutines: Conn.run and Socket.Go
//   - calls from the code of another connection that lead to a handler: Socket.Wake, Input, Close
//     and Abort, and Conn.Start. The panic must not end the caller's connection.
//
// Poll, Post and ServeProbe are called from HTTP handlers, which recover themselves. All other
// exported methods call no handler. Locks are released by defer, so none stays locked after a
// panic. recoverPanic is deferred before a lock is taken, so that the lock is free when it calls
// the handler.

// panicker is a Socket or a Conn, which reports a panic to its handler.
type panicker interface{ panicked(v any) }

// recoverPanic must be deferred.
func recoverPanic(p panicker) {
	if v := recover(); v != nil {
		p.panicked(v)
	}
}
