package engineio

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// pollingState is what a Socket keeps for HTTP long-polling; guarded by the Socket's mu.
type pollingState struct {
	waiting *poll // the poll that waits for packets
	// The last answer with packets, kept until the next poll shows that it has arrived: a browser
	// or proxy may repeat a poll whose answer it did not see.
	lastID   string // the poll's "t" parameter
	lastBody []byte
	mark     uint64 // what the last answer carried; not with Options.ConfirmByPong
	watch    uint64 // the last Encoder.Watch in it

	answer  answerState   // of the last answer
	posting bool          // a POST is being handled
	recent  *requestLog   // nil before the first request; see log
	polled  chan struct{} // closed by the next poll; nil unless the POST under way waits for it

	noopTimer   *time.Timer // ends waiting polls while a WebSocket probes
	lingerTimer *time.Timer // answers the waiting poll; nil while there is nothing to answer with
}

type poll struct {
	id     string
	answer chan pollAnswer // 1: a poll is answered once
}

func (s *Socket) packetsAnswer(body []byte) Answer {
	contentType := textType
	if s.pollFormat() == binaryPayload3 {
		contentType = binaryType3
	}
	return Answer{Status: http.StatusOK, Body: body, Type: contentType, Code: -1}
}

func (s *Socket) answerOf(r pollAnswer) Answer {
	if r.body != nil {
		return s.packetsAnswer(r.body)
	}
	return ErrorAnswer(r.code)
}

// OpenAnswer answers a handshake made by polling.
func (s *Socket) OpenAnswer(h Handshake) Answer {
	e := newEncoder(s.pollFormat())
	defer e.free()
	e.packet(Open, h.Encode(), nil, nil)
	return s.packetsAnswer(append([]byte(nil), e.buf...))
}

// Poll waits for packets and returns the answer to a poll. id is the request's "t" parameter: a
// poll with the same id as the previous one is a retry. If ctx ends first, the client canceled the
// poll; the Socket closes, as in the reference server, and ok is false because there is no one left
// to answer.
func (s *Socket) Poll(ctx context.Context, id string) (a Answer, ok bool) {
	p, a := s.beginPoll(s.requestID(id))
	if p == nil {
		return a, true
	}
	select {
	case r := <-p.answer:
		return s.answerOf(r), true
	case <-ctx.Done():
		return s.cancelPoll(p)
	}
}

// cancelPoll closes the Socket, unless the poll was answered just before it was canceled.
func (s *Socket) cancelPoll(p *poll) (a Answer, ok bool) {
	s.mu.Lock()
	defer s.unlock()
	if s.polling.waiting == p {
		s.polling.waiting = nil
		s.closeLocked(PollError)
		return Answer{}, false
	}
	select {
	case r := <-p.answer:
		return s.answerOf(r), true
	default:
		return Answer{}, false
	}
}

// beginPoll returns a poll that waits for packets. If the poll is nil, the Answer is final.
func (s *Socket) beginPoll(id string) (*poll, Answer) {
	s.mu.Lock()
	defer s.unlock()
	if a, ok := s.admitPollLocked(id); !ok {
		return nil, a
	}
	s.ping.lastSign = instant.Now()
	if s.polling.answer != answerArrived {
		s.polling.lastBody = nil
		s.answerArrivedLocked()
	}
	if a, asking := s.askPollLocked(); asking {
		return nil, a
	}
	return s.waitingPollLocked(id), Answer{}
}

// admitPollLocked reports whether a poll may wait. If not, it returns the answer.
func (s *Socket) admitPollLocked(id string) (a Answer, ok bool) {
	ps := &s.polling
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
	case ps.waiting != nil && id != "" && id == ps.waiting.id:
		// A retry on a new connection: nothing reads from the old one any more.
		s.answerWaitingLocked(s.payload(Noop))
	case id != "" && id == ps.lastID && ps.lastBody != nil:
		return s.packetsAnswer(ps.lastBody), false
	case id != "" && ps.log().has(pollHash(id), 0): // late: the client has continued
		return s.packetsAnswer(s.payload(Noop)), false
	case ps.waiting != nil:
		s.closeLocked(PollError)
		return Answer{Status: http.StatusBadRequest, Code: -1}, false
	}
	if id != "" && (ps.waiting == nil || id != ps.waiting.id) {
		ps.log().add(pollHash(id), 0)
	}
	return Answer{}, true
}

func (s *Socket) waitingPollLocked(id string) *poll {
	ps := &s.polling
	p := &poll{id: id, answer: make(chan pollAnswer, 1)}
	ps.waiting = p
	if ps.polled != nil {
		close(ps.polled)
		ps.polled = nil
	}
	wasClosing := s.state.get() == stateClosing
	s.flushPollLocked()
	if ps.waiting == p && wasClosing {
		// Everything is delivered, and no poll was waiting when Close was called.
		if s.closeStyle != closeBroken {
			s.answerWaitingLocked(s.payload(Noop, Close))
		}
		s.closeLocked(s.reason)
	}
	if ps.waiting == p && ps.noopTimer != nil {
		ps.noopTimer.Reset(noopDelay)
	}
	return p
}

// flushPollLocked makes sure that the waiting poll is answered if there is anything to send.
//
// The answer waits for pollLinger: a server that answers three packets of one POST sends all of
// them with the next poll, but its answers reach us one by one. This also saves the client round
// trips.
func (s *Socket) flushPollLocked() {
	ps := &s.polling
	switch {
	case ps.waiting == nil || s.state.ended() || s.output == outputLeft:
	case s.state.get() == stateClosing:
		s.answerPollLocked()
	case ps.lingerTimer == nil && (s.pingToPollLocked() || s.v3.pongs > 0 || s.h.Pending()):
		ps.lingerTimer = s.afterFunc(pollLinger, (*Socket).onLingerLocked)
	}
}

// pingToPollLocked reports whether a ping waits for the next answer.
func (s *Socket) pingToPollLocked() bool {
	return s.ping.state == pingQueued || s.ping.state == pingExtraQueued
}

func (s *Socket) onLingerLocked() {
	if s.polling.lingerTimer != nil { // otherwise polling has ended
		s.polling.lingerTimer = nil
		s.answerPollLocked()
	}
}

// answerPollLocked answers the waiting poll if there is anything to send.
func (s *Socket) answerPollLocked() {
	ps := &s.polling
	if ps.waiting == nil || s.state.ended() {
		return
	}
	e := newEncoder(s.pollFormat())
	e.pings = s.ping.sent
	defer e.free()
	answer := answerUnproven
	if s.fillAnswerLocked(e) && s.opts.ConfirmByPong {
		answer = answerPinged
	}
	if e.packets == 0 {
		return
	}
	ps.lastID = ps.waiting.id
	ps.lastBody = append([]byte(nil), e.buf...)
	if !s.onlyPongsConfirm() {
		ps.mark = s.h.Mark()
	}
	ps.watch = max(ps.watch, e.watch)
	ps.answer.moveLocked(answer)
	s.answerWaitingLocked(ps.lastBody)
}

// fillAnswerLocked adds messages and pings to an answer. It reports whether a ping that counts is
// one of them.
func (s *Socket) fillAnswerLocked(e *Encoder) (pinged bool) {
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
	s.addPongsLocked(e)
	switch {
	case !open:
	case s.ping.state == pingQueued:
		s.sendPingLocked(e, s.ping.sentAt)
		return true
	case s.ping.state == pingExtraQueued:
		s.ping.moveLocked(pingSent)
		s.addExtraPingLocked(e)
	}
	return pinged
}

// answerArrivedLocked notes that the last answer has arrived, and confirms what that proves.
func (s *Socket) answerArrivedLocked() {
	s.watched = max(s.watched, s.polling.watch)
	ponged := s.polling.answer == answerPonged
	s.polling.answer.moveLocked(answerArrived)
	switch {
	case !s.onlyPongsConfirm():
		s.h.Confirm(s.polling.mark)
	case ponged:
		s.h.Confirm(s.ping.mark)
	}
}

func (s *Socket) answerWaitingLocked(body []byte) {
	s.polling.waiting.answer <- pollAnswer{body: body}
	s.polling.waiting = nil
}

// refuseWaitingLocked answers the waiting poll with an error code.
func (s *Socket) refuseWaitingLocked(code int) {
	s.polling.waiting.answer <- pollAnswer{code: code}
	s.polling.waiting = nil
}

// closePollLocked answers a waiting poll when the Socket closes.
func (s *Socket) closePollLocked(reason Reason) {
	s.stopPollTimersLocked()
	switch {
	case s.polling.waiting == nil:
	case reason == ClientClose:
		s.answerWaitingLocked(s.payload(Noop))
	case s.closeStyle == closeBroken:
		s.refuseWaitingLocked(CodeUnknownSID)
	default:
		s.answerWaitingLocked(s.payload(Close))
	}
	s.polling.lastBody = nil
}

// endPollingLocked ends polling after an upgrade.
func (s *Socket) endPollingLocked() {
	s.stopPollTimersLocked()
	if s.polling.waiting != nil {
		s.refuseWaitingLocked(CodeBadRequest)
	}
	s.polling.lastBody, s.polling.recent = nil, nil
}

// onNoopLocked answers a waiting poll while a WebSocket probes: the client sends UPGRADE only after
// its poll has ended, and should not have to wait for a message.
func (s *Socket) onNoopLocked() {
	switch {
	case s.polling.noopTimer == nil || s.polling.waiting == nil || s.state.ended():
	case s.polling.lingerTimer != nil: // an answer with packets is about to come
		s.polling.noopTimer.Reset(noopDelay)
	default:
		s.answerWaitingLocked(s.payload(Noop))
	}
}

func (s *Socket) stopPollTimersLocked() {
	s.stopNoopLocked()
	if s.polling.lingerTimer != nil {
		s.polling.lingerTimer.Stop()
		s.polling.lingerTimer = nil
	}
}

func (s *Socket) stopNoopLocked() {
	if s.polling.noopTimer != nil {
		s.polling.noopTimer.Stop()
		s.polling.noopTimer = nil
	}
}

// requestID returns a request's "t" parameter if it distinguishes the request from others, or "".
// Applications may set a fixed value for all requests, and some clients send only the time, in
// seconds.
func (s *Socket) requestID(t string) string {
	if t == s.opts.HandshakeID || strings.Trim(t, "0123456789") == "" {
		return ""
	}
	return t
}
