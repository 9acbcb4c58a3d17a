package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/limit"
)

// When a client closes its connection, its upstream handshake is cancelled.
func TestClientClosesDuringTheUpstreamHandshake(t *testing.T) {
	url, _, asked, _ := slowUpstream(t)
	r := newRig(t, func(c *config.Config) {
		c.Upstream.URL, c.Upstream.HandshakeTimeout = config.URLs{url}, time.Minute
	})
	ln := r.listen("tcp", "127.0.0.1:0", true)
	for _, end := range []func(k *talk){
		func(k *talk) { k.conn.Close() },
		func(k *talk) { _ = k.conn.(*net.TCPConn).CloseWrite() },
		func(k *talk) {
			_ = k.conn.(*net.TCPConn).SetLinger(0)
			k.conn.Close()
		},
	} {
		k := newTalk(t, ln)
		k.say(openHead)
		upstream := <-asked
		end(k)
		wantCancelled(t, upstream)
		k.wantEnd()
		r.awaitNoConnections(ln)
	}
}

// Bytes that arrive while the handshake waits for the upstream belong to the WebSocket.
func TestBytesAfterAPendingHandshake(t *testing.T) {
	url, s, asked, answer := slowUpstream(t)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{url} })
	ln := r.listen("tcp", "127.0.0.1:0", true)
	k := newTalk(t, ln)
	k.say(openHead)
	<-asked
	w := newPeer(t, k.conn, k.br, ws.StateClientSide)
	w.send("40")
	answer <- struct{}{}
	if got := k.answer("GET"); !strings.HasPrefix(got, "HTTP/1.1 101") {
		t.Fatal(got)
	}
	w.want("0{")
	s.accept().want("40")
	k.conn.Close()
	r.awaitNoConnections(ln)
}

// Shutdown waits for handshakes in progress and refuses new ones.
func TestShutdownAwaitsHandshakes(t *testing.T) {
	url, _, asked, answer := slowUpstream(t)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{url} })
	ln := r.listen("tcp", "127.0.0.1:0", true)
	k := newTalk(t, ln)
	k.say(openHead)
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.proxy.Shutdown(ctx)
	}()
	r.await("draining", func() bool { return r.proxy.Ready() != nil })
	late := newTalk(t, ln)
	late.say(openHead)
	if got := late.answer("GET"); !strings.HasPrefix(got, "HTTP/1.1 503") || !strings.Contains(got, "close") {
		t.Errorf("a handshake during the shutdown got %s", got)
	}
	late.wantEnd()
	late.conn.Close()
	select {
	case <-stopped:
		t.Error("Shutdown did not wait")
	default:
	}
	answer <- struct{}{}
	if got := k.answer("GET"); !strings.HasPrefix(got, "HTTP/1.1 101") {
		t.Errorf("the handshake under way got %s", got)
	}
	cancel()
	<-stopped
	k.conn.Close()
	r.awaitNoConnections(ln)
}

// Without net/http, refusals are the same as with it.
func TestListenerRefusesLikeNetHTTP(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Why", "because")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "no")
	}))
	t.Cleanup(refusing.Close)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	for _, tt := range []struct {
		name, upstream, want string
		change               func(c *config.Config)
	}{
		{"by the server", refusing.URL, "403", nil},
		{"nothing listens", "http://127.0.0.1:1", "502", nil}, // no other test gets this port
		{"the server is silent", silent.URL, "503", func(c *config.Config) { c.Upstream.HandshakeTimeout = 50 * time.Millisecond }},
		{"too many handshakes", refusing.URL, "429", func(c *config.Config) { c.Limits.HandshakesPerSecondPerAddress = 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(c *config.Config) {
				c.Upstream.URL = config.URLs{tt.upstream}
				if tt.change != nil {
					tt.change(c)
				}
			})
			ask := func(ln net.Listener) string {
				k := newTalk(t, ln)
				k.say(openHead)
				return k.answer("GET")
			}
			loop, plain := r.listen("tcp", "127.0.0.1:0", true), r.listen("tcp", "127.0.0.1:0", false)
			for range limit.BurstSeconds { // exhausts the rate limit in the last case
				ask(plain)
			}
			var got, want string
			r.await("the refusals", func() bool { // a second later another one is let in
				got, want = ask(loop), ask(plain)
				return strings.HasPrefix(got, "HTTP/1.1 "+tt.want) && strings.HasPrefix(want, "HTTP/1.1 "+tt.want)
			})
			unclosed := func(s string) string { return strings.Replace(s, "Connection: close\n", "", 1) } // net/http may omit it
			if unclosed(got) != unclosed(want) {
				t.Errorf("answer\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// A panic in the loop or in a handshake closes only its own connection.
func TestListenerConfinesPanics(t *testing.T) {
	for _, tt := range []struct {
		name   string
		broken func(s settings) *settings
		begin  string
	}{
		{"when a connection is accepted", func(settings) *settings { return nil }, ""},
		{"when something has come", func(settings) *settings { return nil }, "GET /"},
		{"when a handshake is answered", func(s settings) *settings {
			s.handshakeRate = new(limit.AddressRate) // panics when used
			return &s
		}, openHead},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			ln := r.listen("tcp", "127.0.0.1:0", true)
			connected := func(n int) {
				r.await("connections", func() bool { return ln.Connections() == n })
			}
			other := newTalk(t, ln)
			connected(1)
			well := r.proxy.current.Load()
			var k *talk
			if tt.begin != "" {
				k = newTalk(t, ln)
				connected(2)
			}
			r.proxy.current.Store(tt.broken(*well))
			if k == nil {
				k = newTalk(t, ln)
			} else {
				k.say(tt.begin)
			}
			k.wantEnd()
			r.proxy.current.Store(well)
			if got := testutil.ToFloat64(r.metrics.Panics); got != 1 {
				t.Errorf("%v panics were counted", got)
			}
			other.say(openHead)
			if got := other.answer("GET"); !strings.HasPrefix(got, "HTTP/1.1 101") {
				t.Errorf("another connection got %s", got)
			}
			other.conn.Close()
			r.awaitNoConnections(ln)
		})
	}
}
