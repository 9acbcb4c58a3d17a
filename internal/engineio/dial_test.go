package engineio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestDialWebSocket(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(true))
	x := s.handshake(t)
	if got := x.RequestURI; got != "/socket.io/?EIO=4&transport=websocket&t=abc&user=x%20y" {
		t.Errorf("the request is for %s", got)
	}
	if x.Host != "example.org" || x.Header.Get("Authorization") != "Bearer x" || x.Header.Get("Cookie") != "a=1" {
		t.Errorf("host %s, header %v", x.Host, x.Header)
	}
	if v := x.Header.Values("User-Agent"); len(v) > 0 {
		t.Errorf("the request has a User-Agent of its own: %q", v)
	}
	p := x.upgrade(t, http.Header{"X-Node": {"7"}}, openFrame())
	c := d.open(t)
	if h := c.Handshake(); !equalHandshakes(h, serverHandshake) {
		t.Errorf("Handshake() = %+v", h)
	}
	if got := c.ResponseHeader().Get("X-Node"); got != "7" {
		t.Errorf("the response's header is %v", c.ResponseHeader())
	}
	if c.Transport() != "websocket" {
		t.Errorf("Transport() = %s", c.Transport())
	}
	l := begin(t, c)
	p.send(t, "4hello", "bAQI=")
	p.sendFrame(t, ws.OpBinary, []byte{3})
	l.want(t, "4hello", "b0102", "b03")
}

func TestDialPolling(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	x := s.handshake(t)
	if got := x.RequestURI; got != "/socket.io/?EIO=4&transport=polling&t=abc&user=x%20y" {
		t.Errorf("the request is for %s", got)
	}
	if x.Host != "example.org" || x.Header.Get("Authorization") != "Bearer x" || x.Header.Get("Cookie") != "a=1" {
		t.Errorf("host %s, header %v", x.Host, x.Header)
	}
	if v := x.Header.Values("User-Agent"); len(v) > 0 {
		t.Errorf("the request has a User-Agent of its own: %q", v)
	}
	x.w.Header().Set("X-Node", "7")
	x.answer(http.StatusOK, serverHandshake.with(nil)+"\x1e4early\x1ebAQI=")
	c := d.open(t)
	if h := c.Handshake(); !equalHandshakes(h, serverHandshake) {
		t.Errorf("Handshake() = %+v", h)
	}
	if got := c.ResponseHeader().Get("X-Node"); got != "7" {
		t.Errorf("the response's header is %v", c.ResponseHeader())
	}
	if c.Transport() != "polling" {
		t.Errorf("Transport() = %s", c.Transport())
	}
	l := begin(t, c)
	l.want(t, "4early", "b0102")
	x = s.poll(t)
	if q := x.URL.Query(); q.Get("EIO") != "4" || q.Get("sid") != "up" || q.Get("transport") != "polling" || q.Get("user") != "x y" {
		t.Errorf("polled with %s", x.URL.RawQuery)
	}
	if x.Header.Get("Authorization") != "Bearer x" || x.Header.Get("Cookie") != "a=1" {
		t.Errorf("polled with header %v", x.Header)
	}
	x.answer(http.StatusOK, "4hello")
	l.want(t, "4hello")
}

// Servers may send data directly after the OPEN packet, and TCP may split that anywhere.
func TestDialWebSocketWithEarlyFrames(t *testing.T) {
	long := strings.Repeat("c", 6000)
	open := openFrame()
	frames := slices.Concat(open, wire(
		fromServer(ws.OpText, "4a"), fromServer(ws.OpText, "2"), fromServer(ws.OpText, "6"), fromServer(ws.OpBinary, "\x01"),
		fromServer(ws.OpText, "4"+long), fromServer(ws.OpText, "4d"),
	))
	s := newServer(t, false)
	for _, cut := range []int{len(frames), len(frames) - 1, len(frames) - 3000, len(frames) - 6003, len(open) + 5, len(open), len(open) - 1, 1, 0} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			d := dial(s, clientRequest(true))
			p := s.handshake(t).upgrade(t, nil, frames[:cut])
			p.writeBytes(t, frames[cut:])
			l := begin(t, d.open(t))
			l.want(t, "4a", "b01", "4"+long, "4d")
			p.want(t, "3") // the answer to the ping
		})
	}
}

func TestDialPollingWithEarlyPackets(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	s.handshake(t).answer(http.StatusOK, serverHandshake.with(nil)+"\x1e4a\x1e2\x1ebAQI=\x1e6\x1e4b")
	l := begin(t, d.open(t))
	l.want(t, "4a", "b0102", "4b")
	s.wantPost(t, "3")
}

func TestEarlyClose(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	s.handshake(t).answer(http.StatusOK, serverHandshake.with(nil)+"\x1e4a\x1e1\x1e4b")
	l := newConnLog()
	d.open(t).Start(l)
	l.wantClosed(t, ErrServerClosed)
	l.want(t, "4a", "closed")

	d = dial(s, clientRequest(true))
	s.handshake(t).upgrade(t, nil, slices.Concat(openFrame(), wire(fromServer(ws.OpText, "4a"), fromServer(ws.OpClose, ""))))
	l = newConnLog()
	d.open(t).Start(l)
	l.wantClosed(t, ErrServerClosed)
	l.want(t, "4a", "closed")
}

func TestDialTLS(t *testing.T) {
	s := newServer(t, true)
	c, p := dialSocket(t, s)
	c.Send([]byte("before Start"), nil)
	c.Flush() // a goroutine writes it; there is no handler to call yet
	p.want(t, "4before Start")
	l := begin(t, c)
	p.send(t, "4hello")
	l.want(t, "4hello")
	c.Send([]byte("x"), nil)
	c.Flush()
	p.want(t, "4x")
	l.wantDrained(t)

	c = dialPolling(t, s, nil)
	l = begin(t, c)
	s.poll(t).answer(http.StatusOK, "4hello")
	l.want(t, "4hello")
}

func TestRejection(t *testing.T) {
	for _, websocket := range []bool{false, true} {
		for _, tt := range []struct {
			status int
			body   string
		}{
			{http.StatusForbidden, `{"code":4,"message":"no"}`},
			{http.StatusBadRequest, `{"code":5,"message":"Unsupported protocol version"}`},
			{http.StatusFound, "elsewhere"},
			{http.StatusServiceUnavailable, ""},
		} {
			t.Run(fmt.Sprint(websocket, tt.status), func(t *testing.T) {
				s := newServer(t, false)
				d := dial(s, clientRequest(websocket))
				x := s.handshake(t)
				x.w.Header().Set("Location", "/elsewhere")
				x.w.Header().Set("X-Why", "because")
				x.answer(tt.status, tt.body)
				_, err := d.wait(t)
				rejected, ok := errors.AsType[*RejectedError](err)
				if !ok {
					t.Fatalf("Dial: %v, want a RejectedError", err)
				}
				if rejected.Status != tt.status || string(rejected.Body) != tt.body || rejected.Header.Get("X-Why") != "because" {
					t.Errorf("rejected with %d %s, %v", rejected.Status, rejected.Body, rejected.Header)
				}
				if want := fmt.Sprintf("engineio: handshake refused with status %d", tt.status); rejected.Error() != want {
					t.Errorf("error %q, want %q", rejected, want)
				}
			})
		}
	}
}

// endless writes a header or a body without end.
func endless(t *testing.T, x *exchange, head string) {
	conn := x.hijack(t)
	if _, err := conn.Write([]byte(head)); err != nil {
		t.Error(err)
	}
	line := []byte("X: " + strings.Repeat("x", 64<<10-5) + "\r\n")
	for range 2 * maxHandshakeBytes / len(line) {
		if _, err := conn.Write(line); err != nil {
			return // the Dialer closed the connection
		}
	}
	_, _ = conn.Write([]byte("\r\n")) // a header ends here
}

func TestHandshakesAnswerIsBounded(t *testing.T) {
	for _, websocket := range []bool{false, true} {
		s := newServer(t, false)
		d := dial(s, clientRequest(websocket))
		x := s.handshake(t)
		head := "HTTP/1.1 200 OK\r\n\r\n0"
		if websocket {
			head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
				acceptKey(x.Header.Get("Sec-WebSocket-Key")) + "\r\n"
		}
		go endless(t, x, head)
		_, err := d.wait(t)
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); !errors.Is(err, io.ErrUnexpectedEOF) && (!ok || tooLarge.Limit != maxHandshakeBytes) {
			t.Errorf("websocket %v: Dial: %v", websocket, err)
		}
	}
}

func TestRejectionIsBounded(t *testing.T) {
	for _, websocket := range []bool{false, true} {
		s := newServer(t, false)
		d := dial(s, clientRequest(websocket))
		s.handshake(t).answer(http.StatusForbidden, strings.Repeat("x", 2*maxRejectionBytes))
		_, err := d.wait(t)
		rejected, ok := errors.AsType[*RejectedError](err)
		if !ok || len(rejected.Body) != maxRejectionBytes {
			t.Errorf("Dial: %v", err)
		}
	}
}

// Answers that are not valid Engine.IO.
func TestDialFails(t *testing.T) {
	polling := func(body string) func(t *testing.T, x *exchange) {
		return func(_ *testing.T, x *exchange) { x.answer(http.StatusOK, body) }
	}
	socket := func(header http.Header, frames ...rawFrame) func(t *testing.T, x *exchange) {
		return func(t *testing.T, x *exchange) { x.upgrade(t, header, wire(frames...)) }
	}
	text := func(s string) rawFrame { return fromServer(ws.OpText, s) }
	drop := func(t *testing.T, x *exchange) { x.drop(t) }
	anything := errors.New("any error")
	tests := []struct {
		name      string
		websocket bool
		answer    func(t *testing.T, x *exchange)
		err       error
	}{
		{"polling, HTML", false, polling("<html>"), ErrMalformed},
		{"polling, empty", false, polling(""), ErrMalformed},
		{"polling, message first", false, polling("4x\x1e" + serverHandshake.with(nil)), ErrMalformed},
		{"polling, bad OPEN", false, polling(`0{"sid":"x"}`), ErrMalformed},
		{"polling, bad packet behind", false, polling(serverHandshake.with(nil) + "\x1ex"), ErrMalformed},
		{"polling, no answer", false, drop, io.EOF},
		{"websocket, message first", true, socket(nil, text("4x")), ErrMalformed},
		{"websocket, empty frame", true, socket(nil, text("")), ErrMalformed},
		{"websocket, bad OPEN", true, socket(nil, text("0{}")), ErrMalformed},
		{"websocket, close", true, socket(nil, fromServer(ws.OpClose, "")), ErrServerClosed},
		{"websocket, broken frame", true, socket(nil, fromClient(ws.OpText, "4x")), anything},
		{"websocket, extension", true, socket(http.Header{"Sec-WebSocket-Extensions": {"permessage-deflate"}}), ErrMalformed},
		{"websocket, wrong key", true, func(t *testing.T, x *exchange) {
			x.Header.Set("Sec-WebSocket-Key", "another")
			x.upgrade(t, nil, nil)
		}, ErrMalformed},
		{"websocket, no answer", true, drop, io.ErrUnexpectedEOF},
		{"websocket, not HTTP", true, func(t *testing.T, x *exchange) {
			conn := x.hijack(t)
			_, _ = io.WriteString(conn, "hello, who is there?\r\n\r\n")
			conn.Close()
		}, anything},
		{"websocket, end before OPEN", true, func(t *testing.T, x *exchange) { x.upgrade(t, nil, nil).conn.Close() }, io.EOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, false)
			d := dial(s, clientRequest(tt.websocket))
			tt.answer(t, s.handshake(t))
			c, err := d.wait(t)
			if err == nil || c != nil || !errors.Is(err, tt.err) && !errors.Is(tt.err, anything) {
				t.Errorf("Dial = %v, %v; want error %v", c, err, tt.err)
			}
			if _, ok := errors.AsType[*RejectedError](err); ok {
				t.Errorf("%v is taken for a refusal", err)
			}
		})
	}
}

func TestDialUnreachable(t *testing.T) {
	s := newServer(t, false)
	s.http.Close()
	for _, websocket := range []bool{false, true} {
		if _, err := dial(s, clientRequest(websocket)).wait(t); err == nil {
			t.Error("dialled a server that is not there")
		}
	}
}

// The server stops answering, at each stage.
func TestDialTimeout(t *testing.T) {
	for _, tt := range []struct {
		name      string
		websocket bool
		begin     func(t *testing.T, x *exchange)
	}{
		{"polling", false, func(*testing.T, *exchange) {}},
		{"polling, body to come", false, func(t *testing.T, x *exchange) {
			_, _ = io.WriteString(x.hijack(t), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0{")
		}},
		{"websocket", true, func(*testing.T, *exchange) {}},
		{"websocket, OPEN to come", true, func(t *testing.T, x *exchange) { x.upgrade(t, nil, nil) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, false)
			s.dialer.Timeout = 50 * time.Millisecond
			d := dial(s, clientRequest(tt.websocket))
			tt.begin(t, s.handshake(t))
			if _, err := d.wait(t); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Dial: %v, want DeadlineExceeded", err)
			}

			s.dialer.Timeout = testTimeout
			ctx, cancel := context.WithCancel(context.Background())
			result := make(chan error, 1) // so that Dial always ends
			go func() {
				_, err := s.dialer.Dial(ctx, clientRequest(tt.websocket))
				result <- err
			}()
			tt.begin(t, s.handshake(t))
			cancel()
			if err := <-result; !errors.Is(err, context.Canceled) {
				t.Errorf("Dial: %v, want Canceled", err)
			}
		})
	}
}

// A context that ends just when Dial returns must not harm the connection.
func TestDialContextEndsAfterwards(t *testing.T) {
	s := newServer(t, false)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan *Conn, 1) // so that Dial always ends
	go func() {
		c, _ := s.dialer.Dial(ctx, clientRequest(true))
		result <- c
	}()
	p := s.handshake(t).upgrade(t, nil, openFrame())
	c := <-result
	cancel()
	l := begin(t, c)
	p.send(t, "4hello")
	l.want(t, "4hello")
}

// Requests that follow a handshake have its cookies, for sticky balancers.
func TestCookiesAreKept(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	x := s.handshake(t)
	x.w.Header().Add("Set-Cookie", "node=7; Path=/; HttpOnly")
	x.w.Header().Add("Set-Cookie", `a=2`)
	x.answer(http.StatusOK, serverHandshake.with(func(h *Handshake) { h.Upgrades = []string{"websocket"} }))
	c := d.open(t)
	begin(t, c)
	want := "node=7; a=2"
	if got := s.poll(t).Header.Get("Cookie"); got != want {
		t.Errorf("polled with cookies %q, want %q", got, want)
	}
	c.Send([]byte("x"), nil)
	c.Flush()
	if got := s.post(t).Header.Get("Cookie"); got != want {
		t.Errorf("posted with cookies %q, want %q", got, want)
	}
	if got := s.socket(t).Header.Get("Cookie"); got != want {
		t.Errorf("upgraded with cookies %q, want %q", got, want)
	}
}

func TestWithCookies(t *testing.T) {
	tests := []struct {
		name   string
		cookie []string
		set    []string
		want   []string
	}{
		{"none set", []string{"a=1"}, nil, []string{"a=1"}},
		{"none at all", nil, nil, nil},
		{"first", nil, []string{"io=x; Path=/; HttpOnly; SameSite=Lax"}, []string{"io=x"}},
		{"one more", []string{"a=1; b=2"}, []string{"io=x"}, []string{"a=1; b=2; io=x"}},
		{"several headers", []string{"a=1", "b=2"}, []string{"io=x", "c=3"}, []string{"a=1; b=2; io=x; c=3"}},
		{"replaced", []string{"io=old; a=1"}, []string{"io=new"}, []string{"a=1; io=new"}},
		{"set twice", nil, []string{"io=1", "io=2"}, []string{"io=2"}},
		{"deleted", []string{"a=1; io=old"}, []string{"io=; Max-Age=0"}, []string{"a=1"}},
		{"expired", []string{"a=1; io=old"}, []string{"io=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}, []string{"a=1"}},
		{"to expire later", nil, []string{"io=x; Expires=Fri, 01 Jan 2100 00:00:00 GMT"}, []string{"io=x"}},
		{"all deleted", []string{"io=old"}, []string{"io=x; Max-Age=-1"}, nil},
		{"the others as they are", []string{`j={"a":"b, c"}; q="x y"; plain; ü=é`}, []string{"io=x"}, []string{`j={"a":"b, c"}; q="x y"; plain; ü=é; io=x`}},
		{"as it was set", nil, []string{`io="a b"; Path=/`, `j={"x":1}`}, []string{`io="a b"; j={"x":1}`}},
		{"case counts", []string{"IO=1"}, []string{"io=2"}, []string{"IO=1; io=2"}},
		{"no name", []string{"a=1"}, []string{"=x", "", ";"}, []string{"a=1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{"Accept": {"*/*"}}
			if tt.cookie != nil {
				header["Cookie"] = tt.cookie
			}
			before := header.Clone()
			got := withCookies(header, http.Header{"Set-Cookie": tt.set})
			if !slices.Equal(got["Cookie"], tt.want) || got.Get("Accept") != "*/*" {
				t.Errorf("Cookie: %q, want %q", got["Cookie"], tt.want)
			}
			if fmt.Sprint(header) != fmt.Sprint(before) {
				t.Errorf("the request's header was changed to %v", header)
			}
		})
	}
}

func FuzzWithCookies(f *testing.F) {
	f.Add("a=1; b=2", "io=x; Path=/")
	f.Add("", "io=; Max-Age=0")
	f.Add(`j={"a":1}`, `q="x"; Expires=Thu, 01 Jan 1970 00:00:00 GMT`)
	f.Fuzz(func(t *testing.T, cookie, set string) {
		header := http.Header{"Cookie": {cookie}}
		got := withCookies(header, http.Header{"Set-Cookie": {set}})
		if header.Get("Cookie") != cookie {
			t.Fatal("the request's header was changed")
		}
		name, _, _ := strings.Cut(set, "=")
		name = strings.TrimSpace(name)
		for pair := range strings.SplitSeq(cookie, ";") {
			pair = strings.TrimSpace(pair)
			old, _, _ := strings.Cut(pair, "=")
			if pair != "" && strings.TrimSpace(old) != name && !strings.Contains(got.Get("Cookie"), pair) {
				t.Fatalf("%q with %q set became %q", cookie, set, got)
			}
		}
	})
}

func TestLaterQuery(t *testing.T) {
	tests := []struct{ name, handshake, sid, t, want string }{
		{"polling", "EIO=4&transport=polling&t=abc", "x", "1", "EIO=4&transport=polling&sid=x&t=1"},
		{"without a cache buster", "EIO=4&transport=polling", "x", "", "EIO=4&transport=polling&sid=x"},
		{"the application's own", "user=a%20b&EIO=4&token=x=y&transport=polling&flag", "x", "1", "user=a%20b&EIO=4&token=x=y&flag&transport=polling&sid=x&t=1"},
		{"empty pairs", "&&EIO=4&&", "x", "", "EIO=4&transport=polling&sid=x"},
		{"base64", "b64=1&EIO=4", "x", "", "EIO=4&transport=polling&sid=x"},
		{"a sid that was there", "EIO=4&sid=old", "x", "", "EIO=4&transport=polling&sid=x"},
		{"sid with special characters", "EIO=4", "a+b/c=&d", "", "EIO=4&transport=polling&sid=a%2Bb%2Fc%3D%26d"},
		{"none", "", "x", "", "transport=polling&sid=x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := laterQuery(tt.handshake, "polling", tt.sid, tt.t); got != tt.want {
				t.Errorf("laterQuery(%q) = %q, want %q", tt.handshake, got, tt.want)
			}
		})
	}
}

func FuzzLaterQuery(f *testing.F) {
	f.Add("EIO=4&transport=polling&t=abc", "sid")
	f.Add("a=1&&b64=1&sid=x&&c", "a+b/c")
	f.Fuzz(func(t *testing.T, handshake, sid string) {
		got := laterQuery(handshake, "websocket", sid, "z")
		var kept []string
		for pair := range strings.SplitSeq(handshake, "&") {
			key, _, _ := strings.Cut(pair, "=")
			if !slices.Contains([]string{"", "transport", "sid", "t", "b64"}, key) {
				kept = append(kept, pair)
			}
		}
		pairs := strings.Split(got, "&")
		if n := len(pairs) - 3; n < 0 || !slices.Equal(pairs[:n], kept) {
			t.Fatalf("%q became %q", handshake, got)
		}
		own, err := url.ParseQuery(strings.Join(pairs[len(pairs)-3:], "&"))
		if err != nil || own.Get("sid") != sid || own.Get("transport") != "websocket" || own.Get("t") != "z" {
			t.Fatalf("%q with sid %q became %q", handshake, sid, got)
		}
	})
}

var _ net.Addr = pipeAddr{}
