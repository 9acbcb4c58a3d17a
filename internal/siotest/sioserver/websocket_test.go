package sioserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestWebSocketHandshake(t *testing.T) {
	f := start(t, Options{})
	got := f.dialWS("").next()
	want := `^0\{"sid":"[-_0-9A-Za-z]{20}","upgrades":\[\],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000\}$`
	if !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("handshake %s, want %s", got, want)
	}
}

func TestUpgradeRefusals(t *testing.T) {
	f := start(t, Options{AllowRequest: func(r *http.Request) error {
		if r.URL.Query().Has("evil") {
			return errors.New("not you")
		}
		return nil
	}})
	tests := []struct{ name, target, want string }{
		{"unknown sid", "?EIO=4&transport=websocket&sid=x", "HTTP/1.1 400 Bad Request;close;text/html;Session ID unknown"},
		{"forbidden", "?EIO=4&transport=websocket&evil", "HTTP/1.1 400 Bad Request;close;text/html;not you"},
		{"bad EIO", "?EIO=abc&transport=websocket", "101;HTTP/1.1 400 Bad Request;close;text/html;Unsupported protocol version"},
		{"unknown transport", "?EIO=4&transport=abc", "101;HTTP/1.1 400 Bad Request;close;text/html;Transport unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host := strings.TrimSuffix(strings.TrimPrefix(f.base, "http://"), "/socket.io/")
			nc, err := f.dial(t.Context(), "tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(waitLimit))
			_, err = fmt.Fprintf(nc, "GET /socket.io/%s HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n", tt.target, host)
			if err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(nc)
			got := ""
			for range 2 {
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatalf("after %q: %v", got, err)
				}
				if res.StatusCode == http.StatusSwitchingProtocols {
					got += "101;"
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				ends := "keep"
				if res.Close {
					ends = "close"
				}
				got += strings.Join([]string{res.Proto + " " + res.Status, ends, res.Header.Get("Content-Type"), string(body)}, ";")
				break
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("then %v, want the end", err)
			}
		})
	}
	t.Run("transport is polling", func(t *testing.T) {
		w, err := f.tryWS("?EIO=4&transport=polling")
		if err != nil {
			t.Fatal(err)
		}
		w.wantClose()
	})
}

func TestWebSocketEvents(t *testing.T) {
	f := start(t, Options{})
	f.OnConnect("/", func(s *Socket) error {
		s.OnBinary("echo", func(args []any, ack func(...any)) {
			if ack != nil {
				ack(args...)
				return
			}
			s.Emit("back", args...)
		})
		s.On("raw", func([]json.RawMessage, func(...any)) { s.EmitRaw([]byte(`2["raw",1]`)) })
		return nil
	})
	w := f.connectWS()
	w.send(`42["echo",1,"2",{"3":[true]}]`)
	w.want(`42["back",1,"2",{"3":[true]}]`)
	w.send(`42456["echo",1]`)
	w.want(`43456[1]`)
	w.send(`452-["echo",{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1}]}]`)
	w.frame(ws.NewBinaryFrame([]byte{1, 2}))
	w.frame(ws.NewBinaryFrame([]byte{3}))
	w.want(`452-["back",{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1}]}]`, "b\x01\x02", "b\x03")
	w.send(`42["raw"]`)
	w.want(`42["raw",1]`)
	long := strings.Repeat("x", 200_000)
	w.send(`42["echo","` + long + `"]`)
	w.want(`42["back","` + long + `"]`)
}

func TestWebSocketEnds(t *testing.T) {
	tests := []struct {
		name   string
		frame  ws.Frame
		want   string
		reason string
	}{
		{"close frame", ws.NewCloseFrame(ws.NewCloseFrameBody(1001, "")), "close 1001", "transport close"},
		{"close frame without code", ws.NewCloseFrame(nil), "close 0", "transport close"},
		{"message too big", ws.NewTextFrame(make([]byte, 101)), "close 1009", "transport error"},
		{"no packet", ws.NewTextFrame([]byte("abc")), "close 0", "parse error"},
		{"empty message", ws.NewTextFrame(nil), "close 0", "parse error"},
		{"bad Socket.IO packet", ws.NewTextFrame([]byte("42{}")), "close 0", "forced close"},
		{"second CONNECT", ws.NewTextFrame([]byte("40")), "close 0", "forced close"},
		{"attachment that was not announced", ws.NewBinaryFrame([]byte("x")), "close 0", "forced close"},
		{"ping of a client", ws.NewTextFrame([]byte("2")), "close 0", "transport error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, Options{MaxPayloadBytes: 100})
			reasons := watch(f)
			w := f.connectWS()
			w.frame(tt.frame)
			w.want(tt.want)
			if tt.want == "close 0" && tt.frame.Header.OpCode != ws.OpClose {
				w.frame(ws.NewCloseFrame(nil)) // else the server expects none
			}
			w.want("end")
			if got := recv(t, "the disconnect", reasons); got != tt.reason {
				t.Errorf("reason %q, want %q", got, tt.reason)
			}
		})
	}
}

func TestWebSocketPingAndIgnoredPackets(t *testing.T) {
	f := start(t, Options{})
	w := f.connectWS()
	for _, ignored := range []string{"1", "0", "5", "6", "3"} {
		w.send(ignored)
	}
	w.frame(ws.NewPingFrame([]byte("x")))
	w.frame(ws.NewPongFrame(nil))
	w.want("pong x")
	f.Emit("still", "there")
	w.want(`42["still","there"]`)
}

func TestCutConnection(t *testing.T) {
	f := start(t, Options{})
	reasons := watch(f)
	f.connectWS().nc.Close()
	if got := recv(t, "the disconnect", reasons); got != "transport close" {
		t.Errorf("reason %q, want transport close", got)
	}
	if n := f.Of("/").Len(); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

func TestUpgrade(t *testing.T) {
	f := start(t, Options{})
	f.OnConnect("/", func(s *Socket) error {
		s.On("transport", func(_ []json.RawMessage, ack func(...any)) { ack(s.Transport()) })
		return nil
	})
	sid := f.open()
	f.post(sid, "40")
	f.do("GET", sid, "")
	answer := f.pollLater(t.Context(), sid)

	w := f.dialWS(sid)
	w.send("2probe")
	w.want("3probe")
	if r := recv(t, "the noop", answer); r.body != "6" {
		t.Errorf("waiting poll = %q, want 6", r.body)
	}
	f.wantPoll(sid, "6") // and so on

	second := f.dialWS(sid)
	second.wantClose()

	f.post(sid, `420["transport"]`) // polling still works in full
	f.wantPoll(sid, `430["polling"]`)
	f.Emit("queued", 1)
	f.Emit("queued", 2)
	w.send("5")
	w.want(`42["queued",1]`, `42["queued",2]`)
	w.send(`421["transport"]`)
	w.want(`431["websocket"]`)

	const refused = `{"code":3,"message":"Bad request"}`
	for _, method := range []string{"GET", "POST"} {
		if r := f.do(method, sid, ""); r.status != 400 || r.body != refused {
			t.Errorf("%s after the upgrade = %d %s, want 400 %s", method, r.status, r.body, refused)
		}
	}
	f.dialWS(sid).wantClose()
	f.Emit("still", "there")
	w.want(`42["still","there"]`)
}

func TestPollWaitingAtTheUpgrade(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	f.post(sid, "40")
	f.do("GET", sid, "")
	w := f.dialWS(sid)
	answer := f.pollLater(t.Context(), sid)
	w.send("5") // no probe is needed
	if r := recv(t, "the poll", answer); r.status != 400 {
		t.Errorf("waiting poll = %d %q, want 400", r.status, r.body)
	}
	f.Emit("still", "there")
	w.want(`42["still","there"]`)
}

func TestFailedUpgradeLeavesPolling(t *testing.T) {
	tests := []struct {
		name string
		fail func(w *rawWS)
	}{
		{"wrong probe", func(w *rawWS) { w.send("2foo"); w.wantClose() }},
		{"packet", func(w *rawWS) { w.send("40"); w.wantClose() }},
		{"attachment", func(w *rawWS) { w.frame(ws.NewBinaryFrame([]byte("5"))); w.wantClose() }},
		{"end after the probe", func(w *rawWS) { w.send("2probe"); w.want("3probe"); w.nc.Close() }},
		{"too late", func(w *rawWS) { w.send("2probe"); w.want("3probe"); w.wantClose() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, Options{UpgradeTimeout: 10 * time.Second}, func(t *testing.T, f *fixture) {
				sid := f.open()
				f.post(sid, "40")
				f.do("GET", sid, "")
				tt.fail(f.dialWS(sid))
				c := f.lookup(strings.TrimPrefix(sid, "&sid="))
				await(t, "the end of the probe", func() bool {
					c.mu.Lock()
					defer c.mu.Unlock()
					return c.probe == nil
				})
				f.Emit("still", "there")
				f.wantPoll(sid, `42["still","there"]`)
			})
		})
	}
}

func TestNamespaces(t *testing.T) {
	f := start(t, Options{})
	f.OnConnect("/admin", func(s *Socket) error {
		switch string(s.Handshake.Auth) {
		case `{"who":"me"}`:
			s.Emit("auth", s.Handshake.Auth)
			return nil
		case `{}`:
			return errors.New("who are you?")
		}
		return &ConnectError{"go away", map[string]int{"code": 7}}
	})
	w := f.connectWS()
	w.send("40/random")
	w.want(`44/random,{"message":"Invalid namespace"}`)
	w.send("40/admin,")
	w.want(`44/admin,{"message":"who are you?"}`)
	w.send(`40/admin,{"who":"you"}`)
	w.want(`44/admin,{"message":"go away","data":{"code":7}}`)
	w.send(`40/admin,{"who":"me"}`)
	w.wantPrefix(`40/admin,{"sid":"`)
	w.want(`42/admin,["auth",{"who":"me"}]`)
	if n := f.Of("/admin").Len(); n != 1 {
		t.Errorf("%d sockets in /admin, want 1", n)
	}
	w.send("41/admin,")
	w.send("40/admin,{\"who\":\"me\"}") // a packet of its own: it is connected anew
	w.wantPrefix(`40/admin,{"sid":"`)
	w.want(`42/admin,["auth",{"who":"me"}]`)
	f.Of("/admin").Emit("all", 1)
	f.Emit("main", 2)
	w.want(`42/admin,["all",1]`, `42["main",2]`)
}

func TestRefusedSocketIsForgotten(t *testing.T) {
	f := start(t, Options{})
	reasons := make(chan string, 1) // one socket
	f.OnConnect("/", func(s *Socket) error {
		s.Join("room")
		s.OnDisconnect(func(reason string) { reasons <- reason })
		s.Emit("never", "sent")
		return errors.New("no")
	})
	w := f.dialWS("")
	w.next()
	w.send("40")
	w.want(`44{"message":"no"}`)
	recv(t, "the end of the socket", reasons)
	if n := f.Of("/").Len(); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
	f.To("room").Emit("nobody")
	w.frame(ws.NewPingFrame(nil))
	w.want("pong ")
}

func TestRooms(t *testing.T) {
	f := start(t, Options{})
	ids := make(chan *Socket, 3) // as many as connect
	f.OnConnect("/", func(s *Socket) error { ids <- s; return nil })
	a, b, c := f.connectWS(), f.connectWS(), f.connectWS()
	sa, sb := <-ids, <-ids
	sa.Join("r")
	sb.Join("r")
	f.To("r").Emit("x", 1)
	f.To(sa.ID).Emit("x", 2)
	sa.Leave("r")
	f.To("r").Emit("x", 3)
	f.Emit("x", 4)
	a.want(`42["x",1]`, `42["x",2]`, `42["x",4]`)
	b.want(`42["x",1]`, `42["x",3]`, `42["x",4]`)
	c.want(`42["x",4]`)
	if got := f.Of("/").Socket(sa.ID); got != sa {
		t.Errorf("Socket(%q) = %v", sa.ID, got)
	}
}

func TestEmitAck(t *testing.T) {
	f := start(t, Options{})
	sockets := make(chan *Socket, 1) // one connects
	f.OnConnect("/", func(s *Socket) error { sockets <- s; return nil })
	w := f.connectWS()
	s := <-sockets
	type result struct {
		args string
		err  error
	}
	results := make(chan result, 8) // more than are asked for
	report := func(args []json.RawMessage, err error) { results <- result{fmt.Sprintf("%s", args), err} }

	s.EmitAck("a", 0, report, 1)
	s.EmitAck("b", time.Millisecond, report)
	w.want(`420["a",1]`, `421["b"]`)
	if got := recv(t, "the timeout", results); !errors.Is(got.err, ErrAckTimeout) {
		t.Errorf("b: %v, want ErrAckTimeout", got.err)
	}
	w.send(`431["late"]`)
	w.send(`430["x",{"y":2}]`)
	w.send(`430["again"]`)
	if got := recv(t, "the answer", results); got.err != nil || got.args != `["x" {"y":2}]` {
		t.Errorf("a: %v, %v", got.args, got.err)
	}
	s.EmitAck("c", time.Hour, report)
	w.want(`422["c"]`)
	w.nc.Close()
	if got := recv(t, "the end", results); !errors.Is(got.err, ErrDisconnected) {
		t.Errorf("c: %v, want ErrDisconnected", got.err)
	}
	await(t, "the socket to end", func() bool { return !s.Connected() })
	s.EmitAck("d", 0, report)
	if got := recv(t, "the refusal", results); !errors.Is(got.err, ErrDisconnected) {
		t.Errorf("d: %v, want ErrDisconnected", got.err)
	}
	if len(results) > 0 {
		t.Errorf("one more result: %v", <-results)
	}
}

func TestDisconnectOverWebSocket(t *testing.T) {
	f := start(t, Options{})
	reasons := watch(f)
	f.OnConnect("/", func(s *Socket) error {
		s.On("leave", func([]json.RawMessage, func(...any)) { s.Disconnect(false) })
		s.On("close", func([]json.RawMessage, func(...any)) { s.Emit("last"); s.Disconnect(true) })
		return nil
	})
	w := f.connectWS()
	w.send(`42["leave"]`)
	w.want("41")
	recv(t, "the disconnect", reasons)
	w.send("40")
	w.wantPrefix(`40{"sid":"`)
	w.send(`42["close"]`)
	w.want(`42["last"]`, "41")
	w.wantClose()
	if got := recv(t, "the disconnect", reasons); got != "server namespace disconnect" {
		t.Errorf("reason %q", got)
	}
}

func TestDisconnectInConnectionHandler(t *testing.T) {
	f := start(t, Options{})
	f.OnConnect("/", func(s *Socket) error {
		s.Emit("bye")
		s.Disconnect(false)
		var reason string
		s.OnDisconnect(func(r string) { reason = r }) // too late: called immediately
		if reason != "server namespace disconnect" {
			t.Errorf("reason %q", reason)
		}
		return nil
	})
	w := f.dialWS("")
	w.next()
	w.send("40")
	w.wantPrefix(`40{"sid":"`)
	w.want(`42["bye"]`, "41")
}

func TestHandshakeOfASocket(t *testing.T) {
	f := start(t, Options{})
	handshakes := make(chan Handshake, 1) // one connects
	f.OnConnect("/", func(s *Socket) error { handshakes <- s.Handshake; return nil })
	w := f.dialWS("&token=abc")
	w.next()
	w.send(`40{"k":"v"}`)
	h := recv(t, "the connection", handshakes)
	if h.Query.Get("token") != "abc" || string(h.Auth) != `{"k":"v"}` ||
		!strings.Contains(f.base, h.Headers.Get("Host")) || h.Headers.Get("Host") == "" || h.Address == "" {
		t.Errorf("handshake %+v", h)
	}
}

func TestClose(t *testing.T) {
	f := start(t, Options{})
	reasons := watch(f)
	w := f.connectWS()
	sid := f.open()
	answer := f.pollLater(t.Context(), sid)
	silent := f.connectWS() // will not answer the close frame
	done := make(chan struct{})
	go func() { defer close(done); f.Close() }()
	w.wantClose()
	if r := recv(t, "the poll", answer); r.body != "1" {
		t.Errorf("waiting poll = %q, want 1", r.body)
	}
	recv(t, "Close", done)
	silent.want("close 0", "end")
	for range 2 {
		if got := recv(t, "the disconnect", reasons); got != "server shutting down" {
			t.Errorf("reason %q", got)
		}
	}
	if r := f.do("GET", "", ""); r.status != http.StatusServiceUnavailable {
		t.Errorf("handshake after Close = %d, want 503", r.status)
	}
	if w, err := f.tryWS("?EIO=4&transport=websocket"); err == nil {
		w.want("end")
	}
	f.Close() // once more is harmless
}

// Broadcasts and replies reach every client, in order, whatever else happens.
func TestConcurrentClients(t *testing.T) {
	const clients, events = 20, 200
	f := start(t, Options{})
	f.OnConnect("/", func(s *Socket) error {
		s.Join("all")
		s.On("ask", func(args []json.RawMessage, ack func(...any)) { ack(args[0]) })
		return nil
	})
	conns := make([]*rawWS, clients)
	for i := range conns {
		conns[i] = f.connectWS()
	}
	var failed atomic.Bool
	done := make(chan struct{})
	for _, w := range conns {
		go func() {
			for i := range events {
				if ws.WriteFrame(w.nc, ws.MaskFrame(ws.NewTextFrame(fmt.Appendf(nil, `42%d["ask",%d]`, i, i)))) != nil {
					failed.Store(true)
				}
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			w.nc.SetReadDeadline(time.Now().Add(waitLimit))
			news, acks := 0, 0
			for news < events || acks < events {
				_, payload, err := w.in.Next()
				switch string(payload) {
				case fmt.Sprintf(`42["news",%d]`, news):
					news++
				case fmt.Sprintf(`43%d[%d]`, acks, acks):
					acks++
				default:
					t.Errorf("message %q, %v; want news %d or ack %d", payload, err, news, acks)
					return
				}
			}
		}()
	}
	for i := range events {
		if i%2 == 0 {
			f.Emit("news", i)
		} else {
			f.To("all").Emit("news", i)
		}
	}
	for range conns {
		recv(t, "a client", done)
	}
	if failed.Load() {
		t.Error("a client could not write")
	}
}

// A client that does not read does not block others.
func TestStalledClient(t *testing.T) {
	f := start(t, Options{})
	stalled, w := f.connectWS(), f.connectWS()
	chunk := strings.Repeat("x", 64<<10)
	for i := range 200 { // more than socket buffers hold
		f.Emit("chunk", i, chunk)
		w.want(fmt.Sprintf(`42["chunk",%d,%q]`, i, chunk))
	}
	for i := range 200 {
		stalled.want(fmt.Sprintf(`42["chunk",%d,%q]`, i, chunk))
	}
}
