package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/holdfast/holdfast/internal/config"
)

// The servers of these tests are imitations, on the wire, of servers that speak Engine.IO 3.
// eio3.test.js runs real ones where they are available.

// newRig3 returns a rig whose upstream speaks Engine.IO 3, with the given sid.
func newRig3(t *testing.T, sid string) (*rig, *script) {
	t.Helper()
	r, s := newScriptedRig(t, func(c *config.Config) {
		c.Upstream.Protocol = config.ProtocolV3
		c.Upstream.Translate.AuthToQuery = []string{"token"}
	})
	s.open = `0{"sid":"` + sid + `","upgrades":[],"pingInterval":25000,"pingTimeout":60000}`
	return r, s
}

// wantPackets reads exactly these messages, in which PID and OFFSET stand for what holdfast adds.
func (p *peer) wantPackets(want ...string) {
	p.t.Helper()
	for _, w := range want {
		got, err := p.next()
		if err != nil || !matches(got, w) {
			p.t.Fatalf("got %q, %v; want %s", got, err, w)
		}
	}
}

// matches compares a message with a pattern in which PID and OFFSET stand for any text of
// holdfast's.
func matches(got, pattern string) bool {
	before, after, ok := strings.Cut(strings.ReplaceAll(pattern, "PID", "OFFSET"), "OFFSET")
	if !ok {
		return got == pattern
	}
	rest, found := strings.CutPrefix(got, before+"hf")
	return found && strings.HasSuffix(rest, after)
}

// wsBinary sends a binary message from the server.
func wsBinary(p *peer, data ...byte) error {
	return wsutil.WriteMessage(p.conn, p.state, ws.OpBinary, data)
}

func allLinksOf(r *rig) []*link {
	r.proxy.conns.mu.Lock()
	defer r.proxy.conns.mu.Unlock()
	var links []*link
	for l := range r.proxy.conns.links {
		links = append(links, l)
	}
	return links
}

func TestTranslatorOfTheReferenceServer(t *testing.T) {
	r, s := newRig3(t, "S1")
	c := r.dial()
	c.send(`40{"token":"a b"}`)
	up := s.accept()
	if q := <-s.query; q != "EIO=3&transport=websocket&token=a%20b" {
		t.Errorf("the handshake's query is %s", q)
	}
	up.send("40", `42["hi","€"]`)
	c.wantPackets(`40{"sid":"S1","pid":"PID"}`, `42["hi","€","OFFSET"]`)
	c.send(`40/admin,{"token":"x,y","other":1}`)
	up.wantPackets("40/admin?token=x%2Cy,")
	up.send("40/admin?token=x%2Cy,", `42/admin,5["ask"]`)
	c.wantPackets(`40/admin,{"sid":"/admin#S1","pid":"PID"}`, `42/admin,5["ask"]`)
	c.send(`43/admin,5["yes"]`, `42["echo"]`)
	up.wantPackets(`43/admin,5["yes"]`, `42["echo"]`)
	up.send(`44/admin,{"a":1}`, `44"oops"`, `41/admin,`)
	c.wantPackets(`42/admin,["error",{"a":1},"OFFSET"]`, `42["error","oops","OFFSET"]`, "41/admin,")
	up.send(`42["disconnect"]`, `452-["connect_error",1]`)
	if err := wsBinary(up, 4, 1); err != nil {
		t.Fatal(err)
	}
	if err := wsBinary(up, 4, 2); err != nil {
		t.Fatal(err)
	}
	up.send("4garbage", `42["last"]`)
	c.wantPackets(`42["last","OFFSET"]`)
	c.send(`42["disconnecting"]`, `42["after"]`)
	up.wantPackets(`42["after"]`)
	c.send("41")
	up.wantPackets("41")
}

// netty-socketio, python-socketio 4 and go-socket.io send what their connection handlers emit ahead
// of the CONNECT; the first two reply without a comma, and go-socket.io with an array and line
// feeds.
func TestTranslatorOfEarlyEvents(t *testing.T) {
	for _, reply := range []string{"40/admin", "40/admin,", "40/admin,[]\n", "40/admin\n"} {
		r, s := newRig3(t, "S1")
		c := r.dial()
		c.send("40", "40/admin,")
		up := s.accept()
		up.send(`42["early",1]`, `451-["bin",{"_placeholder":true,"num":0}]`)
		if err := wsBinary(up, 4, 9); err != nil {
			t.Fatal(err)
		}
		up.wantPackets("40/admin,")
		up.send(`42/admin,["early",2]`, "40\n", reply, `42/admin,["late"]`)
		c.wantPackets(`40{"sid":"S1","pid":"PID"}`, `42["early",1,"OFFSET"]`,
			`451-["bin",{"_placeholder":true,"num":0},"OFFSET"]`, "\x09",
			`40/admin,{"sid":"/admin#S1","pid":"PID"}`, `42/admin,["early",2,"OFFSET"]`, `42/admin,["late","OFFSET"]`)
		c.conn.Close()
	}
}

// A server may send without end and never reply.
func TestTranslatorBoundsEarlyEvents(t *testing.T) {
	r, s := newRig3(t, "S1")
	c := r.dial()
	c.send("40")
	up := s.accept()
	big := `42["` + strings.Repeat("x", maxEarlyBytes/2) + `"]`
	up.send(big, big, big)
	up.wantEnd()
	c.wantEnd()
}

func TestTranslatorRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, from, want string
	}{
		{"of the reference server", `44"not you"`, `44{"message":"not you"}`},
		{"with data", `44{"code":17}`, `44{"message":"Connection refused","data":{"code":17}}`},
		{"by python-socketio 4 with always_connect", `41"not you"`, `44{"message":"not you"}`},
		{"without a reason", `41`, `44{"message":"Connection refused"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, s := newRig3(t, "S1")
			c := r.dial()
			c.send("40", "40/admin,")
			up := s.accept()
			up.wantPackets("40/admin,")
			up.send(tt.from)
			c.wantPackets(tt.want)
			c.wantPackets(strings.Replace(tt.want, "44", "44/admin,", 1)) // the server leaves it unanswered
			c.send("40")
			again := s.accept()
			again.send("40")
			c.wantPackets(`40{"sid":"S1","pid":"PID"}`)
		})
	}
}

func TestTranslatorRefusalOfANamespace(t *testing.T) {
	r, s := newRig3(t, "S1")
	c := r.dial()
	c.send("40", "40/admin,", "40/gone,")
	up := s.accept()
	up.wantPackets("40/admin,", "40/gone,")
	up.send("40", `44/admin,"Invalid namespace"`, `41/gone,"no"`, `42/admin,["never"]`)
	c.wantPackets(`40{"sid":"S1","pid":"PID"}`, `44/admin,{"message":"Invalid namespace"}`, `44/gone,{"message":"no"}`)
	c.send("40/admin,")
	up.wantPackets("40/admin,")
	up.send("40/admin,")
	c.wantPackets(`40/admin,{"sid":"/admin#S1","pid":"PID"}`)
}

// In python-socketio 4 the end of "/" is the end of all namespaces. Its sids say which server it
// is.
func TestTranslatorOfPythonsDisconnect(t *testing.T) {
	for sid, all := range map[string]bool{"0123456789abcdef0123456789abcdef": true, "kV3mQ9vTzL0aBcDeAAAB": false} {
		r, s := newRig3(t, sid)
		c := r.dial()
		c.send("40", "40/admin,")
		up := s.accept()
		up.send("40", "40/admin")
		c.want("40{", "40/admin,{")
		up.send("41")
		c.wantPackets("41")
		if all {
			c.wantPackets("41/admin,")
			continue
		}
		up.send(`42/admin,["still"]`)
		c.wantPackets(`42/admin,["still","OFFSET"]`)
	}
}

// holdfast ignores "/" if no client has asked for it, whatever it sends.
func TestTranslatorIgnoresRoot(t *testing.T) {
	r, s := newRig3(t, "S1")
	c := r.dial()
	c.send("40/admin,")
	up := s.accept()
	up.wantPackets("40/admin,")
	up.send("40", `42["welcome"]`, `44"error"`, `41`, `431[]`, "40/admin,", `42["news"]`, `42/admin,["x"]`)
	c.wantPackets(`40/admin,{"sid":"/admin#S1","pid":"PID"}`, `42/admin,["x","OFFSET"]`)
	c.send("40") // needs another connection: the server has no second CONNECT for it
	other := s.accept()
	other.send("40")
	c.wantPackets(`40{"sid":"S1","pid":"PID"}`)
}

// A CONNECT for "/" whose token differs from that of the handshake needs its own handshake.
func TestTranslatorOfAnotherToken(t *testing.T) {
	r, s := newRig3(t, "S1")
	c := r.dial()
	c.send(`40/admin,{"token":"a"}`, `40{"token":"b"}`)
	up := s.accept()
	up.wantPackets("40/admin?token=a,")
	other := s.accept()
	for _, token := range []string{"a", "b"} {
		if q, err := url.ParseQuery(<-s.query); err != nil || q.Get("token") != token {
			t.Errorf("the handshake's query is %v, %v; want the token %s", q, err, token)
		}
	}
	other.send("40")
	c.wantPackets(`40{"sid":"S1","pid":"PID"}`)
}

// A client that returns causes no handshake, and its further namespaces join where it was.
func TestTranslatorNeverRepeatsAHandshake(t *testing.T) {
	r, s := newRig3(t, "S1")
	c := r.dial()
	c.send("40")
	up := s.accept()
	up.send("40", `42["n",1]`)
	c.want("40{")
	reply, err := c.next()
	if err != nil {
		t.Fatal(err)
	}
	offset := reply[strings.LastIndex(reply, `"hf`)+1 : len(reply)-2]
	var pid string
	r.await("a session", func() bool {
		for _, l := range allLinksOf(r) {
			for _, s := range l.sessions.all() {
				pid = s.PID()
			}
		}
		return pid != ""
	})
	c.conn.Close()
	r.await("a parked session", func() bool {
		_, parked := r.proxy.registry.Counts()
		return parked == 1
	})
	up.send(`42["n",2]`)
	back := r.dial()
	back.send(`40{"pid":"`+pid+`","offset":"`+offset+`"}`, "40/admin,")
	back.wantPackets(`40{"sid":"S1","pid":"`+pid+`"}`, `42["n",2,"OFFSET"]`)
	up.wantPackets("40/admin,")
	up.send("40/admin,")
	back.wantPackets(`40/admin,{"sid":"/admin#S1","pid":"PID"}`)
	select {
	case conn := <-s.conns:
		conn.Close()
		t.Error("the client's return caused a handshake")
	case <-time.After(50 * time.Millisecond):
	}
}

// A refusal of the handshake becomes one of the CONNECT. Other failures close the client, after a
// delay.
func TestTranslatorRefusedHandshake(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string // "" if the client is closed
	}{
		{403, `{"code":4,"message":"not you"}`, `44{"message":"not you","data":{"code":4,"message":"not you"}}`},
		{401, `"not you"`, `44{"message":"not you"}`},
		{401, ``, `44{"message":"Connection refused"}`},
		{503, `busy`, ""},
	} {
		up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}))
		r := newRig(t, func(c *config.Config) {
			c.Upstream.URL, c.Upstream.Protocol = config.URLs{up.URL}, config.ProtocolV3
		})
		c := r.dial()
		c.send("40")
		if tt.want == "" {
			c.wantEnd()
		} else {
			c.wantPackets(tt.want)
		}
		up.Close()
	}
}
