package engineio

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// fragile is a handler one of whose methods panics, and which gives up its Socket then.
type fragile struct {
	*fakeHandler
	breakAt string
	armed   atomic.Bool
	socket  *Socket
}

func (f *fragile) hit(method string) {
	if f.breakAt == method && f.armed.Load() {
		panic("broken " + method)
	}
}

func (f *fragile) Message(data []byte, binary bool) {
	f.hit("Message")
	f.fakeHandler.Message(data, binary)
}

func (f *fragile) Flush() {
	f.hit("Flush")
	f.fakeHandler.Flush()
}

func (f *fragile) Fill(e *Encoder, maxBytes int) FillResult {
	f.hit("Fill")
	return f.fakeHandler.Fill(e, maxBytes)
}

func (f *fragile) Pending() bool {
	f.hit("Pending")
	return f.fakeHandler.Pending()
}

func (f *fragile) Mark() uint64 {
	f.hit("Mark")
	return f.fakeHandler.Mark()
}

func (f *fragile) ConfirmPing() {
	f.hit("ConfirmPing")
	f.fakeHandler.ConfirmPing()
}

func (f *fragile) Unconfirmed() (pending, overdue bool) {
	f.hit("Unconfirmed")
	return f.fakeHandler.Unconfirmed()
}

func (f *fragile) Confirm(mark uint64) {
	f.hit("Confirm")
	f.fakeHandler.Confirm(mark)
}

func (f *fragile) Upgraded() {
	f.hit("Upgraded")
	f.fakeHandler.Upgraded()
}

func (f *fragile) Closed(reason Reason) {
	f.fakeHandler.Closed(reason)
	f.hit("Closed")
}

func (f *fragile) Panicked(v any) {
	f.fakeHandler.Panicked(v)
	go f.socket.Abort()
}

func newFragile(opts Options, breakAt string) (*Socket, *fragile) {
	f := &fragile{fakeHandler: newFakeHandler(), breakAt: breakAt}
	f.socket = NewSocket("sid", opts, f)
	return f.socket, f
}

func TestPanicsEndTheirSocketOnly(t *testing.T) {
	opts := testOptions
	opts.PingInterval = 50 * time.Millisecond
	webSocket := func(t *testing.T, s *Socket) *wsPeer {
		ours, theirs := loopback(t)
		s.StartWebSocket(ours, nil, nil, testHandshake)
		return newPeer(theirs, clientFrames)
	}
	polling := func(t *testing.T, s *Socket) *wsPeer {
		s.Start()
		startPoll(t, s, "a")
		for !pollWaits(s) {
			time.Sleep(time.Millisecond) // until the poll's goroutine has come that far
		}
		return nil
	}
	probed := func(t *testing.T, s *Socket) *wsPeer {
		ours, theirs := loopback(t)
		s.ServeProbe(ours, nil, nil)
		return newPeer(theirs, clientFrames)
	}
	send := func(message string) func(*testing.T, *fragile, *wsPeer) {
		return func(t *testing.T, _ *fragile, p *wsPeer) { p.send(t, message) }
	}
	wake := func(_ *testing.T, f *fragile, _ *wsPeer) {
		f.askForConfirmations()
		f.add("x")
		f.socket.Wake()
	}
	byItself := func(*testing.T, *fragile, *wsPeer) {}
	for _, tt := range []struct {
		method string
		from   string
		open   func(*testing.T, *Socket) *wsPeer
		strike func(*testing.T, *fragile, *wsPeer)
	}{
		{"Message", "the stream", webSocket, send("4x")},
		{"Flush", "the stream", webSocket, send("4x")},
		{"Fill", "a caller", webSocket, wake},
		{"ConfirmPing", "a caller", webSocket, wake},
		{"Mark", "the heartbeat's timer", webSocket, byItself},
		{"Unconfirmed", "the heartbeat's timer", webSocket, func(_ *testing.T, f *fragile, _ *wsPeer) {
			f.askToConfirmLater()
			f.add("x")
			f.socket.Wake()
		}},
		{"Confirm", "the stream", webSocket, func(t *testing.T, _ *fragile, p *wsPeer) {
			p.want(t, openText, "2")
			p.send(t, "3")
		}},
		{"Closed", "the stream", webSocket, func(_ *testing.T, _ *fragile, p *wsPeer) { p.conn.Close() }},
		{"Closed", "a caller", webSocket, func(_ *testing.T, f *fragile, _ *wsPeer) { f.socket.Close() }},
		{"Pending", "a caller", polling, wake},
		{"Fill", "the timer of a poll", polling, wake},
		{"Mark", "the timer of a poll", polling, byItself},
		{"Upgraded", "the stream", probed, send("5")},
	} {
		t.Run(tt.method+" from "+tt.from, func(t *testing.T) {
			healthy, h, hp := openLoopback(t, testOptions)
			s, f := newFragile(opts, tt.method)
			t.Cleanup(s.Abort)
			p := tt.open(t, s)
			f.armed.Store(true)
			tt.strike(t, f, p)
			f.await(t, "panicked: broken "+tt.method)
			f.awaitThat(t, "Closed", func() bool { return s.state.get() == stateClosed })
			if p != nil {
				awaitEnd(t, p)
			}
			hp.send(t, "4hello")
			h.await(t, "message 4hello")
			h.add("hello")
			healthy.Wake()
			hp.want(t, "4hello")
		})
	}
}

func pollWaits(s *Socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.polling.waiting != nil
}

// awaitEnd reads until the connection has ended.
func awaitEnd(t *testing.T, p *wsPeer) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-p.frames:
			if !ok {
				return
			}
			p.conn.Close() // our half of it, so that nobody waits for that
		case <-deadline:
			t.Fatal("the connection was left open")
		}
	}
}

// fragileLog is a ConnHandler one of whose methods panics, and which gives up its Conn then.
type fragileLog struct {
	*connLog
	breakAt string
	conn    *Conn
}

func (f *fragileLog) hit(method string) {
	if f.breakAt == method {
		panic("broken " + method)
	}
}

func (f *fragileLog) Message(data []byte, binary bool) {
	f.hit("Message")
	f.connLog.Message(data, binary)
}

func (f *fragileLog) Flush() {
	f.hit("Flush")
	f.connLog.Flush()
}

func (f *fragileLog) Drained() {
	f.hit("Drained")
	f.connLog.Drained()
}

func (f *fragileLog) Closed(err error) {
	f.connLog.Closed(err)
	f.hit("Closed")
}

func (f *fragileLog) Panicked(v any) {
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
			f := &fragileLog{newConnLog(), method, c}
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
			f := &fragileLog{newConnLog(), method, c}
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

// The Flush that is made up for when a Conn is closed by another goroutine must not take Closed with it.
func TestClosedFollowsAFlushThatPanics(t *testing.T) {
	c, _ := dialSocket(t, newServer(t, false))
	f := &fragileLog{newConnLog(), "Flush", c}
	c.Start(f)
	c.input.Lock()
	c.unflushed = true
	c.input.Unlock()
	c.Close()
	f.wantPanic(t)
}

// wantPanic waits for the panic, and for the end of the Conn.
func (f *fragileLog) wantPanic(t *testing.T) {
	t.Helper()
	want := fmt.Sprint("panicked: broken ", f.breakAt)
	f.awaitThat(t, want, func() bool { return slices.Contains(f.log, want) && slices.Contains(f.log, "closed") })
	f.conn.Send([]byte("y"), nil) // no lock was left behind
	if n := f.conn.Flush(); n != 0 {
		t.Errorf("%d bytes wait on a Conn that has ended", n)
	}
}
