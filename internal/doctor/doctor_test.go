package doctor

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

var command = Command{Name: "holdfast", Version: "v0.1.0"}

// newServer starts a server like socket.io 4.5.4.
func newServer(t *testing.T, options sioserver.Options) string {
	t.Helper()
	s := sioserver.New(options)
	s.OnConnect("/", func(s *sioserver.Socket) error {
		s.Emit("hello", "a string")
		return nil
	})
	s.OnConnect("/private", func(s *sioserver.Socket) error {
		var auth struct{ Token string }
		if json.Unmarshal(s.Handshake.Auth, &auth) != nil || auth.Token != "hunter2" {
			return errors.New("who are you?")
		}
		return nil
	})
	t.Cleanup(s.Close)
	return serve(t, s.ServeHTTP)
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// listener accepts connections and gives them to handle, which closes them.
func listener(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { // ends with the listener
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			handle(conn)
		}
	}()
	return "http://" + ln.Addr().String()
}

// examine runs the doctor as a user would. It returns the exit status and the report.
func examine(t *testing.T, args ...string) (int, Report) {
	t.Helper()
	var out strings.Builder
	err := command.Doctor(t.Context(), append([]string{"-json", "-timeout", "30s"}, args...), &out)
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
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("the report contains a secret:\n%s", out.String())
	}
	return exit.Code, r
}

// codes returns what is not ok in a report, such as "note cookies, fail own_recovery".
func codes(r Report) string {
	var list []string
	for _, f := range r.Findings {
		if f.Result != OK {
			list = append(list, fmt.Sprintf("%s %s", f.Result, f.Code))
		}
	}
	return strings.Join(list, ", ")
}

// oneConnection starts a server that takes no handshake while a client is connected.
func oneConnection(t *testing.T) string {
	t.Helper()
	var connected atomic.Bool
	s := sioserver.New(sioserver.Options{AllowRequest: func(*http.Request) error {
		if connected.Load() {
			return errors.New("already connected")
		}
		return nil
	}})
	s.OnConnect("/", func(s *sioserver.Socket) error {
		connected.Store(true)
		s.OnDisconnect(func(string) { connected.Store(false) })
		return nil
	})
	t.Cleanup(s.Close)
	return serve(t, s.ServeHTTP)
}

func TestSocketIOServers(t *testing.T) {
	guarded := newServer(t, sioserver.Options{AllowRequest: func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer hunter2" && r.URL.Query().Get("token") != "hunter2" {
			return errors.New("no entry")
		}
		return nil
	}})
	plain := newServer(t, sioserver.Options{})
	first, second := sioserver.New(sioserver.Options{}), sioserver.New(sioserver.Options{})
	t.Cleanup(func() { first.Close(); second.Close() })
	var turn atomic.Int32
	spread := serve(t, func(w http.ResponseWriter, r *http.Request) {
		[]http.Handler{first, second}[turn.Add(1)%2].ServeHTTP(w, r)
	})
	cfg := config.Default()
	cfg.Upstream.URL = config.URLs{plain}
	hf, err := proxy.New(cfg, slog.New(slog.DiscardHandler), metrics.New(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hf.Shutdown(ended()) })

	tests := []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"a server without recovery", []string{plain}, 0, ""},
		{"with the path in the address", []string{plain + "/socket.io/"}, 0, ""},
		{"another path", []string{newServer(t, sioserver.Options{Path: "/chat/"}), "-path", "/chat"}, 0, ""},
		{"polling only", []string{newServer(t, sioserver.Options{Transports: []string{"polling"}})}, 0, "note transports"},
		{"WebSocket only", []string{newServer(t, sioserver.Options{Transports: []string{"websocket"}})}, 0, "note transports"},
		{"all origins", []string{newServer(t, sioserver.Options{CORSOrigin: "*"}), "-origin", "https://a.example"}, 0, ""},
		{"another origin", []string{newServer(t, sioserver.Options{CORSOrigin: "https://b.example"}), "-origin", "https://a.example"}, 0, "note cors"},
		{"refused", []string{guarded}, 1, "fail handshake_auth"},
		{"with a header", []string{guarded, "-header", "Authorization: Bearer hunter2"}, 0, ""},
		{"with a query", []string{guarded, "-query", "token=hunter2"}, 0, ""},
		{"one connection at a time", []string{oneConnection(t)}, 0, "note one_connection"},
		{"no such namespace", []string{plain, "-namespace", "/nowhere"}, 1, "fail connect_refused"},
		{"without auth", []string{plain, "-namespace", "/private"}, 1, "fail connect_refused"},
		{"with auth", []string{plain, "-namespace", "/private", "-auth", `{"token":"hunter2"}`}, 0, ""},
		{"several processes", []string{spread}, 0, "note session_unknown"},
		{"holdfast", []string{serve(t, hf.ServeHTTP)}, 1, "fail holdfast"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			exit, r := examine(t, tt.args...)
			if exit != tt.exit || codes(r) != tt.want {
				t.Errorf("exit status %d, %s\nwant %d, %s\n%+v", exit, codes(r), tt.exit, tt.want, r.Findings)
			}
			for _, f := range r.Findings {
				if (f.Advice != "") != (f.Result == Fail) && f.Result != Note || f.Detail == "" {
					t.Errorf("%+v: a failure has advice, and what is ok has none", f)
				}
			}
			if len(r.Will)+len(r.WillNot) == 0 && !r.has(CodeHoldfast) {
				t.Error("no outlook")
			}
			if r.OK && len(r.Will) == 0 {
				t.Error("the report says nothing of what recovery will do")
			}
		})
	}
}

func TestServerIsDescribed(t *testing.T) {
	_, r := examine(t, newServer(t, sioserver.Options{CORSOrigin: "*", MaxPayloadBytes: 5000}))
	if s := r.Server; len(s.Transports) != 2 || !s.Upgrade || s.EngineIO[0] != 4 || s.PingIntervalMS != 25000 || s.PingTimeoutMS != 20000 ||
		s.MaxPayload != 5000 || s.OwnRecovery || s.OneConnection || s.AllowOrigin != "*" {
		t.Errorf("got %+v", s)
	}
}

// handshakes answers each request for a handshake, and nothing else.
func handshakes(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Query().Get("transport") != "polling" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

func TestOldServers(t *testing.T) {
	const open = `0{"sid":"a","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":5000}`
	for form, body := range map[string]string{
		"text":   fmt.Sprintf("%d:%s2:40", len(open), open),
		"binary": "\x00" + string([]byte{byte(len(open) / 10), byte(len(open) % 10)}) + "\xff" + open + "\x00\x02\xff40",
	} {
		exit, r := examine(t, serve(t, handshakes("application/octet-stream", body)))
		if exit != ExitOK || codes(r) != "note old_server, note transports" || r.Server.EngineIO[0] != 3 || r.Server.PingTimeoutMS != 5000 {
			t.Errorf("%s: exit status %d, %s, %+v", form, exit, codes(r), r.Server)
		}
	}
}

func TestNoSocketIOServer(t *testing.T) {
	status := func(code int, body string) string {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); _, _ = io.WriteString(w, body) })
	}
	silent := listener(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
	plain := newServer(t, sioserver.Options{})
	tests := []struct {
		name string
		args []string
		code Code
		says string
	}{
		{"a closed port", []string{"http://127.0.0.1:9"}, CodeUnreachable, "Start the server"},
		{"a closed Unix socket", []string{"unix://" + filepath.Join(t.TempDir(), "s")}, CodeUnreachable, "no such file"},
		{"no such host", []string{"http://nowhere.invalid"}, CodeDNS, "nowhere.invalid"},
		{"silence", []string{silent, "-timeout", "200ms"}, CodeTimeout, "no answer"},
		{"a connection that is closed", []string{listener(t, func(c net.Conn) { c.Close() })}, CodeLost, "https://"},
		{"another protocol", []string{listener(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		})}, CodeNotSocketIO, "not HTTP"},
		{"TLS where there is none", []string{strings.Replace(plain, "http", "https", 1)}, CodeTLS, "Use http://"},
		{"another path", []string{plain, "-path", "/nope"}, CodeNotFound, "-path"},
		{"a web page", []string{status(200, "<html><title> Hello </title>")}, CodeNotSocketIO, `"Hello"`},
		{"an empty answer", []string{status(200, "")}, CodeNotSocketIO, "empty"},
		{"an API", []string{status(500, "{}")}, CodeHTTPError, "500"},
		{"a proxy", []string{status(502, "")}, CodeUpstreamDown, "Start the server"},
		{"a redirection", []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/?token=hunter2", http.StatusMovedPermanently)
		})}, CodeRedirected, "https://elsewhere.example/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			exit, r := examine(t, tt.args...)
			if exit != ExitNotFound || len(r.Findings) != 1 || r.Findings[0].Code != tt.code || r.Findings[0].Result != Fail {
				t.Fatalf("exit status %d, %+v; want %s", exit, r.Findings, tt.code)
			}
			if f := r.Findings[0]; !strings.Contains(f.Detail+f.Advice, tt.says) {
				t.Errorf("%+v does not say %q", f, tt.says)
			}
			if len(r.Will)+len(r.WillNot) > 0 {
				t.Error("there is an outlook, and no server")
			}
		})
	}
}

func TestTLS(t *testing.T) {
	s := sioserver.New(sioserver.Options{})
	t.Cleanup(s.Close)
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"an authority of its own", nil, ExitNotFound, "fail tls"},
		{"with -ca", []string{"-ca", ca}, ExitOK, ""},
		{"with -insecure", []string{"-insecure"}, ExitOK, "note certificate"},
		{"without TLS", []string{strings.Replace(server.URL, "https", "http", 1)}, ExitNotFound, "fail tls"},
	} {
		if len(tt.args) == 0 || strings.HasPrefix(tt.args[0], "-") {
			tt.args = append(tt.args, server.URL)
		}
		exit, r := examine(t, tt.args...)
		if exit != tt.exit || codes(r) != tt.want {
			t.Errorf("%s: exit status %d, %s; want %d, %s\n%+v", tt.name, exit, codes(r), tt.exit, tt.want, r.Findings)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	s := sioserver.New(sioserver.Options{})
	t.Cleanup(s.Close)
	name := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", name)
	if err != nil {
		t.Skip(err)
	}
	server := httptest.NewUnstartedServer(s)
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	if exit, r := examine(t, "unix://"+name); exit != ExitOK || len(r.Server.Transports) != 2 {
		t.Errorf("exit status %d, %+v", exit, r)
	}
}

// A server that takes handshakes, and answers no CONNECT.
func TestUnanswered(t *testing.T) {
	const open = `0{"sid":"a","upgrades":[],"pingInterval":25000,"pingTimeout":5000}`
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch query := r.URL.Query(); {
		case query.Get("transport") != "polling" || query.Get("EIO") == "3":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":0,"message":"Transport unknown"}`)
		case !query.Has("sid"):
			_, _ = io.WriteString(w, open)
		case r.Method == http.MethodGet:
			<-r.Context().Done()
		}
	})
	steady.Try(t, 20*time.Millisecond, func() error { // the handshake must be in time
		exit, r := examine(t, "-timeout", "200ms", server)
		if exit != ExitInTheWay || !strings.HasPrefix(codes(r), "note transports, fail unanswered") {
			return fmt.Errorf("exit status %d, %s", exit, codes(r))
		}
		return nil
	})
}
