package engineio

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// pollingState is what a Socket keeps for HTTP long-polling; guarded by the Socket's mu.
type pollingState struct {
	waiting *poll // the poll that waits for packets
	// The last answer with packets, kept until the next poll shows that it has arrived: a browser or
	// proxy may repeat a poll whose answer it did not see.
	lastID   string // the poll's "t" parameter
	lastBody []byte
	mark     uint64 // what the last answer carried
	unproven bool   // mark is not confirmed
	// With Options.ConfirmByPong: the ping in flight went with the last answer, and its pong came before any poll said that this
	// has arrived. It may be another's pong, come late.
	pingUnproven, ponged bool

	posting  bool
	lastPost postID
	polled   chan struct{} // closed by the next poll; nil unless the POST under way waits for it

	noop   *time.Timer // ends waiting polls while a WebSocket probes
	linger *time.Timer // answers the waiting poll; nil while there is nothing to answer with
}

type poll struct {
	id     string
	answer chan pollAnswer // 1: the poll is answered once
}

// pollAnswer is packets, or an error code.
type pollAnswer struct {
	body []byte
	code int // if there is no body
}

type postID struct {
	id  string
	sum uint64
}

var postSeed = maphash.MakeSeed()

// Answer is an answer to a polling request.
type Answer struct {
	Status int
	Body   []byte
	// Type is the body's content type; empty if there is no body.
	Type string
	// Code is an Engine.IO error code that the body explains, or -1.
	Code int
}

// Error codes and messages of engine.io, for refused requests.
const (
	CodeUnknownTransport = iota
	CodeUnknownSID
	CodeBadHandshakeMethod
	CodeBadRequest
	CodeForbidden
	CodeUnsupportedProtocolVersion
)

var errorMessages = [...]string{
	"Transport unknown", "Session ID unknown", "Bad handshake method", "Bad request", "Forbidden",
	"Unsupported protocol version",
}

// ErrorAnswer is how engine.io refuses a request: status 400 (403 if forbidden), and the code with its message.
func ErrorAnswer(code int) Answer {
	status := http.StatusBadRequest
	if code == CodeForbidden {
		status = http.StatusForbidden
	}
	body := `{"code":` + strconv.Itoa(code) + `,"message":"` + errorMessages[code] + `"}`
	return Answer{Status: status, Body: []byte(body), Type: "application/json", Code: code}
}

const (
	textType = "text/plain; charset=UTF-8"
	okType   = "text/html"
)

func packetsAnswer(body []byte) Answer {
	return Answer{Status: http.StatusOK, Body: body, Type: textType, Code: -1}
}

// OpenAnswer answers the handshake by polling.
func (s *Socket) OpenAnswer(h Handshake) Answer {
	return packetsAnswer(append([]byte{byte(Open)}, h.Encode()...))
}

// Poll waits for packets and returns the answer to a poll. id is the request's "t" parameter: a poll that
// repeats the former one's is a retry. If ctx ends first the client cancelled the poll, and the
// session ends, as engine.io does; there is nobody to answer then, and ok is false.
func (s *Socket) Poll(ctx context.Context, id string) (a Answer, ok bool) {
	p, a := s.beginPoll(s.requestID(id))
	if p == nil {
		return a, true
	}
	select {
	case r := <-p.answer:
		return r.answer(), true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.unlock()
	if s.polling.waiting == p {
		s.polling.waiting = nil
		s.closeLocked(PollError)
		return Answer{}, false
	}
	select {
	case r := <-p.answer: // it was answered meanwhile
		return r.answer(), true
	default:
		return Answer{}, false
	}
}

func (r pollAnswer) answer() Answer {
	if r.body != nil {
		return packetsAnswer(r.body)
	}
	return ErrorAnswer(r.code)
}

func (s *Socket) beginPoll(id string) (*poll, Answer) {
	s.mu.Lock()
	defer s.unlock()
	ps := &s.polling
	switch {
	case s.state.get() == stateClosed:
		return nil, ErrorAnswer(CodeUnknownSID)
	case s.ws != nil:
		return nil, ErrorAnswer(CodeBadRequest)
	case s.overdueLocked():
		s.closeLocked(PingTimeout)
		return nil, ErrorAnswer(CodeUnknownSID)
	case ps.waiting != nil && id != "" && id == ps.waiting.id:
		// A retry on a new connection: the old one has nobody at its other end.
		ps.waiting.answer <- pollAnswer{body: []byte{byte(Noop)}}
		ps.waiting = nil
	case ps.waiting != nil:
		s.closeLocked(PollError)
		return nil, Answer{Status: http.StatusBadRequest, Code: -1}
	case id != "" && id == ps.lastID && ps.lastBody != nil:
		return nil, packetsAnswer(ps.lastBody)
	}
	s.progress = time.Now()
	if ps.unproven {
		ps.unproven = false
		ps.lastBody = nil
		if s.opts.ConfirmByPong {
			s.pingProvenLocked()
		} else {
			s.h.Confirm(ps.mark)
		}
	}
	p := &poll{id: id, answer: make(chan pollAnswer, 1)}
	ps.waiting = p
	if ps.polled != nil {
		close(ps.polled)
		ps.polled = nil
	}
	wasClosing := s.state.get() == stateClosing
	s.flushPollLocked()
	if ps.waiting == p && wasClosing {
		// All is delivered, and no poll was waiting when the end came.
		if !s.broken {
			s.endPollLocked([]byte{byte(Noop), separator, byte(Close)})
		}
		s.closeLocked(s.reason)
	}
	if ps.waiting == p && ps.noop != nil {
		ps.noop.Reset(noopDelay)
	}
	return p, Answer{}
}

// flushPollLocked sees to it that the waiting poll is answered if there is anything to send.
//
// The answer waits for pollLinger: a server that answers three packets of one POST hands them all to the next
// poll, but its answers reach us one by one. It spares clients round trips, too.
func (s *Socket) flushPollLocked() {
	ps := &s.polling
	switch {
	case ps.waiting == nil || s.state.get() == stateClosed:
	case s.state.get() == stateClosing:
		s.answerPollLocked()
	case ps.linger == nil && (s.pingQueued || s.furtherQueue || s.h.Pending()):
		ps.linger = time.AfterFunc(pollLinger, s.onLinger)
	}
}

func (s *Socket) onLinger() {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	if s.polling.linger != nil { // else polling has ended
		s.polling.linger = nil
		s.answerPollLocked()
	}
}

// answerPollLocked answers the waiting poll with what there is to send, if anything.
func (s *Socket) answerPollLocked() {
	ps := &s.polling
	if ps.waiting == nil || s.state.get() == stateClosed {
		return
	}
	e := newEncoder(payloadFormat)
	defer e.free()
	r := s.h.Fill(e, batchBytes)
	if s.opts.ConfirmByPong && r.Confirm && !s.pingInFlight && s.state.get() == stateOpen {
		s.pingInFlight, s.pingQueued = true, true
		s.pingSent = time.Now()
		s.h.ConfirmPing()
	}
	if s.opts.ConfirmByPong && r.ConfirmLater {
		s.confirmLaterLocked()
	}
	if s.pingQueued && s.state.get() == stateOpen {
		s.pingLocked(e, s.pingSent)
		ps.pingUnproven = s.opts.ConfirmByPong
	}
	if s.furtherQueue && s.state.get() == stateOpen {
		s.furtherQueue = false
		s.further++
		e.packet(Ping, nil, nil, nil)
	}
	if e.packets == 0 {
		return
	}
	ps.lastID = ps.waiting.id
	ps.lastBody = append([]byte(nil), e.buf...)
	if !s.opts.ConfirmByPong {
		ps.mark = s.h.Mark()
	}
	ps.unproven = true
	s.endPollLocked(ps.lastBody)
}

// pingProvenLocked says that the answer which the last ping went with has arrived.
func (s *Socket) pingProvenLocked() {
	ps := &s.polling
	ponged := ps.ponged
	ps.pingUnproven, ps.ponged = false, false
	if ponged {
		s.h.Confirm(s.pingMark)
	}
}

func (s *Socket) endPollLocked(body []byte) {
	s.polling.waiting.answer <- pollAnswer{body: body}
	s.polling.waiting = nil
}

// refusePollLocked answers the waiting poll by an error code.
func (s *Socket) refusePollLocked(code int) {
	s.polling.waiting.answer <- pollAnswer{code: code}
	s.polling.waiting = nil
}

// closePollLocked tells a waiting poll of the end.
func (s *Socket) closePollLocked(reason Reason) {
	s.stopPollTimersLocked()
	switch {
	case s.polling.waiting == nil:
	case reason == ClientClose:
		s.endPollLocked([]byte{byte(Noop)})
	case s.broken:
		s.refusePollLocked(CodeUnknownSID)
	default:
		s.endPollLocked([]byte{byte(Close)})
	}
	s.polling.lastBody = nil
}

// endPollingLocked leaves polling for good, after an upgrade.
func (s *Socket) endPollingLocked() {
	s.stopPollTimersLocked()
	if s.polling.waiting != nil {
		s.refusePollLocked(CodeBadRequest)
	}
	s.polling.lastBody = nil
}

// onNoop ends a waiting poll so that the client, which lets its polls end before it sends
// UPGRADE, need not wait for an event.
func (s *Socket) onNoop() {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.polling.noop == nil || s.polling.waiting == nil || s.state.get() == stateClosed:
		return
	case s.polling.linger != nil: // there is something better to answer with
		s.polling.noop.Reset(noopDelay)
		return
	}
	s.endPollLocked([]byte{byte(Noop)})
}

func (s *Socket) stopPollTimersLocked() {
	s.stopNoopLocked()
	if s.polling.linger != nil {
		s.polling.linger.Stop()
		s.polling.linger = nil
	}
}

func (s *Socket) stopNoopLocked() {
	if s.polling.noop != nil {
		s.polling.noop.Stop()
		s.polling.noop = nil
	}
}

// Post handles the packets in the body of a POST. It returns when they have been handled and more
// are welcome. id is the request's "t" parameter. ok is false if the request's connection should end
// without an answer.
func (s *Socket) Post(ctx context.Context, id, contentType string, length int64, body io.Reader) (a Answer, ok bool) {
	if a, ok := s.beginPost(contentType); !ok {
		return a, true
	}
	id = s.requestID(id)
	if length > s.opts.MaxPayload {
		s.opts.tooLarge()
		s.endPost()
		if length <= 2*s.opts.MaxPayload {
			_, _ = io.Copy(io.Discard, body) // who is still writing sees a reset else, and not the answer
		}
		return Answer{Status: http.StatusRequestEntityTooLarge, Code: -1}, true
	}
	counted := &countedBody{r: io.LimitReader(body, s.opts.MaxPayload+1), take: s.opts.Incomplete}
	data, err := io.ReadAll(counted)
	defer counted.free()
	switch {
	case errors.Is(err, ErrNoMemory):
		s.endPost()
		return Answer{Status: http.StatusServiceUnavailable, Code: -1}, true
	case err != nil:
		s.endPost()
		s.closeFor(PollError)
		return Answer{}, false
	case int64(len(data)) > s.opts.MaxPayload:
		s.opts.tooLarge()
		s.endPost()
		return Answer{Status: http.StatusRequestEntityTooLarge, Code: -1}, true
	}
	if !s.repeatedPost(id, data) {
		data = bytes.ToValidUTF8(data, []byte("\uFFFD")) // as engine.io reads a body
		if string(data) == string(rune(Close)) {
			s.awaitPoll()
		}
		s.handlePayload(data)
	}
	counted.free() // the Handler has it
	return s.finishPost(ctx)
}

// ErrNoMemory means that Options.Incomplete, or a Dialer's, admits no more.
var ErrNoMemory = errors.New("engineio: no memory for incomplete messages")

// countedBody tells an Incomplete function of what has come of a body.
type countedBody struct {
	r       io.Reader
	take    func(bytes int) bool // Incomplete; nil for none
	n       int                  // bytes
	counted int                  // of them, as Incomplete knows
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += n
	if b.n > smallBytes {
		if !takeIncomplete(b.take, b.n-b.counted) {
			return n, ErrNoMemory
		}
		b.counted = b.n
	}
	return n, err
}

func (b *countedBody) free() {
	takeIncomplete(b.take, -b.counted)
	b.counted = 0
}

func (s *Socket) beginPost(contentType string) (Answer, bool) {
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.get() == stateClosed:
		return ErrorAnswer(CodeUnknownSID), false
	case s.ws != nil:
		return ErrorAnswer(CodeBadRequest), false
	case s.polling.posting, contentType == "application/octet-stream":
		s.closeLocked(ParseError)
		return Answer{Status: http.StatusBadRequest, Code: -1}, false
	}
	s.progress = time.Now()
	s.heard = s.progress
	s.polling.posting = true
	return Answer{}, true
}

func (s *Socket) endPost() {
	s.mu.Lock()
	s.polling.posting = false
	s.mu.Unlock()
}

// awaitPoll gives the poll that a client sent just before its CLOSE, on another connection, a moment to be seen first:
// it is to be answered in order.
func (s *Socket) awaitPoll() {
	s.mu.Lock()
	if s.polling.waiting != nil || s.state.get() == stateClosed {
		s.mu.Unlock()
		return
	}
	polled := make(chan struct{})
	s.polling.polled = polled
	s.mu.Unlock()
	late := time.NewTimer(pollLinger)
	defer late.Stop()
	select {
	case <-polled:
	case <-late.C:
	}
}

// repeatedPost reports whether this is the former POST again: browsers and proxies repeat a request
// when the connection ended before its answer.
func (s *Socket) repeatedPost(id string, data []byte) bool {
	if id == "" {
		return false
	}
	p := postID{id, maphash.Bytes(postSeed, data)}
	s.mu.Lock()
	defer s.mu.Unlock()
	repeated := p == s.polling.lastPost
	s.polling.lastPost = p
	return repeated
}

func (s *Socket) handlePayload(data []byte) {
	s.input.Lock()
	defer s.input.Unlock()
	s.endInput(DecodePayload(data, s.packet))
}

// finishPost answers, once the Handler takes more.
func (s *Socket) finishPost(ctx context.Context) (Answer, bool) {
	s.mu.Lock()
	for s.paused && s.state.get() != stateClosed {
		if s.resumed == nil {
			s.resumed = make(chan struct{})
		}
		resumed := s.resumed
		s.mu.Unlock()
		select {
		case <-resumed:
		case <-ctx.Done():
			s.closeFor(PollError)
		}
		s.mu.Lock()
	}
	s.polling.posting = false
	s.progress = time.Now()
	s.unlock()
	return Answer{Status: http.StatusOK, Body: []byte("ok"), Type: okType, Code: -1}, true
}

// requestID is a request's "t" parameter if that tells the request from others, or empty: applications
// make one up for all requests, and clients write nothing but the time there, some of them in seconds.
func (s *Socket) requestID(t string) string {
	if t == s.opts.HandshakeID || strings.Trim(t, "0123456789") == "" {
		return ""
	}
	return t
}
