package engineio

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

func TestWebSocketMessages(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	p.send(t, "4hello", "4", "4€")
	p.sendFrame(t, ws.OpBinary, []byte{1, 2, 3})
	p.send(t, "bBAU=")         // from a client with forceBase64
	p.send(t, "0{}", "5", "6") // ignored, as in the reference server
	p.send(t, "4last")
	h.await(t, "message 4last")
	want := []string{"message 4hello", "message 4", "message 4€", "message b010203", "message b0405", "message 4last"}
	if got := h.took(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the handler saw %q, want %q", got, want)
	}
	h.emit(s, "x", "b:\x01\x02", "y")
	p.want(t, "4x", "b0102", "4y")
}

func TestWebSocketInitialBytes(t *testing.T) {
	h := newFakeHandler()
	s := NewSocket("sid", testOptions, h)
	ours, theirs := loopback(t)
	p := newPeer(theirs, clientFrames)
	in := wire(fromClient(ws.OpText, "4a"), fromClient(ws.OpText, "4b"))
	s.StartWebSocket(ours, in[:len(in)-3], nil, testHandshake)
	t.Cleanup(s.Abort)
	p.want(t, openText)
	h.await(t, "message 4a")
	p.writeBytes(t, in[len(in)-3:])
	h.await(t, "message 4b")
}

// For each way in which a WebSocket ends: what the client receives, and what the Handler is told.
func TestWebSocketEnds(t *testing.T) {
	closeFrame := func(code ws.StatusCode, reason string) func(t *testing.T, p *wsPeer) {
		return func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, ws.NewCloseFrameBody(code, reason)) }
	}
	text := func(s string) func(t *testing.T, p *wsPeer) {
		return func(t *testing.T, p *wsPeer) { p.send(t, s) }
	}
	frames := func(f ...rawFrame) func(t *testing.T, p *wsPeer) {
		return func(t *testing.T, p *wsPeer) { p.writeBytes(t, wire(f...)) }
	}
	opts := testOptions
	opts.MaxPayload = 100
	tests := []struct {
		name   string
		do     func(t *testing.T, p *wsPeer)
		frame  string
		closed string
	}{
		{"close", closeFrame(1000, "bye"), "close:1000", "transport close"},
		{"close without a code", func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, nil) }, "close:", "transport close"},
		{"close of a page", closeFrame(1001, ""), "close:1001", "going away"},
		{"close with an application's code", closeFrame(4321, "x"), "close:4321", "transport close"},
		{"close with a bad code", closeFrame(1005, ""), "close:1002", "parse error"},
		{"close with half a code", func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, []byte{3}) }, "close:1002", "parse error"},
		{"Engine.IO close", text("1"), "close:", "client close"},
		{"ping, which is the server's", text("2"), "close:", "parse error"},
		{"probe on the transport", text("2probe"), "close:", "parse error"},
		{"unknown packet", text("7"), "close:", "parse error"},
		{"empty packet", text(""), "close:", "parse error"},
		{"bad UTF-8", text("4\xff"), "close:1007", "parse error"},
		{"over the limit", text("4" + strings.Repeat("x", 100)), "close:1009", "parse error"},
		{
			"fragments over the limit",
			frames(fragment(ws.OpText, false, "4"+strings.Repeat("x", 60)), fragment(0, true, strings.Repeat("x", 60))),
			"close:1009", "parse error",
		},
		{"not masked", frames(rawFrame{first: fin | 1, payload: "4x"}), "close:1002", "parse error"},
		{"reserved bit", frames(rawFrame{first: fin | 0x40 | 1, masked: true}), "close:1002", "parse error"},
		{"the connection's end", func(t *testing.T, p *wsPeer) {
			if err := p.conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}, "", "transport close"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, h, p := openLoopback(t, opts)
			p.send(t, "4before")
			tt.do(t, p)
			if tt.frame != "" {
				p.want(t, tt.frame)
			}
			p.want(t, "EOF")
			h.await(t, "closed: "+tt.closed)
			if got := fmt.Sprint(h.took()); got != "[message 4before closed: "+tt.closed+"]" {
				t.Errorf("the handler saw %s", got)
			}
		})
	}
}

func TestWebSocketReset(t *testing.T) {
	_, h, p := openLoopback(t, testOptions)
	if err := p.conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	p.conn.Close()
	h.await(t, "closed: transport error")
}

// Everything that a client sent before it ended the connection is flushed before Closed.
func TestFlushComesBeforeTheEnd(t *testing.T) {
	for _, end := range []rawFrame{fromClient(ws.OpText, "1"), fromClient(ws.OpClose, ""), fromClient(ws.OpText, "?")} {
		_, h, p := openLoopback(t, testOptions)
		p.writeBytes(t, wire(fromClient(ws.OpText, "4x"), end, fromClient(ws.OpText, "4y")))
		h.awaitThat(t, "the end", func() bool { return len(h.log) > 0 && strings.HasPrefix(h.log[len(h.log)-1], "closed") })
		if got := strings.Join(h.log[:2], ", "); got != "message 4x, flush" || len(h.log) != 3 {
			t.Errorf("the handler saw %q", h.log)
		}
	}
}

func TestDataAfterClose(t *testing.T) {
	_, h, p := openLoopback(t, testOptions)
	p.sendFrame(t, ws.OpClose, ws.NewCloseFrameBody(1000, ""))
	p.want(t, "close:1000", "EOF")
	p.send(t, "4late", "4r")
	p.conn.Close()
	h.await(t, "closed: transport close")
	if got := fmt.Sprint(h.took()); got != "[closed: transport close]" {
		t.Errorf("the handler saw %s", got)
	}
}

// A client may answer our Close frame, or continue to send for a while.
func TestDataAfterOurClose(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	s.Close()
	p.want(t, "close:", "EOF")
	p.send(t, "4late")
	p.sendFrame(t, ws.OpClose, nil)
	p.conn.Close()
	h.await(t, "closed: forced close")
	if got := fmt.Sprint(h.took()); got != "[closed: forced close]" {
		t.Errorf("the handler saw %s", got)
	}
}

func TestWebSocketPings(t *testing.T) {
	_, _, p := openLoopback(t, testOptions)
	p.sendFrame(t, ws.OpPing, []byte("hello"))
	p.want(t, "pong:hello")
	p.sendFrame(t, ws.OpPong, nil)
	p.writeBytes(t, wire(fragment(ws.OpText, false, "4a"), fromClient(ws.OpPing, "x"), fragment(0, true, "b")))
	p.want(t, "pong:x")
}

// A slow client still gets its pings answered, but a flood of them is not.
func TestWebSocketPingsBehindData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHandler()
		s := NewSocket("sid", testOptions, h)
		ours, theirs := net.Pipe()
		defer theirs.Close()
		p := newLazyPeer(theirs)
		defer close(p.gate)
		s.StartWebSocket(ours, nil, nil, testHandshake)
		h.emit(s, strings.Repeat("x", batchBytes), strings.Repeat("y", batchBytes))
		const flood = 10_000
		p.write(t, func(e *Encoder) {
			for range flood {
				e.frame(ws.OpPing, 0, []byte("p"), nil, nil)
			}
		})
		synctest.Wait()
		s.Close()
		pongs := 0
		for open := true; open; {
			select {
			case p.gate <- struct{}{}:
			case f := <-p.frames:
				switch f {
				case "pong:p":
					pongs++
				case "EOF":
					open = false
				}
			}
		}
		if pongs == 0 || pongs > maxQueuedPongBytes {
			t.Errorf("%d of %d pings were answered", pongs, flood)
		}
	})
}

func TestCloseWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.add("a", "b")
		s.Close()
		s.Close()
		p.want(t, "4a", "4b", "close:", "EOF")
		h.wantLog(t, "closed: forced close")
	})
}

// A Handler may hold packets back until others are confirmed. Close still delivers them.
func TestCloseDeliversWhatIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.window = 2
		h.emit(s, "a", "b", "c", "d", "e")
		p.want(t, "4a", "4b", "2")
		s.Close()
		p.wantNothing(t)
		p.send(t, "3")
		p.want(t, "4c", "4d", "2")
		p.send(t, "4ignored", "3")
		p.want(t, "4e", "2")
		p.send(t, "3")
		p.want(t, "close:", "EOF")
		h.wantLog(t, "confirm ping", "confirm 2", "confirm ping", "confirm 4", "confirm ping", "confirm 5", "closed: forced close")
	})
}

func TestCloseDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.window = 1
		h.emit(s, "a", "b")
		p.want(t, "4a", "2")
		s.Close()
		until(t, lingerTimeout, func() { p.wantNothing(t) })
		p.want(t, "close:", "EOF")
		h.wantLog(t, "confirm ping", "closed: forced close")
	})
}

// While the Socket closes, a pong does not move the timer that limits the end.
func TestPongWhileClosing(t *testing.T) {
	opts := testOptions
	opts.PingInterval = time.Second
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, opts)
		h.askForConfirmations()
		h.window = 1
		h.emit(s, "a", "b", "c")
		p.want(t, "4a", "2")
		s.Close()
		p.send(t, "3")
		p.want(t, "4b", "2")
		time.Sleep(lingerTimeout - time.Second)
		p.send(t, "3")
		p.want(t, "4c", "2")
		p.send(t, "3")
		p.want(t, "close:", "EOF")
	})
}

// While the Socket closes, frames may follow the last wanted one, whole or in parts.
func TestPartialFramesWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.window = 1
		h.emit(s, "a", "b")
		p.want(t, "4a", "2")
		s.Close()
		in := wire(fromClient(ws.OpText, "4ignored"), fromClient(ws.OpText, "3"))
		cut := len(in) - 2
		p.writeBytes(t, in[:cut])
		p.writeBytes(t, in[cut:])
		p.want(t, "4b", "2")
		p.send(t, "3")
		p.want(t, "close:", "EOF")
		h.wantLog(t, "confirm ping", "confirm 1", "confirm ping", "confirm 2", "closed: forced close")
	})
}

func TestCloseBeforeWebSocketStarts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(s *Socket)
		after []string
	}{
		{"closed", (*Socket).Close, []string{openText, "4x", "close:", "EOF"}},
		{"aborted", (*Socket).Abort, []string{openText, "close:", "EOF"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHandler()
				s := NewSocket("sid", testOptions, h)
				h.add("x")
				tt.end(s)
				ours, theirs := net.Pipe()
				defer theirs.Close()
				p := newPeer(theirs, clientFrames)
				s.StartWebSocket(ours, nil, nil, testHandshake)
				p.want(t, tt.after...)
				h.wantLog(t, "closed: forced close")
			})
		})
	}
}

func TestAbortWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.add("a")
		s.Abort()
		p.want(t, "close:", "EOF")
		h.wantLog(t, "closed: forced close")
	})
}

func TestAbortWithinMessage(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	h.onMessage = func(string) { s.Abort() }
	p.send(t, "4a", "4b")
	p.want(t, "close:", "EOF")
	h.await(t, "flush")
	if got := fmt.Sprint(h.took()); got != "[closed: forced close message 4a]" {
		t.Errorf("the handler saw %s", got)
	}
}

func TestPauseWebSocket(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	h.onMessage = func(data string) {
		if data == "4pause" {
			s.Pause()
		}
	}
	p.send(t, "4pause", "4with it")
	h.await(t, "message 4with it") // read before the pause
	p.send(t, "4later")
	p.sendFrame(t, ws.OpPing, nil)
	select {
	case f := <-p.frames:
		t.Fatalf("the peer got %q while paused", f)
	case <-time.After(20 * time.Millisecond):
	}
	s.Resume()
	p.want(t, "pong:")
	h.await(t, "message 4later")
}

// What the kernel does not take stays with the Handler, and arrives in order once the client reads.
func TestSlowReader(t *testing.T) {
	h := newFakeHandler()
	s := NewSocket("sid", testOptions, h)
	ours, theirs := loopback(t)
	p := newLazyPeer(theirs)
	defer close(p.gate)
	defer theirs.Close() // must be first
	s.StartWebSocket(ours, nil, nil, testHandshake)
	t.Cleanup(s.Abort)

	const messages, size = 400, 32 << 10
	message := func(i int) string { return fmt.Sprintf("%06d", i) + strings.Repeat("x", size-6) }
	for i := range messages {
		h.emit(s, message(i))
	}
	s.mu.Lock()
	blocked, queued := s.output == outputBlocked, s.ws.stream.Queued()
	s.mu.Unlock()
	if !blocked || queued > 4*batchBytes {
		t.Fatalf("blocked = %v with %d bytes in the stream's queue", blocked, queued)
	}
	h.mu.Lock()
	kept := len(h.out)
	h.mu.Unlock()
	if kept == 0 {
		t.Fatal("the handler kept nothing: the kernel took all")
	}
	h.add("end")
	next := -1 // the OPEN packet comes first
	for done := false; !done; {
		select {
		case p.gate <- struct{}{}:
		case f := <-p.frames:
			switch {
			case next < 0:
				if f != openText {
					t.Fatalf("first came %.50q", f)
				}
			case next == messages:
				if f != "4end" {
					t.Fatalf("at the end came %.50q", f)
				}
				done = true
			case f != "4"+message(next):
				t.Fatalf("message %d is %.20q", next, f)
			}
			next++
		case <-time.After(testTimeout):
			t.Fatalf("%d messages came", next)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.output != outputWritable {
		t.Error("still blocked when all has been taken")
	}
}

// Many goroutines may use one Socket; Closed is called once.
func TestConcurrentUse(t *testing.T) {
	for i := range 20 {
		h := newFakeHandler()
		h.askForConfirmations()
		opts := testOptions
		opts.PingInterval = time.Millisecond
		s := NewSocket("sid", opts, h)
		h.onMessage = func(string) { s.Wake() }
		ours, theirs := loopback(t)
		p := newPeer(theirs, clientFrames)
		s.StartWebSocket(ours, nil, nil, testHandshake)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 200 {
					h.emit(s, "x")
				}
			})
		}
		wg.Go(func() {
			for range 200 {
				s.Pause()
				s.Resume()
			}
		})
		wg.Go(func() {
			in := bytes.Repeat(wire(fromClient(ws.OpText, "4y"), fromClient(ws.OpText, "3")), 100)
			_, _ = p.conn.Write(in) // fails if the Socket is closed first
		})
		ends := []func(){s.Close, s.Abort, func() { p.conn.Close() }}
		wg.Go(ends[i%len(ends)])
		wg.Go(ends[(i/3)%len(ends)])
		wg.Wait()
		h.awaitThat(t, "the end", func() bool {
			for _, entry := range h.log {
				if strings.HasPrefix(entry, "closed") {
					return true
				}
			}
			return false
		})
		p.conn.Close()
		if n := strings.Count(fmt.Sprint(h.took()), "closed"); n != 1 {
			t.Fatalf("Closed came %d times", n)
		}
	}
}
