package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/accept"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/steady"
)

const (
	// openHead is a handshake as clients write it.
	openHead = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: app.test\r\n" + upgradeLines + "\r\n"

	upgradeLines = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

// with returns openHead with one text replaced by another.
func with(old, text string) string {
	if !strings.Contains(openHead, old) {
		panic(old)
	}
	return strings.Replace(openHead, old, text, 1)
}

// maxHeadBytes is the largest head that package accept reads itself.
const maxHeadBytes = 8 << 10

// watchedListener counts the connections that package accept passes to net/http.
type watchedListener struct {
	*accept.Listener
	passed atomic.Int64
}

func (l *watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.passed.Add(1)
	}
	return c, err
}

// listen serves the rig's proxy on another listener, with an event loop or with net/http alone.
func (r *rig) listen(network, address string, loop bool) *watchedListener {
	r.t.Helper()
	if loop && loopIsOff {
		r.t.Skip("needs the event loop")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		r.t.Fatal(err)
	}
	limits := r.proxy.Config().Limits
	srv := &http.Server{
		Handler: r.proxy, ReadHeaderTimeout: limits.ReadHeaderTimeout, IdleTimeout: limits.IdleTimeout,
		MaxHeaderBytes: int(limits.HeaderBytes),
	}
	served := make(chan struct{})
	watched := &watchedListener{Listener: r.proxy.Listener(ln, !loop).(*accept.Listener)}
	go func() {
		defer close(served)
		_ = srv.Serve(watched) // returns after Close
	}()
	r.t.Cleanup(func() {
		_ = srv.Close() // stops it whatever it returns
		<-served
	})
	return watched
}

// talk is a client's connection to a listener, driven by the test.
type talk struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
}

func newTalk(t *testing.T, ln net.Listener) *talk {
	t.Helper()
	conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &talk{t, conn, bufio.NewReader(conn)}
}

func (k *talk) say(s string) {
	k.t.Helper()
	if _, err := io.WriteString(k.conn, s); err != nil {
		k.t.Fatal(err)
	}
}

// changing matches values that differ between answers.
var changing = regexp.MustCompile(`(?m)^Date: .*$|"sid":"[^"]*"`)

// answer reads the answer to a request with this method and removes values that differ between
// answers. If there is none, it returns the error's text.
func (k *talk) answer(method string) string {
	resp, err := http.ReadResponse(k.br, &http.Request{Method: method})
	if err != nil {
		return "none"
	}
	defer resp.Body.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", resp.Proto, resp.Status)
	if resp.Close {
		b.WriteString("Connection: close\n")
	}
	if resp.StatusCode == http.StatusContinue {
		return "continue"
	}
	resp.Header.Del("Connection") // net/http writes it for some answers only; resp.Close has the meaning
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Header.Set("Connection", "Upgrade")
	}
	_ = resp.Header.Write(&b) // a Builder never fails
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		fmt.Fprintf(&b, "%d %s", len(body), body)
	}
	return changing.ReplaceAllString(b.String(), "-")
}

// wantEnd reads until the other end closes the connection.
func (k *talk) wantEnd() {
	k.t.Helper()
	if _, err := io.Copy(io.Discard, k.br); isTimeout(err) {
		k.t.Error("the connection was left open")
	}
}

// Requests get the same answers with and without net/http. Handshakes in the form that clients
// write are served without net/http. Unusual ones go to net/http.
func TestListenerAnswersLikeNetHTTP(t *testing.T) {
	r := newRig(t, nil)
	loop, plain := r.listen("tcp", "127.0.0.1:0", true), r.listen("tcp", "127.0.0.1:0", false)
	client := r.client() // over WebSocket
	sid := r.byOrder(1).sock.SID()
	r.socket(0)
	for _, tt := range []struct {
		name, head string
		simple     bool // served without net/http
	}{
		{"a handshake", openHead, true},
		{"in lower case", strings.NewReplacer("Host:", "host:", "Connection: Upgrade", "connection: upgrade", "Sec-WebSocket", "sec-websocket", "Upgrade:", "upgrade:").Replace(openHead), true},
		{"in upper case", strings.NewReplacer("Host:", "HOST:", "Connection: Upgrade", "CONNECTION: UPGRADE", "Upgrade: websocket", "UPGRADE: WEBSOCKET").Replace(openHead), true},
		{"of Firefox", with("Connection: Upgrade", "Connection: keep-alive, Upgrade"), true},
		{"without blanks after colons", strings.ReplaceAll(openHead, ": ", ":"), true},
		{"with headers of a browser", with("\r\n\r\n", "\r\nOrigin: https://app.test\r\nCookie: a=b; c=\"d\"\r\nUser-Agent: x (y; z)\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), true},
		{"with an empty header", with("\r\n\r\n", "\r\nX-A:\r\n\r\n"), true},
		{"to a port", with("app.test", "app.test:8080"), true},
		{"to an IPv6 address", with("app.test", "[::1]:8080"), true},
		{"an upgrade with an unknown sid", with("EIO=4", "EIO=4&sid=nobody"), false},
		{"an upgrade of one that is none", with("EIO=4", "EIO=4&sid="+sid), true},
		{"a sid that is escaped", with("EIO=4", "EIO=4&s%69d="+sid), true},
		{"an empty sid", with("EIO=4", "EIO=4&sid="), true},
		{"another version", with("EIO=4", "EIO=3"), false},
		{"no version", with("EIO=4&", ""), false},
		{"JSONP", with("EIO=4", "EIO=4&j=0"), false},
		{"polling", with("transport=websocket", "transport=polling"), false},
		{"no upgrade", with("Upgrade: websocket\r\n", ""), false},
		{"to another protocol", with("Upgrade: websocket", "Upgrade: h2c"), false},
		{"to two protocols", with("Upgrade: websocket", "Upgrade: h2c, websocket"), false},
		{"twice", with("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c"), false},
		{"no Connection", with("Connection: Upgrade\r\n", ""), false},
		{"no key", with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), true},
		{"a bad key", with("dGhlIHNhbXBsZSBub25jZQ==", "x"), true},
		{"an old WebSocket", with("Version: 13", "Version: 8"), true},
		{"another path", with("/socket.io/", "/other/"), false},
		{"a path that is not clean", with("/socket.io/", "/socket.io//../"), true},
		{"no path", with("/socket.io/?", "?"), false},
		{"an asterisk", with("/socket.io/?EIO=4&transport=websocket", "*"), false},
		{"an absolute target", with("/socket.io/", "http://app.test/socket.io/"), false},
		{"two slashes", with("/socket.io/", "//socket.io/"), false},
		{"a bad escape in the path", with("/socket.io/", "/socket.io/%zz"), false},
		{"a bad escape in the query", with("EIO=4", "EIO=4&x=%zz"), true},
		{"a semicolon in the query", with("EIO=4", "x;EIO=4"), false},
		{"a fragment", with("EIO=4", "EIO=4#x"), false},
		{"a blank in the target", with("EIO=4", "EIO=4 x"), false},
		{"two blanks", with("GET /", "GET  /"), false},
		{"a tab", with("GET /", "GET\t/"), false},
		{"a blank at the end", with("HTTP/1.1\r\n", "HTTP/1.1 \r\n"), false},
		{"POST", with("GET", "POST"), false},
		{"get", with("GET", "get"), false},
		{"HEAD", with("GET", "HEAD"), false},
		{"OPTIONS", with("GET", "OPTIONS"), false},
		{"CONNECT", with("GET /socket.io/", "CONNECT /socket.io/"), false},
		{"HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), false},
		{"HTTP/1.2", with("HTTP/1.1", "HTTP/1.2"), false},
		{"HTTP/2.0", with("HTTP/1.1", "HTTP/2.0"), false},
		{"http/1.1", with("HTTP/1.1", "http/1.1"), false},
		{"no version of HTTP", with(" HTTP/1.1", ""), false},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", false},
		{"an empty line first", "\r\n" + openHead, false},
		{"no Host", with("Host: app.test\r\n", ""), false},
		{"an empty Host", with("Host: app.test", "Host:"), false},
		{"two Hosts", with("Host: app.test", "Host: app.test\r\nHost: b.test"), false},
		{"one Host twice", with("Host: app.test", "Host: app.test\r\nhost: app.test"), false},
		{"a bad Host", with("app.test", "app test"), false},
		{"a Host with a path", with("app.test", "app.test/x"), false},
		{"a blank before a colon", with("Host:", "Host :"), false},
		{"a blank in a name", with("\r\n\r\n", "\r\nX A: b\r\n\r\n"), false},
		{"a name with other characters", with("\r\n\r\n", "\r\nX(A): b\r\n\r\n"), false},
		{"a name of odd characters that are good", with("\r\n\r\n", "\r\nX!A: b\r\n\r\n"), false},
		{"no name", with("\r\n\r\n", "\r\n: b\r\n\r\n"), false},
		{"no colon", with("\r\n\r\n", "\r\nX-A\r\n\r\n"), false},
		{"a folded line", with("app.test", "app.test\r\n x"), false},
		{"a line folded by a tab", with("app.test", "app.test\r\n\tx"), false},
		{"a first line that is folded", with("Host:", " X-A: b\r\nHost:"), false},
		{"a tab in a value", with("\r\n\r\n", "\r\nX-A: b\tc\r\n\r\n"), false},
		{"UTF-8", with("\r\n\r\n", "\r\nX-A: ü\r\n\r\n"), false},
		{"a NUL", with("\r\n\r\n", "\r\nX-A: b\x00c\r\n\r\n"), false},
		{"a DEL", with("\r\n\r\n", "\r\nX-A: b\x7fc\r\n\r\n"), false},
		{"a NUL in the target", with("EIO=4", "EIO=4\x00"), false},
		{"a bare CR", with("\r\n\r\n", "\r\nX-A: b\rX-B: c\r\n\r\n"), false},
		{"a bare LF", with("Host: app.test\r\n", "Host: app.test\n"), false},
		{"a bare LF behind the first line", with("HTTP/1.1\r\n", "HTTP/1.1\n"), false},
		{"a bare LF at the end", strings.TrimSuffix(openHead, "\r\n") + "\n", false},
		{"only bare LFs", strings.ReplaceAll(openHead, "\r\n", "\n"), false},
		{"a length", with("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"), false},
		{"a length of 0", with("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"), false},
		{"a length with a blank before the colon", with("\r\n\r\n", "\r\nContent-Length : 5\r\n\r\n"), false},
		{"two lengths", with("\r\n\r\n", "\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n"), false},
		{"chunks", with("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), false},
		{"an unknown coding", with("\r\n\r\n", "\r\nTransfer-Encoding: x\r\n\r\n"), false},
		{"a trailer", with("\r\n\r\n", "\r\nTrailer: X-A\r\n\r\n"), false},
		{"an expectation", with("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"), false},
		{"another expectation", with("\r\n\r\n", "\r\nExpect: x\r\n\r\n"), false},
		{"a large header", with("\r\n\r\n", "\r\nX-A: "+strings.Repeat("x", 7<<10)+"\r\n\r\n"), true},
		{"a larger one", with("\r\n\r\n", "\r\nX-A: "+strings.Repeat("x", maxHeadBytes)+"\r\n\r\n"), false},
		{"a huge one", with("\r\n\r\n", "\r\nX-A: "+strings.Repeat("x", 70<<10)+"\r\n\r\n"), false},
		{"a huge target", with("EIO=4", "EIO=4&x="+strings.Repeat("x", 70<<10)), false},
		{"what begins with bytes behind it", openHead + "\x81\x80abcd", false},
		{"a page", "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", false},
		{"a page under the path", "GET /socket.io/ HTTP/1.1\r\nHost: app.test\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method, _, _ := strings.Cut(tt.head, " ")
			ask := func(ln net.Listener) string {
				k := newTalk(t, ln)
				_, _ = io.WriteString(k.conn, tt.head) // fails if it is refused before all is read
				return k.answer(method)
			}
			passed := loop.passed.Load()
			got := ask(loop)
			if simple := loop.passed.Load() == passed; simple != tt.simple {
				t.Errorf("served without net/http: %v, want %v", simple, tt.simple)
			}
			want := ask(plain)
			// The loop always closes the connection after a refused upgrade, net/http only after
			// some.
			if tt.simple && !strings.HasPrefix(want, "HTTP/1.1 101") {
				want = strings.Replace(want, "Connection: close\n", "", 1)
				got = strings.Replace(got, "Connection: close\n", "", 1)
			}
			if got != want {
				t.Errorf("answer\n%s\nwant\n%s", got, want)
			}
		})
	}
	client.Close()
}

// awaitNoConnections waits until the listener counts no connections.
func (r *rig) awaitNoConnections(ln *watchedListener) {
	r.t.Helper()
	r.await("no connections to be counted", func() bool { return ln.Connections() == 0 })
}

// A head may arrive in any pieces.
func TestHeadsInPieces(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Limits.ReadHeaderTimeout = time.Minute })
	ln := r.listen("tcp", "127.0.0.1:0", true)
	for _, head := range []string{openHead, with("\r\n\r\n", "\r\nX-A: "+strings.Repeat("x", 4<<10)+"\r\n\r\n"), "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"} {
		k := newTalk(t, ln)
		for i := range len(head) {
			k.say(head[i : i+1])
		}
		if got := k.answer("GET"); !strings.HasPrefix(got, "HTTP/1.1 101") && !strings.HasPrefix(got, "HTTP/1.1 404") {
			t.Errorf("%.30q got %s", head, got)
		}
		k.conn.Close()
	}
	r.awaitNoConnections(ln)
}

// The timeout for a head is the same with and without net/http. It does not start again when a
// connection is passed to net/http.
func TestHeadTimeout(t *testing.T) {
	const limit = 2 * time.Second
	r := newRig(t, func(c *config.Config) { c.Limits.ReadHeaderTimeout = limit })
	var wg sync.WaitGroup
	for _, ln := range []*watchedListener{r.listen("tcp", "127.0.0.1:0", true), r.listen("unix", filepath.Join(t.TempDir(), "s"), true)} {
		for _, pieces := range [][]string{
			{""},
			{"G"},
			{openHead[:len(openHead)-2]},
			{"", "POST"}, // goes to net/http late
			{"GE", "X"},
			{"GET /", strings.Repeat("x", maxHeadBytes)},
		} {
			wg.Go(func() {
				steady.Try(t, limit/20, func() error {
					start := time.Now()
					k := newTalk(t, ln)
					for i, p := range pieces {
						time.Sleep(time.Until(start.Add(time.Duration(i) * limit * 8 / 10))) // the test is about real time
						_, _ = io.WriteString(k.conn, p)                                     // fails if it has ended too early
					}
					k.wantEnd()
					if took := time.Since(start); took < limit || took > limit*17/10 {
						return fmt.Errorf("%s, %.10q: ended after %v, want %v", ln.Addr().Network(), pieces, took, limit)
					}
					return nil
				})
			})
		}
	}
	wg.Wait()
}

// A silent connection takes little memory and no goroutine.
func TestSilentConnectionsTakeLittleMemory(t *testing.T) {
	const n = 400
	r := newRig(t, func(c *config.Config) { c.Limits.ReadHeaderTimeout = time.Minute })
	ln := r.listen("tcp", "127.0.0.1:0", true)
	newTalk(t, ln).conn.Close()
	r.await("the first to be gone", func() bool { return ln.Connections() == 0 })
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	memory, goroutines := heap(), runtime.NumGoroutine()
	for range n {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte("GET /")); err != nil {
			t.Fatal(err)
		}
	}
	r.await("the connections", func() bool { return ln.Connections() == n })
	if got := (heap() - memory) / n; got > 3<<10 { // includes the test's own ends
		t.Errorf("a connection takes %d bytes", got)
	} else {
		t.Logf("a connection takes %d bytes", got)
	}
	if got := runtime.NumGoroutine() - goroutines; got > n/10 {
		t.Errorf("%d connections have %d goroutines", n, got)
	}
}

// Each connection counts once while it is open, and no longer after its end, however it ends.
func TestClosedConnectionsNoLongerCount(t *testing.T) {
	const limit = 5
	r := newRig(t, func(c *config.Config) {
		c.Limits.ReadHeaderTimeout = time.Minute
		c.Limits.MaxConnections = limit
	})
	ln := r.listen("tcp", "127.0.0.1:0", true)
	impatient := newRig(t, func(c *config.Config) {
		c.Limits.ReadHeaderTimeout = 300 * time.Millisecond
		c.Limits.MaxConnections = limit
	})
	end := func(k *talk) { k.conn.Close() }
	for _, tt := range []struct {
		name string
		do   func(k *talk)
	}{
		{"gone immediately", end},
		{"gone amid a head", func(k *talk) { k.say("GET /"); end(k) }},
		{"gone with a head", func(k *talk) { k.say(openHead); end(k) }},
		{"gone with another head", func(k *talk) { k.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); end(k) }},
		{"a WebSocket", func(k *talk) { k.say(openHead); k.answer("GET"); end(k) }},
		{"a WebSocket that is refused", func(k *talk) { k.say(with("Version: 13", "Version: 1")); k.answer("GET"); k.wantEnd() }},
		{"a page", func(k *talk) { k.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); k.answer("GET"); end(k) }},
		{"a bad request", func(k *talk) { k.say("x\r\n\r\n"); k.answer("GET"); k.wantEnd() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range limit + 1 {
				tt.do(newTalk(t, ln))
				r.awaitNoConnections(ln)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		ln := impatient.listen("tcp", "127.0.0.1:0", true)
		for range limit + 1 {
			newTalk(t, ln).wantEnd()
			impatient.awaitNoConnections(ln)
		}
	})
	var open []*talk
	for range limit {
		open = append(open, newTalk(t, ln))
	}
	newTalk(t, ln).wantEnd()
	r.await("the refusal to be logged", func() bool { return strings.Contains(r.logs.String(), "limit reached") })
	for _, k := range open {
		k.conn.Close()
	}
	r.awaitNoConnections(ln)
}
