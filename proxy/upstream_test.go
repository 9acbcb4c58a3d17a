package proxy

import (
	"bytes"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
)

// peer is one end of a WebSocket, driven by a test.
type peer struct {
	t            *testing.T
	conn         net.Conn
	rw           io.ReadWriter
	state        ws.State // the server's end or the client's
	ignoresPings bool     // it does not answer pings
}

func newPeer(t *testing.T, conn net.Conn, r io.Reader, state ws.State) *peer {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second)) // longer than any test takes
	rw := struct {
		io.Reader
		io.Writer
	}{r, conn}
	return &peer{t: t, conn: conn, rw: rw, state: state}
}

// send sends messages in as few writes as possible.
func (p *peer) send(messages ...string) {
	p.t.Helper()
	var b bytes.Buffer
	for _, m := range messages {
		if err := wsutil.WriteMessage(&b, p.state, ws.OpText, []byte(m)); err != nil {
			p.t.Fatal(err)
		}
	}
	if _, err := p.conn.Write(b.Bytes()); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next message. It answers pings and skips them.
func (p *peer) next() (string, error) {
	for {
		message, _, err := wsutil.ReadData(p.rw, p.state)
		if err != nil || string(message) != "2" {
			return string(message), err
		}
		if !p.ignoresPings {
			p.send("3")
		}
	}
}

// want reads messages, each of which must begin with the given text.
func (p *peer) want(beginnings ...string) {
	p.t.Helper()
	for _, b := range beginnings {
		if got, err := p.next(); err != nil || !strings.HasPrefix(got, b) {
			p.t.Fatalf("got %q, %v; want %s...", got, err, b)
		}
	}
}

// wantEnd reads until the other end closes the connection.
func (p *peer) wantEnd() {
	p.t.Helper()
	for {
		switch _, err := p.next(); {
		case isTimeout(err):
			p.t.Fatal("the connection was left open")
		case err != nil:
			return
		}
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error) //nolint:errorlint // a net.Conn does not wrap it
	return ok && n.Timeout()
}

// script is an upstream whose connections the test drives.
type script struct {
	t     *testing.T
	open  string // what it sends first
	conns chan net.Conn
	query chan string // of each handshake
}

func newScript(t *testing.T) *script {
	return &script{
		t, `0{"sid":"up","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`,
		make(chan net.Conn, 16), make(chan string, 16), // more than any test opens before it accepts one
	}
}

// ServeHTTP implements http.Handler.
func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		s.t.Errorf("the proxy's WebSocket handshake: %v", err)
		return
	}
	if err := wsutil.WriteServerText(conn, []byte(s.open)); err != nil {
		s.t.Error(err)
	}
	s.query <- r.URL.RawQuery
	s.conns <- conn
}

// accept returns the proxy's next connection.
func (s *script) accept() *peer {
	s.t.Helper()
	select {
	case conn := <-s.conns:
		return newPeer(s.t, conn, conn, ws.StateServerSide)
	case <-time.After(30 * time.Second):
		s.t.Fatal("the proxy opened no connection to the upstream")
		return nil
	}
}

// newScriptedRig returns a rig whose upstream is a script.
func newScriptedRig(t *testing.T, change func(*config.Config)) (*rig, *script) {
	t.Helper()
	s := newScript(t)
	up := httptest.NewServer(s)
	t.Cleanup(up.Close)
	r := newRig(t, func(c *config.Config) {
		c.Upstream.URL = config.URLs{up.URL}
		if change != nil {
			change(c)
		}
	})
	return r, s
}

// dial opens a client that the test drives.
func (r *rig) dial() *peer {
	r.t.Helper()
	conn, buffered, _, err := ws.Dial(r.t.Context(), strings.Replace(r.url, "http", "ws", 1)+"/socket.io/?EIO=4&transport=websocket")
	if err != nil {
		r.t.Fatal(err)
	}
	var from io.Reader = conn
	if buffered != nil {
		from = buffered
	}
	p := newPeer(r.t, conn, from, ws.StateClientSide)
	p.want("0{")
	return p
}

// awaitNothing waits until no clients, sessions and links are left.
func (r *rig) awaitNothing() {
	r.t.Helper()
	r.await("the end of clients, sessions and links", func() bool {
		live, parked := r.proxy.registry.Counts()
		r.proxy.conns.mu.Lock()
		defer r.proxy.conns.mu.Unlock()
		return live+parked+len(r.proxy.conns.clients)+len(r.proxy.conns.links) == 0
	})
}

func (r *rig) awaitNoLinks() {
	r.t.Helper()
	r.await("the end of all links", func() bool {
		r.proxy.conns.mu.Lock()
		defer r.proxy.conns.mu.Unlock()
		return len(r.proxy.conns.links) == 0
	})
}

func expireSoon(c *config.Config) { c.Recovery.MaxDisconnectionDuration = 50 * time.Millisecond }

// withTwoLinks returns a client with two links. It connects /a, disconnects it, sends a CONNECT for
// /b and connects /a again. That needs another link, because the CONNECT of /b still waits on the
// first one.
func withTwoLinks(r *rig, s *script) (c, first, second *peer) {
	r.t.Helper()
	c = r.dial()
	first = s.accept()
	c.send("40/a,")
	first.want("40/a,")
	first.send(`40/a,{"sid":"a1"}`)
	c.want("40/a,")
	c.send("41/a,", "40/b,", "40/a,")
	first.want("41/a,", "40/b,")
	second = s.accept()
	second.want("40/a,")
	second.send(`40/a,{"sid":"a2"}`)
	c.want(`40/a,{"sid":"a2"`)
	return c, first, second
}

func TestClientClosesWithTheFirstLinkIfItsConnectWaitsThere(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c, first, _ := withTwoLinks(r, s)
	first.conn.Close()
	c.wantEnd()
}

func TestSecondReplyForANamespaceOpensNoSecondSession(t *testing.T) {
	r, s := newScriptedRig(t, expireSoon)
	c, first, second := withTwoLinks(r, s)
	c.send("40/b,")
	second.want("40/b,")
	first.send(`40/b,{"sid":"b1"}`)
	c.want(`40/b,{"sid":"b1"`)
	second.send(`40/b,{"sid":"b2"}`)
	second.want("41/b,")
	if live, _ := r.proxy.registry.Counts(); live != 2 {
		t.Errorf("%d sessions are live, want those of /a and /b", live)
	}
	c.conn.Close()
	r.awaitNothing()
}

func TestLatePacketsOfAnEndedNamespaceAreDropped(t *testing.T) {
	late := []string{`42/a,["late","taken for an offset"]`, `42/a,1["asks"]`, `41/a,`, `43/a,0["an answer"]`, `42/b,["on time"]`}
	tests := []struct {
		name   string
		change func(*config.Config)
		end    func(c, up *peer)
		want   []string // beginnings of the messages that the client gets
	}{
		{"left by the client", nil, func(c, up *peer) {
			c.send("41/a,")
			up.want("41/a,")
		}, []string{"43/a,0", `42/b,["on time","hf`}},
		{"ended by the server", nil, func(c, up *peer) {
			up.send("41/a,")
			c.want("41/a,")
		}, []string{"43/a,0", `42/b,["on time","hf`}},
		{"left by a client without recovery", func(c *config.Config) {
			c.Recovery.MaxDisconnectionDuration = 0
		}, func(c, up *peer) {
			c.send("41/a,")
			up.want("41/a,")
		}, late},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, s := newScriptedRig(t, tt.change)
			c := r.dial()
			up := s.accept()
			c.send("40/a,", "40/b,")
			up.want("40/a,", "40/b,")
			up.send(`40/a,{"sid":"a"}`, `40/b,{"sid":"b"}`)
			c.want("40/a,", "40/b,")
			tt.end(c, up)
			up.send(late...)
			c.want(tt.want...)
		})
	}
}

func TestUnansweredConnectKeepsNoLinkWithoutClient(t *testing.T) {
	r, s := newScriptedRig(t, expireSoon)
	c := r.dial()
	up := s.accept()
	c.send("40/a,", "40/b,")
	up.want("40/a,", "40/b,")
	up.send(`40/a,{"sid":"a"}`)
	c.want("40/a,")
	c.conn.Close()
	up.wantEnd()
	r.awaitNothing()
}

func TestClientThatClosesImmediatelyLeavesNoLink(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	req := engineio.Request{WebSocket: true, Path: "/socket.io/", RawQuery: "EIO=4&transport=websocket", Host: "app"}
	conn, err := r.proxy.upstream.Dial(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(r.proxy.deps, 1, req, newSID(), engineio.Options{}, true, nil)
	l, _ := c.newPrimary(conn, "")
	c.park(reason.TransportClose) // before the handshake's goroutine starts the link
	l.start()
	s.accept().wantEnd()
	r.awaitNoLinks()
}

func TestFailedUpgradeClosesItsLinkOverTLS(t *testing.T) {
	s := newScript(t)
	up := httptest.NewTLSServer(s)
	t.Cleanup(up.Close)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw})
	if err := os.WriteFile(authority, block, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *config.Config) {
		c.Upstream.URL = config.URLs{up.URL}
		c.Upstream.TLS.CAFile = authority
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket") // without a Sec-WebSocket-Key
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode < 400 || resp.StatusCode > 499 {
		t.Errorf("status %d, want the client's error", resp.StatusCode)
	}
	s.accept().wantEnd()

	c := r.dial()
	link := s.accept()
	c.send("40")
	link.want("40")
	link.send(`40{"sid":"s"}`)
	c.want(`40{"sid":"s"`)
}
