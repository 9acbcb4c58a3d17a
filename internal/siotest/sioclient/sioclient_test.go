package sioclient_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioclient"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) { steady.VerifyTestMain(m) }

// waitLimit is how long a test waits for something that must happen.
const waitLimit = 30 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	t.Cleanup(cancel)
	return ctx
}

// recv takes one value, or fails.
func recv[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(waitLimit):
		t.Fatalf("no %s in time", what)
		panic("unreachable")
	}
}

// startLegacy serves until the test ends, and returns the URL.
func startLegacy(t *testing.T, opts sioserver.Options) (*sioserver.Server, string) {
	t.Helper()
	s := sioserver.New(opts)
	ts := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		ts.Close()
	})
	return s, ts.URL
}

// dial connects, and closes when the test ends.
func dial(t *testing.T, opts sioclient.Options) *sioclient.Client {
	t.Helper()
	c, err := sioclient.Dial(within(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestEvents(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{})
	srv.OnConnect("/", func(s *sioserver.Socket) error {
		s.Emit("hello", s.Handshake.Auth, s.Handshake.Query.Get("q"), s.Handshake.Headers.Get("X-Test"))
		s.OnBinary("echo", func(args []any, ack func(...any)) {
			if ack != nil {
				ack(args...)
				return
			}
			s.Emit("back", args...)
		})
		s.On("ask me", func([]json.RawMessage, func(...any)) {
			s.EmitAck("question", 0, func(args []json.RawMessage, err error) {
				s.Emit("answered", args[0], err == nil)
			}, 6)
		})
		return nil
	})
	c := sioclient.New(sioclient.Options{
		URL: url + "?q=1", Auth: map[string]string{"token": "t"},
		Header: http.Header{"X-Test": {"yes"}},
	})
	events := make(chan string, 16) // more than the test has
	record := func(name string) {
		c.OnBinary(name, func(args []any, ack func(...any)) {
			for i, a := range args {
				if r, ok := a.(json.RawMessage); ok {
					args[i] = string(r)
				}
			}
			events <- fmt.Sprintf("%s %v", name, args)
			if ack != nil {
				ack(42)
				ack("no effect")
			}
		})
	}
	for _, name := range []string{"hello", "back", "question", "answered"} {
		record(name)
	}
	if err := c.Connect(within(t)); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := func(want string) {
		t.Helper()
		if got := recv(t, want, events); got != want {
			t.Errorf("event %s, want %s", got, want)
		}
	}
	want(`hello [{"token":"t"} "1" "yes"]`)
	if c.ID() == "" || c.SID() == "" || c.PID() != "" || c.Recovered() || !c.Connected() {
		t.Errorf("id %q, sid %q, pid %q, recovered %v", c.ID(), c.SID(), c.PID(), c.Recovered())
	}
	c.Emit("echo", 1, "two")
	want(`back [1 "two"]`)
	c.Emit("echo", []byte{1, 2}, map[string]any{"deep": []byte{3}})
	want(`back [[1 2] map[deep:[3]]]`)
	long := strings.Repeat("x", 100_000) // a frame with a 64-bit length
	c.Emit("echo", long)
	want(`back ["` + long + `"]`)
	args, err := c.EmitAck(within(t), "echo", "a", nil)
	if err != nil || fmt.Sprintf("%s", args) != `["a" null]` {
		t.Errorf("EmitAck = %s, %v", args, err)
	}
	c.Emit("ask me")
	want(`question [6]`)
	want(`answered [42 true]`)
}

func TestNamespaces(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{})
	srv.OnConnect("/admin", func(s *sioserver.Socket) error {
		if string(s.Handshake.Auth) != `{"k":1}` {
			return &sioserver.ConnectError{Message: "no", Data: 7}
		}
		return nil
	})
	c := dial(t, sioclient.Options{URL: url})
	admin := c.Of("/admin", map[string]int{"k": 1})
	if err := admin.Connect(within(t)); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 4) // more than is emitted
	c.On("x", func([]json.RawMessage, func(...any)) { got <- "main" })
	admin.On("x", func([]json.RawMessage, func(...any)) { got <- "admin" })
	srv.Of("/admin").Emit("x")
	srv.Emit("x")
	if a, b := recv(t, "an event", got), recv(t, "an event", got); a+b != "adminmain" {
		t.Errorf("events for %s, %s", a, b)
	}

	c.Cut()
	if err := c.Reconnect(within(t)); err != nil || !admin.Connected() {
		t.Fatalf("both sockets should be back: %v, connected %v", err, admin.Connected())
	}

	other, err := sioclient.Dial(within(t), sioclient.Options{URL: url, Namespace: "/admin"})
	refusal, ok := errors.AsType[*sioclient.ConnectError](err)
	if !ok || refusal.Message != "no" || string(refusal.Data) != "7" || refusal.Namespace != "/admin" {
		t.Errorf("Dial = %v, %v; want a ConnectError", other, err)
	}
	err = c.Of("/none", nil).Connect(within(t))
	if refusal, ok = errors.AsType[*sioclient.ConnectError](err); !ok || refusal.Message != "Invalid namespace" {
		t.Errorf("unknown namespace: %v", err)
	}
}

func TestCutReachesTheServer(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{})
	ends := make(chan string, 2) // one for each connection
	srv.OnConnect("/", func(s *sioserver.Socket) error {
		s.OnDisconnect(func(reason string) { ends <- reason })
		return nil
	})
	c := dial(t, sioclient.Options{URL: url})
	reasons := make(chan string, 2) // one for each connection
	c.OnDisconnect(func(reason string) { reasons <- reason })
	first := c.ID()
	c.Cut()
	if got := recv(t, "the client's end", reasons); got != "transport close" || c.ID() != "" || c.Connected() {
		t.Errorf("reason %q, id %q, connected %v", got, c.ID(), c.Connected())
	}
	if got := recv(t, "the server's end", ends); got != "transport close" {
		t.Errorf("reason at the server %q", got)
	}
	c.Cut() // nothing to cut
	c.Emit("offline", 1)
	if err := c.Reconnect(within(t)); err != nil {
		t.Fatal(err)
	}
	if c.ID() == first || c.Recovered() {
		t.Errorf("id %q again, recovered %v: the server cannot do that", c.ID(), c.Recovered())
	}
}

func TestEndsByTheClient(t *testing.T) {
	tests := []struct {
		name           string
		end            func(*sioclient.Client)
		server, client string
	}{
		{"Close", (*sioclient.Client).Close, "client namespace disconnect", "io client disconnect"},
		{"CloseTransport", (*sioclient.Client).CloseTransport, "transport close", "forced close"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv, url := startLegacy(t, sioserver.Options{})
			ends := make(chan string, 2) // one for each side
			srv.OnConnect("/", func(s *sioserver.Socket) error {
				s.OnDisconnect(func(reason string) { ends <- reason })
				return nil
			})
			c := dial(t, sioclient.Options{URL: url})
			var reason string
			c.OnDisconnect(func(r string) { reason = r })
			tt.end(c)
			if got := recv(t, "the server's end", ends); got != tt.server {
				t.Errorf("reason at the server %q, want %q", got, tt.server)
			}
			if reason != tt.client {
				t.Errorf("reason %q, want %q", reason, tt.client)
			}
		})
	}
}

func TestDisconnectByServer(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{})
	srv.Of("/other")
	srv.OnConnect("/", func(s *sioserver.Socket) error {
		s.On("bye", func([]json.RawMessage, func(...any)) { s.Disconnect(false) })
		return nil
	})
	c := dial(t, sioclient.Options{URL: url})
	reasons := make(chan string, 4) // more than there are ends
	c.OnDisconnect(func(reason string) { reasons <- reason })
	other := c.Of("/other", nil)
	if err := other.Connect(within(t)); err != nil {
		t.Fatal(err)
	}
	sid := c.SID()
	c.Emit("bye")
	if got := recv(t, "the end", reasons); got != "io server disconnect" {
		t.Errorf("reason %q", got)
	}
	if !other.Connected() || c.SID() != sid {
		t.Error("the connection ended, though another namespace needs it")
	}
	if err := c.Socket.Connect(within(t)); err != nil {
		t.Errorf("connecting again: %v", err)
	}
}

func TestEmitAckEnds(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{})
	asked := make(chan struct{}, 2) // one for each question
	srv.OnConnect("/", func(s *sioserver.Socket) error {
		s.On("ask", func([]json.RawMessage, func(...any)) { asked <- struct{}{} })
		return nil
	})
	c := dial(t, sioclient.Options{URL: url})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2) // one for each question
	go func() { _, err := c.EmitAck(ctx, "ask"); errs <- err }()
	recv(t, "the question", asked)
	cancel()
	if err := recv(t, "the end", errs); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() { _, err := c.EmitAck(t.Context(), "ask"); errs <- err }()
	recv(t, "the question", asked)
	c.Cut()
	if err := recv(t, "the end", errs); !errors.Is(err, sioclient.ErrDisconnected) {
		t.Errorf("cut: %v, want ErrDisconnected", err)
	}
}

func TestDialErrors(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{AllowRequest: func(*http.Request) error { return errors.New("no") }})
	_ = srv
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	tests := []struct {
		name string
		ctx  context.Context
		opts sioclient.Options
		want error // nil: any
	}{
		{"bad URL", t.Context(), sioclient.Options{URL: ":"}, nil},
		{"unknown scheme", t.Context(), sioclient.Options{URL: "ftp://x"}, nil},
		{"refused", t.Context(), sioclient.Options{URL: url}, ws.StatusError(400)},
		{"other path", t.Context(), sioclient.Options{URL: url, Path: "/x"}, ws.StatusError(404)},
		{"silence", short, sioclient.Options{URL: "http://" + silent.Addr().String()}, context.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sioclient.Dial(tt.ctx, tt.opts)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Dial = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAuthThatIsNoObject(t *testing.T) {
	_, url := startLegacy(t, sioserver.Options{})
	if _, err := sioclient.Dial(within(t), sioclient.Options{URL: url, Auth: []int{1}}); err == nil {
		t.Error("no error")
	}
}

// Many goroutines use one client, for the race detector.
func TestConcurrentUse(t *testing.T) {
	srv, url := startLegacy(t, sioserver.Options{})
	srv.OnConnect("/", func(s *sioserver.Socket) error {
		s.On("echo", func(args []json.RawMessage, ack func(...any)) { ack(args[0]) })
		return nil
	})
	c := dial(t, sioclient.Options{URL: url})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				args, err := c.EmitAck(within(t), "echo", i)
				if err != nil && !errors.Is(err, sioclient.ErrDisconnected) || err == nil && string(args[0]) != fmt.Sprint(i) {
					t.Errorf("EmitAck(%d) = %s, %v", i, args, err)
				}
			}
		})
	}
	for range 3 {
		c.Cut()
		if err := c.Reconnect(within(t)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// script is a server that sends what the test tells it to.
type script struct {
	t     *testing.T
	conns chan net.Conn
	nc    net.Conn
	in    *wire.MessageReader
}

func startScript(t *testing.T) (*script, string) {
	t.Helper()
	s := &script{t: t, conns: make(chan net.Conn)}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		s.conns <- nc
	}))
	t.Cleanup(ts.Close)
	return s, ts.URL
}

// accept takes the next connection and sends the handshake.
func (s *script) accept() {
	s.t.Helper()
	s.use(recv(s.t, "a connection", s.conns))
	s.send(`0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
}

func (s *script) use(nc net.Conn) {
	s.t.Cleanup(func() { nc.Close() })
	s.nc = nc
	s.in = wire.NewMessageReader(bufio.NewReader(nc), ws.StateServerSide, 0)
}

func (s *script) send(messages ...string) {
	s.t.Helper()
	for _, m := range messages {
		if _, err := s.nc.Write(ws.MustCompileFrame(ws.NewTextFrame([]byte(m)))); err != nil {
			s.t.Fatalf("sending %s: %v", m, err)
		}
	}
}

func (s *script) want(want ...string) {
	s.t.Helper()
	for _, m := range want {
		op, payload, err := s.in.Next()
		got := string(payload)
		if op == ws.OpClose {
			got = "close"
		}
		if err != nil || got != m {
			s.t.Fatalf("client sent %q, %v; want %q", got, err, m)
		}
	}
}

// settle waits until the client has handled all that was sent.
func (s *script) settle() {
	s.t.Helper()
	s.send("2")
	s.want("3")
}

func TestRecovery(t *testing.T) {
	srv, url := startScript(t)
	c := sioclient.New(sioclient.Options{URL: url, Auth: map[string]any{"token": 1}})
	var seen []string
	c.On("e", func(args []json.RawMessage, ack func(...any)) {
		seen = append(seen, fmt.Sprintf("%s", args))
		if ack != nil {
			ack()
		}
	})
	connect := func(want, reply string, before ...string) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- c.Reconnect(within(t)) }()
		srv.accept()
		srv.want(want)
		srv.send(before...)
		srv.send(reply)
		if err := recv(t, "the connection", done); err != nil {
			t.Fatal(err)
		}
	}
	state := func(id, pid, offset string, recovered bool) {
		t.Helper()
		if c.ID() != id || c.PID() != pid || c.Offset() != offset || c.Recovered() != recovered {
			t.Errorf("id %q, pid %q, offset %q, recovered %v; want %q, %q, %q, %v",
				c.ID(), c.PID(), c.Offset(), c.Recovered(), id, pid, offset, recovered)
		}
	}

	connect(`40{"token":1}`, `40{"sid":"s1","pid":"p1"}`)
	state("s1", "p1", "", false)

	// Without an event there is no offset to present.
	c.Cut()
	connect(`40{"pid":"p1","token":1}`, `40{"sid":"s1","pid":"p1"}`)
	state("s1", "p1", "", true)

	srv.send(`42["e",1,"o1"]`, `427["e","not an offset"]`, `42["e",2]`)
	srv.want(`437[]`)
	srv.settle()
	state("s1", "p1", "o1", true)
	srv.send(`42["unhandled","é\"\\"]`)
	srv.settle()
	state("s1", "p1", `é"\`, true)
	srv.send(`42["name only"]`) // for socket.io-client the name is an argument
	srv.settle()
	state("s1", "p1", "name only", true)
	srv.send(`42["e",3,"o3"]`)
	srv.settle()

	// Events before the CONNECT reply wait for it; what was emitted offline
	// follows it, unless it is volatile.
	c.Cut()
	if c.EmitVolatile("volatile", 0) {
		t.Error("EmitVolatile = true while there is no connection, want false")
	}
	c.Emit("offline", 1)
	c.Emit("offline", 2)
	connect(`40{"pid":"p1","offset":"o3","token":1}`, `40{"sid":"s1","pid":"p1"}`,
		`42["e",4,"o4"]`, `42["e",5,"o5"]`)
	srv.want(`42["offline",1]`, `42["offline",2]`)
	if !c.EmitVolatile("volatile", 1) {
		t.Error("EmitVolatile = false over a connection, want true")
	}
	srv.want(`42["volatile",1]`)
	state("s1", "p1", "o5", true)

	// A session that could not be recovered; the client keeps its offset anyway.
	closed := make(chan struct{})
	go func() { defer close(closed); c.CloseTransport() }()
	srv.want("close")
	srv.nc.Close()
	recv(t, "CloseTransport", closed)
	connect(`40{"pid":"p1","offset":"o5","token":1}`, `40{"sid":"s2","pid":"p2"}`)
	state("s2", "p2", "o5", false)

	want := `[1 "o1"] ["not an offset"] [2] [3 "o3"] [4 "o4"] [5 "o5"]`
	if got := strings.Join(seen, " "); got != want {
		t.Errorf("handlers saw %s, want %s", got, want)
	}
	c.Cut()
}

func TestConnectWithoutAnswer(t *testing.T) {
	srv, url := startScript(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2) // one for each attempt
	go func() { _, err := sioclient.Dial(ctx, sioclient.Options{URL: url}); done <- err }()
	srv.accept()
	srv.want("40")
	cancel()
	if err := recv(t, "Dial", done); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() { _, err := sioclient.Dial(within(t), sioclient.Options{URL: url}); done <- err }()
	srv.accept()
	srv.want("40")
	srv.nc.Close()
	if err := recv(t, "Dial", done); !errors.Is(err, sioclient.ErrDisconnected) {
		t.Errorf("ended: %v", err)
	}
}

func TestBadServers(t *testing.T) {
	for _, first := range []string{"4hello", "0{}", "0x", ""} {
		srv, url := startScript(t)
		done := make(chan error, 1)
		go func() { _, err := sioclient.Dial(within(t), sioclient.Options{URL: url}); done <- err }()
		srv.use(recv(t, "a connection", srv.conns))
		srv.send(first)
		if err := recv(t, "Dial", done); !errors.Is(err, sioclient.ErrHandshake) {
			t.Errorf("first message %q: %v, want ErrHandshake", first, err)
		}
	}
	for _, bad := range []string{"", "4", "42{}", `40{"sid":1}`, `42["a"`} {
		srv, url := startScript(t)
		c := sioclient.New(sioclient.Options{URL: url})
		reasons := make(chan string, 1) // one connection
		c.OnDisconnect(func(reason string) { reasons <- reason })
		done := make(chan error, 1)
		go func() { done <- c.Connect(within(t)) }()
		srv.accept()
		srv.want("40")
		srv.send(`40{"sid":"s"}`)
		if err := recv(t, "the connection", done); err != nil {
			t.Fatal(err)
		}
		srv.send(bad)
		if got := recv(t, "the end", reasons); got != "parse error" {
			t.Errorf("%q: reason %q, want parse error", bad, got)
		}
	}
}

func TestPingTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		srv := &script{t: t}
		upgraded := make(chan error, 1)
		go func() { _, err := ws.Upgrade(server); upgraded <- err }()
		c := sioclient.New(sioclient.Options{
			URL: "http://pipe",
			NetDial: func(context.Context, string, string) (net.Conn, error) {
				return client, nil
			},
		})
		connected := make(chan error, 1)
		go func() { connected <- c.Connect(t.Context()) }()
		if err := <-upgraded; err != nil {
			t.Fatal(err)
		}
		srv.use(server)
		srv.send(`0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1}`)
		srv.want("40")
		srv.send(`40{"sid":"s"}`)
		if err := <-connected; err != nil {
			t.Fatal(err)
		}
		end := make(chan time.Time, 1)
		var reason string
		c.OnDisconnect(func(r string) { reason = r; end <- time.Now() })

		time.Sleep(44 * time.Second)
		pinged := time.Now()
		srv.settle()
		time.Sleep(44 * time.Second)
		srv.send(`42["only pings count"]`)
		at := <-end
		if d := at.Sub(pinged); d != 45*time.Second || reason != "ping timeout" {
			t.Errorf("ended after %v, reason %q; want 45s, ping timeout", d, reason)
		}
	})
}
