package engineio

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// server is an upstream server that a test controls, request by request.
type server struct {
	http       *httptest.Server
	dialer     *Dialer
	handshakes chan *exchange // requests without sid
	polls      chan *exchange
	posts      chan *exchange
	sockets    chan *exchange // WebSocket requests with sid
}

// exchange is a request that waits for its answer.
type exchange struct {
	*http.Request
	body string
	done chan struct{}

	mu sync.Mutex          // guards w
	w  http.ResponseWriter // nil when serve has returned
}

// newServer starts a server on a loopback port, with TLS if secure is set.
func newServer(t *testing.T, secure bool) *server {
	t.Helper()
	s := &server{}
	s.init()
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.start(t, secure, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.http.Listener.Addr().String())
	})
	return s
}

// newPipeServer starts a server in a bubble.
func newPipeServer(t *testing.T) *server {
	t.Helper()
	s := &server{}
	s.init()
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s.http = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(s.serve)}}
	s.start(t, false, l.dial)
	return s
}

func (s *server) init() {
	s.handshakes, s.polls = make(chan *exchange), make(chan *exchange)
	s.posts, s.sockets = make(chan *exchange), make(chan *exchange)
}

func (s *server) start(t *testing.T, secure bool, dial func(ctx context.Context) (net.Conn, error)) {
	t.Helper()
	plain := dial
	if secure {
		s.http.StartTLS()
		config := s.http.Client().Transport.(*http.Transport).TLSClientConfig
		dial = func(ctx context.Context) (net.Conn, error) {
			conn, err := plain(ctx)
			if err != nil {
				return nil, err
			}
			return tlsClient(ctx, conn, config)
		}
	} else {
		s.http.Start()
	}
	s.dialer = &Dialer{DialContext: dial, Timeout: testTimeout, MaxPayload: 1 << 20}
	s.dialer.keeps.state = keepKeeps
	t.Cleanup(func() {
		s.die()
		s.http.Close()
	})
}

// die closes all connections except hijacked ones, and accepts no more.
func (s *server) die() {
	s.http.Listener.Close()
	s.http.CloseClientConnections()
}

// serve passes a request to the test. It returns when the test has answered or the client has gone.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	x := &exchange{Request: r, body: string(body), w: w, done: make(chan struct{})}
	q := r.URL.Query()
	to := s.polls
	switch {
	case !q.Has("sid"):
		to = s.handshakes
	case q.Get("transport") == "websocket":
		to = s.sockets
	case r.Method == http.MethodPost:
		to = s.posts
	}
	select {
	case to <- x:
	case <-r.Context().Done():
		return
	}
	select {
	case <-x.done:
	case <-r.Context().Done():
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.w = nil
}

// next returns the next request of a kind.
func next(t *testing.T, what string, from chan *exchange) *exchange {
	t.Helper()
	select {
	case x := <-from:
		return x
	case <-time.After(testTimeout):
		t.Fatalf("waited %v for %s", testTimeout, what)
		return nil
	}
}

func (s *server) handshake(t *testing.T) *exchange { return next(t, "a handshake", s.handshakes) }

func (s *server) poll(t *testing.T) *exchange { return next(t, "a poll", s.polls) }

// endPolls ends all further polls, as a server does after a probe. The client may have sent one
// before it saw the answer to the probe.
func (s *server) endPolls(t *testing.T) {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() { // ends with the test
		for {
			select {
			case x := <-s.polls:
				x.answer(http.StatusOK, "6")
			case <-done:
				return
			}
		}
	}()
}

func (s *server) post(t *testing.T) *exchange { return next(t, "a POST", s.posts) }

func (s *server) socket(t *testing.T) *exchange { return next(t, "a WebSocket", s.sockets) }

// wantPost checks and accepts the next POST.
func (s *server) wantPost(t *testing.T, body string) {
	t.Helper()
	x := s.post(t)
	if x.body != body {
		t.Errorf("POST %.200q, want %.200q", x.body, body)
	}
	x.answer(http.StatusOK, "ok")
}

func (x *exchange) answer(status int, body string) {
	defer close(x.done)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.w != nil { // otherwise the client has gone
		x.w.WriteHeader(status)
		_, _ = io.WriteString(x.w, body) // fails if the client has gone
	}
}

// drop ends the request's connection without an answer.
func (x *exchange) drop(t *testing.T) {
	t.Helper()
	x.hijack(t).Close()
}

func (x *exchange) hijack(t *testing.T) net.Conn {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.w == nil {
		t.Fatal("the client has gone")
	}
	conn, _, err := x.w.(http.Hijacker).Hijack()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	close(x.done)
	return conn
}

// upgrade answers a WebSocket handshake; first follows it in the same write.
func (x *exchange) upgrade(t *testing.T, header http.Header, first []byte) *wsPeer {
	t.Helper()
	conn := x.hijack(t)
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
		acceptKey(x.Header.Get("Sec-WebSocket-Key")))
	if err := header.Write(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\r\n")
	b.Write(first)
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	return newPeer(conn, serverFrames)
}

// fromServer returns a frame as a server sends it.
func fromServer(op ws.OpCode, payload string) rawFrame {
	return rawFrame{first: fin | byte(op), payload: payload}
}

// pipeListener is a listener in memory.
type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }

func (pipeAddr) String() string { return "pipe:80" }
