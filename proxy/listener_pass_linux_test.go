package proxy

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
)

// net/http reads a connection that is passed to it from the first byte, for every kind of request.
func TestListenerPassesConnectionsWhole(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws": // a WebSocket of another protocol, which echoes
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(conn, rw)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			body, err := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "%s %s: %d, %x, %v", r.Method, r.URL, len(body), sha256.Sum256(body), err)
		}
	}))
	t.Cleanup(up.Close)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{up.URL} })
	for _, ln := range []*watchedListener{r.listen("tcp", "127.0.0.1:0", true), r.listen("unix", filepath.Join(t.TempDir(), "s"), true)} {
		t.Run(ln.Addr().Network(), func(t *testing.T) {
			body := strings.Repeat("0123456789abcdef", 1<<18)
			sum := fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
			t.Run("an upload", func(t *testing.T) {
				k := newTalk(t, ln)
				k.say(fmt.Sprintf("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
				if got := k.answer("POST"); !strings.Contains(got, sum) {
					t.Error(got)
				}
			})
			t.Run("an expectation", func(t *testing.T) {
				k := newTalk(t, ln)
				k.say(fmt.Sprintf("POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)))
				if got := k.answer("POST"); got != "continue" {
					t.Fatal(got)
				}
				k.say(body)
				got := "continue"
				for got == "continue" { // the upstream sends one as well
					got = k.answer("POST")
				}
				if !strings.Contains(got, sum) {
					t.Error(got)
				}
			})
			t.Run("requests in a row, and one that follows", func(t *testing.T) {
				k := newTalk(t, ln)
				const get, head = "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /%d HTTP/1.1\r\nHost: a\r\n\r\n"
				k.say(fmt.Sprintf(get+head+get, 1, 2, 3))
				for i, method := range []string{"GET", "HEAD", "GET"} {
					if got := k.answer(method); !strings.HasPrefix(got, "HTTP/1.1 200") || method == "GET" && !strings.Contains(got, fmt.Sprintf("GET /%d: 0", i+1)) {
						t.Errorf("%d: %s", i, got)
					}
				}
				k.say(fmt.Sprintf(get, 4))
				if got := k.answer("GET"); !strings.Contains(got, "GET /4") {
					t.Error(got)
				}
			})
			t.Run("a handshake on a connection with requests before", func(t *testing.T) {
				k := newTalk(t, ln)
				k.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
				k.answer("GET")
				k.say(with("EIO=4", "EIO=3"))
				if got := k.answer("GET"); !strings.Contains(got, "EIO=3") {
					t.Error(got)
				}
			})
			t.Run("events", func(t *testing.T) {
				k := newTalk(t, ln)
				k.say("GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
				resp, err := http.ReadResponse(k.br, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					k.conn.Close() // before Close, which would read on
					resp.Body.Close()
				}()
				event := make([]byte, len("data: 1\n\n"))
				if _, err := io.ReadFull(resp.Body, event); err != nil || string(event) != "data: 1\n\n" {
					t.Errorf("got %q, %v", event, err)
				}
			})
			t.Run("another WebSocket", func(t *testing.T) {
				k := newTalk(t, ln)
				k.say("GET /ws HTTP/1.1\r\nHost: a\r\n" + upgradeLines + "\r\n")
				if got := k.answer("GET"); !strings.HasPrefix(got, "HTTP/1.1 101") {
					t.Fatal(got)
				}
				k.say("hello")
				echo := make([]byte, 5)
				if _, err := io.ReadFull(k.br, echo); err != nil || string(echo) != "hello" {
					t.Errorf("got %q, %v", echo, err)
				}
			})
		})
		r.awaitNoConnections(ln)
	}
}
