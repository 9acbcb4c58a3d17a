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

// handlePost handles a POST; see Socket.Post.
func (p *pollTransport) handlePost(ctx context.Context, id, contentType string, length int64, body io.Reader) (a Answer, ok bool) {
	if a, ok := p.beginPost(contentType); !ok {
		return a, true
	}
	s := p.socket
	id = s.opts.requestID(id)
	if length > s.opts.MaxPayload {
		s.h.TooLarge()
		p.endPost()
		if length <= 2*s.opts.MaxPayload {
			// A client that still writes would see a reset instead of the answer.
			_, _ = io.Copy(io.Discard, body)
		}
		return Answer{Status: http.StatusRequestEntityTooLarge, Code: -1}, true
	}
	counted := &countedBody{r: io.LimitReader(body, s.opts.MaxPayload+1), incomplete: s.h.Incomplete}
	data, err := io.ReadAll(counted)
	defer counted.release()
	switch {
	case errors.Is(err, ErrNoMemory):
		p.endPost()
		return Answer{Status: http.StatusServiceUnavailable, Code: -1}, true
	case err != nil:
		p.endPost()
		s.closeFor(PollError)
		return Answer{}, false
	case int64(len(data)) > s.opts.MaxPayload:
		s.h.TooLarge()
		p.endPost()
		return Answer{Status: http.StatusRequestEntityTooLarge, Code: -1}, true
	}
	if !p.handleBody(id, data) {
		p.endPost()
		return ErrorAnswer(CodeUnknownSID), true
	}
	counted.release() // the Handler has it now
	return p.finishPost(ctx)
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
func (p *pollTransport) beginPost(contentType string) (Answer, bool) {
	s := p.socket
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.ended():
		return ErrorAnswer(CodeUnknownSID), false
	case s.ws != nil:
		return ErrorAnswer(CodeBadRequest), false
	case p.posting, contentType == binaryType3 && s.opts.Protocol == V4:
		s.closeLocked(ParseError)
		return Answer{Status: http.StatusBadRequest, Code: -1}, false
	}
	s.ping.inputLocked(instant.Now())
	p.posting = true
	return Answer{}, true
}

func (p *pollTransport) endPost() {
	p.socket.mu.Lock()
	defer p.socket.mu.Unlock()
	p.endPostLocked()
}

func (p *pollTransport) endPostLocked() {
	p.posting = false
	if p.socket.ws != nil { // the client upgraded meanwhile
		p.socket.poll = nil
	}
}

// handleBody handles the packets in the body of a POST. It returns false if the Socket ended, or was
// detached, while the body arrived: nothing was handled then, and "ok" would hide that.
func (p *pollTransport) handleBody(id string, data []byte) (ok bool) {
	if p.repeats(id, data) {
		return true
	}
	s := p.socket
	if s.opts.Protocol == V4 || !isBinaryForm3(data) {
		data = bytes.ToValidUTF8(data, []byte("\uFFFD")) // as the reference server reads a body
	}
	if s.opts.isClose(data) {
		p.awaitPoll()
	}
	s.input.Lock()
	defer s.input.Unlock()
	if s.state.ended() {
		return false
	}
	s.endBatch(p.decode(data, s.packet))
	return true
}

// decode calls fn for each packet in the body of a POST.
func (p *pollTransport) decode(data []byte, fn func(Packet) bool) error {
	if p.socket.opts.Protocol == V3 {
		return p.decoder.decode(data, fn)
	}
	return DecodePayload(data, fn)
}

// awaitPoll waits a moment for a poll that the client sent just before its CLOSE packet, on another
// connection. The poll then still gets its regular answer.
func (p *pollTransport) awaitPoll() {
	polled := p.nextPoll()
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
func (p *pollTransport) nextPoll() <-chan struct{} {
	p.socket.mu.Lock()
	defer p.socket.mu.Unlock()
	if p.waiting != nil || p.socket.state.ended() {
		return nil
	}
	p.polled = make(chan struct{})
	return p.polled
}

// repeats reports whether this is the previous POST again, or an earlier one. Browsers and proxies
// repeat a request if its connection ends before the answer.
func (p *pollTransport) repeats(id string, data []byte) bool {
	if id == "" {
		return false
	}
	this := postID{id, maphash.Bytes(postSeed, data)}
	p.socket.mu.Lock()
	defer p.socket.mu.Unlock()
	last := p.recent.lastPost
	if this == last || last.sum == 0 && id == last.id {
		p.recent.lastPost = this
		return true
	}
	if p.recent.has(postHash(id), this.sum) { // late: the client has continued
		return true
	}
	p.recent.lastPost = this
	p.recent.add(postHash(id), this.sum)
	return false
}

// finishPost answers a POST once reading is not paused.
func (p *pollTransport) finishPost(ctx context.Context) (Answer, bool) {
	s := p.socket
	s.mu.Lock()
	for s.readPaused && !s.state.ended() {
		if p.resumed == nil {
			p.resumed = make(chan struct{})
		}
		resumed := p.resumed
		s.mu.Unlock()
		select {
		case <-resumed:
		case <-ctx.Done():
			s.closeFor(PollError)
		}
		s.mu.Lock()
	}
	p.endPostLocked()
	s.ping.lastSign = instant.Now()
	s.unlock()
	return Answer{Status: http.StatusOK, Body: []byte("ok"), Type: okType, Code: -1}, true
}

// resumedLocked continues a POST that waits because reading is paused. p may be nil.
func (p *pollTransport) resumedLocked() {
	if p != nil && p.resumed != nil {
		close(p.resumed)
		p.resumed = nil
	}
}
