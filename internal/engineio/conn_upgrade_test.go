package engineio

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// dialUpgradable returns a polling Conn whose server offers the upgrade.
func dialUpgradable(t *testing.T, s *server) *Conn {
	t.Helper()
	return dialPolling(t, s, func(h *Handshake) { h.Upgrades = []string{"websocket"} })
}

// wantTransport waits until the Conn has the transport.
func wantTransport(t *testing.T, c *Conn, want string) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); c.Transport() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the transport is still %s", c.Transport())
		}
	}
}

// awaitUpgradeState waits until the Conn's upgrade has come that far.
func awaitUpgradeState(t *testing.T, c *Conn, want upgradeState) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		state := c.poll.upgrade
		c.mu.Unlock()
		if state == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the upgrade is %s, not %s", state, want)
		}
	}
}

func TestConnUpgrade(t *testing.T) {
	s := newServer(t, false)
	c := dialUpgradable(t, s)
	l := begin(t, c)
	waiting := s.poll(t)
	x := s.socket(t)
	if q := x.URL.Query(); q.Get("sid") != "up" || q.Get("transport") != "websocket" || q.Get("EIO") != "4" || q.Has("t") {
		t.Errorf("upgraded with %s", x.URL.RawQuery)
	}
	if x.Header.Get("Authorization") != "Bearer x" || x.Host != "example.org" {
		t.Errorf("upgraded with header %v, host %s", x.Header, x.Host)
	}
	p := x.upgrade(t, nil, nil)
	p.want(t, "2probe")
	p.send(t, "3probe")
	waiting.answer(http.StatusOK, "6")
	s.endPolls(t)
	p.want(t, "5")
	p.send(t, "4hello")
	l.want(t, "4hello")
	wantTransport(t, c, "websocket")
	c.Send([]byte("x"), nil)
	c.Flush()
	p.want(t, "4x")
	l.wantDrained(t)
}

// The upgrade loses and reorders nothing in either direction.
func TestConnUpgradeWithPacketsInFlight(t *testing.T) {
	s := newServer(t, false)
	c := dialUpgradable(t, s)
	l := begin(t, c)
	c.Send([]byte("1"), nil)
	c.Flush()
	posting := s.post(t)
	waiting := s.poll(t)
	p := s.socket(t).upgrade(t, nil, nil)
	p.want(t, "2probe")
	c.Send([]byte("2"), [][]byte{{2}})
	c.Flush()
	p.send(t, "3probe")
	waiting.answer(http.StatusOK, "4a\x1e4b\x1e2")
	s.endPolls(t)
	l.awaitThat(t, "the flush, which follows the pong", func() bool { return slices.Contains(l.log, "flush") })
	l.want(t, "4a", "4b")
	c.Send([]byte("3"), nil)
	c.Flush()
	awaitUpgradeState(t, c, upgradeDrainingPosts) // before that, "2" and "3" may be posted
	select {
	case f := <-p.frames:
		t.Fatalf("the server got %q by WebSocket while a POST was under way", f)
	case <-time.After(20 * time.Millisecond):
	}
	posting.answer(http.StatusOK, "ok")
	p.want(t, "5", "42", "b02", "3", "43")
	c.Send([]byte("4"), nil)
	c.Flush()
	p.want(t, "44")
	p.send(t, "4c")
	l.want(t, "4c")
	if queued := c.Flush(); queued != 0 {
		t.Errorf("%d bytes wait", queued)
	}
}

// The server may answer the poll only after it got what is still to be posted.
func TestConnUpgradePostsUntilThePollEnds(t *testing.T) {
	s := newServer(t, false)
	c := dialUpgradable(t, s)
	begin(t, c)
	waiting := s.poll(t)
	p := s.socket(t).upgrade(t, nil, nil)
	p.want(t, "2probe")
	p.send(t, "3probe")
	for _, m := range []string{"1", "2", "3"} {
		c.Send([]byte(m), nil)
		c.Flush()
		s.wantPost(t, "4"+m)
	}
	waiting.answer(http.StatusOK, "6")
	s.endPolls(t)
	p.want(t, "5")
}

// Frames may follow the answer to the probe directly, and a WebSocket ping may precede it.
func TestConnUpgradeFramesAroundTheProbe(t *testing.T) {
	s := newServer(t, false)
	c := dialUpgradable(t, s)
	l := begin(t, c)
	waiting := s.poll(t)
	p := s.socket(t).upgrade(t, nil, wire(fromServer(ws.OpPing, "a")))
	p.want(t, "2probe")
	p.writeBytes(t, wire(fromServer(ws.OpText, "3probe"), fromServer(ws.OpPing, "b"), fromServer(ws.OpText, "6"), fromServer(ws.OpText, "4x")))
	waiting.answer(http.StatusOK, "6")
	s.endPolls(t)
	p.want(t, "5", "pong:b")
	l.want(t, "4x")
	c.Send([]byte("y"), nil)
	c.Flush()
	p.want(t, "4y")
}

func TestConnUpgradeWhilePaused(t *testing.T) {
	s := newServer(t, false)
	c := dialUpgradable(t, s)
	l := begin(t, c)
	waiting := s.poll(t)
	p := s.socket(t).upgrade(t, nil, nil)
	p.want(t, "2probe")
	c.Pause()
	p.send(t, "3probe")
	waiting.answer(http.StatusOK, "6")
	s.endPolls(t)
	p.want(t, "5")
	p.send(t, "4x")
	time.Sleep(20 * time.Millisecond) // for something that must not happen
	if n := len(l.seen()); n > 0 {
		t.Fatal("a message came while paused")
	}
	c.Resume()
	l.want(t, "4x")
}

// If the upgrade fails, at any stage, polling continues.
func TestConnUpgradeFails(t *testing.T) {
	tests := []struct {
		name string
		fail func(t *testing.T, x *exchange)
	}{
		{"refused", func(_ *testing.T, x *exchange) { x.answer(http.StatusBadRequest, "") }},
		{"not HTTP", func(t *testing.T, x *exchange) {
			conn := x.hijack(t)
			_, _ = conn.Write([]byte("?\r\n\r\n"))
			conn.Close()
		}},
		{"dropped", func(t *testing.T, x *exchange) { x.drop(t) }},
		{"never answered", func(*testing.T, *exchange) {}},
		{"probe never answered", func(t *testing.T, x *exchange) { x.upgrade(t, nil, nil) }},
		{"closed", func(t *testing.T, x *exchange) { x.upgrade(t, nil, wire(fromServer(ws.OpClose, ""))) }},
		{"ended", func(t *testing.T, x *exchange) { x.upgrade(t, nil, nil).conn.Close() }},
		{"not a packet", func(t *testing.T, x *exchange) { x.upgrade(t, nil, wire(fromServer(ws.OpText, "?"))) }},
		{"broken frame", func(t *testing.T, x *exchange) { x.upgrade(t, nil, []byte{0xff, 0xff}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t)
				c := dialUpgradable(t, s)
				s.dialer.Timeout = 50 * time.Millisecond
				told := make(chan error, 2) // there must be one
				s.dialer.UpgradeFailed = func(err error) { told <- err }
				l := begin(t, c)
				waiting := s.poll(t)
				tt.fail(t, s.socket(t))
				time.Sleep(100 * time.Millisecond) // longer than any stage
				waiting.answer(http.StatusOK, "4a")
				s.poll(t).answer(http.StatusOK, "4b")
				l.want(t, "4a", "4b")
				c.Send([]byte("x"), nil)
				c.Flush()
				s.wantPost(t, "4x")
				if c.Transport() != "polling" {
					t.Errorf("Transport() = %s", c.Transport())
				}
				if len(told) != 1 || <-told == nil {
					t.Error("it was not told once that the upgrade failed")
				}
			})
		})
	}
}

// If the server does not end the poll, or loses the WebSocket meanwhile, the upgrade fails and
// nothing is lost.
func TestConnUpgradeTimesOut(t *testing.T) {
	for _, tt := range []struct {
		name  string
		stall func(t *testing.T, s *server, p *wsPeer, c *Conn, waiting *exchange)
		want  []string
	}{
		{"the poll does not end", func(t *testing.T, s *server, p *wsPeer, c *Conn, waiting *exchange) {
			p.want(t, "EOF")
			waiting.answer(http.StatusOK, "4a")
			s.poll(t).answer(http.StatusOK, "4b")
		}, []string{"4a", "4b"}},
		{"the POST does not end", func(t *testing.T, s *server, p *wsPeer, c *Conn, waiting *exchange) {
			c.Send([]byte("x"), nil)
			c.Flush()
			x := s.post(t)
			waiting.answer(http.StatusOK, "6")
			p.want(t, "EOF")
			x.answer(http.StatusOK, "ok")
			c.Send([]byte("y"), nil)
			c.Flush()
			s.wantPost(t, "4y")
			s.poll(t).answer(http.StatusOK, "4a")
		}, []string{"4a"}},
		{"the WebSocket ends first", func(t *testing.T, s *server, p *wsPeer, c *Conn, waiting *exchange) {
			p.sendFrame(t, ws.OpClose, nil)
			p.conn.Close()
			waiting.answer(http.StatusOK, "4a")
			s.poll(t).answer(http.StatusOK, "4b")
		}, []string{"4a", "4b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t)
				c := dialUpgradable(t, s)
				s.dialer.Timeout = 200 * time.Millisecond
				l := begin(t, c)
				waiting := s.poll(t)
				p := s.socket(t).upgrade(t, nil, nil)
				p.want(t, "2probe")
				p.send(t, "3probe")
				tt.stall(t, s, p, c, waiting)
				l.want(t, tt.want...)
				c.Send([]byte("last"), nil)
				c.Flush()
				s.wantPost(t, "4last")
				if c.Transport() != "polling" {
					t.Errorf("Transport() = %s", c.Transport())
				}
			})
		})
	}
}

func TestNoUpgradeOffered(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, func(h *Handshake) { h.Upgrades = []string{"webtransport"} })
	l := begin(t, c)
	s.poll(t).answer(http.StatusOK, "4a")
	l.want(t, "4a")
	select {
	case <-s.sockets:
		t.Fatal("tried an upgrade that was not offered")
	case <-s.poll(t).Context().Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// A Conn may be closed, and its server may die, at any stage of an upgrade.
func TestConnEndsWhileUpgrading(t *testing.T) {
	stages := []string{"request", "probe", "poll", "post"}
	for i, stage := range stages {
		for _, closed := range []bool{true, false} {
			name := stage + ", server dies"
			if closed {
				name = stage + ", closed"
			}
			t.Run(name, func(t *testing.T) {
				s := newServer(t, false)
				c := dialUpgradable(t, s)
				l := newConnLog()
				c.Start(l)
				waiting := s.poll(t)
				x := s.socket(t)
				var p *wsPeer
				var posting *exchange
				if i >= 1 {
					p = x.upgrade(t, nil, nil)
					p.want(t, "2probe")
				}
				if i >= 2 {
					p.send(t, "3probe")
				}
				if i >= 3 {
					c.Send([]byte("x"), nil)
					c.Flush()
					posting = s.post(t)
					waiting.answer(http.StatusOK, "6")
					s.endPolls(t)
				}
				if closed {
					c.Send([]byte("last"), nil)
					c.Close()
					l.wantClosed(t, ErrClosed)
					if posting != nil {
						posting.answer(http.StatusOK, "ok")
					}
					s.wantPost(t, "4last\x1e1")
				} else {
					s.die()
					if p != nil {
						p.conn.Close()
					}
					l.awaitThat(t, "Closed", func() bool { return l.err != nil })
				}
				if p != nil {
					for f := range p.frames { // until the end
						if strings.HasPrefix(f, "5") {
							t.Error("upgraded a Conn that was closed")
						}
					}
				}
			})
		}
	}
}
