package engineio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestSend(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	begin(t, c)
	c.Send([]byte(`51-["x",{"_placeholder":true,"num":0}]`), [][]byte{{1, 2}, {3}})
	c.SendBinary([]byte{4})
	c.Send([]byte("a"), nil)
	select {
	case f := <-p.frames:
		t.Fatalf("the server got %q before Flush", f)
	case <-time.After(10 * time.Millisecond):
	}
	if queued := c.Flush(); queued != 0 {
		t.Errorf("%d bytes wait", queued)
	}
	p.want(t, `451-["x",{"_placeholder":true,"num":0}]`, "b0102", "b03", "b04", "4a")
	if queued := c.Flush(); queued != 0 { // with nothing to send
		t.Errorf("%d bytes wait", queued)
	}
}

func TestSendersDoNotMix(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	begin(t, c)
	const senders, each = 4, 100
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for range each {
				c.Send(fmt.Append(nil, i, "-"), [][]byte{{byte(i)}, {byte(i)}})
				c.Flush()
			}
		})
	}
	wg.Go(func() {
		for range each {
			p.send(t, "2") // pongs must not come in between either
		}
	})
	for n := 0; n < senders*each; {
		f := p.next(t)
		if f == "3" {
			continue
		}
		attachment := fmt.Sprintf("b0%s", strings.Trim(f, "4-"))
		if len(f) != 3 {
			attachment = "b04"
		}
		p.want(t, attachment, attachment)
		n++
	}
	wg.Wait()
}

func TestConnAnswersPings(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	begin(t, c)
	p.send(t, "2")
	p.want(t, "3")
	p.sendFrame(t, ws.OpPing, []byte("x"))
	p.want(t, "pong:x")
	p.sendFrame(t, ws.OpPong, nil) // needs no answer
	p.send(t, "3", "5", "6", "2")
	p.want(t, "3")
}

// Messages that are not flushed yet precede the pong.
func TestPongBehindWhatWasSent(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	begin(t, c)
	c.Send([]byte("a"), nil)
	p.send(t, "2")
	p.want(t, "4a", "3")
}

// The error for each way in which a server ends a WebSocket.
func TestConnEnds(t *testing.T) {
	anything := errors.New("any error")
	tests := []struct {
		name string
		end  func(t *testing.T, p *wsPeer)
		err  error
	}{
		{"close frame", func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, nil) }, ErrServerClosed},
		{"close frame with a code", func(t *testing.T, p *wsPeer) {
			p.sendFrame(t, ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
		}, ErrServerAway},
		{"CLOSE packet", func(t *testing.T, p *wsPeer) { p.send(t, "1", "4late") }, ErrServerClosed},
		{"end", func(_ *testing.T, p *wsPeer) { p.conn.Close() }, io.EOF},
		{"reset", func(t *testing.T, p *wsPeer) {
			if err := p.conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			p.conn.Close()
		}, syscall.ECONNRESET},
		{"not a packet", func(t *testing.T, p *wsPeer) { p.send(t, "x", "4late") }, ErrMalformed},
		{"empty packet", func(t *testing.T, p *wsPeer) { p.send(t, "") }, ErrMalformed},
		{"broken frame", func(t *testing.T, p *wsPeer) { p.writeBytes(t, []byte{0xff, 0x00}) }, anything},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, false)
			c, p := dialSocket(t, s)
			l := newConnLog()
			c.Start(l)
			p.send(t, "4before")
			l.want(t, "4before")
			tt.end(t, p)
			l.awaitThat(t, "Closed", func() bool { return l.err != nil })
			if !errors.Is(l.err, tt.err) && !errors.Is(tt.err, anything) {
				t.Errorf("Closed(%v), want %v", l.err, tt.err)
			}
			if slices.Contains(l.log, "4late") {
				t.Error("a message came after the end")
			}
			c.Send([]byte("x"), nil)
			c.SendBinary([]byte("x"))
			if queued := c.Flush(); queued != 0 {
				t.Errorf("%d bytes wait after the end", queued)
			}
			c.Pause()
			c.Resume()
			c.Close()
			l.wantClosed(t, l.err)
		})
	}
}

// Close sends what Send has added, flushed or not.
func TestCloseFlushes(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	l := newConnLog()
	c.Start(l)
	c.Send([]byte("a"), nil)
	c.Flush()
	c.Send([]byte("b"), nil)
	c.Close()
	c.Close()
	c.Send([]byte("c"), nil)
	c.Flush()
	p.want(t, "4a", "4b", "close:", "EOF")
	l.wantClosed(t, ErrClosed)
	p.conn.Close()
}

func TestCloseBeforeStart(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := newServer(t, secure)
		c, p := dialSocket(t, s)
		c.Send([]byte("a"), nil)
		c.Close()
		p.want(t, "4a", "close:", "EOF")
		p.conn.Close()
		l := newConnLog()
		c.Start(l)
		l.wantClosed(t, ErrClosed)
	}
}

// A Conn closed before Start leaks nothing, whatever the server does.
func TestCloseWithoutStart(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	c.Close()
	p.want(t, "close:", "EOF")
	p.conn.Close()
	c = dialPolling(t, s, nil)
	c.Close()
	s.wantPost(t, "1")
}

func TestCloseWithinMessage(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	l := newConnLog()
	l.onMessage = func(string) { c.Close() }
	c.Start(l)
	p.send(t, "4a", "4b")
	l.wantClosed(t, ErrClosed)
	if got := strings.Join(l.log, " "); got != "4a flush closed" {
		t.Errorf("the handler saw %s", got)
	}
}

func TestConnPause(t *testing.T) {
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	l := newConnLog()
	l.onMessage = func(m string) {
		if m == "4pause" {
			c.Pause()
		}
	}
	c.Start(l)
	t.Cleanup(c.Close)
	p.send(t, "4pause", "4with it")
	l.want(t, "4pause", "4with it") // read before the pause
	p.send(t, "4later")
	time.Sleep(20 * time.Millisecond) // for something that must not happen
	if got := l.seen(); len(got) > 0 {
		t.Fatalf("%q came while paused", got)
	}
	c.Resume()
	l.want(t, "4later")
}

// If the server does not read, nothing blocks. Everything arrives in order once it does.
func TestSlowServer(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			s := newServer(t, secure)
			d := dial(s, clientRequest(true))
			x := s.handshake(t)
			conn := x.hijack(t)
			_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n\r\n%s",
				acceptKey(x.Header.Get("Sec-WebSocket-Key")), openFrame())
			if err != nil {
				t.Fatal(err)
			}
			c := d.open(t)
			l := begin(t, c)
			const messages = 300
			message := strings.Repeat("x", 64<<10)
			queued := 0
			for i := range messages {
				c.Send(fmt.Appendf(nil, "%06d%s", i, message), nil)
				queued = c.Flush()
			}
			if queued == 0 || c.Flush() == 0 {
				t.Fatal("the kernel took all: there is nothing to see")
			}
			l.change(func() { l.drained = 0 })
			p := newPeer(conn, serverFrames)
			for i := range messages {
				if f := p.next(t); f != "4"+fmt.Sprintf("%06d", i)+message {
					t.Fatalf("message %d is %.20q", i, f)
				}
			}
			l.wantDrained(t)
			if queued := c.Flush(); queued != 0 {
				t.Errorf("%d bytes wait when all has come", queued)
			}
		})
	}
}

func TestConnConcurrentUse(t *testing.T) {
	s := newServer(t, false)
	for i := range 10 {
		c, p := dialSocket(t, s)
		l := newConnLog()
		l.onMessage = func(string) {
			c.Send([]byte("echo"), nil)
			c.Flush()
		}
		var wg sync.WaitGroup
		wg.Go(func() { c.Start(l) })
		for range 3 {
			wg.Go(func() {
				for range 100 {
					c.Send([]byte("x"), [][]byte{{1}})
					c.Flush()
					c.Pause()
					c.Resume()
					c.Transport()
				}
			})
		}
		wg.Go(func() {
			frames := slices.Repeat(wire(fromServer(ws.OpText, "4y"), fromServer(ws.OpText, "2")), 100)
			_, _ = p.conn.Write(frames) // fails if the Conn is closed first
		})
		if i%2 == 0 {
			wg.Go(c.Close)
		} else {
			wg.Go(func() { p.conn.Close() })
		}
		wg.Wait()
		p.conn.Close()
		l.awaitThat(t, "Closed", func() bool { return l.err != nil })
		if n := strings.Count(strings.Join(l.log, " "), "closed"); n != 1 || l.log[len(l.log)-1] != "closed" {
			t.Fatalf("Closed came %d times, or was not the last", n)
		}
	}
}
