package engineio

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/stream"
)

// maxQueuedControlBytes bounds the pongs that wait for a client which floods us with pings and reads nothing.
const maxQueuedControlBytes = 4 << 10

// wsTransport is one WebSocket of a Socket: its transport, or one that probes.
type wsTransport struct {
	socket *Socket
	stream stream.Stream
	frames frameReader // owned by the stream's reader

	// Guarded by socket.mu.
	ended    bool // end was called
	probed   bool // answered a probe
	timer    *time.Timer
	peerCode ws.StatusCode // of the client's CLOSE frame, or 0
}

func newWSTransport(s *Socket, conn net.Conn) *wsTransport {
	t := &wsTransport{socket: s, frames: frameReader{masked: true, maxBytes: s.opts.MaxPayload}}
	t.stream = stream.New(conn, t)
	return t
}

// Read implements stream.Handler.
func (t *wsTransport) Read(p []byte) {
	s := t.socket
	s.input.Lock()
	defer s.input.Unlock()
	s.mu.Lock()
	s.progress = time.Now()
	ended := t.ended
	s.mu.Unlock()
	if ended {
		return // only waiting for the client's end of the closing handshake
	}
	err := t.frames.feed(p, t.frame)
	s.h.Flush()
	if err == nil || errors.Is(err, errStop) {
		return
	}
	code := ws.StatusCode(0)
	if fe, ok := errors.AsType[*frameError](err); ok {
		code = fe.code
	}
	s.mu.Lock()
	defer s.unlock()
	t.end(code)
	switch {
	case s.ws == t:
		s.closeLocked(ParseError)
	case s.probe == t:
		s.dropProbeLocked()
	}
}

// frame handles a message or control frame; input is held.
func (t *wsTransport) frame(op ws.OpCode, payload []byte) error {
	s := t.socket
	if op.IsControl() {
		return t.control(op, payload)
	}
	s.mu.Lock()
	current := s.ws == t
	s.mu.Unlock()
	if !current {
		return t.probing(op, payload)
	}
	if op == ws.OpBinary {
		if !s.packet(Packet{Type: Message, Binary: true, Data: payload}) {
			return errStop
		}
		return nil
	}
	p, err := decodeText(payload) // a client with forceBase64 writes binary as text here too
	if err != nil {
		return err
	}
	if !s.packet(p) {
		return errStop
	}
	return nil
}

func (t *wsTransport) control(op ws.OpCode, payload []byte) error {
	switch op { //nolint:exhaustive // pongs answer nothing of ours, and the others are messages
	case ws.OpPing:
		if t.stream.Queued() < maxQueuedControlBytes {
			e := newEncoder(serverFrames)
			e.frame(ws.OpPong, 0, payload, nil, nil)
			t.stream.Write(e.buf)
			e.free()
		}
	case ws.OpClose:
		code, ok := closeCode(payload)
		if !ok {
			return &frameError{ws.StatusProtocolError, "bad close frame"}
		}
		t.closed(code)
		return errStop
	}
	return nil
}

// closed handles the client's CLOSE frame.
func (t *wsTransport) closed(code ws.StatusCode) {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	t.peerCode = code
	t.end(code)
	switch {
	case s.probe == t:
		s.dropProbeLocked()
	case s.ws != t:
	case code == ws.StatusGoingAway:
		s.closeLocked(GoingAway)
	default:
		s.closeLocked(TransportClose)
	}
}

// probing handles a message on a WebSocket that is not the transport (yet). It
// implements Engine.IO protocol v4, "Upgrade".
func (t *wsTransport) probing(op ws.OpCode, payload []byte) error {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	if s.probe != t {
		return errStop
	}
	text := string(payload)
	switch {
	case op == ws.OpText && text == "2probe":
		e := newEncoder(serverFrames)
		e.packet(Pong, []byte("probe"), nil, nil)
		t.stream.Write(e.buf)
		e.free()
		if !t.probed {
			t.probed = true
			s.polling.noop = time.AfterFunc(noopDelay, s.onNoop)
		}
	case op == ws.OpText && len(text) > 0 && text[0] == byte(Upgrade) && s.state != stateClosed:
		s.upgradeLocked()
	default:
		t.end(0)
		s.dropProbeLocked()
		return errStop
	}
	return nil
}

// upgradeLocked makes the probing WebSocket the transport. The client sent its UPGRADE packet after
// its last poll had been answered, so all that was sent by polling has arrived.
func (s *Socket) upgradeLocked() {
	t := s.probe
	t.timer.Stop()
	s.probe = nil
	s.ws = t
	s.blocked = false
	if s.paused {
		t.stream.Pause()
	}
	s.endPollingLocked()
	s.h.Upgraded()
	s.h.Confirm(s.h.Mark())
	if s.pingQueued { // no poll took it
		e := newEncoder(serverFrames)
		s.pingLocked(e, time.Now())
		s.blocked = t.stream.Write(e.buf) > 0
		e.free()
	}
	s.flushLocked()
}

func (s *Socket) dropProbeLocked() {
	if s.probe == nil {
		return
	}
	s.probe.timer.Stop()
	s.probe = nil
	s.stopNoopLocked()
}

// end closes the WebSocket in order, with a close code unless that is 0; socket.mu is held.
func (t *wsTransport) end(code ws.StatusCode) {
	if t.ended {
		return
	}
	t.ended = true
	e := newEncoder(serverFrames)
	if code == 0 || code == ws.StatusNoStatusRcvd {
		e.frame(ws.OpClose, 0, nil, nil, nil)
	} else {
		e.frame(ws.OpClose, 0, ws.NewCloseFrameBody(code, ""), nil, nil)
	}
	t.stream.Write(e.buf)
	e.free()
	t.stream.Shutdown(lingerTimeout)
}

// Drained implements stream.Handler.
func (t *wsTransport) Drained() {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	if s.ws != t {
		return
	}
	s.progress = time.Now()
	s.blocked = false
	s.flushLocked()
}

// Closed implements stream.Handler.
func (t *wsTransport) Closed(err error) {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	t.ended = true
	switch {
	case s.probe == t:
		s.dropProbeLocked()
	case s.ws != t:
	case errors.Is(err, io.EOF):
		s.closeLocked(TransportClose)
	default:
		s.closeLocked(TransportError)
	}
}

// ServeProbe takes a WebSocket which the client opened with this Socket's sid, to upgrade to it.
// A second one is closed, and the first is not touched.
func (s *Socket) ServeProbe(conn net.Conn, initial []byte) {
	t := newWSTransport(s, conn)
	s.mu.Lock()
	if s.state != stateOpen || s.ws != nil || s.probe != nil || !s.opts.Upgrades {
		t.end(0)
	} else {
		s.probe = t
		t.timer = time.AfterFunc(s.opts.UpgradeTimeout, func() { s.onUpgradeTimeout(t) })
	}
	s.unlock()
	t.stream.Start(initial)
}

func (s *Socket) onUpgradeTimeout(t *wsTransport) {
	s.mu.Lock()
	defer s.unlock()
	if s.probe == t {
		t.end(0)
		s.dropProbeLocked()
	}
}
