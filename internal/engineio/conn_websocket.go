package engineio

import (
	"errors"

	"github.com/gobwas/ws"
)

// wsLink is a Conn as the Handler of its WebSocket's stream.
type wsLink Conn

// Read implements netpoll.Handler.
func (l *wsLink) Read(p []byte) {
	c := (*Conn)(l)
	c.input.Lock()
	defer c.input.Unlock()
	if c.state.ended() {
		return
	}
	c.unflushed = true
	_, err := l.frames.feed(p, l.frame)
	if err == nil && !l.reserveIncomplete() {
		err = ErrNoMemory
	}
	if err != nil && !errors.Is(err, errStop) {
		c.end(err)
	}
}

// reserveIncomplete accounts for the bytes of an incomplete message. It returns false if there is
// no memory for them.
func (l *wsLink) reserveIncomplete() bool {
	n := l.frames.incomplete()
	if !(*Conn)(l).incomplete(n - l.reserved) {
		return false
	}
	l.reserved = n
	return true
}

// Flush implements netpoll.Handler.
func (l *wsLink) Flush() {
	c := (*Conn)(l)
	c.input.Lock()
	defer c.input.Unlock()
	c.flushInput()
}

// frame handles a message or a control frame; input is held.
func (l *wsLink) frame(op ws.OpCode, payload []byte) error {
	c := (*Conn)(l)
	switch op { //nolint:exhaustive // the others mean nothing here
	case ws.OpText:
		return c.deliverText(payload)
	case ws.OpBinary:
		p, err := c.protocol.decodeBinary(payload)
		if err != nil {
			return err
		}
		if !c.packet(p) {
			return errStop
		}
	case ws.OpPing:
		e := newEncoder(clientFrames)
		e.frame(ws.OpPong, 0, payload, nil, nil)
		l.stream.Write(e.buf)
		e.free()
	case ws.OpClose:
		c.end(closeError(payload))
		return errStop
	}
	return nil
}

// closeError returns the error for a server's Close frame.
func closeError(payload []byte) error {
	switch code, err := closeCode(payload); {
	case err == nil && code == ws.StatusNoStatusRcvd:
		return ErrServerClosed
	case err == nil && code == ws.StatusMessageTooBig:
		return ErrTooBig
	default:
		return ErrServerAway
	}
}

// Drained implements netpoll.Handler.
func (l *wsLink) Drained() {
	// There is no handler before Start. Under TLS a goroutine writes the handshake, too.
	if h := (*Conn)(l).handler(); h != nil {
		h.Drained()
	}
}

// Closed implements netpoll.Handler.
func (l *wsLink) Closed(err error) {
	l.frames = frameReader{}
	l.reserveIncomplete()
	(*Conn)(l).end(err)
}

// close sends a Close frame and shuts the stream down.
func (l *wsLink) close() {
	e := newEncoder(clientFrames)
	e.frame(ws.OpClose, 0, nil, nil, nil)
	l.stream.Write(e.buf)
	e.free()
	l.shutdown()
}

// shutdown ends the stream without a Close frame.
func (l *wsLink) shutdown() { l.stream.Shutdown(lingerTimeout) }

// Panicked implements netpoll.PanicHandler.
func (l *wsLink) Panicked(v any) { (*Conn)(l).panicked(v) }
