package accept

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// acceptor accepts a Listener's connections in an event loop.
type acceptor struct {
	l      *Listener
	conns  chan net.Conn // for net/http; unbuffered, because a sender is a separate goroutine
	closed chan struct{}

	mu   sync.Mutex // guards the fields below
	stop func()     // nil while paused
	done bool       // closed is closed
}

// newAcceptor returns nil if a loop cannot accept from the Listener's socket. The Listener then
// accepts by itself.
func newAcceptor(l *Listener) *acceptor {
	a := &acceptor{l: l, conns: make(chan net.Conn), closed: make(chan struct{})}
	var err error
	if a.stop, err = netpoll.Accept(l.Listener, a); err != nil {
		if l.opts.NoLoop != nil && !errors.Is(err, netpoll.ErrLoopOff) {
			l.opts.NoLoop(err)
		}
		return nil
	}
	return a
}

// next returns the next connection for net/http.
func (a *acceptor) next() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.closed:
		return nil, net.ErrClosed
	}
}

func (a *acceptor) close() {
	a.pause()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.done {
		a.done = true
		close(a.closed)
	}
}

// pause stops accepting. The Listener's own descriptor stays open, and keeps the queue.
func (a *acceptor) pause() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stop != nil {
		a.stop()
		a.stop = nil
	}
}

// resume accepts again. If that fails it reports the error and tries again later: a listener must
// not fall silent.
func (a *acceptor) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stop != nil || a.done {
		return
	}
	stop, err := netpoll.Accept(a.l.Listener, a)
	if err != nil {
		a.l.opts.Failed(err)
		time.AfterFunc(resumeRetry, a.resume) // fires once
		return
	}
	a.stop = stop
}

// resumeRetry is how long resume waits after a failure.
const resumeRetry = 100 * time.Millisecond

// AcceptFailed implements netpoll.Acceptor.
func (a *acceptor) AcceptFailed(err error) { a.l.opts.Failed(err) }

// Accepted implements netpoll.Acceptor.
func (a *acceptor) Accepted(conn *netpoll.Conn) {
	defer a.recoverPanic(conn)
	addr := addrOf(conn.RemoteAddr())
	if !a.l.admit(addr) {
		_ = conn.Close()
		return
	}
	conn.OnClose(func() { a.l.leave(addr) })
	timeout := a.l.opts.Limits().HeadTimeout
	p := &pendingConn{a: a, conn: conn, headBy: time.Now().Add(timeout)}
	p.timeout = time.AfterFunc(timeout, func() { _ = conn.Close() })
	conn.Notify(p.read)
	if err := conn.Start(); err != nil {
		p.timeout.Stop()
		a.AcceptFailed(err)
	}
}

// recoverPanic is deferred by the functions that the loop calls for a connection.
func (a *acceptor) recoverPanic(conn io.Closer) {
	if v := recover(); v != nil {
		a.l.opts.Panicked(v)
		_ = conn.Close()
	}
}

// pendingState is the state of a pendingConn:
//
//	reading -> passed    the connection is net/http's
//	reading -> matched   a goroutine serves the handshake
//	reading -> gone      the connection ended first
type pendingState uint8

const (
	pendingReading pendingState = iota
	pendingPassed
	pendingMatched
	pendingGone
)

func (s pendingState) String() string {
	return [...]string{"reading", "passed", "matched", "gone"}[s]
}

// pendingConn is a connection whose first request's head is being read. Its methods run in the
// loop.
type pendingConn struct {
	a       *acceptor
	conn    *netpoll.Conn
	headBy  time.Time   // deadline for the head
	timeout *time.Timer // closes the connection then
	scanned int         // bytes known to contain no end of a head
	state   pendingState
	cancel  context.CancelFunc // of the matched request's context
}

// maxHeadBytes is the largest head that is read here. It is less than a netpoll.Conn buffers. Few
// browsers send more cookies than this.
const maxHeadBytes = 8 << 10

// read looks at what has arrived.
func (p *pendingConn) read() {
	defer p.a.recoverPanic(p.conn)
	head, err := p.conn.Received()
	switch {
	case err != nil:
		p.timeout.Stop()
		switch p.state {
		case pendingReading:
			p.state = pendingGone
		case pendingMatched:
			p.cancel()
		case pendingPassed, pendingGone:
		}
	case p.state != pendingReading:
	case !mayBeUpgrade(head), len(head) >= min(maxHeadBytes, p.a.l.opts.Limits().HeadBytes):
		p.passToHTTP(head)
	default:
		end := endOfHead(head, p.scanned)
		if p.scanned = len(head); end > 0 {
			p.decide(head, end)
		}
	}
}

// decide serves the request if it is a handshake that Match wants, and passes it to net/http
// otherwise.
func (p *pendingConn) decide(head []byte, end int) {
	r := parseUpgrade(head, end)
	if r == nil {
		p.passToHTTP(head)
		return
	}
	handler := p.a.l.opts.Match(r)
	if handler == nil {
		p.passToHTTP(head)
		return
	}
	p.state = pendingMatched
	p.timeout.Stop()
	p.conn.Discard(end)
	if a := p.conn.RemoteAddr(); a != nil {
		r.RemoteAddr = a.String()
	}
	var ctx context.Context
	ctx, p.cancel = context.WithTimeout(context.Background(), p.a.l.opts.Limits().HandshakeTimeout)
	// It ends within HandshakeTimeout.
	go p.a.serveUpgrade(p.conn, r.WithContext(ctx), handler, p.cancel)
}

// passToHTTP gives the connection to net/http, with what was read of it.
func (p *pendingConn) passToHTTP(read []byte) {
	p.state = pendingPassed
	p.timeout.Stop()
	read = bytes.Clone(read)
	conn, release, err := p.conn.Detach()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) { // its timeout closed it just now
			p.a.AcceptFailed(err)
		}
		return
	}
	// It ends when net/http accepts the connection, or with close.
	go p.a.pass(track(conn, sync.OnceFunc(release), bufferedBytes{read, p.headBy}))
}

func (a *acceptor) pass(c net.Conn) {
	select {
	case a.conns <- c:
	case <-a.closed:
		c.Close()
	}
}

// handshakeStack is more stack than a handshake needs.
const handshakeStack = 14 << 10

// growStack grows the goroutine's stack in one step while the stack is almost empty. It would
// otherwise double from 2 KiB several times and copy its contents each time.
//
//go:noinline
func growStack() {
	var room [handshakeStack]byte
	runtime.KeepAlive(&room)
}

// serveUpgrade serves a WebSocket handshake.
func (a *acceptor) serveUpgrade(conn *netpoll.Conn, r *http.Request, handler http.HandlerFunc, cancel context.CancelFunc) {
	growStack()
	defer cancel()
	defer a.l.opts.Begin()()
	w := &responseWriter{conn: conn, header: make(http.Header)}
	defer w.finish()
	handler(w, r)
}
