package sioserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) { steady.VerifyTestMain(m) }

// waitLimit is how long a test waits for something that must happen.
const waitLimit = 30 * time.Second

// fixture is a server and a way to reach it.
type fixture struct {
	*Server
	t    *testing.T
	base string // http://host:port/socket.io/
	http *http.Client
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	wait time.Duration // for a message
}

// start serves on a loopback port until the test ends.
func start(t *testing.T, opts Options) *fixture {
	t.Helper()
	s := New(opts)
	ts := httptest.NewServer(s)
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(func() {
		s.Close()
		tr.CloseIdleConnections()
		ts.Close()
	})
	return &fixture{
		Server: s, t: t, base: ts.URL + "/socket.io/",
		http: &http.Client{Transport: tr, Timeout: waitLimit},
		dial: (&net.Dialer{}).DialContext,
		wait: waitLimit,
	}
}

// response is a whole HTTP response.
type response struct {
	status int
	header http.Header
	body   string
}

// do sends a request; the query follows EIO=4&transport=polling&.
func (f *fixture) do(method, query, body string) response {
	f.t.Helper()
	r, err := f.try(f.t.Context(), method, "?EIO=4&transport=polling"+query, body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, query, err)
	}
	return r
}

func (f *fixture) try(ctx context.Context, method, target, body string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.base+target, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	res, err := f.http.Do(req)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(data)}, err
}

// open makes a polling session and returns "&sid=...".
func (f *fixture) open() string {
	f.t.Helper()
	return "&sid=" + sidOf(f.t, f.do("GET", "", "").body)
}

func sidOf(t *testing.T, open string) string {
	t.Helper()
	var h struct {
		SID string `json:"sid"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(open, "0")), &h); err != nil || h.SID == "" {
		t.Fatalf("handshake %q: %v", open, err)
	}
	return h.SID
}

// post sends packets and wants "ok".
func (f *fixture) post(sid, body string) {
	f.t.Helper()
	if r := f.do("POST", sid, body); r.status != 200 || r.body != "ok" {
		f.t.Fatalf("POST %q = %d %q, want 200 ok", body, r.status, r.body)
	}
}

// wantPoll polls once.
func (f *fixture) wantPoll(sid, want string) {
	f.t.Helper()
	if r := f.do("GET", sid, ""); r.status != 200 || r.body != want {
		f.t.Errorf("poll = %d %q, want 200 %q", r.status, r.body, want)
	}
}

// wantEnded checks that the session is unknown.
func (f *fixture) wantEnded(sid string) {
	f.t.Helper()
	const want = `{"code":1,"message":"Session ID unknown"}`
	if r := f.do("GET", sid, ""); r.status != 400 || r.body != want {
		f.t.Errorf("poll of an ended session = %d %q, want 400 %q", r.status, r.body, want)
	}
}

// pollLater polls in the background, and returns once the poll waits.
func (f *fixture) pollLater(ctx context.Context, sid string) <-chan response {
	f.t.Helper()
	c := f.lookup(strings.TrimPrefix(sid, "&sid="))
	answer := make(chan response, 1) // the poll ends whether or not anyone looks
	go func() {
		defer close(answer)
		if r, err := f.try(ctx, "GET", "?EIO=4&transport=polling"+sid, ""); err == nil {
			answer <- r
		}
	}()
	await(f.t, "the poll to wait", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.poll != nil
	})
	return answer
}

// await waits for a condition that nothing signals.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s in time", what)
		}
	}
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

// rawWS is a WebSocket of the test's own.
type rawWS struct {
	t    *testing.T
	nc   net.Conn
	in   *wire.MessageReader
	wait time.Duration
}

// dialWS opens a WebSocket; the query follows EIO=4&transport=websocket.
func (f *fixture) dialWS(query string) *rawWS {
	f.t.Helper()
	w, err := f.tryWS("?EIO=4&transport=websocket" + query)
	if err != nil {
		f.t.Fatalf("WebSocket %s: %v", query, err)
	}
	return w
}

func (f *fixture) tryWS(target string) (*rawWS, error) {
	d := ws.Dialer{NetDial: f.dial}
	nc, br, _, err := d.Dial(context.Background(), "ws"+strings.TrimPrefix(f.base, "http")+target)
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { nc.Close() })
	if br == nil {
		br = bufio.NewReader(nc)
	}
	return &rawWS{f.t, nc, wire.NewMessageReader(br, ws.StateClientSide, 0), f.wait}, nil
}

// connectWS opens a session by WebSocket, in the main namespace.
func (f *fixture) connectWS() *rawWS {
	f.t.Helper()
	w := f.dialWS("")
	w.wantPrefix(`0{"sid":"`)
	w.send("40")
	w.wantPrefix(`40{"sid":"`)
	return w
}

func (w *rawWS) send(text string) { w.frame(ws.NewTextFrame([]byte(text))) }

func (w *rawWS) frame(f ws.Frame) {
	w.t.Helper()
	if _, err := w.nc.Write(ws.MustCompileFrame(ws.MaskFrame(f))); err != nil {
		w.t.Fatalf("writing: %v", err)
	}
}

// next returns the next message, binary ones with a leading 'b'. The end of
// the connection is "end", a close frame "close N".
func (w *rawWS) next() string {
	w.t.Helper()
	w.nc.SetReadDeadline(time.Now().Add(w.wait))
	op, payload, err := w.in.Next()
	switch {
	case err != nil:
		if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
			w.t.Fatal("no message in time")
		}
		return "end"
	case op == ws.OpBinary:
		return "b" + string(payload)
	case op == ws.OpPong:
		return "pong " + string(payload)
	case op == ws.OpClose:
		code, _ := ws.ParseCloseFrameData(payload)
		return fmt.Sprintf("close %d", code)
	}
	return string(payload)
}

func (w *rawWS) want(want ...string) {
	w.t.Helper()
	for _, m := range want {
		if got := w.next(); got != m {
			w.t.Fatalf("message %q, want %q", got, m)
		}
	}
}

func (w *rawWS) wantPrefix(prefix string) {
	w.t.Helper()
	if got := w.next(); !strings.HasPrefix(got, prefix) {
		w.t.Fatalf("message %q, want %s...", got, prefix)
	}
}

// wantClose wants a close frame without a code, then, answered, the end.
func (w *rawWS) wantClose() {
	w.t.Helper()
	w.want("close 0")
	w.frame(ws.NewCloseFrame(nil))
	w.want("end")
}
