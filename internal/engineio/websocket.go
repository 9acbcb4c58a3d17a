package engineio

import (
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// maxQueuedPongBytes limits the pongs that wait for a client which floods us with WebSocket pings
// and reads nothing.
const maxQueuedPongBytes = 4 << 10

// statusTryAgainLater is a close code of IANA's registry.
const statusTryAgainLater ws.StatusCode = 1013

// wsRole is what a WebSocket is to its Socket:
//
//	probing  -> answered   the client's probe was answered
//	probing  -> transport  StartWebSocket, or the UPGRADE packet came
//	answered -> transport  the UPGRADE packet came
type wsRole uint8

const (
	roleProbing wsRole = iota
	roleAnswered
	roleTransport
)

var wsRoleNames = [...]string{"probing", "answered", "transport"}

// String implements fmt.Stringer.
func (r wsRole) String() string { return nameOf(wsRoleNames[:], r) }

// move is the only place where a role changes. It reports whether the transition exists.
func (r *wsRole) move(to wsRole) bool {
	if to <= *r {
		return false
	}
	*r = to
	return true
}

// wsTransport is one WebSocket of a Socket: its transport, or one that probes.
type wsTransport struct {
	socket  *Socket
	stream  netpoll.Stream
	written int64 // bytes; guarded by socket.mu

	// Owned by the stream's reader, and by StartWebSocket before.
	role      wsRole
	protocol  Protocol // immutable
	unflushed bool     // something was read since the last Flush
	frames    frameReader
	reserved  int // bytes in frames, as far as Handler.Incomplete has accounted for them

	moved netpoll.Handler // after Detach; usually nil. Set with socket.input and socket.mu held

	// Guarded by socket.mu.
	ended       bool // a Close frame was sent, or the stream has ended
	queuedPongs int  // bytes of WebSocket pongs that had to wait since the last Drained
	timer       *time.Timer
}

func newWSTransport(s *Socket, conn net.Conn) *wsTransport {
	t := &wsTransport{socket: s, protocol: s.opts.Protocol, frames: frameReader{masked: true, maxBytes: s.opts.MaxPayload}}
	t.stream = netpoll.New(conn, t)
	return t
}

func (t *wsTransport) isTransport() bool { return t.role == roleTransport }

// write sends what e holds, frees e, and returns how many bytes wait; socket.mu is held.
func (t *wsTransport) write(e *Encoder) (queued int) {
	t.written += int64(e.Len())
	queued = t.stream.Write(e.buf)
	e.free()
	return queued
}

// Read implements netpoll.Handler.
func (t *wsTransport) Read(p []byte) {
	s := t.socket
	s.input.Lock()
	defer s.input.Unlock()
	if t.moved != nil {
		t.moved.Read(p)
		return
	}
	if !t.noteInput() {
		return // the closing handshake only waits for the client's Close frame
	}
	t.unflushed = t.isTransport() // even if a message panics
	_, err := t.frames.feed(p, t.frame)
	if errors.Is(err, errStop) {
		err = nil
	}
	if err == nil && !t.reserveIncomplete() {
		err = &frameError{statusTryAgainLater, "no memory for incomplete messages"}
	}
	if err != nil {
		t.fail(err)
	}
	t.unflushed = t.isTransport() // it may have become the transport meanwhile
	if err != nil || s.ending != 0 {
		t.flushInput(err)
	}
}

// noteInput records a sign of life. It reports whether input is still wanted.
func (t *wsTransport) noteInput() (wanted bool) {
	s := t.socket
	s.mu.Lock()
	s.ping.inputLocked(instant.Now())
	wanted = !t.ended
	s.mu.Unlock()
	return wanted
}

// Flush implements netpoll.Handler.
func (t *wsTransport) Flush() {
	s := t.socket
	s.input.Lock()
	defer s.input.Unlock()
	if t.moved != nil {
		t.moved.Flush()
		return
	}
	t.flushInput(nil)
}

// flushInput ends a batch; input is held.
func (t *wsTransport) flushInput(err error) {
	if t.unflushed {
		t.unflushed = false
		t.socket.endBatch(err)
	}
}

// reserveIncomplete accounts for the bytes of an incomplete message. It returns false if there is
// no memory for them.
func (t *wsTransport) reserveIncomplete() bool {
	n := t.frames.incomplete()
	if n != t.reserved && !t.socket.h.Incomplete(n-t.reserved) {
		return false
	}
	t.reserved = n
	return true
}

// fail closes a WebSocket on which the client violated the protocol.
func (t *wsTransport) fail(err error) {
	s := t.socket
	s.mu.Lock()
	defer s.unlock()
	if fe, ok := errors.AsType[*frameError](err); ok {
		if fe.code == ws.StatusMessageTooBig {
			s.h.TooLarge()
		}
		t.close(fe.code)
	} else {
		t.close(0)
	}
	if s.probe == t {
		s.detachProbeLocked()
	}
}

// frame handles a message or a control frame; input is held.
func (t *wsTransport) frame(op ws.OpCode, payload []byte) error {
	s := t.socket
	if op.IsControl() {
		return t.control(op, payload)
	}
	if !t.isTransport() {
		return t.probeMessage(op, payload)
	}
	p, err := t.decode(op, payload)
	if err != nil {
		return err
	}
	if !s.packet(p) {
		return errStop
	}
	return nil
}

// decode decodes a message. A text may be base64: clients with forceBase64 send binary messages
// like that.
func (t *wsTransport) decode(op ws.OpCode, payload []byte) (Packet, error) {
	if op == ws.OpText {
		return t.protocol.decodeText(payload)
	}
	return t.protocol.decodeBinary(payload)
}

func (t *wsTransport) control(op ws.OpCode, payload []byte) error {
	switch op {
	case ws.OpPing:
		t.answerPing(payload)
	case ws.OpClose:
		code, err := closeCode(payload)
		if err != nil {
			return err
		}
		t.closeFrame(code)
		return errStop
	default:
		if t.protocol == V3 && len(payload) > 0 && payload[0] == markPing && t.isTransport() {
			if !t.onMarkPong(payload[1:]) {
				return errStop
			}
			return nil
		}
		t.onPong(payload)
	}
	return nil
}

// onPong notes that the client answered an Encoder.Watch, or Ask.
func (t *wsTransport) onPong(payload []byte) {
	n, err := strconv.ParseUint(string(payload), 10, 64)
	t.socket.mu.Lock()
	defer t.socket.mu.Unlock()
	switch {
	case string(payload) == askPayload:
		if t.socket.ask.moveLocked(askAnswered) {
			t.socket.h.Alive()
		}
	case err == nil: // otherwise the pong is unsolicited
		t.socket.watched = max(t.socket.watched, n)
	}
}

// answerPing answers a WebSocket ping.
func (t *wsTransport) answerPing(payload []byte) {
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

// closeFrame handles the client's Close frame; input is held.
func (t *wsTransport) closeFrame(code ws.StatusCode) {
	s := t.socket
	s.mu.Lock()
	defer s.mu.Unlock()
	t.close(code)
	switch {
	case s.probe == t:
		s.detachProbeLocked()
	case s.ws != t:
	case code == ws.StatusGoingAway:
		s.ending = GoingAway
	default:
		s.ending = CloseFrame
	}
}

// close sends a Close frame, with a code unless that is 0, and shuts the stream down; socket.mu is
// held.
func (t *wsTransport) close(code ws.StatusCode) {
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

// shutdown ends the stream after what was written, without a Close frame; socket.mu is held.
func (t *wsTransport) shutdown() {
	if t.ended {
		return
	}
	t.ended = true
	t.stream.Shutdown(lingerTimeout)
}

// Drained implements netpoll.Handler.
func (t *wsTransport) Drained() {
	s := t.socket
	if m := t.movedTo(); m != nil {
		m.Drained()
		return
	}
	s.mu.Lock()
	defer s.unlock()
	t.queuedPongs = 0
	if s.ws != t {
		return
	}
	if s.output != outputExtraWaits {
		s.ping.lastSign = instant.Now()
	}
	s.output.moveLocked(outputWritable)
	s.flushLocked()
}

// Closed implements netpoll.Handler.
func (t *wsTransport) Closed(err error) {
	s := t.socket
	if m := t.movedTo(); m != nil {
		m.Closed(err)
		return
	}
	t.frames = frameReader{}
	t.reserveIncomplete()
	s.mu.Lock()
	defer s.unlock()
	t.ended = true
	switch {
	case s.probe == t:
		s.detachProbeLocked()
	case s.ws != t:
	case errors.Is(err, io.EOF):
		s.closeLocked(TransportClose)
	case errors.Is(err, netpoll.ErrPeerLost):
		s.closeLocked(PeerLost)
	case s.output == outputLeft && errors.Is(err, netpoll.ErrClosed): // after a stall, ahead of Leave's timer
		s.closeLocked(LeaveTimeout)
	default:
		s.closeLocked(TransportError)
	}
}

// movedTo returns where everything goes after Detach, or nil.
func (t *wsTransport) movedTo() netpoll.Handler {
	t.socket.mu.Lock()
	defer t.socket.mu.Unlock()
	return t.moved
}

// Panicked implements netpoll.PanicHandler.
func (t *wsTransport) Panicked(v any) { t.socket.h.Panicked(v) }
