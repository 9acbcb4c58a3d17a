package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// ErrReset means that the other side ended a stream immediately.
var ErrReset = errors.New("cluster: stream reset by the other side")

// Stream is one stream of a connection between two replicas. It begins as a net.Conn, for a
// goroutine that reads and writes, and netpoll.New makes a netpoll.Stream of it. It is safe for
// concurrent use.
type Stream struct {
	// Immutable.
	c      *conn
	number uint32
	kind   byte
	about  []byte

	mu      sync.Mutex // guards the fields below; never held while a handler is called
	changed *sync.Cond // for Read and blocking writes; nil unless one waited
	h       netpoll.Handler

	// Input.
	in       []byte // arrived, and not passed on
	consumed int    // bytes passed on since the last window frame
	inEnd    error  // io.EOF after the other side's fin; otherwise why the stream ended
	started  bool   // h wants to be called
	paused   bool
	running  bool // a goroutine calls h
	toFlush  bool // h has read something and not flushed
	reported bool // h.Closed was called

	// Output.
	out    []byte // waits for the other side's window, or for the network
	credit int    // how much the other side takes
	sent   int64
	outEnd outputEnd
	linger *time.Timer

	onEnd   func(error) // called once when the stream ends, unless it was made a netpoll.Stream
	readBy  time.Time   // deadlines
	writeBy time.Time
}

// outputEnd is the state of this side's end of a stream:
//
//	open    -> ending  Shutdown, with data waiting
//	open    -> ended   Shutdown with none, Close, or the other side or the connection ended
//	ending  -> ended   the data is sent, and the fin; or Close, as above
type outputEnd uint8

const (
	outputOpen outputEnd = iota
	outputEnding
	outputEnded
)

func newStream(c *conn, number uint32) *Stream {
	return &Stream{c: c, number: number, credit: windowBytes}
}

// Kind is what the stream was opened with.
func (s *Stream) Kind() byte { return s.kind }

// About is what the stream was opened with.
func (s *Stream) About() []byte { return s.about }

// OnEnd calls fn once when the other side, or the connection, ends the stream. It is for streams
// that are not made a netpoll.Stream. err is netpoll.ErrPeerLost if the connection ended.
func (s *Stream) OnEnd(fn func(err error)) {
	s.mu.Lock()
	ended := s.inEnd
	if ended == nil || errors.Is(ended, io.EOF) {
		s.onEnd = fn
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	fn(ended)
}

// arrive takes data from the reader of the connection.
func (s *Stream) arrive(p []byte) error {
	s.mu.Lock()
	switch {
	case s.inEnd != nil:
		s.mu.Unlock()
		return nil
	case len(s.in)+s.consumed+len(p) > windowBytes:
		s.mu.Unlock()
		return fmt.Errorf("%w: more data than the window allows", errProtocol)
	case !s.started || s.paused || s.running || len(s.in) > 0:
		s.in = append(s.in, p...)
		s.broadcastLocked()
		s.mu.Unlock()
		return nil
	}
	s.running = true
	s.mu.Unlock()
	safely(s, func() { s.h.Read(p) })
	s.mu.Lock()
	s.running = false
	s.consumeLocked(len(p))
	if !s.toFlush {
		s.toFlush = true
		s.c.toFlush = append(s.c.toFlush, s)
	}
	more := s.workLocked()
	s.mu.Unlock()
	if more {
		s.run()
	}
	return nil
}

// consumeLocked lets the other side send more.
func (s *Stream) consumeLocked(n int) {
	s.consumed += n
	if s.consumed < windowBytes/2 || s.inEnd != nil {
		return
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(s.consumed))
	s.consumed = 0
	s.c.send(frameWindow, s.number, b[:])
}

// flushInput flushes the handler after a batch.
func (s *Stream) flushInput() {
	s.mu.Lock()
	flush := s.toFlush && !s.running
	if flush {
		s.toFlush = false
		s.running = true
	}
	s.mu.Unlock()
	if !flush { // run flushes
		return
	}
	safely(s, s.h.Flush)
	s.mu.Lock()
	s.running = false
	more := s.workLocked()
	s.mu.Unlock()
	if more {
		s.run()
	}
}

// workLocked reports whether run has work.
func (s *Stream) workLocked() bool {
	return s.started && !s.reported && (len(s.in) > 0 && !s.paused || s.inEnd != nil && s.mayEndLocked())
}

// mayEndLocked reports whether the handler may be told of the end. Only an orderly end waits for
// earlier data. Otherwise a handler that takes no data, because its client is stalled, would never
// learn of the end.
func (s *Stream) mayEndLocked() bool {
	return len(s.in) == 0 || !errors.Is(s.inEnd, io.EOF)
}

// run calls the handler until there is nothing to tell it. Only one goroutine does so at a time.
func (s *Stream) run() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return
	}
	s.running = true
	for s.workLocked() {
		if s.inEnd != nil && s.mayEndLocked() {
			s.reportLocked()
			break
		}
		p := s.in
		s.in = nil
		s.toFlush = false
		s.mu.Unlock()
		safely(s, func() {
			s.h.Read(p)
			s.h.Flush()
		})
		s.mu.Lock()
		s.consumeLocked(len(p))
	}
	s.running = false
}

// reportLocked tells the handler of the end. Nothing can be sent after it.
func (s *Stream) reportLocked() {
	s.reported = true
	s.in = nil
	flush := s.toFlush
	s.toFlush = false
	err := s.inEnd
	s.endOutputLocked(true)
	s.mu.Unlock()
	safely(s, func() {
		if flush {
			s.h.Flush()
		}
		s.h.Closed(err)
	})
	s.mu.Lock()
}

// peerEnded notes that the other side, or the connection, has ended the stream.
func (s *Stream) peerEnded(err error) {
	s.mu.Lock()
	fn := s.onEnd
	if s.inEnd == nil || errors.Is(s.inEnd, io.EOF) && !errors.Is(err, io.EOF) {
		s.inEnd = err
	}
	if !errors.Is(err, io.EOF) {
		s.onEnd = nil
		if s.outEnd != outputEnded {
			s.out = nil
			s.outEnd = outputEnded
		}
		s.c.remove(s.number)
		s.stopLingerLocked()
	} else if s.outEnd == outputEnded {
		s.c.remove(s.number)
		s.stopLingerLocked()
	}
	s.broadcastLocked()
	s.mu.Unlock()
	if fn != nil && !errors.Is(err, io.EOF) {
		fn(err)
	}
	s.run()
}

// allow lets the stream send n more bytes.
func (s *Stream) allow(n int) error {
	s.mu.Lock()
	if s.credit += n; s.credit > windowBytes {
		s.mu.Unlock()
		return fmt.Errorf("%w: window larger than allowed", errProtocol)
	}
	s.mu.Unlock()
	s.resumeOutput()
	return nil
}

// write sends p, and keeps what cannot be sent now. more says that flush follows.
func (s *Stream) write(p []byte, more bool) (queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outEnd != outputOpen {
		return len(s.out)
	}
	if len(s.out) == 0 {
		p = p[s.sendLocked(p, more):]
	}
	s.out = append(s.out, p...)
	return len(s.out)
}

// sendLocked sends as much of p as the window and the network allow.
func (s *Stream) sendLocked(p []byte, more bool) (n int) {
	if n = min(len(p), s.credit); n == 0 {
		return 0
	}
	n = s.c.data(s, p[:n], more)
	s.credit -= n
	s.sent += int64(n)
	return n
}

// resumeOutput sends more of what waits.
func (s *Stream) resumeOutput() {
	s.mu.Lock()
	waited := len(s.out) > 0
	if waited {
		s.out = s.out[s.sendLocked(s.out, false):]
	}
	drained := waited && len(s.out) == 0
	if drained {
		s.out = nil
		if s.outEnd == outputEnding {
			s.finLocked()
		}
	}
	if waited {
		s.broadcastLocked()
	}
	h := s.h
	if s.reported || !s.started {
		h = nil
	}
	s.mu.Unlock()
	if drained && h != nil {
		safely(s, h.Drained)
	}
}

// finLocked tells the other side that nothing more comes.
func (s *Stream) finLocked() {
	s.outEnd = outputEnded
	s.c.send(frameFin, s.number, nil)
	if s.inEnd != nil {
		s.c.remove(s.number)
		s.stopLingerLocked()
	}
}

// endOutputLocked ends this side. If abrupt, what waits is dropped and the other side gets a reset
// unless it has ended by itself.
func (s *Stream) endOutputLocked(abrupt bool) {
	switch {
	case s.outEnd == outputEnded && (!abrupt || s.inEnd != nil):
		return
	case abrupt:
		s.outEnd, s.out = outputEnded, nil
		s.c.send(frameReset, s.number, nil)
		s.c.remove(s.number)
		s.stopLingerLocked()
	case len(s.out) > 0:
		s.outEnd = outputEnding
	default:
		s.finLocked()
	}
}

func (s *Stream) stopLingerLocked() {
	if s.linger != nil {
		s.linger.Stop()
	}
}

// closeWith ends the stream immediately.
func (s *Stream) closeWith(err error) {
	s.mu.Lock()
	s.endOutputLocked(true)
	if s.inEnd == nil || errors.Is(s.inEnd, io.EOF) {
		s.inEnd = err
	}
	s.onEnd = nil
	s.broadcastLocked()
	more := s.workLocked()
	s.mu.Unlock()
	if more {
		go s.run() // the caller may hold locks of the handler
	}
}

func (s *Stream) broadcastLocked() {
	if s.changed != nil {
		s.changed.Broadcast()
	}
}

// safely recovers a panic of a handler that can be told, and ends its stream.
func safely(s *Stream, do func()) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		h, ok := s.h.(netpoll.PanicHandler)
		if !ok {
			panic(v)
		}
		s.closeWith(netpoll.ErrClosed)
		h.Panicked(v)
	}()
	do()
}
