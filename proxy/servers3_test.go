package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/imitation"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

// eachImitatedServer runs a test with each of the imitated servers, over both transports.
func eachImitatedServer(t *testing.T, test func(t *testing.T, lib *imitation.ServerLibrary, r *rig, s *imitation.Server, sockets bool)) {
	for _, lib := range imitation.ServerLibraries() {
		for _, sockets := range []bool{true, false} {
			if !sockets && lib.NeedsSockets() {
				continue
			}
			t.Run(fmt.Sprintf("%s, WebSockets %v", lib.Name, sockets), func(t *testing.T) {
				s := imitation.NewServer(lib, sockets)
				up := httptest.NewServer(s)
				t.Cleanup(up.Close)
				r := newRig(t, func(c *config.Config) {
					withKey(c)
					c.Upstream.URL, c.Upstream.Protocol = config.URLs{up.URL}, config.ProtocolV3
					c.Upstream.Translate.AuthToQuery = []string{"token", "deny"}
					c.Limits.TakeoversPerMinutePerSession = 0
				})
				t.Cleanup(func() {
					if faults := s.Faults(); len(faults) > 0 {
						t.Errorf("the library would have mishandled %q", faults)
					}
				})
				test(t, lib, r, s, sockets)
			})
		}
	}
}

// modern is a client of Socket.IO 5 that records its events.
type modern struct {
	*sioclient.Client
	admin *sioclient.Socket

	mu     sync.Mutex
	events []string
}

func dialModern(t *testing.T, r *rig, auth any) (*modern, error) {
	t.Helper()
	c := &modern{Client: sioclient.New(sioclient.Options{URL: r.url, Auth: auth})}
	record := func(name string, s *sioclient.Socket) {
		for _, event := range []string{"early", "n", "bin"} {
			s.OnBinary(event, func(args []any, _ func(...any)) {
				text := name + " " + event
				for _, a := range args[:len(args)-1] { // the last one is the offset
					switch a := a.(type) {
					case []byte:
						text += fmt.Sprintf(" %x", a)
					case json.RawMessage:
						text += " " + string(a)
					}
				}
				c.mu.Lock()
				defer c.mu.Unlock()
				c.events = append(c.events, text)
			})
		}
	}
	record("/", c.Socket)
	t.Cleanup(func() { c.Close() })
	if err := c.Connect(t.Context()); err != nil {
		return c, err
	}
	c.admin = c.Of("/admin", auth) // "/" first: once it is connected unasked, it is ignored
	record("/admin", c.admin)
	return c, c.admin.Connect(t.Context())
}

func (c *modern) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

func TestModernClientsBeforeImitatedServers(t *testing.T) {
	eachImitatedServer(t, func(t *testing.T, lib *imitation.ServerLibrary, r *rig, s *imitation.Server, _ bool) {
		c, err := dialModern(t, r, map[string]string{"token": "a b"})
		if err != nil {
			t.Fatal(err)
		}
		id := c.ID()
		if c.admin.ID() != "/admin#"+id {
			t.Errorf("the id of /admin is %s, that of / %s", c.admin.ID(), id)
		}
		want := []string{`/ early "/"`, `/admin early "/admin"`}
		r.await("the early events", func() bool { return len(c.got()) == len(want) })
		big := strings.Repeat("x", 100_000) + "€" // in several frames
		texts := []any{"€😀", "\u00e9\u2028", big[:50_000]}
		for _, text := range texts {
			echoed(t, c.Socket, text)
			echoed(t, c.admin, text)
		}
		var wg sync.WaitGroup
		for i := range 100 { // several in one POST
			wg.Go(func() { echoed(t, c.Socket, i) })
		}
		wg.Wait()
		for i := range 3 {
			s.Emit("/", "n", i, "é€😀")
			want = append(want, fmt.Sprintf(`/ n %d "é€😀"`, i))
			s.Emit("/admin", "n", big)
			want = append(want, fmt.Sprintf("/admin n %q", big))
			if lib.Binary {
				echoed(t, c.Socket, []byte{1, byte(i)}, "x", []byte{})
				s.Emit("/", "bin", []byte{byte(i)}, "é", []byte("\x04\xff"))
				want = append(want, fmt.Sprintf(`/ bin %02x "é" 04ff`, i))
			}
			r.await("the events", func() bool { return len(c.got()) >= len(want) })
			c.Cut()
			s.Emit("/", "n", -1, i)
			want = append(want, fmt.Sprintf(`/ n -1 %d`, i))
			if err := c.Reconnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !c.Recovered() || !c.admin.Recovered() || c.ID() != id {
				t.Errorf("recovered %v and %v, as %s, which was %s", c.Recovered(), c.admin.Recovered(), c.ID(), id)
			}
			r.await("what it missed", func() bool { return len(c.got()) >= len(want) })
		}
		for name, of := range map[string]func(string) bool{
			"/":      func(e string) bool { return strings.HasPrefix(e, "/ ") },
			"/admin": func(e string) bool { return strings.HasPrefix(e, "/admin ") },
		} {
			got, want := only(c.got(), of), only(want, of)
			if !slices.Equal(got, want) {
				t.Errorf("in %s it got %.2000q, want %.2000q", name, got, want)
			}
		}
		if q := s.Queries(); len(q) != 1 || q[0].Get("token") != "a b" || len(s.Ended()) > 0 {
			t.Errorf("the server saw the handshakes %v, and the ends %v", q, s.Ended())
		}
		s.Disconnect()
		r.awaitNothing()
	})
}

func only(all []string, keep func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !keep(s) })
}

// echoed checks that the server answers with the same arguments.
func echoed(t *testing.T, s *sioclient.Socket, args ...any) {
	t.Helper()
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := s.EmitAck(ctx, "echo", args...)
	if err != nil {
		t.Error(err)
		return
	}
	for i, a := range args {
		want, err := json.Marshal(a)
		if _, binary := a.([]byte); binary {
			continue // EmitAck does not decode those
		}
		if err != nil || i >= len(got) || string(got[i]) != string(want) {
			t.Errorf("%.100q came back as %.100q", args, got)
			return
		}
	}
}

func TestRefusalsOfImitatedServers(t *testing.T) {
	eachImitatedServer(t, func(t *testing.T, _ *imitation.ServerLibrary, r *rig, s *imitation.Server, _ bool) {
		if _, err := dialModern(t, r, map[string]string{"deny": "1"}); err == nil {
			t.Error("connected, although the server denies it")
		}
		c, err := dialModern(t, r, nil)
		if err != nil {
			t.Fatal(err)
		}
		none := c.Of("/none", nil)
		if err := none.Connect(t.Context()); err == nil || none.Connected() {
			t.Error("connected to a namespace that does not exist")
		}
		if !c.Connected() || !c.admin.Connected() {
			t.Error("the others are not connected")
		}
		echoed(t, c.Socket, 1)
		c.Close()
		r.await("the end", func() bool { return len(s.Ended()) == 1 })
	})
}

func TestKeyedClientsOfImitatedServers(t *testing.T) {
	eachImitatedServer(t, func(t *testing.T, lib *imitation.ServerLibrary, r *rig, s *imitation.Server, sockets bool) {
		if sockets {
			keyedOfImitated(t, lib, r, s, false)
		}
		t.Run("polling", func(t *testing.T) { keyedOfImitated(t, lib, r, s, true) })
	})
}

func keyedOfImitated(t *testing.T, lib *imitation.ServerLibrary, r *rig, s *imitation.Server, polls bool) {
	query := "hf_key=0123456789abcdef&polls=" + fmt.Sprint(polls)
	ended := len(s.Ended())
	p := dial3(t, r.url, strings.Replace(query, "key=", fmt.Sprintf("key=%v", polls), 1), polls, -1)
	p.read(func() bool { return p.has(`2["early","/"]`)() && len(p.connected) == 1 })
	p.send("40/admin,")
	p.read(func() bool { return p.has(`2/admin,["early","/admin"]`)() && len(p.connected) == 2 })
	sid, seen := p.sid, len(s.Queries())
	for i := range 3 {
		p.send(`42["echo"]`) // without an acknowledgement
		p.send(fmt.Sprintf(`42%d["echo","€😀"]`, i))
		p.read(p.has(fmt.Sprintf(`3%d["€😀"]`, i)))
		if lib.Binary {
			p.send(fmt.Sprintf(`451-/admin,%d["echo",{"_placeholder":true,"num":0}]`, i), "\x00\xff")
			p.read(func() bool { return len(p.binary) > 0 })
			if p.binary[0] != "\x00\xff" {
				t.Errorf("%q came back", p.binary)
			}
		}
		p.conn.Close()
		if !polls { // nothing shows that a client is gone between two polls
			r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 2 })
		}
		s.Emit("/", "n", i)
		s.Emit("/admin", "missed", "é")
		p = dial3(t, r.url, strings.Replace(query, "key=", fmt.Sprintf("key=%v", polls), 1), polls, -1)
		p.read(func() bool { return slices.Contains(p.numbers, i) })
		p.send("40/admin,")
		p.read(p.has(`2/admin,["missed","é"]`))
		if p.sid != sid || !slices.Equal(p.connected, []string{"/", "/admin"}) {
			t.Errorf("back as %s, which was %s, in %v", p.sid, sid, p.connected)
		}
	}
	if len(s.Queries()) != seen || len(s.Ended()) != ended {
		t.Errorf("the server saw %v, and the ends %v", s.Queries(), s.Ended())
	}
	p.send("41")
	p.send("41/admin,")
	p.send("1")
	p.conn.Close()
	r.await("the end", func() bool { return len(s.Ended()) > ended })
}
