package engineio

import (
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// maxQueuedPongBytes bounds the pongs that wait for a client which floods us with pings and reads nothing.
const maxQueuedPongBytes = 4 << 10

// wsTransport is one WebSocket of a Socket: its transport, or one that probes.
type wsTransport struct {
	socket  *Socket
	stream  netpoll.Stream
	written int64 // guarded by socket.mu

	// Owned by the stream's reader.
	current   bool // it is the Socket's transport
	unflushed bool // what came is not flushed yet
	frames    frameReader
	counted   int // bytes in frames, as Options.Incomplete knows

	// Guarded by socket.mu.
	ended       bool // end was called
	probed      bool // answered a probe
	queuedPongs int  // bytes of pongs that had to wait, since the last time that nothing waited
	timer       *time.Timer
}

func newWSTransport(s *Socket, conn net.Conn) *wsTransport {
	t := &wsTransport{socket: s, frames: frameReader{masked: true, maxBytes: s.opts.MaxPayload}}
	t.stream = netpoll.New(conn, t)
	return t
}

// write sends what an Encoder has, which is freed, and returns how many bytes wait; socket.mu is held.
func (t *wsTransport) write(e *Encoder) (queued int) {
	t.written += int64(e.Len())
	queued = t.stream.Write(e.buf)
	e.free()
	return queued
}

// Read implements netpoll.Handler.
func (t *wsTransport) Read(p []byte) {
	s := t.socket
	defer s.contain()
	s.input.Lock()
	defer s.input.Unlock()
	s.mu.Lock()
	s.progress = time.Now()
	s.heard = s.progress
	ended := t.ended
	s.mu.Unlock()
	if ended {
		return // only waiting for the client's end of the closing handshake
	}
	t.unflushed = t.current // whatever becomes of the messages
	_, err := t.frames.feed(p, t.frame)
	if errors.Is(err, errStop) {
		err = nil
	}
	if err == nil && !t.count() {
		err = &frameError{statusTryAgainLater, "no memory for incomplete messages"}
	}
	if err != nil {
		t.broken(err)
	}
	t.unflushed = t.current // or since just now
	if err != nil || s.ending != 0 {
		t.flushInput(err)
	}
}

// Flush implements netpoll.Handler.
func (t *wsTransport) Flush() {
	s := t.socket
	defer s.contain()
	s.input.Lock()
	defer s.input.Unlock()
	t.flushInput(nil)
}

// flushInput ends a batch; input is held.
func (t *wsTransport) flushInput(err error) {
	if t.unflushed {
		t.unflushed = false
		t.socket.endInput(err)
	}
}

// statusTryAgainLater is a close code of IANA's registry.
const statusTryAgainLater ws.StatusCode = 1013

// count tells Options.Incomplete of what is kept of a message.
func (t *wsTransport) count() bool {
	n := t.frames.incomplete()
	if !takeIncomplete(t.socket.opts.Incomplete, n-t.counted) {
		return false
	}
	t.counted = n
	return true
}

// broken ends a WebSocket on which the client broke the protocol.
func (t *wsTransport) broken(err error) {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	if fe, ok := errors.AsType[*frameError](err); ok {
		if fe.code == ws.StatusMessageTooBig {
			s.opts.tooLarge()
		}
		t.end(fe.code)
	} else {
		t.end(0)
	}
	if s.probe == t {
		s.dropProbeLocked()
	}
}

// frame handles a message or control frame; input is held.
func (t *wsTransport) frame(op ws.OpCode, payload []byte) error {
	s := t.socket
	if op.IsControl() {
		return t.control(op, payload)
	}
	if !t.current {
		return t.probing(op, payload)
	}
	p := Packet{Type: Message, Binary: true, Data: payload}
	if op == ws.OpText {
		var err error
		if p, err = decodeText(payload); err != nil { // a client with forceBase64 writes binary as text here too
			return err
		}
	}
	if !s.packet(p) {
		return errStop
	}
	return nil
}

func (t *wsTransport) control(op ws.OpCode, payload []byte) error {
	switch op {
	case ws.OpPing:
		t.pong(payload)
	case ws.OpClose:
		code, err := closeCode(payload)
		if err != nil {
			return err
		}
		t.closed(code)
		return errStop
	default:
		t.reached(payload)
	}
	return nil
}

// reached notes a WebSocket pong, which Encoder.Watch may have asked for.
func (t *wsTransport) reached(payload []byte) {
	n, err := strconv.ParseUint(string(payload), 10, 64)
	if err != nil {
		return // nobody asked for it
	}
	t.socket.mu.Lock()
	t.socket.watched = max(t.socket.watched, n)
	t.socket.mu.Unlock()
}

// pong answers a WebSocket ping.
func (t *wsTransport) pong(payload []byte) {
	t.socket.mu.Lock()
	defer t.socket.mu.Unlock()
	if t.queuedPongs > maxQueuedPongBytes {
		return
	}
	e := newEncoder(serverFrames)
	e.frame(ws.OpPong, 0, payload, nil, nil)
	n := e.Len()
	if t.write(e) > 0 {
		t.queuedPongs += n
	}
}

// closed handles the client's CLOSE frame; input is held.
func (t *wsTransport) closed(code ws.StatusCode) {
	s := t.socket
	s.mu.Lock()
	defer s.mu.Unlock()
	t.end(code)
	switch {
	case s.probe == t:
		s.dropProbeLocked()
	case s.ws != t:
	case code == ws.StatusGoingAway:
		s.ending = GoingAway
	default:
		s.ending = CloseFrame
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
		t.write(e)
		if !t.probed {
			t.probed = true
			s.polling.noop = time.AfterFunc(noopDelay, s.onNoop)
		}
	case op == ws.OpText && len(text) > 0 && text[0] == byte(Upgrade) && s.state.get() != stateClosed:
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
	s.ws, t.current = t, true
	s.blocked = false
	s.pingBehind = 0 // a ping that was polled is behind nothing here
	s.furtherQueue = false
	if s.paused {
		t.stream.Pause()
	}
	s.endPollingLocked()
	s.h.Upgraded()
	if s.opts.ConfirmByPong {
		s.pingProvenLocked()
	} else {
		s.h.Confirm(s.h.Mark())
	}
	if s.pingQueued { // no poll took it
		s.pingNowLocked()
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

// shutdown ends the stream behind what was written, without a Close frame; socket.mu is held.
func (t *wsTransport) shutdown() {
	if t.ended {
		return
	}
	t.ended = true
	t.stream.Shutdown(lingerTimeout)
}

// end closes the WebSocket in order, with a close code unless that is 0; socket.mu is held.
func (t *wsTransport) end(code ws.StatusCode) {
	if t.ended {
		return
	}
	e := newEncoder(serverFrames)
	if code == 0 || code == ws.StatusNoStatusRcvd {
		e.frame(ws.OpClose, 0, nil, nil, nil)
	} else {
		e.frame(ws.OpClose, 0, ws.NewCloseFrameBody(code, ""), nil, nil)
	}
	t.write(e)
	t.shutdown()
}

// Drained implements netpoll.Handler.
func (t *wsTransport) Drained() {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	t.queuedPongs = 0
	if s.ws != t {
		return
	}
	if !s.furtherWaits {
		s.progress = time.Now()
	}
	s.blocked, s.furtherWaits = false, false
	s.flushLocked()
}

// Closed implements netpoll.Handler.
func (t *wsTransport) Closed(err error) {
	s := t.socket
	t.frames = frameReader{}
	t.count()
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

// ServeProbe takes a WebSocket which the client opened with this Socket's sid, to upgrade to it. Its arguments are those of
// StartWebSocket. A second one is closed, and the first is not touched.
func (s *Socket) ServeProbe(conn net.Conn, initial, answer []byte) {
	t := newWSTransport(s, conn)
	t.written = int64(len(answer))
	t.stream.Write(answer)
	s.beginProbe(t)
	t.stream.Start(initial)
}

func (s *Socket) beginProbe(t *wsTransport) {
	s.mu.Lock()
	defer s.unlock()
	if s.state.get() != stateOpen || s.ws != nil || s.probe != nil || !s.opts.Upgrades {
		t.end(0)
		return
	}
	s.probe = t
	t.timer = time.AfterFunc(s.opts.UpgradeTimeout, func() { s.onUpgradeTimeout(t) })
}

func (s *Socket) onUpgradeTimeout(t *wsTransport) {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	if s.probe == t {
		t.end(0)
		s.dropProbeLocked()
	}
}
