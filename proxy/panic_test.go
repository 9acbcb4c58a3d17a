package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/siotest/sioserver"
	"github.com/holdfast/holdfast/session"
)

// The tests inject panics by breaking invariants, because the code has no hook for that.

// byOrder returns the client that made the n-th handshake.
func (r *rig) byOrder(n uint64) *client {
	r.t.Helper()
	r.proxy.conns.mu.Lock()
	defer r.proxy.conns.mu.Unlock()
	for _, c := range r.proxy.conns.clients {
		if c.seq == n {
			return c
		}
	}
	r.t.Fatalf("there is no client %d", n)
	return nil
}

// wantConfined checks that a panic was counted and logged with its stack. The victim and its
// sessions must be gone, and other clients must not be affected.
func (r *rig) wantConfined(victim *client, other *counter) {
	r.t.Helper()
	r.await("the client's end", func() bool {
		return victim.done.HasFired() && r.proxy.conns.client(victim.sock.SID()) == nil
	})
	r.await("one session, on one link, to be left", func() bool {
		live, parked := r.proxy.registry.Counts()
		r.proxy.conns.mu.Lock()
		defer r.proxy.conns.mu.Unlock()
		return live == 1 && parked == 0 && len(r.proxy.conns.links) == 1
	})
	if testutil.ToFloat64(r.metrics.Panics) == 0 {
		r.t.Error("the panic was not counted")
	}
	if log := r.logs.String(); !strings.Contains(log, "panic confined") || !strings.Contains(log, "goroutine ") {
		r.t.Error("the panic was not logged with its stack")
	}
	args, err := other.EmitAck(r.t.Context(), "echo", "still here")
	if err != nil || string(args[0]) != `"still here"` {
		r.t.Errorf("another client got %s, %v", args, err)
	}
}

// clientFrame returns a text message as a masked frame, as clients send it.
func clientFrame(text string) []byte {
	frame, err := ws.CompileFrame(ws.MaskFrameInPlace(ws.NewTextFrame([]byte(text))))
	if err != nil {
		panic(err) // a Buffer never fails
	}
	return frame
}

func TestPanicsEndOneConnection(t *testing.T) {
	tests := []struct {
		name string
		// trigger breaks an invariant of client 2, whose connection is p, and triggers the panic.
		trigger func(r *rig, c *client, p *peer)
	}{
		{"while the client's message is handled", func(_ *rig, c *client, p *peer) {
			c.mu.Lock()
			c.sessions.set("/bad", &session.Cursor{})
			c.mu.Unlock()
			p.send(`42/bad,["x"]`)
		}},
		{"while a message is handled, with more behind it than one read takes", func(_ *rig, c *client, p *peer) {
			c.mu.Lock()
			c.sessions.set("/bad", &session.Cursor{})
			c.mu.Unlock()
			burst := clientFrame(`43/bad,1["x"]`)
			for range 300 {
				burst = append(burst, clientFrame(`42["`+strings.Repeat("a", 997)+`"]`)...)
			}
			_, _ = p.conn.Write(burst) // fails if it is closed already
		}},
		{"while a batch of the client's messages is flushed", func(_ *rig, c *client, p *peer) {
			c.sock.Input(func() { c.receiver.toFlush = append(c.receiver.toFlush, nil) })
			p.send(`42["x"]`)
		}},
		{"while a CONNECT reply is handled, under the client's lock", func(_ *rig, c *client, p *peer) {
			c.sender.mu.Lock()
			c.sender.head = 100 // beyond the end of the queue
			c.sender.mu.Unlock()
			p.send("40/admin,")
		}},
		{"while packets are written to the client", func(r *rig, c *client, _ *peer) {
			c.sender.mu.Lock()
			c.sender.pending = append(c.sender.pending, item{cur: &session.Cursor{}, n: 1})
			c.sender.mu.Unlock()
			r.socket(1).Emit("n", 1)
		}},
		{"while the server's packet is queued, under the client's lock", func(r *rig, c *client, _ *peer) {
			c.sender.mu.Lock()
			c.sender.head = 100
			c.sender.mu.Unlock()
			r.socket(1).Emit("n", 1)
		}},
		{"while the server's packet is appended", func(r *rig, c *client, p *peer) {
			var admin *sioserver.Socket
			connected := make(chan struct{})
			r.server.OnConnect("/chat", func(s *sioserver.Socket) error {
				admin = s
				close(connected)
				return nil
			})
			p.send("40/chat,")
			<-connected
			p.want("40/chat,")
			l := c.primary.get()
			l.mu.Lock()
			l.sessions.set("/kept", l.sessions.get("/chat"))
			l.sessions.set("/chat", &session.Session{})
			l.mu.Unlock()
			admin.Emit("x")
		}},
		{"while the client's end is handled", func(_ *rig, c *client, p *peer) {
			c.mu.Lock()
			c.sessions.set("/bad", &session.Cursor{})
			c.mu.Unlock()
			p.conn.Close()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			other := r.client()
			p := r.dial()
			p.send("40")
			p.want("40{")
			r.socket(1)
			victim := r.byOrder(2)
			tt.trigger(r, victim, p)
			r.wantConfined(victim, other)
		})
	}
}

func TestPanicWhileASessionIsResumed(t *testing.T) {
	r := newRig(t, nil)
	other := r.client()
	p := r.dial()
	p.send("40")
	reply, err := p.next()
	if err != nil {
		t.Fatal(err)
	}
	pid := between(t, reply, `"pid":"`, `"`)
	second := r.dial()
	victim := r.byOrder(3)
	victim.sender.mu.Lock()
	victim.sender.head = 100
	victim.sender.mu.Unlock()
	second.send(`40{"pid":"` + pid + `"}`)
	second.wantEnd()
	r.wantConfined(victim, other)

	// The session is gone, but a client that asks for it is still served.
	third := r.dial()
	third.send(`40{"pid":"` + pid + `"}`)
	reply, err = third.next()
	if err != nil || strings.Contains(reply, pid) {
		t.Errorf("got %q, %v; want a fresh session", reply, err)
	}
}

// between returns the text between before and after.
func between(t *testing.T, s, before, after string) string {
	t.Helper()
	_, s, ok := strings.Cut(s, before)
	s, _, ok2 := strings.Cut(s, after)
	if !ok || !ok2 {
		t.Fatalf("%q has nothing between %q and %q", s, before, after)
	}
	return s
}

func TestPanicWhileARequestIsHandled(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	r.proxy.passthrough.shared = nil
	if resp, err := http.Get(r.url + "/api"); err == nil {
		resp.Body.Close()
		t.Errorf("got an answer with status %d, want an aborted connection", resp.StatusCode)
	}
	if got := testutil.ToFloat64(r.metrics.Panics); got < 1 {
		t.Errorf("panics = %v, want at least 1", got)
	}
	if _, err := c.EmitAck(t.Context(), "echo", "still here"); err != nil {
		t.Error(err)
	}
}

func TestPanicWhileAHandshakeIsHandled(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	set := *r.proxy.settings()
	set.clientFilter = func(url.Values, string) bool { panic("a defect") }
	r.proxy.current.Store(&set)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/socket.io/?EIO=4&transport=websocket", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	wantAbort(t, r, req)
	s.accept().wantEnd() // the link must not outlive the handshake
}

func TestPanicWhileAPostIsRead(t *testing.T) {
	r := newRig(t, nil)
	other := r.client()
	resp, err := http.Get(r.url + "/socket.io/?EIO=4&transport=polling")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	victim := r.byOrder(2)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/socket.io/?EIO=4&transport=polling&sid="+victim.sock.SID(), brokenBody{})
	wantAbort(t, r, req)
	r.wantConfined(victim, other)
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { panic("a defect") }

// wantAbort serves a request and checks that the handler aborts the connection.
func wantAbort(t *testing.T, r *rig, req *http.Request) {
	t.Helper()
	defer func() {
		if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // net/http compares it the same way
			t.Errorf("ServeHTTP panicked with %v, want %v", v, http.ErrAbortHandler)
		}
		if got := testutil.ToFloat64(r.metrics.Panics); got != 1 {
			t.Errorf("panics = %v, want 1", got)
		}
	}()
	r.proxy.ServeHTTP(httptest.NewRecorder(), req)
}
