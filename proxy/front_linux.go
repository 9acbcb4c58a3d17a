package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// This file is the way in for clients on Linux. net/http's server has a goroutine, two buffers and a good deal of work for each
// connection, of which nothing is left to use once that is a WebSocket: half of what opening one costs. So connections are
// accepted by the event loop, which reads the head of their first request. If that is the handshake of an Engine.IO WebSocket, in
// the form in which all clients write it, it is answered here. Anything else, and be it a blank too many, goes to net/http
// with all that was read: what is not understood here is refused there.

// front is a listener whose connections are accepted by an event loop. It is the http.Server's listener for those that
// are not handshakes.
type front struct {
	net.Listener
	srv     *Server
	counted *limitedListener
	stop    func()
	conns   chan net.Conn // for net/http; nobody waits who sends: it is taken from as fast as goroutines start
	closed  chan struct{}
	once    sync.Once
}

// newFront returns nil if connections of the listener cannot be accepted by a loop.
func newFront(s *Server, ln net.Listener, counted *limitedListener) net.Listener {
	f := &front{Listener: ln, srv: s, counted: counted, conns: make(chan net.Conn), closed: make(chan struct{})}
	if f.stop = netpoll.Accept(ln, f); f.stop == nil {
		return nil
	}
	return f
}

// Accept implements net.Listener, for net/http.
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (f *front) Close() error {
	f.once.Do(func() {
		f.stop()
		close(f.closed)
	})
	return f.Listener.Close()
}

// AcceptFailed implements netpoll.Acceptor.
func (f *front) AcceptFailed(err error) {
	if isOutOfDescriptors(err) {
		f.srv.outOfDescriptors(err)
		return
	}
	f.srv.limitedLog.Log(slog.LevelWarn, "", "a connection could not be accepted", "error", err)
}

// Accepted implements netpoll.Acceptor.
func (f *front) Accepted(conn *netpoll.Conn) {
	defer f.srv.containNewcomer(conn)
	addr := addrOf(conn.RemoteAddr())
	if reached := f.counted.admit(addr); reached != "" {
		f.srv.refused(reached, addr)
		_ = conn.Close()
		return
	}
	conn.OnRelease(func() { f.counted.leave(addr) })
	timeout := f.srv.settings().Limits.ReadHeaderTimeout
	n := &newcomer{f: f, conn: conn, headBy: time.Now().Add(timeout)}
	n.timeout = time.AfterFunc(timeout, func() { _ = conn.Close() })
	conn.Notify(n.read)
	if err := conn.Start(); err != nil {
		n.timeout.Stop()
		f.AcceptFailed(err)
	}
}

// addrOf is the zero Addr for a Unix socket.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// newcomer is a connection whose first request is being read. Its methods are called in the loop.
type newcomer struct {
	f       *front
	conn    *netpoll.Conn
	headBy  time.Time   // when the request's head has to be there
	timeout *time.Timer // closes the connection then
	looked  int         // bytes that have no end of a head in them
	decided bool
	gone    context.CancelFunc // of the request's context; nil before there is one
}

// maxFrontHead is how long a head may be that is looked at here: less than a netpoll.Conn holds. Few browsers have so many cookies.
const maxFrontHead = 8 << 10

// read looks at what has come.
func (n *newcomer) read() {
	defer n.f.srv.containNewcomer(n.conn)
	head, err := n.conn.Received()
	switch {
	case err != nil:
		n.timeout.Stop()
		if n.gone != nil {
			n.gone()
		} else if !n.decided {
			n.decided = true // nobody is there
		}
	case n.decided:
	case !bytes.HasPrefix(head, []byte(getPath)[:min(len(getPath), len(head))]), len(head) >= n.f.srv.longestHead():
		n.handOver(head)
	default:
		end := endOfHead(head, n.looked)
		if n.looked = len(head); end > 0 {
			n.decide(head, end)
		}
	}
}

// getPath is how a handshake begins.
const getPath = "GET /"

func (s *Server) longestHead() int { return min(maxFrontHead, int(s.settings().Limits.HeaderBytes)) }

// endOfHead is where a request's head ends, or 0. It begins to look a little before from.
func endOfHead(p []byte, from int) int {
	for i := max(0, from-3); i < len(p); i++ {
		if p[i] != '\n' {
			continue
		}
		switch rest := p[i+1:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + 2
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + 3
		}
	}
	return 0
}

// decide has a handshake answered, and gives anything else to net/http.
func (n *newcomer) decide(head []byte, end int) {
	h, ok := n.f.srv.frontHandshake(head, end)
	if !ok {
		n.handOver(head)
		return
	}
	n.decided = true
	n.timeout.Stop()
	n.conn.Discard(end)
	if a := n.conn.RemoteAddr(); a != nil {
		h.r.RemoteAddr = a.String()
	}
	var ctx context.Context
	ctx, n.gone = context.WithTimeout(context.Background(), n.f.srv.settings().Upstream.HandshakeTimeout)
	h.r = h.r.WithContext(ctx)
	go n.f.srv.serveHandshake(n.conn, h, n.gone) // ends within the handshake timeout
}

// frontHandshake is a WebSocket's handshake that is answered here.
type frontHandshake struct {
	r *http.Request
	q url.Values // of r
	c *client    // whose upgrade it is, or nil
}

// frontHandshake returns the handshake that a head is, if it is one for here. Whatever net/http would not accept is none.
func (s *Server) frontHandshake(head []byte, end int) (h frontHandshake, ok bool) {
	if end != len(head) || !plainHead(head) {
		return h, false
	}
	br := heads.Get().(*bufio.Reader)
	defer heads.Put(br)
	br.Reset(bytes.NewReader(head))
	r, err := http.ReadRequest(br)
	if err != nil || r.Proto != "HTTP/1.1" || r.ContentLength != 0 || !validHost(r.Host) {
		return h, false
	}
	q := r.URL.Query()
	c, ok := s.opensWebSocket(r, q)
	return frontHandshake{r, q, c}, ok
}

// handshakeStack is more than a handshake takes of a goroutine's stack.
const handshakeStack = 14 << 10

// growStack has the stack of a goroutine grow at once, while there is nothing in it to be moved. It would double from 2 KiB
// several times otherwise, each time with all that is in it.
//
//go:noinline
func growStack() {
	var room [handshakeStack]byte
	runtime.KeepAlive(&room)
}

// serveHandshake answers a WebSocket's handshake.
func (s *Server) serveHandshake(conn *netpoll.Conn, h frontHandshake, done func()) {
	growStack()
	defer done()
	defer s.beginHandshake()()
	w := &answerWriter{conn: conn, header: make(http.Header)}
	defer w.finish()
	defer s.containRequest()
	if h.c != nil {
		s.serveClient(w, h.r, h.c, h.q)
		return
	}
	s.serveEngineIO(w, h.r, h.q)
}

// heads are readers of heads.
var heads = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// plainHead reports whether a head is written as clients write it: of visible characters, in lines that end with CR and LF, each of
// which is a name and a value, and none goes on from the one before; with one Host, asking for an upgrade, and with nothing about a
// body.
func plainHead(head []byte) bool {
	line, head, _ := bytes.Cut(head, []byte("\r\n"))
	if !isVisible(line) { // else it is for net/http to read
		return false
	}
	hosts, upgrades := 0, 0
	for line := range bytes.SplitAfterSeq(head, []byte("\n")) {
		text, ok := bytes.CutSuffix(line, []byte("\r\n"))
		if ok && len(text) == 0 {
			return hosts == 1 && upgrades == 1
		}
		name, value, colon := bytes.Cut(text, []byte(":"))
		if !ok || !colon || !isToken(name) || !isVisible(value) {
			return false
		}
		switch {
		case bytes.EqualFold(name, []byte("host")):
			hosts++
		case bytes.EqualFold(name, []byte("upgrade")):
			upgrades++
		case bytes.EqualFold(name, []byte("content-length")), bytes.EqualFold(name, []byte("transfer-encoding")),
			bytes.EqualFold(name, []byte("expect")), bytes.EqualFold(name, []byte("trailer")):
			return false
		}
	}
	return false
}

// isToken reports whether a header's name consists of letters, digits, hyphens and underscores. Others are good too (RFC 9110, 5.6.2),
// but not used.
func isToken(name []byte) bool {
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(name) > 0
}

// isVisible reports whether all is ASCII that can be seen, and blanks.
func isVisible(p []byte) bool {
	for _, c := range p {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// validHost reports whether a Host is such as need not be looked at more closely.
func validHost(host string) bool {
	return host != "" && strings.Trim(host, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_:[]") == ""
}

// handOver gives the connection to net/http, with what was read of it.
func (n *newcomer) handOver(read []byte) {
	n.decided = true
	n.timeout.Stop()
	read = bytes.Clone(read)
	conn, release, err := n.conn.Detach()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) { // as when its time was up just now
			n.f.AcceptFailed(err)
		}
		return
	}
	c := countedConn(conn, sync.OnceFunc(release), begun{read, n.headBy})
	go n.f.pass(c) // ends as soon as net/http takes it, or the listener is closed
}

// pass gives a connection to net/http.
func (f *front) pass(c net.Conn) {
	select {
	case f.conns <- c:
	case <-f.closed:
		c.Close()
	}
}

// containNewcomer is deferred where the loop calls for a connection.
func (s *Server) containNewcomer(conn io.Closer) {
	if v := recover(); v != nil {
		s.panicked(v)
		_ = conn.Close()
	}
}

// opensWebSocket reports whether a request is a WebSocket's handshake that is answered here: a new client's, or the upgrade
// of c.
func (s *Server) opensWebSocket(r *http.Request, q url.Values) (c *client, ok bool) {
	switch {
	case q.Get("transport") != "websocket", !isUpgrade(r), r.Method != http.MethodGet, !s.isEngineIO(r):
		return nil, false
	case q.Get("sid") != "":
		c = s.client(q.Get("sid"))
		return c, c != nil
	}
	return nil, q.Get("EIO") == "4" && !q.Has("j")
}

// beginHandshake has Shutdown wait until end is called.
func (s *Server) beginHandshake() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openings++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.openings--
		s.idleLocked()
	}
}
