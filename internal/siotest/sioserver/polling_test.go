package sioserver

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestPollingHandshake(t *testing.T) {
	f := start(t, Options{PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond})
	r := f.do("GET", "&t=abc", "")
	want := `^0\{"sid":"[-_0-9A-Za-z]{20}","upgrades":\["websocket"\],"pingInterval":300,"pingTimeout":200,"maxPayload":1000000\}$`
	if r.status != 200 || !regexp.MustCompile(want).MatchString(r.body) {
		t.Errorf("handshake = %d %s, want %s", r.status, r.body, want)
	}
	if got := r.header.Get("Content-Type"); got != "text/plain; charset=UTF-8" {
		t.Errorf("Content-Type %q", got)
	}
	if got := r.header.Get("Content-Length"); got != fmt.Sprint(len(r.body)) {
		t.Errorf("Content-Length %q, body has %d", got, len(r.body))
	}
}

func TestRefusals(t *testing.T) {
	f := start(t, Options{AllowRequest: func(r *http.Request) error {
		if r.URL.Query().Has("evil") {
			return errors.New("not you")
		}
		return nil
	}})
	sid := f.open()
	tests := []struct {
		name, method, target string
		status               int
		body                 string
	}{
		{"no transport", "GET", "?EIO=4", 400, `{"code":0,"message":"Transport unknown"}`},
		{"unknown transport", "GET", "?EIO=4&transport=abc", 400, `{"code":0,"message":"Transport unknown"}`},
		{"unknown sid", "GET", "?EIO=4&transport=polling&sid=x", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"POST to an unknown sid", "POST", "?EIO=4&transport=polling&sid=x", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"handshake by POST", "POST", "?EIO=4&transport=polling", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"preflight without CORS", "OPTIONS", "?EIO=4&transport=polling", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"WebSocket without upgrade", "GET", "?EIO=4&transport=websocket", 400, `{"code":3,"message":"Bad request"}`},
		{"forbidden", "GET", "?EIO=4&transport=polling&evil", 403, `{"code":4,"message":"not you"}`},
		{"no EIO", "GET", "?transport=polling", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"EIO 3", "GET", "?EIO=3&transport=polling", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"PUT to a session", "PUT", "?EIO=4&transport=polling" + sid, 500, ""},
		{"prefix of the path", "GET", "foo?EIO=4", 400, `{"code":0,"message":"Transport unknown"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := f.try(t.Context(), tt.method, tt.target, "")
			if err != nil || r.status != tt.status || r.body != tt.body {
				t.Errorf("%s %s = %d %s, %v; want %d %s", tt.method, tt.target, r.status, r.body, err, tt.status, tt.body)
			}
			if strings.HasPrefix(tt.body, "{") && r.header.Get("Content-Type") != "application/json" {
				t.Errorf("Content-Type %q", r.header.Get("Content-Type"))
			}
		})
	}
	f.post(sid, "40") // the session has survived
	f.base = strings.TrimSuffix(f.base, "/")
	if r := f.do("GET", "", ""); r.status != 404 {
		t.Errorf("path without the last slash = %d, want 404", r.status)
	}
}

func TestPollingEvents(t *testing.T) {
	f := start(t, Options{})
	f.OnConnect("/", func(s *Socket) error {
		s.Emit("hello", 1, json.RawMessage(`{"a":"<b>"}`)) // after the CONNECT reply
		s.On("echo", func(args []json.RawMessage, ack func(...any)) {
			if ack != nil {
				ack(args[0])
				ack("twice") // has no effect
				return
			}
			s.Emit("echo", args[0])
		})
		s.OnBinary("bytes", func(args []any, ack func(...any)) {
			s.Emit("bytes", args...)
			ack(args...)
		})
		return nil
	})
	sid := f.open()
	f.post(sid, `40{"token":"x"}`)
	r := f.do("GET", sid, "")
	want := `^40\{"sid":"[-_0-9A-Za-z]{20}"\}` + "\x1e" + regexp.QuoteMeta(`42["hello",1,{"a":"<b>"}]`) + `$`
	if !regexp.MustCompile(want).MatchString(r.body) {
		t.Fatalf("CONNECT reply %q, want %s", r.body, want)
	}
	f.post(sid, "42[\"echo\",\"é\"]\x1e4212[\"echo\",null]")
	f.wantPoll(sid, "42[\"echo\",\"é\"]\x1e4312[null]")

	f.post(sid, "451-7[\"bytes\",{\"_placeholder\":true,\"num\":0},2]\x1ebAQID")
	f.wantPoll(sid, "451-[\"bytes\",{\"_placeholder\":true,\"num\":0},2]\x1ebAQID\x1e"+
		"461-7[{\"_placeholder\":true,\"num\":0},2]\x1ebAQID")
}

func TestPollWaitsForPackets(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	f.post(sid, "40")
	f.do("GET", sid, "")
	answer := f.pollLater(t.Context(), sid)
	f.Emit("news", "x")
	if r := recv(t, "the poll", answer); r.body != `42["news","x"]` {
		t.Errorf("poll = %q", r.body)
	}
}

func TestLargePayloadsAreCompressedIfAccepted(t *testing.T) {
	f := start(t, Options{})
	for _, size := range []int{500, 5000} {
		sid := f.open()
		f.post(sid, "40")
		f.do("GET", sid, "")
		long := strings.Repeat("x", size)
		f.Emit("long", long)
		req, err := http.NewRequestWithContext(t.Context(), "GET", f.base+"?EIO=4&transport=polling"+sid, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = res.Body
		if got, want := res.Header.Get("Content-Encoding") == "gzip", size > 1024; got != want {
			t.Errorf("%d bytes: compressed %v, want %v", size, got, want)
		} else if got {
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		data, err := io.ReadAll(body)
		res.Body.Close()
		if want := `42["long","` + long + `"]`; string(data) != want || err != nil {
			t.Errorf("%d bytes: got %d, %v", size, len(data), err)
		}
	}
}

func TestOverlappingPollEndsTheSession(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	first := f.pollLater(t.Context(), sid)
	if r := f.do("GET", sid, ""); r.status != 500 || r.body != "" {
		t.Errorf("second poll = %d %q, want 500, empty", r.status, r.body)
	}
	if r := recv(t, "the first poll", first); r.status != 200 || r.body != "1" {
		t.Errorf("first poll = %d %q, want 200 1", r.status, r.body)
	}
	f.wantEnded(sid)
}

func TestCancelledPollEndsTheSession(t *testing.T) {
	f := start(t, Options{})
	reasons := watch(f)
	sid := f.open()
	f.post(sid, "40")
	f.do("GET", sid, "")
	ctx, cancel := context.WithCancel(t.Context())
	f.pollLater(ctx, sid)
	cancel()
	if got := recv(t, "the disconnect", reasons); got != "transport error" {
		t.Errorf("reason %q, want transport error", got)
	}
	f.wantEnded(sid)
}

// watch reports why sockets of the main namespace end.
func watch(f *fixture) <-chan string {
	reasons := make(chan string, 16) // more than any test has sockets
	f.OnConnect("/", func(s *Socket) error {
		s.OnDisconnect(func(reason string) { reasons <- reason })
		return nil
	})
	return reasons
}

func TestPostsThatEndTheSession(t *testing.T) {
	tests := []struct {
		name, body, polled, reason string
	}{
		{"close packet", "1", "6", "transport close"},
		{"ping", "2", "1", "transport error"},
		{"empty", "", "1", "parse error"},
		{"no packet", "abc", "1", "parse error"},
		{"bad base64", "b!", "1", "parse error"},
		{"bad Socket.IO packet", "4abc", "1", "forced close"},
		{"bad payload", "42{}", "1", "forced close"},
		{"second CONNECT", "40", "1", "forced close"},
		{"event for a namespace without CONNECT", `42/x,["a"]`, "1", "forced close"},
		{"CONNECT_ERROR from a client", `44{"message":"a"}`, "1", "forced close"},
		{"attachment that was not announced", "bAQID", "1", "forced close"},
		{"text between attachments", "451-[\"a\",{\"_placeholder\":true,\"num\":0}]\x1e42[\"a\"]", "1", "forced close"},
		{"placeholder of no attachment", "451-[\"a\",{\"_placeholder\":true,\"num\":1}]\x1ebAQID", "1", "forced close"},
		{"CONNECT right behind DISCONNECT", "41\x1e40", "1", "forced close"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, Options{})
			reasons := watch(f)
			sid := f.open()
			f.post(sid, "40")
			f.do("GET", sid, "")
			answer := f.pollLater(t.Context(), sid)
			f.post(sid, tt.body)
			if r := recv(t, "the poll", answer); r.status != 200 || r.body != tt.polled {
				t.Errorf("waiting poll = %d %q, want 200 %q", r.status, r.body, tt.polled)
			}
			if got := recv(t, "the disconnect", reasons); got != tt.reason {
				t.Errorf("reason %q, want %q", got, tt.reason)
			}
			f.wantEnded(sid)
		})
	}
}

func TestPacketsWithoutEffect(t *testing.T) {
	f := start(t, Options{})
	f.OnConnect("/", func(*Socket) error { return nil })
	sid := f.open()
	f.post(sid, "5\x1e6\x1e0\x1e3")
	f.post(sid, "40")
}

func TestServerClosesWithoutPollWaiting(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	f.post(sid, "4abc")
	f.wantPoll(sid, "6\x1e1")
	f.wantEnded(sid)
}

func TestEventsOfAPayloadWaitForItsEnd(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	f.post(sid, "40\x1e42[\"early\"]") // no CONNECT has been answered yet
	f.wantPoll(sid, "6\x1e1")
}

func TestDisconnectByServer(t *testing.T) {
	for _, closeConn := range []bool{false, true} {
		t.Run(fmt.Sprint(closeConn), func(t *testing.T) {
			f := start(t, Options{})
			reasons := watch(f)
			f.OnConnect("/", func(s *Socket) error {
				s.On("bye", func([]json.RawMessage, func(...any)) { s.Disconnect(closeConn) })
				return nil
			})
			sid := f.open()
			f.post(sid, "40")
			f.do("GET", sid, "")
			answer := f.pollLater(t.Context(), sid)
			f.post(sid, `42["bye"]`)
			if r := recv(t, "the poll", answer); r.body != "41" {
				t.Errorf("waiting poll = %q, want 41", r.body)
			}
			if got := recv(t, "the disconnect", reasons); got != "server namespace disconnect" {
				t.Errorf("reason %q", got)
			}
			if closeConn {
				f.wantPoll(sid, "6\x1e1")
				f.wantEnded(sid)
				return
			}
			f.post(sid, "40") // the session lives on
			if r := f.do("GET", sid, ""); !strings.HasPrefix(r.body, `40{"sid":"`) {
				t.Errorf("after a new CONNECT: %q", r.body)
			}
		})
	}
}

func TestPostTooLarge(t *testing.T) {
	f := start(t, Options{MaxPayloadBytes: 100})
	sid := f.open()
	f.post(sid, "40")
	f.do("GET", sid, "")
	if r := f.do("POST", sid, strings.Repeat("x", 101)); r.status != 413 || r.body != "" {
		t.Errorf("POST of 101 bytes = %d %q, want 413, empty", r.status, r.body)
	}
	f.post(sid, `42["`+strings.Repeat("x", 94)+`"]`) // 100 bytes
	f.Emit("still", "there")
	f.wantPoll(sid, `42["still","there"]`)
}

func TestBinaryContentTypeEndsTheSession(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	res, err := f.http.Post(f.base+"?EIO=4&transport=polling"+sid, "application/octet-stream", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 400 {
		t.Errorf("status %d, want 400", res.StatusCode)
	}
	f.wantEnded(sid)
}

// rawPost begins a POST whose body never ends, and waits until it is received.
func rawPost(f *fixture, sid string) net.Conn {
	f.t.Helper()
	host := strings.TrimSuffix(strings.TrimPrefix(f.base, "http://"), "/socket.io/")
	nc, err := net.Dial("tcp", host)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { nc.Close() })
	_, err = fmt.Fprintf(nc, "POST /socket.io/?EIO=4&transport=polling%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\n40", sid, host)
	if err != nil {
		f.t.Fatal(err)
	}
	c := f.lookup(strings.TrimPrefix(sid, "&sid="))
	await(f.t, "the POST", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.post != nil
	})
	return nc
}

func TestOverlappingPostEndsTheSession(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	nc := rawPost(f, sid)
	if r := f.do("POST", sid, "40"); r.status != 500 {
		t.Errorf("second POST = %d, want 500", r.status)
	}
	if _, err := bufio.NewReader(nc).ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("first POST was answered, or %v; want its connection to end", err)
	}
	f.wantEnded(sid)
}

func TestCancelledPostEndsTheSession(t *testing.T) {
	f := start(t, Options{})
	sid := f.open()
	rawPost(f, sid).Close()
	await(t, "the end of the session", func() bool { return f.Len() == 0 })
	f.wantEnded(sid)
}

func TestPollingOnly(t *testing.T) {
	f := start(t, Options{Transports: []string{Polling}})
	if r := f.do("GET", "", ""); !strings.Contains(r.body, `"upgrades":[]`) {
		t.Errorf("handshake %s, want no upgrades", r.body)
	}
	if w, err := f.tryWS("?EIO=4&transport=websocket"); err == nil {
		t.Errorf("a WebSocket was accepted, its first message is %q", w.next())
	}
}

func TestHeaders(t *testing.T) {
	f := start(t, Options{
		CORSOrigin: "*",
		Headers: func(h http.Header, _ *http.Request, initial bool) {
			h.Set("X-Any", "1")
			if initial {
				h.Set("Set-Cookie", "io=1")
			}
		},
	})
	r := f.do("GET", "", "")
	if got := r.header.Get("Set-Cookie") + r.header.Get("X-Any"); got != "io=11" {
		t.Errorf("handshake: headers %v", r.header)
	}
	r = f.do("POST", "&sid="+sidOf(t, r.body), "40")
	if got := r.header.Get("Set-Cookie") + r.header.Get("X-Any"); got != "1" {
		t.Errorf("later: headers %v", r.header)
	}
	r = f.do("GET", "&sid=unknown", "")
	if got := r.header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("refusal: Access-Control-Allow-Origin %q", got)
	}
	r = f.do("OPTIONS", "", "")
	if r.status != 204 || r.header.Get("Access-Control-Allow-Methods") == "" {
		t.Errorf("preflight = %d, %v", r.status, r.header)
	}
}
