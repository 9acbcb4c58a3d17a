package proxy

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
)

// recorded is an upstream that records the bytes of each request and gives all the same answer.
type recorded struct {
	net.Listener
	requests chan string
	answer   string
}

func newRecorded(t *testing.T, answer string) *recorded {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	u := &recorded{ln, make(chan string, 16), answer} // more than a test sends before it reads them
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go u.serve(conn) // ends with the connection
		}
	}()
	return u
}

func (u *recorded) serve(conn net.Conn) {
	defer conn.Close()
	var raw bytes.Buffer
	br := bufio.NewReader(io.TeeReader(conn, &raw))
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		u.requests <- raw.String()
		raw.Reset()
		if _, err := io.WriteString(conn, u.answer); err != nil {
			return
		}
	}
}

// rawExchange writes a request and returns the status line of the answer.
func rawExchange(t *testing.T, url, request string) (status string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // longer than any test takes
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	status, err = bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return strings.TrimSpace(status)
}

// splitRequest returns the first line of a request, its header lines and its body.
func splitRequest(request string) (line string, header []string, body string) {
	head, body, _ := strings.Cut(request, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	return lines[0], lines[1:], body
}

const emptyAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// A server that refuses a request may reset the connection behind the head of its answer. The
// client gets that head.
func TestPassThroughDeliversTheHead(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
			}
			_ = conn.(*net.TCPConn).SetLinger(0) // resets it
			conn.Close()
		}
	}()
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{"http://" + ln.Addr().String()} })
	for range 300 {
		got := rawExchange(t, r.url, "GET /orders HTTP/1.1\r\nHost: app\r\n\r\n")
		if got != "HTTP/1.1 400 Bad Request" && got != "HTTP/1.1 502 Bad Gateway" { // the reset may overtake the head
			t.Fatalf("got %q", got)
		}
	}
}

// The request line of a passed-through request reaches the upstream byte for byte.
func TestPassThroughKeepsTheTarget(t *testing.T) {
	up := newRecorded(t, emptyAnswer)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{"http://" + up.Addr().String()} })
	for _, target := range []string{
		"/", "/?", "/??", "/a?b", "/a?b=", "/a?=", "/a?&&", "/a?b=1;c=2", "/a?b=%zz", "/a?%", "/a?b=%00", "/a?b=1&b=2&a=0",
		"/a?b+c=d%20e", "/a?q=caf\xc3\xa9", "/a?q=\xff", `/a?q="<>\^{|}` + "`", "/a?b#c", "/a?b?c", "/a?q=http://x/?y=1",
		"/a#b", "/a#b?c#d", "/a%2fb", "/a%2Fb/%2e%2E/c", "/a/../b", "/a/./b", "/a//b", "/a/", "//", "//a/b", "//a?b;c", "//a%2Fb",
		"/%41", "/caf\xc3\xa9", "/\xff", `/"<>\^{|}` + "`", "/!$&'()*+,;=:@-._~[]", "/a;b=c", "/http://x/", "/a%25b",
		"/socket.io/socket.io.js?v=%zz;1", "/socket.iox?EIO=4&transport=polling", "/socket.iox/?EIO=4&transport=polling",
		"/socket.io/?EIO=3&transport=polling&q=1;2&r=%zz", "/socket.io?EIO=3&transport=polling;", "/elsewhere/?EIO=4&transport=polling&sid=a;b",
		"/socket.io/?EIO=4&transport=polling&sid=unknown&x=%zz", "/socket.io/|?EIO=4&transport=polling&sid=unknown",
		"*",
	} {
		method := "GET"
		if target == "*" {
			method = "OPTIONS"
		}
		want := method + " " + target + " HTTP/1.1"
		if got := rawExchange(t, r.url, want+"\r\nHost: example.org\r\n\r\n"); got != "HTTP/1.1 200 OK" {
			t.Errorf("%q answered with %s", want, got)
			continue
		}
		if got, _, _ := splitRequest(<-up.requests); got != want {
			t.Errorf("sent %q, arrived as %q", want, got)
		}
	}
	for absolute, want := range map[string]string{
		"http://example.org/a%2Fb?c;d": "/a%2Fb?c;d", "http://example.org": "/", "http://example.org?a": "/?a", "http://example.org/": "/",
	} {
		rawExchange(t, r.url, "GET "+absolute+" HTTP/1.1\r\nHost: example.org\r\n\r\n")
		if got, _, _ := splitRequest(<-up.requests); got != "GET "+want+" HTTP/1.1" {
			t.Errorf("%s arrived as %q, want %q", absolute, got, want)
		}
	}
}

// A handshake reaches the upstream with the target that the client sent.
func TestHandshakeKeepsTheTarget(t *testing.T) {
	up := newRecorded(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{"http://" + up.Addr().String()} })
	for _, target := range []string{
		"/socket.io/?EIO=4&transport=polling", "/socket.io?EIO=4&transport=polling", "/socket%2Eio/?EIO=4&transport=polling",
		`/socket.io/a"|b?EIO=4&transport=polling&x=%zz;1`, "/socket.io/?a;b&EIO=4&transport=polling#c",
	} {
		for _, upgrade := range []string{"", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"} {
			target := target
			if upgrade != "" {
				target = strings.Replace(target, "polling", "websocket", 1)
			}
			want := "GET " + target + " HTTP/1.1"
			if got := rawExchange(t, r.url, want+"\r\nHost: example.org\r\n"+upgrade+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 403") {
				t.Errorf("%q answered with %s", want, got)
				continue
			}
			if got, _, _ := splitRequest(<-up.requests); got != want {
				t.Errorf("sent %q, arrived as %q", want, got)
			}
		}
	}
}

// Headers reach the upstream unchanged, with three exceptions. net/http sorts them, makes their
// names canonical and trims their values. Headers of one connection are removed. Forwarding headers
// are set.
func TestPassThroughKeepsHeaders(t *testing.T) {
	up := newRecorded(t, emptyAnswer)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{"http://" + up.Addr().String()} })
	tests := []struct {
		name         string
		header, want []string // nil want means want equals header
		body         string
	}{
		{name: "none"},
		{name: "twice", header: []string{"X-Two: 2", "X-Two: 1", "X-Two: 2"}},
		{name: "an empty value", header: []string{"X-Empty: "}},
		{name: "odd names", header: []string{"!#$%&'*+-.^_`|~: 1", "X_y: 2"}},
		{name: "odd values", header: []string{"X-Odd: \"a\", b;c=\"d\"\t, \xe4\xff, ,"}},
		{name: "names in the case of others", header: []string{"x-lower: 1", "X-UPPER: 2"}, want: []string{"X-Lower: 1", "X-Upper: 2"}},
		{name: "the body's", header: []string{"Content-Encoding: x", "Content-Length: 3", "Content-Type: a/b; c"}, body: "abc"},
		{name: "chunks", header: []string{"Transfer-Encoding: chunked"}, body: "3\r\nabc\r\n0\r\n\r\n"},
		{name: "what is accepted", header: []string{"Accept: */*", "Accept-Encoding: br, gzip", "Range: bytes=0-1"}},
		{name: "credentials and cookies", header: []string{"Authorization: Basic x", "Cookie: a=1; b", "Cookie: ;;c=\"2\""}},
		{name: "CORS", header: []string{"Access-Control-Request-Headers: authorization", "Access-Control-Request-Method: POST", "Origin: null"}},
		{name: "user agent", header: []string{"User-Agent: x/1 (y)"}},
		{name: "te", header: []string{"Te: trailers, gzip"}, want: []string{"Te: trailers"}},
		{
			name:   "of one connection",
			header: []string{"Connection: keep-alive, X-Listed, x-listed-too", "Keep-Alive: 5", "Proxy-Connection: x", "X-Kept: 1", "X-Listed: 1", "X-Listed-Too: 1"},
			want:   []string{"X-Kept: 1"},
		},
		{name: "an upgrade to something else", header: []string{"Connection: Upgrade", "Upgrade: h2c"}, want: []string{}},
		{
			name:   "forwarding headers of an untrusted peer",
			header: []string{"Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /x", "X-Real-Ip: 1.2.3.4"},
			want:   []string{},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request := "POST /x HTTP/1.1\r\nHost: example.org\r\n" + strings.Join(append(slices.Clone(tt.header), ""), "\r\n")
			if tt.body == "" {
				request += "Content-Length: 0\r\n"
			}
			rawExchange(t, r.url, request+"\r\n"+tt.body)
			_, got, body := splitRequest(<-up.requests)
			want := tt.want
			if want == nil {
				want = slices.Clone(tt.header)
			}
			if tt.body == "" {
				want = append(want, "Content-Length: 0")
			}
			want = append(want, "Host: example.org", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: example.org", "X-Forwarded-Proto: http")
			for i, h := range got { // duplicates keep their order, everything else is sorted
				got[i] = strings.TrimRight(h, " ")
			}
			for i, h := range want {
				want[i] = strings.TrimRight(h, " ")
			}
			byName := func(a, b string) int {
				a, _, _ = strings.Cut(a, ":")
				b, _, _ = strings.Cut(b, ":")
				return strings.Compare(a, b)
			}
			slices.SortStableFunc(got, byName)
			slices.SortStableFunc(want, byName)
			if !slices.Equal(got, want) || body != tt.body {
				t.Errorf("sent %q\n got %q, %q\nwant %q, %q", request, got, body, want, tt.body)
			}
		})
	}
}

// net/http refuses these targets, so they never reach the upstream.
func TestTargetsThatNetHTTPRefuses(t *testing.T) {
	up := newRecorded(t, emptyAnswer)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{"http://" + up.Addr().String()} })
	for _, target := range []string{"/a%zz", "/a%", "/a\x01", "/a b", "a", "/a?\x7f"} {
		if got := rawExchange(t, r.url, "GET "+target+" HTTP/1.1\r\nHost: example.org\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400") {
			t.Errorf("%q answered with %s", target, got)
		}
	}
	select {
	case got := <-up.requests:
		t.Errorf("the upstream got %q", got)
	default:
	}
}

// The upstream's refusal of holdfast's own sid is hidden from the client. Other responses pass
// unchanged.
func TestHideUnknownSID(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		status       int
		body         string
		hidden       bool
	}{
		{"unknown sid", "PUT", 400, `{"code":1,"message":"Session ID unknown"}`, true},
		{"unknown sid of an upgrade", "PUT", 400, `Session ID unknown`, true},
		{"without a body", "HEAD", 400, "", true},
		{"another refusal", "PUT", 400, `{"code":0,"message":"Transport unknown"}`, false},
		{"a long body", "PUT", 400, strings.Repeat("x", 1000), false},
		{"the method", "PUT", 405, `Method Not Found`, false},
		{"a preflight", "OPTIONS", 204, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := &http.Response{
				StatusCode: tt.status, Header: http.Header{"Content-Type": {"a/b"}, "Vary": {"Origin"}},
				Body: io.NopCloser(strings.NewReader(tt.body)), Request: &http.Request{Method: tt.method},
			}
			if err := hideUnknownSID(resp, engineio.Answer{Status: 500}); err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.hidden {
				tt.status, tt.body = 500, ""
			}
			if resp.StatusCode != tt.status || string(body) != tt.body || resp.Header.Get("Vary") != "Origin" {
				t.Errorf("%d %q %v; want %d %q", resp.StatusCode, body, resp.Header, tt.status, tt.body)
			}
		})
	}
}

func TestBelowPaths(t *testing.T) {
	for _, tt := range []struct {
		path, request, rest string
		ok                  bool
	}{
		{"/socket.io/", "/socket.io/", "", true},
		{"/socket.io/", "/socket.io", "", true},
		{"/socket.io/", "/socket.io/socket.io.js", "socket.io.js", true},
		{"/socket.io/", "/socket.iox", "", false},
		{"/socket.io/", "/socket.iox/", "", false},
		{"/socket.io/", "/x/socket.io/", "", false},
		{"/socket.io", "/socket.io/", "", true},
		{"/socket.io", "/socket.io", "", true},
		{"/socket.io", "/socket.iox", "", false},
		{"/", "/", "", true},
		{"/", "/x", "x", true},
	} {
		cfg := config.Default()
		cfg.EngineIO.Paths = []string{tt.path}
		set, err := newSettings(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := set.belowPaths(tt.request); rest != tt.rest || ok != tt.ok {
			t.Errorf("path %s, request for %s: %q, %v; want %q, %v", tt.path, tt.request, rest, ok, tt.rest, tt.ok)
		}
	}
}

// Requests that holdfast does not serve are refused early, before they cost anything.
func TestRefusedRequests(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Limits.HandshakesPerSecondPerAddress = 100 })
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	for _, tt := range []struct {
		name, method, path string
		header             http.Header
		body               string
		want               int
	}{
		{"CONNECT", http.MethodConnect, "/", nil, "", http.StatusMethodNotAllowed},
		{"an upgrade with a body", http.MethodGet, "/socket.io/?EIO=4&transport=websocket", upgrade, "GET /x HTTP/1.1\r\n\r\n", http.StatusBadRequest},
		{"an upgrade elsewhere with a body", http.MethodGet, "/elsewhere", upgrade, "x", http.StatusBadRequest},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, r.url+tt.path, bytes.NewReader([]byte(tt.body)))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(req.Header, tt.header)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: status %d, want %d", tt.name, resp.StatusCode, tt.want)
		}
	}
}
