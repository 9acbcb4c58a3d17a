package engineio

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// Leave ends a connection because this process will not serve it any longer, and loses nothing that
// the client has sent. The client sees the end of the stream, as when a server dies, and comes back.
// What it sent before it saw that is still handled: over WebSocket until its own end of the stream,
// over polling until no POST has come for a while. Then the Socket closes. Nothing more is filled.

// leaveQuiet is how long a Socket waits for a POST that was sent before the client had the answer
// to its poll.
const leaveQuiet = 150 * time.Millisecond

// leaveSlack is how much longer than the Socket its stream stays.
const leaveSlack = 100 * time.Millisecond

// Leave closes the Socket, without waiting, within about d.
func (s *Socket) Leave(d time.Duration) {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	if s.state.ended() || s.output == outputLeft {
		return
	}
	s.closeStyle.moveLocked(closeBroken)
	s.output.moveLocked(outputLeft)
	s.resumeLocked()
	s.afterFunc(d, func(s *Socket) { s.closeLocked(LeaveTimeout) }) // no effect if it is closed by then
	switch {
	case s.ws != nil:
		s.ws.stream.Shutdown(d + leaveSlack)
	case s.probe == nil:
		s.leavePollingLocked()
	}
	// A client that is about to upgrade sends on the WebSocket next: upgradeLocked or
	// detachProbeLocked continues.
}

// leavePollingLocked refuses the waiting poll, and closes the Socket when no POST comes.
func (s *Socket) leavePollingLocked() {
	s.stopPollTimersLocked()
	if s.polling.waiting != nil {
		s.refuseWaitingLocked(CodeUnknownSID)
	}
	s.afterFunc(leaveQuiet, (*Socket).onLeaveQuietLocked)
}

func (s *Socket) onLeaveQuietLocked() {
	switch quiet := instant.Since(s.ping.lastInput); {
	case s.state.ended() || s.ws != nil:
	case s.polling.posting:
		s.afterFunc(leaveQuiet, (*Socket).onLeaveQuietLocked)
	case quiet < leaveQuiet:
		s.afterFunc(leaveQuiet-quiet, (*Socket).onLeaveQuietLocked)
	default:
		s.closeLocked(ForcedClose)
	}
}
