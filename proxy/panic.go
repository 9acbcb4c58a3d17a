package proxy

import (
	"net/http"
	"runtime/debug"
)

// A panic while one connection is handled is a bug. It ends that connection and its sessions, but
// not the process. These recover:
//
//   - package engineio, around everything that it calls of a client or a link: reads, timers and
//     goroutines. It then calls Panicked
//   - Server.ServeHTTP and the handlers of Server.matchUpgrade; client.serve and handshaker.open,
//     which end the client too
//   - the four methods of a client that a link calls, because the panic must not end the link
//   - client.detach and the ends of links, so that each session ends even if another one panics
//
// Package session recovers when sessions expire. Locks are released by defer wherever code under
// them could panic.

// safely runs fn and reports its panic. It ends nothing, because its callers already do.
func (r *reporter) safely(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			r.reportPanic(v)
		}
	}()
	fn()
}

// recoverRequest is deferred by ServeHTTP. A request whose handler panics gets no answer, and its
// connection ends.
func (r *reporter) recoverRequest() {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler { //nolint:errorlint // no bug; net/http compares it the same way
			r.reportPanic(v)
		}
		panic(http.ErrAbortHandler)
	}
}

// noAnswer ends a request whose client has gone: its connection ends without an answer. It does not
// return. A handler that returned instead would make net/http answer with status 200. A client that
// has only closed its sending side reads that, and believes that its request was handled.
func noAnswer() { panic(http.ErrAbortHandler) }

// reportPanic counts and logs a recovered panic.
func (r *reporter) reportPanic(v any) {
	r.metrics.Panics.Inc()
	r.log.Error("panic confined to one connection: please report it", "panic", v, "stack", string(debug.Stack()))
}
