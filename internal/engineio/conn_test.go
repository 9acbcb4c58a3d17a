package engineio

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// connLog is a ConnHandler that records its calls.
type connLog struct {
	onMessage func(data string) // called without the lock

	mu      sync.Mutex
	log     []string
	err     error
	drained int
	changed chan struct{} // closed, and replaced, at every change
}

func newConnLog() *connLog { return &connLog{changed: make(chan struct{})} }

func (l *connLog) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *connLog) Message(data []byte, binary bool) {
	p := Packet{Message, binary, data}.String()
	if l.onMessage != nil {
		l.onMessage(p)
	}
	l.change(func() { l.log = append(l.log, p) })
}

func (l *connLog) Flush() { l.change(func() { l.log = append(l.log, "flush") }) }

func (l *connLog) Drained() { l.change(func() { l.drained++ }) }

func (l *connLog) Closed(err error) {
	l.change(func() {
		l.log = append(l.log, "closed")
		l.err = err
	})
}

func (l *connLog) Panicked(v any) {
	l.change(func() { l.log = append(l.log, fmt.Sprintf("panicked: %v", v)) })
}

func (l *connLog) awaitThat(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		l.mu.Lock()
		ok, changed, log, err := cond(), l.changed, l.log, l.err
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %v for %s; the handler saw %.2000q, %v", testTimeout, what, log, err)
		}
	}
}

// messages returns the log without flushes; mu must be held.
func (l *connLog) messages() []string {
	return slices.DeleteFunc(slices.Clone(l.log), func(s string) bool { return s == "flush" })
}

// seen returns the log since the last call of want, without flushes.
func (l *connLog) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages()
}

// want waits for these messages, in this order, since its last call.
func (l *connLog) want(t *testing.T, want ...string) {
	t.Helper()
	l.awaitThat(t, fmt.Sprintf("%.200q", want), func() bool { return len(l.messages()) >= len(want) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := l.messages(); !slices.Equal(got, want) {
		t.Errorf("the handler saw %.200q, want %.200q", got, want)
	}
	l.log = nil
}

// wantClosed waits for Closed, which must be the last call.
func (l *connLog) wantClosed(t *testing.T, want error) {
	t.Helper()
	l.awaitThat(t, "Closed", func() bool { return slices.Contains(l.log, "closed") })
	l.mu.Lock()
	defer l.mu.Unlock()
	if !errors.Is(l.err, want) {
		t.Errorf("Closed(%v), want %v", l.err, want)
	}
	if l.log[len(l.log)-1] != "closed" {
		t.Errorf("something came after Closed: %q", l.log)
	}
}

func (l *connLog) wantDrained(t *testing.T) {
	t.Helper()
	l.awaitThat(t, "Drained", func() bool { return l.drained > 0 })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drained = 0
}

var serverHandshake = Handshake{SID: "up", Upgrades: []string{}, PingInterval: 25000, PingTimeout: 20000, MaxPayload: 100}

// with returns a changed copy of the handshake, as an OPEN packet.
func (h Handshake) with(change func(h *Handshake)) string {
	if change != nil {
		change(&h)
	}
	return "0" + string(h.Encode())
}

// openFrame returns the OPEN packet as a WebSocket frame.
func openFrame() []byte { return wire(fromServer(ws.OpText, serverHandshake.with(nil))) }

func clientRequest(websocket bool) Request {
	transport := "polling"
	if websocket {
		transport = "websocket"
	}
	return Request{
		WebSocket: websocket, Path: "/socket.io/", RawQuery: "EIO=4&transport=" + transport + "&t=abc&user=x%20y", Host: "example.org",
		Header: http.Header{"Cookie": {"a=1"}, "Authorization": {"Bearer x"}, "Origin": {"https://example.org"}},
	}
}

// dialing is a running Dial.
type dialing struct {
	conn chan *Conn // 1, as err: Dial always ends
	err  chan error
}

func dial(s *server, r Request) *dialing {
	d := &dialing{make(chan *Conn, 1), make(chan error, 1)}
	go func() { // ends with Dial
		c, err := s.dialer.Dial(context.Background(), r)
		d.conn <- c
		d.err <- err
	}()
	return d
}

func (d *dialing) wait(t *testing.T) (*Conn, error) {
	t.Helper()
	select {
	case c := <-d.conn:
		return c, <-d.err
	case <-time.After(testTimeout):
		t.Fatal("Dial does not return")
		return nil, nil
	}
}

func (d *dialing) open(t *testing.T) *Conn {
	t.Helper()
	c, err := d.wait(t)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	return c
}

// begin starts a Conn, which the end of the test closes.
func begin(t *testing.T, c *Conn) *connLog {
	t.Helper()
	l := newConnLog()
	c.Start(l)
	t.Cleanup(func() {
		c.Close()
		l.awaitThat(t, "Closed", func() bool { return slices.Contains(l.messages(), "closed") || l.err != nil })
	})
	return l
}

// dialSocket returns a Conn over WebSocket, and the server's end of it.
func dialSocket(t *testing.T, s *server) (*Conn, *wsPeer) {
	t.Helper()
	d := dial(s, clientRequest(true))
	p := s.handshake(t).upgrade(t, nil, openFrame())
	return d.open(t), p
}

// dialPolling returns a Conn that polls.
func dialPolling(t *testing.T, s *server, change func(h *Handshake)) *Conn {
	t.Helper()
	d := dial(s, clientRequest(false))
	s.handshake(t).answer(http.StatusOK, serverHandshake.with(change))
	return d.open(t)
}

// tlsClient makes the client side of a TLS handshake.
func tlsClient(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	config = config.Clone()
	config.ServerName = "example.com" // the name in httptest's certificate
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}
