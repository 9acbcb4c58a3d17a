package engineio

import (
	"context"
	"net/http"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

const (
	// noopDelay is how long a poll waits during a probe, as in the reference server.
	noopDelay = 100 * time.Millisecond
	// pollLinger is how long a poll waits for more once there is something to answer with.
	pollLinger = 10 * time.Millisecond
)

// pollTransport is HTTP long-polling as the transport of a Socket: its polls are in this file, and
// its POSTs in post.go. A Socket has one from its first request until it upgrades. Methods that the
// Socket calls may be called on nil where they say so.
type pollTransport struct {
	socket *Socket // immutable

	// Guarded by the Socket's mu.

	waiting *poll // the poll that waits for packets
	// The last answer with packets, kept until the next poll shows that it has arrived. A browser
	// or proxy may repeat a poll whose answer it did not see.
	lastID   string // the poll's "t" parameter
	lastBody []byte
	mark     uint64      // what the last answer carried; not with Options.ConfirmByPong
	watch    uint64      // the last Encoder.Watch in it
	answer   answerState // of the last answer

	posting   bool  // a POST is being handled
	owedPongs uint8 // in version 3
	decoder   decoder3
	recent    requestLog
	polled    chan struct{} // closed by the next poll; nil unless the POST in progress waits for it
	resumed   chan struct{} // likewise, when reading resumes

	noopTimer   *time.Timer // ends waiting polls while a WebSocket probes
	lingerTimer *time.Timer // answers the waiting poll; nil while there is nothing to answer with
}

type poll struct {
	id     string
	answer chan pollAnswer // 1: every poll is answered once
}

// handle waits for packets and returns the answer to a poll; see Socket.Poll.
func (p *pollTransport) handle(ctx context.Context, id string) (a Answer, ok bool) {
	w, a := p.begin(p.socket.opts.requestID(id))
	if w == nil {
		return a, true
	}
	select {
	case r := <-w.answer:
		return p.socket.opts.answerOf(r), true
	case <-ctx.Done():
		return p.cancel(w)
	}
}

// cancel closes the Socket, unless the poll was answered just before it was canceled.
func (p *pollTransport) cancel(w *poll) (a Answer, ok bool) {
	s := p.socket
	s.mu.Lock()
	defer s.unlock()
	if p.waiting == w {
		p.waiting = nil
		s.closeLocked(PollError)
		return Answer{}, false
	}
	select {
	case r := <-w.answer:
		return s.opts.answerOf(r), true
	default:
		return Answer{}, false
	}
}

// begin returns a poll that waits for packets. If the poll is nil, the Answer is final.
func (p *pollTransport) begin(id string) (*poll, Answer) {
	s := p.socket
	s.mu.Lock()
	defer s.unlock()
	if a, ok := p.admitLocked(id); !ok {
		return nil, a
	}
	s.ping.lastSign = instant.Now()
	if p.answer != answerArrived {
		p.lastBody = nil
		p.answerArrivedLocked()
	}
	switch {
	case s.ask.moveLocked(askAnswered):
		s.h.Alive()
	case s.ask == askWaits && s.ask.moveLocked(askAsked):
		return nil, s.opts.packetsAnswer(s.opts.payload(Noop))
	}
	return p.waitLocked(id), Answer{}
}

// admitLocked reports whether a poll may wait. If not, it returns the answer.
func (p *pollTransport) admitLocked(id string) (a Answer, ok bool) {
	s := p.socket
	switch {
	case s.state.ended():
		return ErrorAnswer(CodeUnknownSID), false
	case s.ws != nil:
		return ErrorAnswer(CodeBadRequest), false
	case s.output == outputLeft && s.probe == nil:
		return ErrorAnswer(CodeUnknownSID), false
	case s.overdueLocked():
		s.closeLocked(PingTimeout)
		return ErrorAnswer(CodeUnknownSID), false
	case p.waiting != nil && id != "" && id == p.waiting.id:
		// A retry on a new connection: nothing reads from the old one.
		p.answerWaitingLocked(s.opts.payload(Noop))
	case id != "" && id == p.lastID && p.lastBody != nil:
		return s.opts.packetsAnswer(p.lastBody), false
	case id != "" && p.recent.has(pollHash(id), 0): // late: the client has continued
		return s.opts.packetsAnswer(s.opts.payload(Noop)), false
	case p.waiting != nil:
		s.closeLocked(PollError)
		return Answer{Status: http.StatusBadRequest, Code: -1}, false
	}
	if id != "" {
		p.recent.add(pollHash(id), 0)
	}
	return Answer{}, true
}

func (p *pollTransport) waitLocked(id string) *poll {
	s := p.socket
	w := &poll{id: id, answer: make(chan pollAnswer, 1)}
	p.waiting = w
	if p.polled != nil {
		close(p.polled)
		p.polled = nil
	}
	wasClosing := s.state.get() == stateClosing
	p.flushLocked()
	if p.waiting == w && wasClosing {
		// Everything is delivered, and no poll was waiting when Close was called.
		if s.closeStyle != closeBroken {
			p.answerWaitingLocked(s.opts.payload(Noop, Close))
		}
		s.closeLocked(s.reason)
	}
	if p.waiting == w && p.noopTimer != nil {
		p.noopTimer.Reset(noopDelay)
	}
	return w
}

// waitsLocked reports whether a poll waits. p may be nil.
func (p *pollTransport) waitsLocked() bool { return p != nil && p.waiting != nil }

// flushLocked makes sure that the waiting poll is answered if there is anything to send. p may be
// nil.
//
// The answer waits for pollLinger. A server that answers three packets of one POST sends all three
// with the next poll, but they reach us one by one. This also saves the client round trips.
func (p *pollTransport) flushLocked() {
	if !p.waitsLocked() {
		return
	}
	switch s := p.socket; {
	case s.state.ended() || s.output == outputLeft:
	case s.state.get() == stateClosing:
		p.answerLocked()
	case p.lingerTimer == nil && (s.ping.waitsForPoll() || p.owedPongs > 0 || s.h.Pending()):
		p.lingerTimer = p.afterFunc(pollLinger, (*pollTransport).onLingerLocked)
	}
}

// afterFunc calls fn after d in its own goroutine, with the Socket's mu held.
func (p *pollTransport) afterFunc(d time.Duration, fn func(*pollTransport)) *time.Timer {
	return p.socket.afterFunc(d, func(*Socket) { fn(p) })
}

func (p *pollTransport) onLingerLocked() {
	if p.lingerTimer != nil { // otherwise polling has ended
		p.lingerTimer = nil
		p.answerLocked()
	}
}

// answerLocked answers the waiting poll if there is anything to send.
func (p *pollTransport) answerLocked() {
	s := p.socket
	if p.waiting == nil || s.state.ended() {
		return
	}
	e := newEncoder(s.opts.pollFormat())
	e.pings = s.ping.sent
	defer e.free()
	answer := answerUnproven
	if p.fillLocked(e) && s.opts.ConfirmByPong {
		answer = answerPinged
	}
	if e.packets == 0 {
		return
	}
	p.lastID = p.waiting.id
	p.lastBody = append([]byte(nil), e.buf...)
	if !s.onlyPongsConfirm() {
		p.mark = s.h.Mark()
	}
	p.watch = max(p.watch, e.watch)
	p.answer.moveLocked(answer)
	p.answerWaitingLocked(p.lastBody)
}

// fillLocked adds messages and pings to an answer. It reports whether a ping that counts is one of
// them.
func (p *pollTransport) fillLocked(e *Encoder) (pinged bool) {
	s := p.socket
	r := s.h.Fill(e, batchBytes)
	pinged = s.notePingsLocked(e)
	s.byPong = s.byPong || r.ByPong
	open := s.state.get() == stateOpen
	if s.onlyPongsConfirm() && r.Confirm && !s.ping.inFlight() && open {
		s.ping.queueLocked(instant.Now())
		s.h.ConfirmPing()
	}
	if s.onlyPongsConfirm() && r.ConfirmLater {
		s.confirmLaterLocked()
	}
	for ; p.owedPongs > 0; p.owedPongs-- {
		e.packet(Pong, nil, nil, nil)
	}
	switch {
	case !open:
	case s.ping.state == pingQueued:
		s.addPingLocked(e, s.ping.sentAt)
		return true
	case s.ping.state == pingExtraQueued:
		s.ping.moveLocked(pingSent)
		s.addExtraPingLocked(e)
	}
	return pinged
}

// oweLocked notes a PING of version 3, which the next answer answers.
func (p *pollTransport) oweLocked() {
	if p.owedPongs < 255 {
		p.owedPongs++
		p.flushLocked()
	}
}

// holdPongLocked reports whether a pong confirms nothing yet, because the answer with its ping has
// not been shown to have arrived. p may be nil.
func (p *pollTransport) holdPongLocked() bool {
	if p == nil || !p.answer.pingUnproven() {
		return false
	}
	p.answer.moveLocked(answerPonged)
	return true
}

// answerArrivedLocked notes that the last answer has arrived, and confirms what that proves.
func (p *pollTransport) answerArrivedLocked() {
	s := p.socket
	s.watched = max(s.watched, p.watch)
	ponged := p.answer == answerPonged
	p.answer.moveLocked(answerArrived)
	switch {
	case !s.onlyPongsConfirm():
		s.h.Confirm(p.mark)
	case ponged:
		s.h.Confirm(s.ping.mark)
	}
}

func (p *pollTransport) answerWaitingLocked(body []byte) {
	p.waiting.answer <- pollAnswer{body: body}
	p.waiting = nil
}

// refuseWaitingLocked answers the waiting poll, if there is one, with an error code.
func (p *pollTransport) refuseWaitingLocked(code int) {
	if p.waiting != nil {
		p.waiting.answer <- pollAnswer{code: code}
		p.waiting = nil
	}
}

// closeLocked answers a waiting poll when the Socket closes. p may be nil.
func (p *pollTransport) closeLocked(reason Reason) {
	if p == nil {
		return
	}
	p.stopTimersLocked()
	switch s := p.socket; {
	case p.waiting == nil:
	case reason == ClientClose:
		p.answerWaitingLocked(s.opts.payload(Noop))
	case s.closeStyle == closeBroken:
		p.refuseWaitingLocked(CodeUnknownSID)
	default:
		p.answerWaitingLocked(s.opts.payload(Close))
	}
	p.lastBody = nil
}

// upgradedLocked ends polling after an upgrade. It returns how many pongs the client is owed.
func (p *pollTransport) upgradedLocked() (owedPongs uint8) {
	p.stopTimersLocked()
	p.refuseWaitingLocked(CodeBadRequest)
	p.lastBody = nil
	owedPongs, p.owedPongs = p.owedPongs, 0
	s := p.socket
	s.watched = max(s.watched, p.watch)
	s.h.Upgraded()
	if s.onlyPongsConfirm() {
		p.answerArrivedLocked()
	} else {
		s.h.Confirm(s.h.Mark())
	}
	if !p.posting {
		s.poll = nil // an idle connection keeps little memory
	}
	return owedPongs
}

// startNoopsLocked makes sure that waiting polls end while a WebSocket probes. The client sends
// UPGRADE only after its poll has ended, and should not have to wait for a message.
func (p *pollTransport) startNoopsLocked() {
	p.noopTimer = p.afterFunc(noopDelay, (*pollTransport).onNoopLocked)
}

func (p *pollTransport) onNoopLocked() {
	switch {
	case p.noopTimer == nil || p.waiting == nil || p.socket.state.ended():
	case p.lingerTimer != nil: // an answer with packets is about to come
		p.noopTimer.Reset(noopDelay)
	default:
		p.answerWaitingLocked(p.socket.opts.payload(Noop))
	}
}

func (p *pollTransport) stopTimersLocked() {
	p.stopNoopsLocked()
	if p.lingerTimer != nil {
		p.lingerTimer.Stop()
		p.lingerTimer = nil
	}
}

// stopNoopsLocked undoes startNoopsLocked. p may be nil.
func (p *pollTransport) stopNoopsLocked() {
	if p != nil && p.noopTimer != nil {
		p.noopTimer.Stop()
		p.noopTimer = nil
	}
}
