package engineio

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// open3 is the OPEN packet of socket.io 2.5. It has no maxPayload.
const open3 = `0{"sid":"up","upgrades":[],"pingInterval":25000,"pingTimeout":20000}`

func request3(websocket bool) Request {
	r := clientRequest(websocket)
	r.Protocol, r.RawQuery = V3, strings.Replace(r.RawQuery, "EIO=4", "EIO=3", 1)
	return r
}

// binary3 returns texts as a payload in the binary form.
func binary3(texts ...string) string {
	var b []byte
	for _, s := range texts {
		b = appendBinaryForm3(b, textForm3, []byte(s))
	}
	return string(b)
}

func dialSocket3(t *testing.T, s *server) (*Conn, *wsPeer) {
	t.Helper()
	d := dial(s, request3(true))
	p := s.handshake(t).upgrade(t, nil, wire(fromServer(ws.OpText, open3), fromServer(ws.OpText, "40")))
	return d.open(t), p
}

func dialPolling3(t *testing.T, s *server, answer string) *Conn {
	t.Helper()
	d := dial(s, request3(false))
	s.handshake(t).answer(http.StatusOK, answer)
	return d.open(t)
}

func TestConn3WebSocket(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket3(t, s)
	l := begin(t, c)
	l.want(t, "40")
	p.sendFrame(t, ws.OpText, []byte(`451-["f",{"_placeholder":true,"num":0}]`))
	p.sendFrame(t, ws.OpBinary, []byte{4, 1, 2, 3})
	p.sendFrame(t, ws.OpText, []byte("b4AQID"))
	l.want(t, `451-["f",{"_placeholder":true,"num":0}]`, "b010203", "b010203")
	c.Send([]byte(`51-["x",{"_placeholder":true,"num":0}]`), [][]byte{{9}})
	c.SendBinary([]byte{8})
	c.Flush()
	p.want(t, `451-["x",{"_placeholder":true,"num":0}]`, "b0409", "b0408")
	p.sendFrame(t, ws.OpText, []byte("1"))
	l.wantClosed(t, ErrServerClosed)
}

func TestConn3Malformed(t *testing.T) {
	for _, frame := range []string{"", "\x09x"} {
		s := newServer(t, false)
		c, p := dialSocket3(t, s)
		l := begin(t, c)
		l.want(t, "40")
		p.sendFrame(t, ws.OpBinary, []byte(frame))
		l.wantClosed(t, ErrMalformed)
	}
}

// The Conn sends pings by a clock. Pongs show that the server lives, and so do its own pings, which
// only netty-socketio sends. They get no answer: clients of version 3 send no pongs.
func TestConn3Heartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeServer(t)
		c, p := dialSocket3(t, s)
		l := begin(t, c)
		synctest.Wait()
		l.want(t, "40")
		for range 3 {
			until(t, 25*time.Second, func() { p.wantNothing(t) })
			p.want(t, "2")
			p.send(t, "3")
		}
		p.send(t, "2")
		until(t, 25*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2")
		until(t, 20*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
		p.want(t, "close:", "EOF")
		p.conn.Close()
	})
}

// A paused Conn reads no pongs. It continues to send pings, and does not consider the server dead.
func TestConn3HeartbeatWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeServer(t)
		c, p := dialSocket3(t, s)
		l := begin(t, c)
		synctest.Wait()
		l.want(t, "40")
		c.Pause()
		for range 4 {
			until(t, 25*time.Second, func() { p.wantNothing(t) })
			p.want(t, "2")
		}
		wantQuiet(t, l)
		c.Resume()
		until(t, 45*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
		p.conn.Close()
	})
}

// A polling Conn posts in the binary form, and reads both.
func TestConn3Polling(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling3(t, s, binary3(open3, "40"))
	l := begin(t, c)
	l.want(t, "40")
	s.poll(t).answer(http.StatusOK, `12:42["hi","€"]6:b4AQID`)
	l.want(t, `42["hi","€"]`, "b010203")
	s.poll(t).answer(http.StatusOK, binary3(`42["€"]`)+"\x01\x03\xff\x04\x01\x02")
	l.want(t, `42["€"]`, "b0102")
	c.Send([]byte(`51-["€",{"_placeholder":true,"num":0}]`), [][]byte{{1, 2}})
	c.Flush()
	x := s.post(t)
	if want := binary3(`451-["€",{"_placeholder":true,"num":0}]`); x.body != want {
		t.Errorf("POST %q, want %q", x.body, want)
	}
	if got := x.Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("the content type is %q", got)
	}
	x.answer(http.StatusOK, "ok")
	s.wantPost(t, "\x01\x03\xff\x04\x01\x02") // netty-socketio would ignore it behind the text
	for range 3 {
		c.Send([]byte(strings.Repeat("y", 40<<10)), nil)
	}
	c.Flush()
	for range 3 { // each is below what netty-socketio takes
		s.wantPost(t, binary3("4"+strings.Repeat("y", 40<<10)))
	}
	c.Close()
	s.wantPost(t, binary3("1"))
}

func TestConn3PollingHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeServer(t)
		c := dialPolling3(t, s, "68:"+open3) // the text form
		l := begin(t, c)
		waiting := s.poll(t)
		time.Sleep(25 * time.Second)
		s.wantPost(t, binary3("2"))
		waiting.answer(http.StatusOK, "1:3")
		s.poll(t)
		time.Sleep(25 * time.Second)
		s.wantPost(t, binary3("2"))
		until(t, 20*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
	})
}

func TestConn3Upgrade(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling3(t, s, binary3(strings.Replace(open3, "[]", `["websocket"]`, 1)))
	l := begin(t, c)
	waiting := s.poll(t)
	x := s.socket(t)
	if q := x.URL.Query(); q.Get("sid") != "up" || q.Get("transport") != "websocket" || q.Get("EIO") != "3" {
		t.Errorf("upgraded with %s", x.URL.RawQuery)
	}
	p := x.upgrade(t, nil, nil)
	p.want(t, "2probe")
	p.send(t, "3probe")
	waiting.answer(http.StatusOK, binary3("6"))
	done := make(chan struct{})
	go func() { // ends when p has got the UPGRADE packet
		for {
			select {
			case x := <-s.polls:
				x.answer(http.StatusOK, binary3("6"))
			case <-done:
				return
			}
		}
	}()
	p.want(t, "5")
	close(done)
	p.sendFrame(t, ws.OpBinary, []byte{4, 7})
	l.want(t, "b07")
	c.SendBinary([]byte{8})
	c.Flush()
	p.want(t, "b0408")
}

// A server without WebSockets gets a handshake over polling.
func TestPollIfRefused(t *testing.T) {
	s := newServer(t, false)
	r := request3(true)
	r.PollIfRefused = true
	d := dial(s, r)
	s.handshake(t).answer(http.StatusBadRequest, `"Invalid transport"`)
	x := s.handshake(t)
	if got := x.RequestURI; got != "/socket.io/?EIO=3&t=abc&user=x%20y&transport=polling" {
		t.Errorf("the second request is for %s", got)
	}
	x.answer(http.StatusOK, binary3(open3))
	c := d.open(t)
	begin(t, c)
	if c.Transport() != "polling" || c.Protocol() != V3 {
		t.Errorf("the connection is %s, version %v", c.Transport(), c.Protocol())
	}
	d = dial(s, r) // from now on without a WebSocket that is refused
	x = s.handshake(t)
	if got := x.URL.Query().Get("transport"); got != "polling" {
		t.Errorf("the next handshake is by %s", got)
	}
	x.answer(http.StatusOK, binary3(open3))
	begin(t, d.open(t))
}

// The application's refusal is final. Over polling it says why.
func TestPollIfRefusedByTheApplication(t *testing.T) {
	s := newServer(t, false)
	r := request3(true)
	r.PollIfRefused = true
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable} {
		d := dial(s, r)
		s.handshake(t).answer(status, "no")
		_, err := d.wait(t)
		var rejected *RejectedError
		if !errors.As(err, &rejected) || rejected.Status != status {
			t.Errorf("Dial: %v, want status %d", err, status)
		}
	}
	d := dial(s, r)
	s.handshake(t).answer(http.StatusBadRequest, "not you")
	s.handshake(t).answer(http.StatusForbidden, `{"code":4,"message":"not you"}`)
	_, err := d.wait(t)
	var rejected *RejectedError
	if !errors.As(err, &rejected) || rejected.Status != http.StatusForbidden {
		t.Errorf("Dial: %v, want the refusal over polling", err)
	}
}

// A handshake that accepts any version finds out which one the server speaks.
func TestAnyProtocol(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       Protocol
		closed     string // what the end of its session posts
	}{
		{"engine.io 4 and later", serverHandshake.with(nil), V4, "1"},
		{"engine.io 3", "68:" + open3 + "2:40", V3, binary3("1")},
		{"netty-socketio", binary3(open3, "40"), V3, binary3("1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, false)
			r := clientRequest(true).ForPolling()
			r.AnyProtocol = true
			d := dial(s, r)
			x := s.handshake(t)
			if q := x.URL.Query(); q.Get("transport") != "polling" || q.Get("EIO") != "4" {
				t.Errorf("asked with %s", x.URL.RawQuery)
			}
			x.answer(http.StatusOK, tt.body)
			c := d.open(t)
			if c.Protocol() != tt.want {
				t.Errorf("the version is %v, want %v", c.Protocol(), tt.want)
			}
			c.Close()
			s.wantPost(t, tt.closed)
		})
	}
}

func TestRefusesVersion(t *testing.T) {
	python := &RejectedError{Status: 400, Body: []byte(`"The client is using an unsupported version of the Socket.IO or Engine.IO protocols"`)}
	for err, want := range map[error]bool{
		python: true, ErrMalformed: false, &RejectedError{Status: 400, Body: []byte("no")}: false, &RejectedError{Status: 403}: false,
	} {
		if got := RefusesVersion(err); got != want {
			t.Errorf("RefusesVersion(%v) = %v, want %v", err, got, want)
		}
	}
}

// A server of version 3 gives an error that says so, unless it is expected.
func TestDialOtherVersion(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	s.handshake(t).answer(http.StatusOK, "68:"+open3)
	if _, err := d.wait(t); !errors.Is(err, ErrOtherVersion) || !errors.Is(err, ErrMalformed) {
		t.Errorf("Dial: %v, want ErrOtherVersion", err)
	}
}
