package engineio

import (
	"net"

	"github.com/gobwas/ws"
)

// ServeProbe takes a WebSocket that the client opened with this Socket's sid, to upgrade to it. It
// implements the server side of Engine.IO protocol v4, "Upgrade". Its arguments are those of
// StartWebSocket. If one is probing already, the second is closed and the first continues. It
// returns false, and leaves conn to the caller, if the Socket has ended: after Detach, another one
// serves the client.
func (s *Socket) ServeProbe(conn net.Conn, initial, answer []byte) bool {
	t := s.acceptProbe(conn, answer)
	if t == nil {
		return false
	}
	t.stream.Start(initial)
	return true
}

// acceptProbe returns nil if the Socket has ended.
func (s *Socket) acceptProbe(conn net.Conn, answer []byte) *wsTransport {
	s.mu.Lock()
	defer s.unlock()
	if s.state.ended() {
		return nil
	}
	t := newWSTransport(s, conn)
	t.written = int64(len(answer))
	t.stream.Write(answer)
	s.beginProbeLocked(t)
	return t
}

func (s *Socket) beginProbeLocked(t *wsTransport) {
	if s.state.get() != stateOpen || s.ws != nil || s.probe != nil || !s.opts.Upgrades {
		t.close(0)
		return
	}
	s.probe = t
	t.timer = s.afterFunc(s.opts.UpgradeTimeout, func(s *Socket) { s.onUpgradeTimeoutLocked(t) })
}

func (s *Socket) onUpgradeTimeoutLocked(t *wsTransport) {
	if s.probe == t {
		t.close(0)
		s.detachProbeLocked()
	}
}

// probeMessage handles a message on a WebSocket that is not the transport (yet).
func (t *wsTransport) probeMessage(op ws.OpCode, payload []byte) error {
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
		if t.role.move(roleAnswered) {
			s.pollingLocked().startNoopsLocked()
		}
	case op == ws.OpText && len(text) > 0 && text[0] == byte(Upgrade) && !s.state.ended():
		s.upgradeLocked()
	default:
		t.close(0)
		s.detachProbeLocked()
		return errStop
	}
	return nil
}

// upgradeLocked makes the probing WebSocket the transport. The client sends UPGRADE after its last
// poll was answered, so everything sent by polling has arrived.
func (s *Socket) upgradeLocked() {
	t := s.probe
	t.timer.Stop()
	s.probe = nil
	s.ws = t
	t.role.move(roleTransport)
	s.output.moveLocked(outputWritable)
	s.ping.transportChangedLocked()
	if s.readPaused {
		t.stream.Pause()
	}
	owedPongs := s.pollingLocked().upgradedLocked()
	if s.opts.Protocol == V3 {
		t.upgraded3Locked(owedPongs)
	}
	if s.ping.state == pingQueued { // no poll took it
		s.pingNowLocked()
	}
	s.askAgainLocked()
	s.flushLocked()
	if s.output == outputLeft {
		t.stream.Shutdown(lingerTimeout)
	}
}

// detachProbeLocked ends the upgrade without its WebSocket; polling continues.
func (s *Socket) detachProbeLocked() {
	if s.probe == nil {
		return
	}
	s.probe.timer.Stop()
	s.probe = nil
	s.poll.stopNoopsLocked()
	if s.output == outputLeft && !s.state.ended() {
		s.pollingLocked().leaveLocked()
	}
}
