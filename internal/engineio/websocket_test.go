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
