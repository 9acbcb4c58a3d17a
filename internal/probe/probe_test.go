package probe

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
	"github.com/holdfast/holdfast/internal/steady"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/proxy"
)

func TestMain(m *testing.M) {
	// Lives as long as the process.
	steady.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"))
}

// newServer starts a legacy server; options may be changed.
func newServer(t *testing.T, options sioserver.Options) *httptest.Server {
	t.Helper()
	s := sioserver.New(options)
	s.OnConnect("/", func(s *sioserver.Socket) error {
		s.Emit("hello", "a string") // every client gets an event, and so an offset
		return nil
	})
	s.OnConnect("/private", func(s *sioserver.Socket) error {
		var auth struct{ Token string }
		if json.Unmarshal(s.Handshake.Auth, &auth) != nil || auth.Token != "x" {
			return errors.New("who are you?")
		}
		return nil
	})
	server := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); server.CloseClientConnections(); server.Close() })
	return server
}

// newHoldfast starts a holdfast in front of a server, and returns its handler.
func newHoldfast(t *testing.T, upstream string, change func(*config.Config)) *proxy.Server {
	t.Helper()
	cfg := config.Default()
	cfg.Upstream.URL = config.URLs{upstream}
	if change != nil {
		change(&cfg)
	}
	p, err := proxy.New(cfg, slog.New(slog.DiscardHandler), metrics.New(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		p.Shutdown(over)
	})
	return p
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// probed runs the command as a user would. It returns the exit status and the report.
func probed(t *testing.T, args ...string) (int, Report) {
	t.Helper()
	var out strings.Builder
	err := Command(t.Context(), append([]string{"-json", "-away", "50ms", "-timeout", "30s"}, args...), &out)
	exit := &ExitError{}
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if r.Exit != exit.Code || r.OK != (exit.Code == 0) {
		t.Errorf("exit status %d, but the report says %d, ok %v", exit.Code, r.Exit, r.OK)
	}
	if strings.Contains(out.String(), `"hf`) || strings.Contains(out.String(), "hunter2") {
		t.Errorf("the report contains a secret:\n%s", out.String())
	}
	return exit.Code, r
}

// codes returns the results and codes of a report's checks, such as "polling ok recovered".
func codes(r Report) string {
	lines := make([]string, 0, len(r.Checks))
	for _, c := range r.Checks {
		lines = append(lines, c.Name+" "+string(c.Result)+" "+string(c.Code))
	}
	return strings.Join(lines, ", ")
}

func TestProbe(t *testing.T) {
	const allPassed = "polling ok recovered, websocket ok recovered, upgrade ok recovered"
	server := newServer(t, sioserver.Options{CORSOrigin: "https://chat.example.com"})
	holdfast := serve(t, newHoldfast(t, server.URL, nil))
	pollingOnly := newServer(t, sioserver.Options{Transports: []string{sioserver.Polling}})
	guarded := newServer(t, sioserver.Options{AllowRequest: func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer hunter2" && r.URL.Query().Get("token") != "hunter2" {
			return errors.New("no entry")
		}
		return nil
	}})
	other := newServer(t, sioserver.Options{Path: "/realtime/"})
	before := func(upstream string, change func(*config.Config)) string {
		return serve(t, newHoldfast(t, upstream, change))
	}
	guardedHoldfast := before(guarded.URL, nil)

	tests := []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"through holdfast", []string{holdfast}, 0, allPassed},
		{"by ws://, and flags behind the address", []string{strings.Replace(holdfast, "http", "ws", 1), "-timeout", "20s"}, 0, allPassed},
		{"only polling", []string{"-transport", "polling", holdfast}, 0, "polling ok recovered, websocket skip not_asked, upgrade skip not_asked"},
		{"only WebSocket", []string{"-transport", "websocket", holdfast}, 0, "polling skip not_asked, websocket ok recovered, upgrade skip not_asked"},
		{"a server without WebSocket", []string{before(pollingOnly.URL, nil)}, 0, "polling ok recovered, websocket skip not_offered, upgrade skip not_offered"},
		{"another path", []string{"-path", "/realtime", before(other.URL, func(c *config.Config) { c.EngineIO.Paths = []string{"/realtime/"} })}, 0, allPassed},
		{"an allowed origin", []string{"-origin", "https://chat.example.com", holdfast}, 0, allPassed + ", cors ok allowed"},
		{"a forbidden origin", []string{"-origin", "https://evil.example.com", holdfast}, 1, allPassed + ", cors fail cors"},
		{"the address's own page", []string{"-origin", guardedHoldfast, "-query", "token=hunter2", guardedHoldfast}, 0, allPassed + ", cors ok allowed"},

		{"with a key", []string{"-key", "hf_key", before(server.URL, func(c *config.Config) { c.Recovery.Keyed.Query = "hf_key" })}, 0, allPassed},
		{"with a key in an unknown parameter", []string{"-key", "hf_key", "-transport", "polling", holdfast}, 1, "polling fail no_key, websocket skip not_asked, upgrade skip not_asked"},
		{"with a key, without holdfast", []string{"-key", "hf_key", "-transport", "websocket", server.URL}, 1, "polling skip not_asked, websocket fail not_recovered, upgrade skip not_asked"},
		{"without holdfast", []string{server.URL}, 1, "polling fail no_pid, websocket fail no_pid, upgrade skip not_asked"},
		{"recovery is off", []string{before(server.URL, func(c *config.Config) { c.Recovery.MaxDisconnectionDuration = 0 })}, 1, "polling fail no_pid, websocket fail no_pid, upgrade skip not_asked"},
		{"away too long", []string{
			"-away", "500ms", "-transport", "websocket",
			before(server.URL, func(c *config.Config) { c.Recovery.MaxDisconnectionDuration = time.Millisecond }),
		}, 1, "polling skip not_asked, websocket fail not_recovered, upgrade skip not_asked"},

		{"a namespace with auth", []string{"-auth", `{"token":"x"}`, holdfast + "/private"}, 0, allPassed},
		{"a namespace without auth", []string{"-namespace", "/private", holdfast}, 3, "polling fail connect_refused, websocket fail connect_refused, upgrade skip not_asked"},
		{"no such namespace", []string{holdfast + "/nowhere"}, 3, "polling fail connect_refused, websocket fail connect_refused, upgrade skip not_asked"},
		{"a header at the handshake", []string{"-header", "Authorization: Bearer hunter2", guardedHoldfast}, 0, allPassed},
		{"without it", []string{guardedHoldfast + "?token=no"}, 3, "polling fail handshake_auth, websocket fail handshake_auth, upgrade skip not_asked"},
		{"a wrong path", []string{"-path", "/nope/", holdfast}, 3, "polling fail not_found, websocket skip not_asked, upgrade skip not_asked"},
		{"a server that is down", []string{before("http://127.0.0.1:9", nil)}, 3, "polling fail upstream_down, websocket fail upstream_down, upgrade skip not_asked"},
		{"nothing there", []string{"http://127.0.0.1:9"}, 3, "polling fail unreachable, websocket skip not_asked, upgrade skip not_asked"},
		{"TLS where there is none", []string{strings.Replace(holdfast, "http", "https", 1)}, 3, "polling fail tls, websocket skip not_asked, upgrade skip not_asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			exit, r := probed(t, tt.args...)
			if exit != tt.exit || codes(r) != tt.want {
				t.Errorf("exit status %d, %s\nwant %d, %s\n%+v", exit, codes(r), tt.exit, tt.want, r.Checks)
			}
			for _, c := range r.Checks {
				if (c.Result == Fail) != (c.Remedy != "") || c.Detail == "" {
					t.Errorf("%+v: a failure, and nothing else, has a remedy", c)
				}
			}
		})
	}
}

func TestTLS(t *testing.T) {
	server := newServer(t, sioserver.Options{})
	secure := httptest.NewTLSServer(newHoldfast(t, server.URL, nil))
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer func() { secure.CloseClientConnections(); secure.Close() }()
	if exit, r := probed(t, secure.URL); exit != ExitNoReply || r.Checks[0].Code != CodeTLS {
		t.Errorf("with an unknown certificate authority: %d, %s", exit, codes(r))
	}
	if exit, r := probed(t, "-insecure", secure.URL); exit != ExitOK {
		t.Errorf("-insecure: %d, %+v", exit, r.Checks)
	}
	plain := "http" + strings.TrimPrefix(secure.URL, "https")
	if exit, r := probed(t, plain); exit != ExitNoReply || r.Checks[0].Code != CodeTLS || !strings.Contains(r.Checks[0].Remedy, "https://") {
		t.Errorf("http:// to a port with TLS: %d, %+v", exit, r.Checks)
	}
}

// forward is a reverse proxy that corrects nothing.
func forward(t *testing.T, target string) *httputil.ReverseProxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		Transport: transport, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
}

func TestProxiesInBetween(t *testing.T) {
	server := newServer(t, sioserver.Options{})
	one := newHoldfast(t, server.URL, nil)
	holdfast, second := serve(t, one), serve(t, newHoldfast(t, server.URL, nil))
	through := forward(t, holdfast)
	tests := []struct {
		name string
		args []string
		in   http.HandlerFunc
		exit int
		want string
	}{
		{"a good one", nil, through.ServeHTTP, 0, "polling ok recovered, websocket ok recovered, upgrade ok recovered"},
		{"WebSocket's headers are not passed on", nil, func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Upgrade")
			r.Header.Del("Connection")
			through.ServeHTTP(w, r)
		}, 1, "polling ok recovered, websocket fail websocket_blocked, upgrade skip not_asked"},
		{"WebSocket is closed", nil, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				panic(http.ErrAbortHandler)
			}
			through.ServeHTTP(w, r)
		}, 1, "polling ok recovered, websocket fail websocket_blocked, upgrade skip not_asked"},
		{"responses are held back", []string{"-timeout", "1s"}, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" && r.Method == http.MethodGet && r.URL.Query().Has("sid") {
				<-r.Context().Done()
				return
			}
			through.ServeHTTP(w, r)
		}, 1, "polling fail polling_held, websocket ok recovered, upgrade skip not_asked"},
		{"a balancer's cookie", nil, func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "route", Value: "hunter2"})
			through.ServeHTTP(w, r)
		}, 0, "polling ok recovered, websocket ok recovered, upgrade ok recovered, cookies note cookies"},
		{"a redirection", nil, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example.com/?token=hunter2", http.StatusMovedPermanently)
		}, 3, "polling fail redirected, websocket fail redirected, upgrade skip not_asked"},
		{"a web page", nil, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<!doctype html>")
		}, 3, "polling fail not_socketio, websocket fail not_socketio, upgrade skip not_asked"},
		{"too many requests", nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
		}, 3, "polling fail rate_limited, websocket fail rate_limited, upgrade skip not_asked"},
		{"a server of Socket.IO 2", nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":5,"message":"Unsupported protocol version"}`)
		}, 3, "polling fail old_server, websocket fail old_server, upgrade skip not_asked"},
		{"silence", []string{"-timeout", "300ms"}, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}, 3, "polling fail timeout, websocket fail timeout, upgrade skip not_asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			steady.Try(t, 50*time.Millisecond, func() error { // some have a short timeout
				exit, r := probed(t, append(tt.args, serve(t, tt.in))...)
				if exit != tt.exit || codes(r) != tt.want {
					return fmt.Errorf("exit status %d, %s\nwant %d, %s\n%+v", exit, codes(r), tt.exit, tt.want, r.Checks)
				}
				return nil
			})
		})
	}
	t.Run("replicas by turns, connection by connection", func(t *testing.T) {
		t.Parallel()
		exit, r := probed(t, "-transport", "websocket", balance(t, holdfast, second))
		if want := "polling skip not_asked, websocket fail other_replica, upgrade skip not_asked"; exit != ExitFailed || codes(r) != want {
			t.Errorf("exit status %d, %s\nwant 1, %s", exit, codes(r), want)
		}
	})
	t.Run("replicas by turns, request by request", func(t *testing.T) {
		t.Parallel()
		var turn atomic.Int32
		replicas := []http.Handler{forward(t, holdfast), forward(t, second)}
		exit, r := probed(t, "-transport", "polling", serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			replicas[turn.Add(1)%2].ServeHTTP(w, r)
		})))
		if exit != ExitNoReply || r.Checks[0].Code != CodeSessionUnknown {
			t.Errorf("exit status %d, %s", exit, codes(r))
		}
	})
}

// balance gives each TCP connection to the next of the servers.
func balance(t *testing.T, servers ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { // ends with the listener
		for i := 0; ; i++ {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(servers[i%len(servers)], "http://"))
			if err != nil {
				in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() { // ends with the connection
					_, _ = io.Copy(pair[0], pair[1]) // until either side ends
					pair[0].Close()
					pair[1].Close()
				}()
			}
		}
	}()
	return "http://" + ln.Addr().String()
}

func TestParseArgs(t *testing.T) {
	const u = "http://h"
	tests := []struct {
		name string
		args []string
		err  string // part of the error, or "" for none
	}{
		{"an address", []string{u}, ""},
		{"none", nil, "found 0 addresses"},
		{"two", []string{u, u}, "found 2 addresses"},
		{"no scheme", []string{"localhost:3000"}, "did you mean https://localhost:3000, or http://localhost:3000?"},
		{"no scheme, and no name", []string{"127.0.0.1:3000"}, "did you mean https://127.0.0.1:3000, or http://127.0.0.1:3000?"},
		{"another scheme", []string{"ftp://h"}, "must begin with http://"},
		{"no host", []string{"http:///x"}, "has no host"},
		{"the path in it", []string{u + "/socket.io/"}, "for the namespace"},
		{"two namespaces", []string{u + "/a", "-namespace", "/b"}, "names the namespace /a"},
		{"a namespace without a slash", []string{u, "-namespace", "b"}, "does not begin with a slash"},
		{"a path without a slash", []string{u, "-path", "b"}, "does not begin with a slash"},
		{"auth that is no object", []string{u, "-auth", "[1]"}, "not a JSON object"},
		{"auth that is null", []string{u, "-auth", "null"}, "not a JSON object"},
		{"auth in a missing file", []string{u, "-auth", "@/nowhere"}, "no such file"},
		{"a header without a value", []string{u, "-header", "x"}, "Name: value"},
		{"a query without a value", []string{u, "-query", "a"}, "name=value"},
		{"a query without a name", []string{u, "-query", "a=1&=b"}, "name=value"},
		{"a query with a space", []string{u, "-query", "a=b c"}, "write a space as %20"},
		{"an unknown transport", []string{u, "-transport", "webtransport"}, "neither polling nor websocket"},
		{"no time", []string{u, "-timeout", "0s"}, "must be more than 0"},
		{"an unknown flag", []string{u, "-colour"}, "not defined: -colour"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseArgs(tt.args)
			if tt.err == "" && err != nil || tt.err != "" && (!errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("ParseArgs(%q) = %v, want %q", tt.args, err, tt.err)
			}
		})
	}
	if _, err := ParseArgs([]string{"-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
	o, err := ParseArgs([]string{"-path", "/a", "wss://u:p@h:1/chat?x=1", "-query", "y=2", "-header", "A: b"})
	if err != nil || o.URL.String() != "https://u:p@h:1" || o.Path != "/a/" || o.Namespace != "/chat" || o.Query != "x=1&y=2" || o.Header.Get("A") != "b" {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	if err := Command(t.Context(), []string{"-h"}, &out); err != nil || !strings.Contains(out.String(), "Exit status:") {
		t.Errorf("got %v, %s", err, out.String())
	}
}

func TestText(t *testing.T) {
	r := Report{URL: "http://h", Path: "/socket.io/", Namespace: "/", Checks: []Check{
		{Name: "polling", Result: Fail, Code: CodeNoPID, Detail: "no pid", Remedy: strings.Repeat("route it ", 15)},
		{Name: "websocket", Result: Fail, Code: CodeNoPID, Detail: "no pid", Remedy: strings.Repeat("route it ", 15)},
		{Name: "upgrade", Result: Skip, Code: CodeNotAsked, Detail: "it needs both"},
	}}
	r.conclude()
	var out strings.Builder
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	want := `http://h, path /socket.io/, namespace /

FAIL  polling    no pid
                 What to do: route it route it route it route it route it route it route it route it
                 route it route it route it route it route it route it route it
FAIL  websocket  no pid
skip  upgrade    it needs both

2 of 3 checks failed.
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestServerThatAllowsOneConnection(t *testing.T) {
	for handshake, want := range map[config.Handshake]string{
		config.Eager: "polling skip not_asked, websocket fail handshake_auth, upgrade skip not_asked",
		config.Lazy:  "polling skip not_asked, websocket ok recovered, upgrade skip not_asked",
	} {
		t.Run(string(handshake), func(t *testing.T) {
			var handshakes atomic.Int32
			server := newServer(t, sioserver.Options{AllowRequest: func(*http.Request) error {
				if handshakes.Add(1) > 1 {
					return errors.New("already connected")
				}
				return nil
			}})
			url := serve(t, newHoldfast(t, server.URL, func(c *config.Config) { c.Upstream.Handshake = handshake }))
			_, r := probed(t, "-transport", "websocket", url)
			if codes(r) != want {
				t.Errorf("%s, want %s", codes(r), want)
			}
			if c := r.Checks[1]; c.Result == Fail && !strings.Contains(c.Remedy, "upstream.handshake: lazy") {
				t.Errorf("the remedy is %q", c.Remedy)
			}
		})
	}
}
