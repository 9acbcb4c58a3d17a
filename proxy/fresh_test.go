package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/steady"
)

// sayClose sends a Close frame without a code, as disconnect() and engine.close() do in clients.
func (p *peer) sayClose() {
	p.t.Helper()
	if err := wsutil.WriteMessage(p.conn, p.state, ws.OpClose, nil); err != nil {
		p.t.Fatal(err)
	}
}

// parkedFor returns how long the only parked session is kept.
func (r *rig) parkedFor() time.Duration {
	r.t.Helper()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
	s := r.proxy.registry.OldestParked(1)[0]
	return s.Expires.Sub(s.Since).Round(10 * time.Millisecond)
}

func TestHowLongAFreshSessionWaits(t *testing.T) {
	// readsReply reads the reply and answers the WebSocket ping before it.
	readsReply := func(c *peer) { c.want(`40{"sid":"s"`) }
	tests := []struct {
		name string
		end  func(c, up *peer)
		want time.Duration
	}{
		{"cut behind the reply", func(c, _ *peer) { c.conn.Close() }, 2 * time.Minute},
		{"closed in order when it had the reply", func(c, _ *peer) {
			readsReply(c)
			c.sayClose()
		}, 2 * time.Minute},
		{"closed in order when it had the reply, by a CLOSE packet", func(c, _ *peer) {
			readsReply(c)
			c.write("1")
		}, 2 * time.Minute},
		{"closed in order while the reply was on its way", func(c, _ *peer) { c.sayClose() }, doubtfulParking},
		{"closed in order, by a CLOSE packet, while the reply was on its way", func(c, _ *peer) {
			c.write("1")
		}, doubtfulParking},
		{"closed in order, later, by a client that answers no WebSocket pings", func(c, _ *peer) {
			time.Sleep(maxReplyTime)
			c.sayClose()
		}, 10 * time.Second},
		{"closed in order by a client that has sent something", func(c, up *peer) {
			c.send(`42["x"]`)
			up.want(`42["x"`)
			c.sayClose()
		}, 2 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// After a stall the reply has been on its way for longer.
			steady.Try(t, maxReplyTime/50, func() error {
				r, s := newScriptedRig(t, nil)
				c := r.dial()
				up := s.accept()
				c.send("40")
				up.want("40")
				r.byOrder(1).connectDelay.Store(int64(time.Minute)) // replies may take maxReplyTime
				up.send(`40{"sid":"s"}`)
				r.await("the reply to be written", func() bool { return testutil.ToFloat64(r.metrics.Packets.Out) > 0 })
				tt.end(c, up)
				if got := r.parkedFor(); got != tt.want {
					return fmt.Errorf("parked for %v, want %v", got, tt.want)
				}
				return nil
			})
		})
	}
}

// A client that certainly has the reply for one of its sessions did not call disconnect() on all of
// them.
func TestFreshSessionWaitsAsLongAsItsSiblings(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c := r.dial()
	up := s.accept()
	c.send("40")
	up.want("40")
	up.send(`40{"sid":"s"}`)
	c.want(`40{"sid":"s"`)
	c.send("40/a,")
	up.want("40/a,")
	up.send(`40/a,{"sid":"a"}`)
	r.await("the reply to be written", func() bool { return testutil.ToFloat64(r.metrics.Packets.Out) > 1 })
	c.sayClose() // without reading the reply
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 2 })
	for _, s := range r.proxy.registry.OldestParked(2) {
		if got := s.Expires.Sub(s.Since).Round(10 * time.Millisecond); got != 2*time.Minute {
			t.Errorf("%s parked for %v, want 2m", s.Namespace, got)
		}
	}
}

// The reply may be in flight longer to a slow client than to a fast one.
func TestReplyTimeFollowsTheRoundTrip(t *testing.T) {
	for delay, want := range map[time.Duration]time.Duration{
		0:                      minReplyTime,
		200 * time.Millisecond: 500 * time.Millisecond,
		time.Minute:            maxReplyTime,
	} {
		c := &client{}
		c.connectDelay.Store(int64(delay))
		if got := c.replyTime(); got != want {
			t.Errorf("with %v from handshake to CONNECT, a reply may take %v, want %v", delay, got, want)
		}
	}
}

// write sends one message and ignores errors, because the connection may end meanwhile.
func (p *peer) write(message string) {
	_ = wsutil.WriteMessage(p.conn, p.state, ws.OpText, []byte(message))
}

func TestSessionWhoseReplyNeverLeftEndsWithItsClient(t *testing.T) {
	for name, end := range map[string]string{"by a CLOSE packet": "1", "by garbage": "2"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			sid := r.pollingHandshake()
			r.post(sid, "40") // without a poll the reply stays queued
			r.await("the session", func() bool { live, _ := r.proxy.registry.Counts(); return live == 1 })
			r.post(sid, end)
			r.awaitNothing()
			r.await("the server's socket to end", func() bool { return len(r.disconnected()) == 1 })
		})
	}
}

func TestServerMayAnswerACONNECTWhoseClientHasGone(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c := r.dial()
	up := s.accept()
	c.send("40")
	up.want("40")
	c.sayClose()
	r.await("the client's end", func() bool {
		r.proxy.conns.mu.Lock()
		defer r.proxy.conns.mu.Unlock()
		return len(r.proxy.conns.clients) == 0
	})
	up.send("2") // the link is still open
	up.want("3")
	up.send(`40{"sid":"s"}`)
	up.wantEnd()
	r.awaitNothing()
}

// pollingHandshake opens a client over polling and returns its sid.
func (r *rig) pollingHandshake() string {
	r.t.Helper()
	body := r.request(http.MethodGet, "?EIO=4&transport=polling", "")
	_, rest, _ := strings.Cut(body, `"sid":"`)
	sid, _, ok := strings.Cut(rest, `"`)
	if !ok {
		r.t.Fatalf("handshake %q", body)
	}
	return sid
}

func (r *rig) post(sid, body string) {
	r.t.Helper()
	r.request(http.MethodPost, "?EIO=4&transport=polling&sid="+sid, body)
}

func (r *rig) request(method, query, body string) string {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+"/socket.io/"+query, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}
