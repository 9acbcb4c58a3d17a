package proxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/stream"
)

// This file is the way in for clients on Linux. net/http's server has a goroutine, two buffers and a good deal of work for each
// connection, of which nothing is left to use once that is a WebSocket: half of what opening one costs. So connections are
// accepted by the event loop, which reads the head of their first request. If that is the handshake of an Engine.IO WebSocket, in
// the form in which all clients write it, ServeHTTP answers it here. Anything else, and be it a blank too many, goes to net/http
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
	if f.stop = stream.Accept(ln, f); f.stop == nil {
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

// AcceptFailed implements stream.Acceptor.
func (f *front) AcceptFailed(err error) {
	if isOutOfDescriptors(err) {
		f.srv.outOfDescriptors(err)
		return
	}
	f.srv.logSpaced(slog.LevelWarn, "", "a connection could not be accepted", "error", err)
}

// Accepted implements stream.Acceptor.
func (f *front) Accepted(conn *stream.Conn) {
	defer f.srv.containNewcomer(conn)
	addr := addrOf(conn.RemoteAddr())
	if reached := f.counted.admit(addr); reached != "" {
		f.srv.refused(reached, addr)
		_ = conn.Close()
		return
	}
	conn.OnRelease(sync.OnceFunc(func() { f.counted.leave(addr) }))
	n := &newcomer{f: f, conn: conn}
	n.timeout = time.AfterFunc(f.srv.settings().Limits.ReadHeaderTimeout, func() { _ = conn.Close() })
	conn.Notify(n.read)
	if err := conn.Start(); err != nil {
		n.timeout.Stop()
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
	conn    *stream.Conn
	timeout *time.Timer // closes it
	looked  int         // bytes that have no end of a head in them
	decided bool
	gone    context.CancelFunc // of the request's context; nil before there is one
}

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
	case !bytes.HasPrefix(head, []byte("GET ")[:min(4, len(head))]), len(head) > int(n.f.srv.settings().Limits.HeaderBytes):
		n.handOver(head)
	default:
		end := endOfHead(head, n.looked)
		if n.looked = len(head); end > 0 {
			n.decide(head, end)
		}
	}
}

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
	r, q := n.handshake(head, end)
	if r == nil {
		n.handOver(head)
		return
	}
	n.decided = true
	n.timeout.Stop()
	n.conn.Discard(end)
	ctx, gone := context.WithTimeout(context.Background(), n.f.srv.settings().Upstream.HandshakeTimeout)
	n.gone = gone
	r = r.WithContext(ctx)
	go n.f.srv.serveHandshake(n.conn, r, q, gone) // ends within the handshake timeout
}

// handshake returns the request, if it is one for here.
func (n *newcomer) handshake(head []byte, end int) (*http.Request, url.Values) {
	if end != len(head) || !plainHead(head) {
		return nil, nil
	}
	br := heads.Get().(*bufio.Reader)
	defer heads.Put(br)
	br.Reset(bytes.NewReader(head))
	r, err := http.ReadRequest(br)
	if err != nil || doubtfulEnd(r) || r.ContentLength != 0 || !validHost(r.Host) {
		return nil, nil
	}
	q := r.URL.Query()
	if !n.f.srv.opensWebSocket(r, q) {
		return nil, nil
	}
	if a := n.conn.RemoteAddr(); a != nil {
		r.RemoteAddr = a.String()
	}
	return r, q
}

// serveHandshake answers a WebSocket's handshake.
func (s *Server) serveHandshake(conn *stream.Conn, r *http.Request, q url.Values, done func()) {
	defer done()
	w := &answerWriter{conn: conn, header: make(http.Header)}
	defer w.finish()
	defer s.containRequest()
	s.serveEngineIO(w, r, q)
}

// answerWriter is the http.ResponseWriter of a WebSocket's handshake. What is not hijacked is answered as a whole, and the
// connection closed.
type answerWriter struct {
	conn     *stream.Conn
	header   http.Header
	status   int // 0 until it is written
	body     bytes.Buffer
	rw       *bufio.ReadWriter // once hijacked
	hijacked bool
}

// Header implements http.ResponseWriter.
func (w *answerWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *answerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// readWriters are what Hijack gives, for as long as the handshake is being answered.
var readWriters = sync.Pool{New: func() any {
	return bufio.NewReadWriter(bufio.NewReaderSize(nil, 16), bufio.NewWriterSize(nil, 1<<10))
}}

// Hijack implements http.Hijacker.
func (w *answerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	w.rw = readWriters.Get().(*bufio.ReadWriter)
	w.rw.Reader.Reset(w.conn)
	w.rw.Writer.Reset(w.conn)
	return w.conn, w.rw, nil
}

// answerLinger is how long a client may take to read why it was refused.
const answerLinger = 5 * time.Second

// finish is deferred around what writes the answer.
func (w *answerWriter) finish() {
	if v := recover(); v != nil { // what containRequest goes on with: it has told of it
		_ = w.conn.Close()
		return
	}
	if w.rw != nil {
		w.rw.Reader.Reset(nil)
		w.rw.Writer.Reset(nil)
		readWriters.Put(w.rw)
	}
	switch {
	case w.hijacked:
		return
	case w.status == 0: // nobody is there to be answered
		_ = w.conn.Close()
		return
	}
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	resp := http.Response{
		StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Close: true,
		ContentLength: int64(w.body.Len()), Body: io.NopCloser(&w.body),
	}
	var b bytes.Buffer
	_ = resp.Write(&b) // a Buffer takes all
	_, _ = w.conn.Write(b.Bytes())
	w.conn.Shutdown(answerLinger)
}

// heads are readers of heads.
var heads = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// plainHead reports whether a head that begins with "GET " is written as clients do: of visible characters, in lines that end with CR
// and LF, none of which goes on from the one before; with one Host, asking for an upgrade, and with nothing about a body.
func plainHead(head []byte) bool {
	hosts, upgrades := 0, 0
	for line := range bytes.SplitAfterSeq(head, []byte("\n")) {
		text, ok := bytes.CutSuffix(line, []byte("\r\n"))
		if !ok {
			return len(line) == 0 && hosts == 1 && upgrades == 1
		}
		for _, c := range text {
			if c < ' ' || c > '~' {
				return false
			}
		}
		name, _, _ := bytes.Cut(text, []byte(":"))
		switch {
		case bytes.HasPrefix(text, []byte(" ")):
			return false
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
		n.f.srv.log.Debug("a connection could not be served", "error", err)
		return
	}
	c := countedConn(conn, release, read)
	go func() { // ends at once, or when the listener is closed
		select {
		case n.f.conns <- c:
		case <-n.f.closed:
			c.Close()
		}
	}()
}

// containNewcomer is deferred where the loop calls for a connection.
func (s *Server) containNewcomer(conn io.Closer) {
	if v := recover(); v != nil {
		s.panicked(v)
		_ = conn.Close()
	}
}
