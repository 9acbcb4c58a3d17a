package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// ErrReset means that the other side ended a stream immediately.
var ErrReset = errors.New("cluster: stream reset by the other side")

// Stream is one stream of a connection between two replicas. It begins as a net.Conn, for a goroutine that
// reads and writes, and netpoll.New makes a netpoll.Stream of it. It is safe for concurrent use.
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

// outputEnd says how far this side's end of a stream is:
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

// Peer returns the id of the replica at the other end.
func (s *Stream) Peer() string { return s.c.peer.ID }

// OnEnd calls fn once when the other side, or the connection, ends the stream. It is for streams that are
// not made a netpoll.Stream. err is netpoll.ErrPeerLost if the connection ended.
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

// workLocked reports whether run has anything to do.
func (s *Stream) workLocked() bool {
	return s.started && !s.reported && (len(s.in) > 0 && !s.paused || s.inEnd != nil && s.mayEndLocked())
}

// mayEndLocked reports whether the handler may hear of the end: data comes first, unless the stream was
// ended immediately.
func (s *Stream) mayEndLocked() bool {
	return len(s.in) == 0 || errors.Is(s.inEnd, netpoll.ErrClosed)
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

// endOutputLocked ends this side. If abrupt, what waits is dropped and the other side gets a reset unless it
// has ended by itself.
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

// Append is Write of a netpoll.Stream, except that the caller must Flush soon. The writes of several
// streams of one connection then go out together.
func (s *Stream) Append(p []byte) (queued int) { return s.write(p, true) }

// Flush sends what was appended on the stream's connection.
func (s *Stream) Flush() { s.c.flush() }

// pushed is a Stream as a netpoll.Stream.
type pushed Stream

// Push implements netpoll.Pusher.
func (s *Stream) Push(h netpoll.Handler) netpoll.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h = h
	s.readBy, s.writeBy = time.Time{}, time.Time{}
	return (*pushed)(s)
}

// Start implements netpoll.Stream.
func (p *pushed) Start(initial []byte) {
	s := (*Stream)(p)
	s.mu.Lock()
	s.started = true
	if len(initial) > 0 {
		s.consumed -= len(initial) // the net.Conn's reader has counted them, or they never came this way
		s.in = append(append([]byte(nil), initial...), s.in...)
	}
	more := s.workLocked()
	s.mu.Unlock()
	if more {
		go s.run() // the caller may hold locks of the handler
	}
}

// Pause implements netpoll.Stream.
func (p *pushed) Pause() {
	s := (*Stream)(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = s.outEnd == outputOpen
}

// Resume implements netpoll.Stream.
func (p *pushed) Resume() {
	s := (*Stream)(p)
	s.mu.Lock()
	s.paused = false
	more := s.workLocked() && !s.running
	s.mu.Unlock()
	if more {
		go s.run() // the caller may hold locks of the handler
	}
}

// Write implements netpoll.Stream.
func (p *pushed) Write(b []byte) (queued int) { return (*Stream)(p).write(b, false) }

// Queued implements netpoll.Stream.
func (p *pushed) Queued() int {
	s := (*Stream)(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out)
}

// Delivered implements netpoll.Stream.
func (p *pushed) Delivered() int64 {
	s := (*Stream)(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Close implements netpoll.Stream.
func (p *pushed) Close() { (*Stream)(p).closeWith(netpoll.ErrClosed) }

// Shutdown implements netpoll.Stream.
func (p *pushed) Shutdown(linger time.Duration) {
	s := (*Stream)(p)
	s.mu.Lock()
	if s.outEnd != outputOpen {
		s.mu.Unlock()
		return
	}
	s.paused = false
	if s.inEnd == nil {
		s.linger = time.AfterFunc(linger, p.Close)
	}
	s.endOutputLocked(false)
	more := s.workLocked() && !s.running
	s.mu.Unlock()
	if more {
		go s.run() // the caller may hold locks of the handler
	}
}

// The rest makes a Stream a net.Conn.

// Read implements net.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 {
		switch {
		case s.inEnd != nil:
			return 0, s.inEnd
		case past(s.readBy):
			return 0, os.ErrDeadlineExceeded
		}
		s.waitLocked()
	}
	n := copy(p, s.in)
	if s.in = s.in[n:]; len(s.in) == 0 {
		s.in = nil
	}
	s.consumeLocked(n)
	return n, nil
}

// Write implements net.Conn. It blocks while much waits for the other side.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		for len(s.out) > windowBytes/4 {
			switch {
			case s.outEnd != outputOpen:
				return n, s.outErrorLocked()
			case past(s.writeBy):
				return n, os.ErrDeadlineExceeded
			}
			s.waitLocked()
		}
		if s.outEnd != outputOpen {
			return n, s.outErrorLocked()
		}
		piece := p[:min(len(p), windowBytes/4)]
		sent := 0
		if len(s.out) == 0 {
			sent = s.sendLocked(piece, false)
		}
		s.out = append(s.out, piece[sent:]...)
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

func (s *Stream) outErrorLocked() error {
	if s.inEnd != nil && !errors.Is(s.inEnd, io.EOF) {
		return s.inEnd
	}
	return net.ErrClosed
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (s *Stream) waitLocked() {
	if s.changed == nil {
		s.changed = sync.NewCond(&s.mu)
	}
	s.changed.Wait()
}

// CloseWrite tells the other side that nothing more comes.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outEnd == outputOpen {
		s.endOutputLocked(false)
	}
	return nil
}

// Close implements net.Conn. It ends the stream immediately.
func (s *Stream) Close() error {
	s.closeWith(netpoll.ErrClosed)
	return nil
}

// peerAddr is the address of the other end.
type peerAddr string

func (peerAddr) Network() string  { return "holdfast-peer" }
func (a peerAddr) String() string { return string(a) }

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return peerAddr("") }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return peerAddr(s.c.peer.ID) }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy = t
	s.setDeadlineLocked(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy = t
	s.setDeadlineLocked(t)
	return nil
}

// setDeadlineLocked wakes those who wait when t has come. Deadlines are rare, so each starts a timer.
func (s *Stream) setDeadlineLocked(t time.Time) {
	s.broadcastLocked()
	if t.IsZero() {
		return
	}
	time.AfterFunc(time.Until(t), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.broadcastLocked()
	})
}
