package engineio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// wsPeer is the other end of a WebSocket; its format says which.
type wsPeer struct {
	conn   net.Conn
	format format
	frames chan string   // received, as text; closed at the end
	gate   chan struct{} // one token per read; nil if the peer reads by itself
}

// newPeer starts to read.
func newPeer(conn net.Conn, f format) *wsPeer {
	// The channel holds more than a test sends, so that reading never blocks.
	p := &wsPeer{conn: conn, format: f, frames: make(chan string, 1<<16)}
	go p.readLoop() // ends with the connection
	return p
}

// newLazyPeer reads only when the gate has a token.
func newLazyPeer(conn net.Conn) *wsPeer {
	p := &wsPeer{conn: conn, format: clientFrames, frames: make(chan string, 1<<16), gate: make(chan struct{})}
	go p.readLoop() // ends with the connection, or when the gate is closed
	return p
}

func (p *wsPeer) readLoop() {
	defer close(p.frames)
	r := frameReader{masked: p.format == serverFrames}
	buf := make([]byte, 32<<10)
	for {
		if p.gate != nil {
			<-p.gate
		}
		n, err := p.conn.Read(buf)
		if _, ferr := r.feed(buf[:n], func(op ws.OpCode, payload []byte) error {
			p.frames <- frameText(op, payload)
			return nil
		}); ferr != nil {
			p.frames <- "bad frame: " + ferr.Error()
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			p.frames <- "EOF"
			return
		case err != nil:
			p.frames <- "error"
			return
		}
	}
}

func frameText(op ws.OpCode, payload []byte) string {
	switch op {
	case ws.OpText:
		return string(payload)
	case ws.OpBinary:
		return fmt.Sprintf("b%x", payload)
	case ws.OpPing:
		return "ping:" + string(payload)
	case ws.OpPong:
		return "pong:" + string(payload)
	case ws.OpClose:
		if len(payload) < 2 {
			return "close:" + string(payload)
		}
		code, reason := ws.ParseCloseFrameData(payload)
		return fmt.Sprintf("close:%d%s", code, reason)
	default:
		return fmt.Sprintf("%x:%s", byte(op), payload)
	}
}

// next returns the next frame.
func (p *wsPeer) next(t *testing.T) string {
	t.Helper()
	select {
	case f, ok := <-p.frames:
		if !ok {
			t.Fatal("no more frames: the connection has ended")
		}
		return f
	case <-time.After(testTimeout):
		t.Fatalf("waited %v for a frame", testTimeout)
	}
	return ""
}

func (p *wsPeer) want(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := p.next(t); got != w {
			t.Fatalf("the peer got %.200q, want %.200q", got, w)
		}
	}
}

// wantNothing checks that nothing was received. It works in a bubble only.
func (p *wsPeer) wantNothing(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case f := <-p.frames:
		t.Fatalf("the peer got %q, want nothing", f)
	default:
	}
}

// write sends the frames of an Encoder in one write.
func (p *wsPeer) write(t *testing.T, f func(e *Encoder)) {
	t.Helper()
	e := newEncoder(p.format)
	defer e.free()
	f(e)
	p.writeBytes(t, e.buf)
}

func (p *wsPeer) writeBytes(t *testing.T, b []byte) {
	t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		t.Fatalf("the peer's write: %v", err)
	}
}

// send sends text frames in one write.
func (p *wsPeer) send(t *testing.T, texts ...string) {
	t.Helper()
	p.write(t, func(e *Encoder) {
		for _, s := range texts {
			e.frame(ws.OpText, 0, []byte(s), nil, nil)
		}
	})
}

func (p *wsPeer) sendFrame(t *testing.T, op ws.OpCode, payload []byte) {
	t.Helper()
	p.write(t, func(e *Encoder) { e.frame(op, 0, payload, nil, nil) })
}
