package engineio

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// panickingHandler panics in one of its methods, and aborts its Socket then.
type panickingHandler struct {
	*fakeHandler
	panicIn string
	armed   atomic.Bool
	socket  *Socket
}

func (f *panickingHandler) panicIf(method string) {
	if f.panicIn == method && f.armed.Load() {
		panic("bug in " + method)
	}
}

func (f *panickingHandler) Message(data []byte, binary bool) {
	f.panicIf("Message")
	f.fakeHandler.Message(data, binary)
}

func (f *panickingHandler) Flush() {
	f.panicIf("Flush")
	f.fakeHandler.Flush()
}

func (f *panickingHandler) Fill(e *Encoder, maxBytes int) FillResult {
	f.panicIf("Fill")
	return f.fakeHandler.Fill(e, maxBytes)
}

func (f *panickingHandler) Pending() bool {
	f.panicIf("Pending")
	return f.fakeHandler.Pending()
}

func (f *panickingHandler) Mark() uint64 {
	f.panicIf("Mark")
	return f.fakeHandler.Mark()
}

func (f *panickingHandler) ConfirmPing() {
	f.panicIf("ConfirmPing")
	f.fakeHandler.ConfirmPing()
}

func (f *panickingHandler) Unconfirmed() (pending, overdue bool) {
	f.panicIf("Unconfirmed")
	return f.fakeHandler.Unconfirmed()
}

func (f *panickingHandler) Confirm(mark uint64) {
	f.panicIf("Confirm")
	f.fakeHandler.Confirm(mark)
}

func (f *panickingHandler) Upgraded() {
	f.panicIf("Upgraded")
	f.fakeHandler.Upgraded()
}

func (f *panickingHandler) Closed(reason Reason) {
	f.fakeHandler.Closed(reason)
	f.panicIf("Closed")
}

func (f *panickingHandler) Panicked(v any) {
	f.fakeHandler.Panicked(v)
	go f.socket.Abort()
}

func newPanickingHandler(opts Options, panicIn string) (*Socket, *panickingHandler) {
	f := &panickingHandler{fakeHandler: newFakeHandler(), panicIn: panicIn}
	f.socket = NewSocket("sid", opts, f)
	return f.socket, f
}

func TestPanicsEndTheirSocketOnly(t *testing.T) {
	webSocket := func(t *testing.T, s *Socket) *wsPeer {
		ours, theirs := loopback(t)
		s.StartWebSocket(ours, nil, nil, testHandshake)
		return newPeer(theirs, clientFrames)
	}
	polling := func(t *testing.T, s *Socket) *wsPeer {
		s.Start()
		startPoll(t, s, "a")
		for !pollWaits(s) && !s.state.ended() {
			time.Sleep(time.Millisecond) // until the poll's goroutine waits
		}
		return nil
	}
	probed := func(t *testing.T, s *Socket) *wsPeer {
		ours, theirs := loopback(t)
		s.ServeProbe(ours, nil, nil)
		return newPeer(theirs, clientFrames)
	}
	send := func(message string) func(*testing.T, *panickingHandler, *wsPeer) {
		return func(t *testing.T, _ *panickingHandler, p *wsPeer) { p.send(t, message) }
	}
	wake := func(_ *testing.T, f *panickingHandler, _ *wsPeer) {
		f.askForConfirmations()
		f.add("x")
		f.socket.Wake()
	}
	byItself := func(*testing.T, *panickingHandler, *wsPeer) {}
	for _, tt := range []struct {
		method  string
		from    string
		open    func(*testing.T, *Socket) *wsPeer
		trigger func(*testing.T, *panickingHandler, *wsPeer)
	}{
		{"Message", "the stream", webSocket, send("4x")},
		{"Flush", "the stream", webSocket, send("4x")},
		{"Fill", "a caller", webSocket, wake},
		{"ConfirmPing", "a caller", webSocket, wake},
		{"Mark", "the heartbeat's timer", webSocket, byItself},
		{"Unconfirmed", "the heartbeat's timer", webSocket, func(_ *testing.T, f *panickingHandler, _ *wsPeer) {
			f.askToConfirmLater()
			f.add("x")
			f.socket.Wake()
		}},
		{"Confirm", "the stream", webSocket, func(t *testing.T, _ *panickingHandler, p *wsPeer) {
			p.want(t, openText, "2")
			p.send(t, "3")
		}},
		{"Closed", "the stream", webSocket, func(_ *testing.T, _ *panickingHandler, p *wsPeer) { p.conn.Close() }},
		{"Closed", "a caller", webSocket, func(_ *testing.T, f *panickingHandler, _ *wsPeer) { f.socket.Close() }},
		{"Closed", "an Abort", webSocket, func(_ *testing.T, f *panickingHandler, _ *wsPeer) { f.socket.Abort() }},
		{"Flush", "an Input", webSocket, func(_ *testing.T, f *panickingHandler, _ *wsPeer) {
			f.socket.Input(func() {})
		}},
		{"Pending", "a caller", polling, wake},
		{"Fill", "the timer of a poll", polling, wake},
		{"Mark", "the timer of a poll", polling, byItself},
		{"Upgraded", "the stream", probed, send("5")},
	} {
		t.Run(tt.method+" from "+tt.from, func(t *testing.T) {
			healthy, h, hp := openLoopback(t, testOptions)
			opts := testOptions
			if tt.method == "Mark" || tt.method == "Confirm" { // they need a ping
				opts.PingInterval = 50 * time.Millisecond
			}
			s, f := newPanickingHandler(opts, tt.method)
			t.Cleanup(s.Abort)
			f.armed.Store(tt.method == "Mark") // the ping comes by itself, once
			p := tt.open(t, s)
			f.armed.Store(true)
			tt.trigger(t, f, p)
			f.await(t, "panicked: bug in "+tt.method)
			f.awaitThat(t, "Closed", func() bool { return s.state.ended() })
			if p != nil {
				awaitEnd(t, p)
			}
			s.Input(func() {}) // no lock is still held
			hp.send(t, "4hello")
			h.await(t, "message 4hello")
			h.emit(healthy, "hello")
			hp.want(t, "4hello")
		})
	}
}

func pollWaits(s *Socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.poll.waitsLocked()
}

// awaitEnd reads until the connection ends.
func awaitEnd(t *testing.T, p *wsPeer) {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		select {
		case _, ok := <-p.frames:
			if !ok {
				return
			}
			p.conn.Close() // closes our side too, so that the Socket does not wait for it
		case <-deadline:
			t.Fatal("the connection was left open")
		}
	}
}

// panickingConnHandler panics in one of its methods, and closes its Conn then.
type panickingConnHandler struct {
	*connLog
	panicIn string
	conn    *Conn
}

func (f *panickingConnHandler) panicIf(method string) {
	if f.panicIn == method {
		panic("bug in " + method)
	}
}

func (f *panickingConnHandler) Message(data []byte, binary bool) {
	f.panicIf("Message")
	f.connLog.Message(data, binary)
}

func (f *panickingConnHandler) Flush() {
	f.panicIf("Flush")
	f.connLog.Flush()
}

func (f *panickingConnHandler) Drained() {
	f.panicIf("Drained")
	f.connLog.Drained()
}

func (f *panickingConnHandler) Closed(err error) {
	f.connLog.Closed(err)
	f.panicIf("Closed")
}

func (f *panickingConnHandler) Panicked(v any) {
	f.connLog.Panicked(v)
	f.conn.Close()
}

func TestPanicsEndTheirConnOnly(t *testing.T) {
	for _, method := range []string{"Message", "Flush", "Closed"} {
		t.Run(method+" by WebSocket", func(t *testing.T) {
			s := newServer(t, false)
			healthy, hp := dialSocket(t, s)
			l := begin(t, healthy)
			c, p := dialSocket(t, s)
			f := &panickingConnHandler{newConnLog(), method, c}
			c.Start(f)
			if method == "Closed" {
				p.conn.Close()
			} else {
				p.send(t, "4x")
			}
			f.wantPanic(t)
			hp.send(t, "4hello")
			l.want(t, "4hello")
			healthy.Send([]byte("hello"), nil)
			healthy.Flush()
			hp.want(t, "4hello")
		})
	}
	for _, method := range []string{"Message", "Flush", "Drained", "Closed"} {
		t.Run(method+" by polling", func(t *testing.T) {
			s := newServer(t, false)
			c := dialPolling(t, s, nil)
			f := &panickingConnHandler{newConnLog(), method, c}
			c.Start(f)
			switch method {
			case "Drained":
				c.Send([]byte("x"), nil)
				c.Flush()
				s.wantPost(t, "4x")
			case "Closed":
				s.poll(t).answer(http.StatusOK, "1")
			default:
				s.poll(t).answer(http.StatusOK, "4x")
			}
			f.wantPanic(t)
		})
	}
}

func TestPanicsWithinStartEndTheirConn(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	s.handshake(t).answer(http.StatusOK, serverHandshake.with(nil)+"\x1e4x")
	c := d.open(t)
	f := &panickingConnHandler{newConnLog(), "Message", c}
	c.Start(f)
	f.wantPanic(t)
}

// If another goroutine closes a Conn, a Flush precedes Closed. A panic in that Flush must not
// prevent Closed.
func TestClosedFollowsAFlushThatPanics(t *testing.T) {
	c, _ := dialSocket(t, newServer(t, false))
	f := &panickingConnHandler{newConnLog(), "Flush", c}
	c.Start(f)
	c.input.Lock()
	c.unflushed = true
	c.input.Unlock()
	c.Close()
	f.wantPanic(t)
}

// wantPanic waits for the panic and for Closed.
func (f *panickingConnHandler) wantPanic(t *testing.T) {
	t.Helper()
	want := fmt.Sprint("panicked: bug in ", f.panicIn)
	f.awaitThat(t, want, func() bool { return slices.Contains(f.log, want) && slices.Contains(f.log, "closed") })
	f.conn.Send([]byte("y"), nil) // no lock is still held
	if n := f.conn.Flush(); n != 0 {
		t.Errorf("%d bytes wait on a Conn that has ended", n)
	}
}
