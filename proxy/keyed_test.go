package proxy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/config"
)

func withKey(c *config.Config) { c.Recovery.Keyed.Query = "hf_key" }

// keyedPeer is a client with a key, byte by byte: its connection ends after a number of bytes from
// holdfast.
type keyedPeer struct {
	t       *testing.T
	conn    net.Conn
	in      io.Reader
	id      string // of its socket, from the CONNECT reply; "" if that has not come
	numbers []int
	sure    int // how many of the numbers it has confirmed
	pongs   int
	silent  bool // it answers no pings
}

// dialKeyed opens a WebSocket that ends after limit bytes behind the HTTP answer, or with the test
// if limit is negative.
func dialKeyed(t *testing.T, url, query string, limit int64) *keyedPeer {
	t.Helper()
	p := openKeyed(t, url, query, limit)
	p.send("40")
	return p
}

// openKeyed is dialKeyed without a CONNECT.
func openKeyed(t *testing.T, url, query string, limit int64) *keyedPeer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	request := fmt.Sprintf("GET /socket.io/?EIO=4&transport=websocket&%s HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", query)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // the rest is the WebSocket
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal("handshake:", resp, err)
	}
	p := &keyedPeer{t: t, conn: conn, in: br}
	if limit >= 0 {
		p.in = io.LimitReader(br, limit)
	}
	return p
}

func (p *keyedPeer) send(text string) {
	p.write(ws.NewTextFrame([]byte(text)))
}

func (p *keyedPeer) write(f ws.Frame) {
	_ = ws.WriteFrame(p.conn, ws.MaskFrameInPlace(f)) // fails once holdfast has closed the connection
}

// read handles frames until stop returns true, or the connection ends.
func (p *keyedPeer) read(stop func() bool) {
	for !stop() {
		f, err := ws.ReadFrame(p.in)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
				p.t.Error(err)
			}
			break
		}
		p.frame(f)
	}
}

func (p *keyedPeer) frame(f ws.Frame) {
	text := string(f.Payload)
	switch {
	case p.silent && (text == "2" || f.Header.OpCode == ws.OpPing):
	case f.Header.OpCode == ws.OpPing:
		p.write(ws.NewPongFrame(f.Payload))
	case text == "2":
		p.send("3")
		p.pongs++
		p.sure = len(p.numbers)
	case strings.HasPrefix(text, "40"):
		var reply map[string]string
		if err := json.Unmarshal(f.Payload[2:], &reply); err != nil || len(reply) != 1 {
			p.t.Errorf("reply %q", text)
		}
		p.id = reply["sid"]
	case strings.HasPrefix(text, "42"):
		var args []any
		if err := json.Unmarshal(f.Payload[2:], &args); err != nil || len(args) != 2 {
			p.t.Errorf("event %q", text)
			return
		}
		p.numbers = append(p.numbers, int(args[1].(float64)))
	}
}

// TestKeyedClientCutAtEveryByte ends the connections of a client with a key after 0, 1, 2, ...
// bytes. Then it has all events, in order. With at least once, only those come twice that it had
// not confirmed; with at most once, none does.
func TestKeyedClientCutAtEveryByte(t *testing.T) {
	const bytes = 300 // OPEN, the reply, some events and pings
	for _, redeliver := range []config.AckEvents{config.AtLeastOnce, config.AtMostOnce} {
		t.Run(string(redeliver), func(t *testing.T) {
			r := newRig(t, func(c *config.Config) {
				withKey(c)
				c.Recovery.Keyed.Redeliver = redeliver
				c.Limits.TakeoversPerMinutePerSession = 0
			})
			const query = "hf_key=0123456789abcdef"
			p := dialKeyed(t, r.url, query, -1)
			p.read(func() bool { return p.id != "" })
			id, s := p.id, r.socket(0)
			p.conn.Close()
			n := 0
			var all []int
			sure := 0 // how many of all were confirmed
			took := func(p *keyedPeer) {
				for i, number := range p.numbers {
					at := slices.Index(all, number)
					switch {
					case at >= 0 && redeliver == config.AtMostOnce:
						t.Errorf("%d came twice", number)
					case at >= 0 && at < sure:
						t.Errorf("%d came twice, although it was confirmed", number)
					case redeliver == config.AtLeastOnce && number > 1 && !slices.Contains(all, number-1):
						t.Errorf("%d came without the one before", number)
					}
					all = append(all, number)
					if i+1 == p.sure {
						sure = len(all)
					}
				}
			}
			for limit := range int64(bytes) {
				p := dialKeyed(t, r.url, query, limit)
				for range 4 {
					n++
					s.Emit("n", n)
				}
				p.read(func() bool { return p.id != "" }) // the previous connection may have the events so far
				n++
				s.Emit("n", n)
				p.read(func() bool { return slices.Contains(p.numbers, n) }) // or until it is cut
				p.conn.Close()
				if p.id != "" && p.id != id {
					t.Fatalf("after %d bytes: a fresh session", limit)
				}
				took(p)
			}
			p = dialKeyed(t, r.url, query, -1)
			p.read(func() bool { return p.id != "" })
			n++
			s.Emit("n", n)
			p.read(func() bool { return slices.Contains(p.numbers, n) })
			took(p)
			if redeliver == config.AtLeastOnce {
				for number := range n {
					if !slices.Contains(all, number+1) {
						t.Errorf("%d never came", number+1)
					}
				}
			}
			if got := r.disconnected(); len(got) > 0 {
				t.Errorf("the server saw %v", got)
			}
		})
	}
}

func TestKeyedQuery(t *testing.T) {
	cfg := config.Default()
	withKey(&cfg)
	set, err := newSettings(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"EIO=4&transport=polling":                         "EIO=4&transport=polling",
		"hf_key=0123456789abcdef&EIO=4&transport=polling": "EIO=4&transport=polling",
		"a=%zz&hf%5Fkey=x&EIO=4&hf_n=/:1&b":               "a=%zz&EIO=4&b",
		"hf_key=x":                                        "",
		"hf_keys=1&xhf_key=2":                             "hf_keys=1&xhf_key=2",
	} {
		if got := set.withoutKey(query); got != want {
			t.Errorf("%q becomes %q, want %q", query, got, want)
		}
	}
	cfg.Recovery.Keyed.Forward = true
	if set, err = newSettings(cfg, nil); err != nil {
		t.Fatal(err)
	}
	if got := set.withoutKey("hf_key=x"); got != "hf_key=x" {
		t.Errorf("forwarded as %q", got)
	}
}

func TestParseCounts(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("/x:1,", 2*maxCounted), ",")
	for i := range 2 * maxCounted {
		many += fmt.Sprintf(",/%d:1", i)
	}
	for text, want := range map[string]string{
		"": "map[]", "/:12": "map[/:{12 }]", "/:12,/admin:3": "map[/:{12 } /admin:{3 }]",
		"/:12@S,/admin:3@/admin#S": "map[/:{12 S} /admin:{3 /admin#S}]", "/a@b:7": "map[/a@b:{7 }]", "/a@b:7@S": "map[/a@b:{7 S}]", "/:x@S": "map[]", "@": "map[]", "/a:b:7": "map[/a:b:{7 }]",
		"12": "map[]", "/:": "map[]", "/:-1": "map[]", "/:1e3": "map[]", "/:99999999999999999999": "map[]", ",,": "map[]",
	} {
		if got := fmt.Sprint(parseCounts(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if n := len(parseCounts(many)); n > maxCounted {
		t.Errorf("%d namespaces", n)
	}
}

// Nothing of a key stays in memory when its sessions have ended.
func TestKeyringForgets(t *testing.T) {
	r := newRig(t, func(c *config.Config) {
		withKey(c)
		c.Recovery.MaxDisconnectionDuration = 20 * time.Millisecond
	})
	for i := range 20 {
		p := dialKeyed(t, r.url, fmt.Sprintf("hf_key=0123456789abcdef%d", i), -1)
		p.read(func() bool { return p.id != "" })
		if i%2 == 0 {
			p.send("41")
		}
		p.conn.Close()
	}
	r.await("all keys to be forgotten", func() bool {
		for i := range 20 {
			if ring := &r.proxy.keyring; ring.Has(ring.Digest(fmt.Sprintf("0123456789abcdef%d", i))) {
				return false
			}
		}
		return true
	})
}

// A client whose connection is cut before it has the reply still has the key.
func TestKeyedClientCutBeforeTheReply(t *testing.T) {
	r := newRig(t, withKey)
	const query = "hf_key=0123456789abcdef"
	p := dialKeyed(t, r.url, query, 0)
	r.socket(0)
	r.await("its session", func() bool { live, _ := r.proxy.registry.Counts(); return live == 1 })
	if err := p.conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	p.conn.Close()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
	p = dialKeyed(t, r.url, query, -1)
	p.read(func() bool { return p.id != "" })
	if got := r.disconnected(); len(got) > 0 || len(r.connections) != 1 {
		t.Errorf("the server saw %v, and %d connections", got, len(r.connections))
	}
}

// A client counts the events of one socket. If its connection was cut before it had the reply of
// another, its count belongs to the previous one, and would skip events of this one.
func TestCountOfAnotherSocket(t *testing.T) {
	r := newRig(t, withKey)
	const query = "hf_key=0123456789abcdef"
	p := dialKeyed(t, r.url, query, 0)
	s := r.socket(0)
	for i := range 3 {
		s.Emit("n", i+1)
	}
	for _, tt := range []struct {
		counted string
		want    []int
	}{{"/:2@another", []int{1, 2, 3}}, {"/:2@" + s.ID, []int{3}}} {
		r.await("the events in the log", func() bool { return r.proxy.budget.Packets() >= int64(len(tt.want)) })
		p.conn.Close()
		r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
		p = dialKeyed(t, r.url, query+"&hf_n="+tt.counted, -1)
		p.silent = true // it confirms nothing
		p.read(func() bool { return slices.Contains(p.numbers, 3) })
		if !slices.Equal(p.numbers, tt.want) {
			t.Errorf("with %s it got %v, want %v", tt.counted, p.numbers, tt.want)
		}
	}
}

// Whatever a client writes in its query, the server sees no key, and what is remembered is bounded.
func FuzzKeyedQuery(f *testing.F) {
	for _, seed := range []string{
		"EIO=4&transport=polling", "hf_key=0123456789abcdef&hf_n=/:12,/a:3", "hf%5Fkey=x&hf_n", "hf_key&hf_n=%zz;&&=", "a=hf_key=1&hf_n=:::,,/:-1",
	} {
		f.Add(seed)
	}
	cfg := config.Default()
	withKey(&cfg)
	set, err := newSettings(cfg, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query string) {
		rest := set.withoutKey(query)
		values, _ := url.ParseQuery(rest) // what can be parsed
		if values.Has("hf_key") || values.Has("hf_n") {
			t.Errorf("%q becomes %q", query, rest)
		}
		if again := set.withoutKey(rest); again != rest {
			t.Errorf("%q becomes %q, and then %q", query, rest, again)
		}
		values, _ = url.ParseQuery(query)
		if n := len(parseCounts(values.Get("hf_n"))); n > maxCounted {
			t.Errorf("%d namespaces", n)
		}
	})
}
