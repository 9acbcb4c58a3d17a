package engineio

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"net/http"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// ErrNoMemory means that Handler.Incomplete, or a Dialer's, returned false.
var ErrNoMemory = errors.New("engineio: no memory for incomplete messages")

// postID identifies a POST, to recognize a repeated one.
type postID struct {
	id  string // the "t" parameter
	sum uint64 // hash of the body; 0 for a POST to another Socket, see StartMoved
}

var postSeed = maphash.MakeSeed()

// Post handles the packets in the body of a POST. It returns when they have been handled and
// reading is not paused. id is the request's "t" parameter. If ok is false, the request's
// connection should be closed without an answer.
func (s *Socket) Post(ctx context.Context, id, contentType string, length int64, body io.Reader) (a Answer, ok bool) {
	if a, ok := s.beginPost(contentType); !ok {
		return a, true
	}
	id = s.requestID(id)
	if length > s.opts.MaxPayload {
		s.h.TooLarge()
		s.endPost()
		if length <= 2*s.opts.MaxPayload {
			_, _ = io.Copy(io.Discard, body) // a client that is still writing would see a reset instead of the answer
		}
		return Answer{Status: http.StatusRequestEntityTooLarge, Code: -1}, true
	}
	counted := &countedBody{r: io.LimitReader(body, s.opts.MaxPayload+1), incomplete: s.h.Incomplete}
	data, err := io.ReadAll(counted)
	defer counted.release()
	switch {
	case errors.Is(err, ErrNoMemory):
		s.endPost()
		return Answer{Status: http.StatusServiceUnavailable, Code: -1}, true
	case err != nil:
		s.endPost()
		s.closeFor(PollError)
		return Answer{}, false
	case int64(len(data)) > s.opts.MaxPayload:
		s.h.TooLarge()
		s.endPost()
		return Answer{Status: http.StatusRequestEntityTooLarge, Code: -1}, true
	}
	s.handlePost(id, data)
	counted.release() // the Handler has it now
	return s.finishPost(ctx)
}

// countedBody reads a body and accounts for what has arrived of it.
type countedBody struct {
	r          io.Reader
	incomplete func(bytes int) bool // Handler.Incomplete, or a Dialer's, which may be nil
	n          int                  // bytes read
	reserved   int                  // bytes that incomplete has accounted for
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += n
	if b.n > smallBytes {
		if !reserve(b.incomplete, b.n-b.reserved) {
			return n, ErrNoMemory
		}
		b.reserved = b.n
	}
	return n, err
}

func (b *countedBody) release() {
	reserve(b.incomplete, -b.reserved)
	b.reserved = 0
}

// beginPost reports whether a POST may be handled. If not, it returns the answer.
func (s *Socket) beginPost(contentType string) (Answer, bool) {
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.ended():
		return ErrorAnswer(CodeUnknownSID), false
	case s.ws != nil:
		return ErrorAnswer(CodeBadRequest), false
	case s.polling.posting, contentType == binaryType3 && s.opts.Protocol == V4:
		s.closeLocked(ParseError)
		return Answer{Status: http.StatusBadRequest, Code: -1}, false
	}
	s.ping.lastSign = instant.Now()
	s.ping.lastInput = s.ping.lastSign
	s.polling.posting = true
	return Answer{}, true
}

func (s *Socket) endPost() {
	s.mu.Lock()
	s.polling.posting = false
	s.mu.Unlock()
}

func (s *Socket) handlePost(id string, data []byte) {
	if s.repeatedPost(id, data) {
		return
	}
	if s.opts.Protocol == V4 || !isBinaryForm3(data) {
		data = bytes.ToValidUTF8(data, []byte("\uFFFD")) // as the reference server reads a body
	}
	if s.closes(data) {
		s.awaitPoll()
	}
	s.input.Lock()
	defer s.input.Unlock()
	s.endBatch(s.decodePost(data, s.packet))
}

// awaitPoll waits a moment for a poll that the client sent just before its CLOSE packet, on another
// connection, so that the poll still gets its regular answer.
func (s *Socket) awaitPoll() {
	polled := s.nextPoll()
	if polled == nil {
		return
	}
	timeout := time.NewTimer(pollLinger)
	defer timeout.Stop()
	select {
	case <-polled:
	case <-timeout.C:
	}
}

// nextPoll returns a channel that the next poll closes, or nil if there is nothing to wait for.
func (s *Socket) nextPoll() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.polling.waiting != nil || s.state.ended() {
		return nil
	}
	s.polling.polled = make(chan struct{})
	return s.polling.polled
}

// repeatedPost reports whether this is the previous POST again, or an earlier one: browsers and
// proxies repeat a request if its connection ends before the answer.
func (s *Socket) repeatedPost(id string, data []byte) bool {
	if id == "" {
		return false
	}
	p := postID{id, maphash.Bytes(postSeed, data)}
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.polling.log()
	last := log.lastPost
	if p == last || last.sum == 0 && id == last.id {
		log.lastPost = p
		return true
	}
	if log.has(postHash(id), p.sum) { // late: the client has continued
		return true
	}
	log.lastPost = p
	log.add(postHash(id), p.sum)
	return false
}

// finishPost answers a POST once reading is not paused.
func (s *Socket) finishPost(ctx context.Context) (Answer, bool) {
	s.mu.Lock()
	for s.readPaused && !s.state.ended() {
		if s.resumeCh == nil {
			s.resumeCh = make(chan struct{})
		}
		resumed := s.resumeCh
		s.mu.Unlock()
		select {
		case <-resumed:
		case <-ctx.Done():
			s.closeFor(PollError)
		}
		s.mu.Lock()
	}
	s.polling.posting = false
	s.ping.lastSign = instant.Now()
	s.unlock()
	return Answer{Status: http.StatusOK, Body: []byte("ok"), Type: okType, Code: -1}, true
}
