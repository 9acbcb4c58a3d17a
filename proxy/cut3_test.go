package proxy

import (
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/imitation"
)

// onlyLong skips a test unless make long runs it.
func onlyLong(t *testing.T) {
	t.Helper()
	if os.Getenv("HOLDFAST_LONG") != "1" {
		t.Skip("only with HOLDFAST_LONG=1: see make long")
	}
}

// newRigOf returns a rig whose upstream imitates a server of Engine.IO 3.
func newRigOf(t *testing.T, lib *imitation.ServerLibrary, change func(*config.Config)) (*rig, *imitation.Server) {
	t.Helper()
	s := imitation.NewServer(lib, true)
	up := httptest.NewServer(s)
	t.Cleanup(up.Close)
	return newRig(t, func(c *config.Config) {
		withKey(c)
		c.Upstream.URL, c.Upstream.Protocol = config.URLs{up.URL}, config.ProtocolV3
		c.Limits.TakeoversPerMinutePerSession = 0
		if change != nil {
			change(c)
		}
	}), s
}

// received3 are the numbers that the connections of a client have got.
type received3 struct {
	t         *testing.T
	redeliver config.AckEvents
	all       []int
	sure      int // how many of them were confirmed
}

// add adds those of one connection, of which it has confirmed the first ones.
func (a *received3) add(numbers []int, sure int) {
	a.t.Helper()
	for i, n := range numbers {
		at := slices.Index(a.all, n)
		switch {
		case at >= 0 && a.redeliver == config.AtMostOnce:
			a.t.Errorf("%d came twice", n)
		case at >= 0 && at < a.sure:
			a.t.Errorf("%d came twice, although it was confirmed", n)
		case a.redeliver == config.AtLeastOnce && n > 1 && !slices.Contains(a.all, n-1):
			a.t.Errorf("%d came without the one before", n)
		}
		a.all = append(a.all, n)
		if i+1 == sure {
			a.sure = len(a.all)
		}
	}
}

// complete checks that all numbers have arrived.
func (a *received3) complete(n int) {
	a.t.Helper()
	for number := range n {
		if a.redeliver == config.AtLeastOnce && !slices.Contains(a.all, number+1) {
			a.t.Errorf("%d never came", number+1)
		}
	}
}

// TestKeyedClient3CutAtEveryByte is TestKeyedClientCutAtEveryByte for clients of Engine.IO 3.
func TestKeyedClient3CutAtEveryByte(t *testing.T) {
	onlyLong(t)
	for _, redeliver := range []config.AckEvents{config.AtLeastOnce, config.AtMostOnce} {
		t.Run(string(redeliver)+", WebSocket", func(t *testing.T) {
			cutClients3(t, redeliver, false, 300) // OPEN, CONNECT, some events and pings
		})
		t.Run(string(redeliver)+", polling", func(t *testing.T) {
			cutClients3(t, redeliver, true, 520) // the answers to the handshake and to two polls
		})
	}
}

// cutClients3 cuts a client after 0, 1, 2, ... bytes.
func cutClients3(t *testing.T, redeliver config.AckEvents, polls bool, bytes int64) {
	r, s := newRigOf(t, imitation.Python, func(c *config.Config) { c.Recovery.Keyed.Redeliver = redeliver })
	const query = "hf_key=0123456789abcdef"
	p := dial3(t, r.url, query, polls, -1)
	p.read(func() bool { return len(p.connected) > 0 })
	sid := p.sid
	p.conn.Close()
	got := &received3{t: t, redeliver: redeliver}
	n := 0
	emit := func(events int) {
		for range events {
			n++
			s.Emit("/", "n", n)
		}
	}
	set := *r.proxy.settings()
	set.aliveTimeout = 2 * time.Millisecond // nothing shows the end between two polls, and each client waits for that long
	r.proxy.current.Store(&set)
	for limit := range bytes {
		p := dial3(t, r.url, query, polls, limit)
		emit(4)
		p.read(func() bool { return len(p.connected) > 0 })
		emit(1)
		p.read(func() bool { return slices.Contains(p.numbers, n) }) // or until it is cut
		p.conn.Close()
		if p.sid != "" && p.sid != sid {
			t.Fatalf("after %d bytes: a fresh session", limit)
		}
		got.add(p.numbers, p.sure)
	}
	p = dial3(t, r.url, query, polls, -1)
	emit(1)
	p.read(func() bool { return slices.Contains(p.numbers, n) })
	got.add(p.numbers, p.sure)
	got.complete(n)
	if q := s.Queries(); len(q) != 1 || len(s.Ended()) > 0 {
		t.Errorf("the server saw the handshakes %v, and the ends %v", q, s.Ended())
	}
}

// A client that recovers by itself has each event once, wherever its connection is cut. This also
// holds in front of a server of Engine.IO 3.
func TestModernClientCutAtEveryByteBeforeServer3(t *testing.T) {
	r, s := newRigOf(t, imitation.Netty, nil)
	var c offsetPeer
	c.dial(t, r.url, -1)
	c.read(func() bool { return c.id != "" })
	c.conn.Close()
	id := c.id
	n := 0
	for limit := range int64(420) { // OPEN, the reply, some events and pings
		pid, offset := c.pid, c.offset
		c.dial(t, r.url, limit)
		for range 4 {
			n++
			s.Emit("/", "n", n)
		}
		c.read(func() bool { return slices.Contains(c.numbers, n) }) // or until it is cut
		c.conn.Close()
		if c.id != id {
			t.Fatalf("after %d bytes: a fresh session; it claimed %q with the offset %q", limit, pid, offset)
		}
	}
	c.dial(t, r.url, -1)
	n++
	s.Emit("/", "n", n)
	c.read(func() bool { return slices.Contains(c.numbers, n) })
	if !slices.Equal(c.numbers, upTo(n)) {
		t.Errorf("it got %v, want 1 to %d", c.numbers, n)
	}
	if q := s.Queries(); len(q) != 1 || len(s.Ended()) > 0 {
		t.Errorf("the server saw the handshakes %v, and the ends %v", q, s.Ended())
	}
}

// offsetPeer is a client that recovers by itself, over several connections, each of which may end
// after a number of bytes.
type offsetPeer struct {
	keyedPeer
	pid, offset string
}

func (c *offsetPeer) dial(t *testing.T, url string, limit int64) {
	t.Helper()
	p := openKeyed(t, url, "x=y", limit)
	c.t, c.conn, c.in = t, p.conn, p.in
	connect := "40"
	switch {
	case c.offset != "":
		connect = fmt.Sprintf(`40{"pid":%q,"offset":%q}`, c.pid, c.offset)
	case c.pid != "":
		connect = fmt.Sprintf(`40{"pid":%q}`, c.pid)
	}
	c.send(connect)
}

// read handles frames until stop returns true, or the connection ends.
func (c *offsetPeer) read(stop func() bool) {
	for !stop() {
		f, err := ws.ReadFrame(c.in)
		if err != nil {
			return
		}
		c.frame(f)
	}
}

func (c *offsetPeer) frame(f ws.Frame) {
	text := string(f.Payload)
	var n int
	switch {
	case f.Header.OpCode == ws.OpPing:
		c.write(ws.NewPongFrame(f.Payload))
	case text == "2":
		c.send("3")
	case strings.HasPrefix(text, "40"):
		if _, err := fmt.Sscanf(strings.NewReplacer(`"`, " ", ",", " ").Replace(text), "40{ sid : %s  pid : %s ", &c.id, &c.pid); err != nil {
			c.t.Errorf("reply %q: %v", text, err)
		}
	case strings.HasPrefix(text, "42["): // others are for a namespace that it does not have
		_, err := fmt.Sscanf(text, `42["n",%d,`, &n)
		if err == nil {
			c.numbers = append(c.numbers, n)
		}
		last := strings.LastIndex(text, `,"`)
		c.offset = strings.TrimSuffix(text[last+2:], `"]`)
	}
}
