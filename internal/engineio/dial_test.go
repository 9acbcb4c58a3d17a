package engineio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
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
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t)
				s.dialer.Timeout = 500 * time.Millisecond
				start := time.Now()
				d := dial(s, clientRequest(tt.websocket))
				tt.begin(t, s.handshake(t))
				if _, err := d.wait(t); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Dial: %v, want DeadlineExceeded", err)
				}
				if took := time.Since(start); took != s.dialer.Timeout {
					t.Errorf("Dial took %v, want %v", took, s.dialer.Timeout)
				}
			})

			s := newServer(t, false)
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

var _ net.Addr = pipeAddr{}
