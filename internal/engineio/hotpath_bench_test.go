package engineio

import (
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// nullStream is a Stream that takes every write immediately.
type nullStream struct{ taken int64 }

func (*nullStream) Start([]byte)           {}
func (*nullStream) Pause()                 {}
func (*nullStream) Resume()                {}
func (*nullStream) Queued() int            { return 0 }
func (n *nullStream) Delivered() int64     { return n.taken }
func (*nullStream) Close()                 {}
func (*nullStream) Shutdown(time.Duration) {}

func (n *nullStream) Write(p []byte) (queued int) {
	n.taken += int64(len(p))
	return 0
}

// nullHandler is a Handler and a ConnHandler that counts messages, and fills one event when due.
type nullHandler struct {
	askingHandler
	messages int
}

func (h *nullHandler) Message([]byte, bool) { h.messages++ }
func (*nullHandler) Drained()               {}
func (*nullHandler) Closed(Reason)          {}

type nullConnHandler struct{ *nullHandler }

func (nullConnHandler) Closed(error) {}

// BenchmarkMessage measures this package's part of one message, without the network.
func BenchmarkMessage(b *testing.B) {
	newSocket := func(result FillResult) (*Socket, *wsTransport, *nullHandler) {
		h := &nullHandler{askingHandler: askingHandler{result: result}}
		s := NewSocket("sid", testOptions, h)
		t := &wsTransport{socket: s, stream: &nullStream{}, frames: frameReader{masked: true}}
		s.openWebSocket(t, nil, testHandshake)
		b.Cleanup(s.Abort)
		return s, t, h
	}
	event := wire(fromClient(ws.OpText, `42["event"]`))
	pong := wire(fromClient(ws.OpText, "3"))
	receive := func(t interface {
		Read([]byte)
		Flush()
	}, buf, frame []byte,
	) {
		t.Read(buf[:copy(buf, frame)]) // unmasking changes the bytes
		t.Flush()
	}
	b.Run("to client", func(b *testing.B) {
		s, _, h := newSocket(FillResult{})
		b.ReportAllocs()
		for b.Loop() {
			h.due = true
			s.Wake()
		}
	})
	b.Run("to client, confirmed", func(b *testing.B) {
		s, t, h := newSocket(FillResult{Confirm: true})
		buf := make([]byte, len(pong))
		b.ReportAllocs()
		for b.Loop() {
			h.due = true
			s.Wake()
			receive(t, buf, pong)
		}
	})
	b.Run("from client", func(b *testing.B) {
		_, t, _ := newSocket(FillResult{})
		buf := make([]byte, len(event))
		b.ReportAllocs()
		for b.Loop() {
			receive(t, buf, event)
		}
	})
	newConn := func() (*Conn, *wsLink) {
		c := &Conn{h: nullConnHandler{&nullHandler{}}, dialer: &Dialer{}}
		l := (*wsLink)(c)
		l.stream, c.ws = &nullStream{}, l
		return c, l
	}
	b.Run("to server", func(b *testing.B) {
		c, _ := newConn()
		text := []byte(`2["event"]`)
		b.ReportAllocs()
		for b.Loop() {
			c.Send(text, nil)
			c.Flush()
		}
	})
	b.Run("from server", func(b *testing.B) {
		_, l := newConn()
		frame := wire(fromServer(ws.OpText, `42["event"]`))
		buf := make([]byte, len(frame))
		b.ReportAllocs()
		for b.Loop() {
			receive(l, buf, frame)
		}
	})
}
