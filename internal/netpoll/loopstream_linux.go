package netpoll

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// loopStream is a Stream that a loop serves. It owns a plain descriptor, not a net.Conn: the runtime's own
// poller would wake up for it as well.
type loopStream struct {
	loop *loop

	slot      uint32 // guarded by loop.mu, as is scheduled
	scheduled bool

	// Owned by the loop once started.
	hungUp    bool // the peer's end is announced: read until it comes
	unflushed bool // the Handler has read something and is still to Flush

	mu       sync.Mutex // guards the fields below; fd is closed with it held, and by the loop only
	h        Handler
	held     *Conn  // which the stream is as yet, or nil
	initial  []byte // to be given to the Handler before what is read
	fd       int    // -1 when closed
	started  bool
	paused   bool
	full     bool // held has enough for now
	ended    bool // the connection ended, as werr says, before it had the Handler, which is still to be told
	unread   bool // an event came while paused, or full
	closed   bool // Close was called
	shutdown bool // no more is to be written; the writing side is ended when the queue is empty
	eof      bool // the peer has ended its side, and bytes wait that it is still to have
	queue    []byte
	taken    int64 // bytes that the kernel took, since the beginning
	werr     error
	linger   *time.Timer
	release  func() // of a Counted connection
}

// closeLocked closes the descriptor.
func (s *loopStream) closeLocked() {
	closeFD(s.fd)
	s.fd = -1
	if s.release != nil {
		s.release()
	}
}

// newLoopStream returns nil if conn cannot be served by a loop. Otherwise conn is used up.
func newLoopStream(conn net.Conn, h Handler) Stream {
	if c, ok := conn.(*Conn); ok {
		return c.become(h)
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	l := pickLoop()
	if l == nil {
		return nil
	}
	fd, err := duplicate(sc)
	if err != nil {
		return nil // out of descriptors, say: the connection itself will do
	}
	s := &loopStream{h: h, loop: l, fd: fd}
	if c, ok := conn.(Counted); ok {
		conn, s.release = c.Release()
	}
	conn.Close() // ours stays open, and the runtime's poller forgets the connection
	return s
}

func (s *loopStream) Start(initial []byte) {
	s.mu.Lock()
	if c := s.held; c != nil {
		s.mu.Unlock()
		c.give(initial)
		return
	}
	s.initial = initial
	err := s.registerLocked()
	h := s.h
	s.mu.Unlock()
	if err != nil {
		go s.refused(h, err)
		return
	}
	// Bytes that came before the registration raise an edge by themselves; the initial ones do not.
	if len(initial) > 0 {
		s.loop.schedule(s)
	}
}

// registerLocked has the loop serve the stream.
func (s *loopStream) registerLocked() error {
	if s.fd < 0 {
		return ErrClosed
	}
	if err := s.loop.add(s, s.fd, &s.slot, streamEvents); err != nil {
		s.werr = err
		s.closeLocked()
		return err
	}
	s.started = true
	return nil
}

// refused tells of a stream that could not be started.
func (s *loopStream) refused(h Handler, err error) {
	defer recoverFor(h, s.Close)
	h.Closed(err)
}

func (s *loopStream) Pause() {
	s.mu.Lock()
	s.paused = !s.shutdown && s.werr == nil
	s.mu.Unlock()
}

func (s *loopStream) Resume() {
	s.mu.Lock()
	s.paused = false
	unread := s.unread && s.started
	s.unread = false
	s.mu.Unlock()
	if unread {
		s.loop.schedule(s)
	}
}

func (s *loopStream) watchedBy() *loop { return s.loop }

// guardedEvent keeps a panic of the Handler's from ending the loop.
func (s *loopStream) guardedEvent(events uint32, buf []byte) {
	defer s.recover()
	s.onEvent(events, buf)
}

// recover is deferred where the Handler is called.
func (s *loopStream) recover() {
	if v := recover(); v != nil {
		s.mu.Lock()
		h := s.h
		s.mu.Unlock()
		panicked(h, s.Close, v)
	}
}

// onEvent runs in the loop.
func (s *loopStream) onEvent(events uint32, buf []byte) {
	if events&(syscall.EPOLLRDHUP|brokenEvents) != 0 {
		s.hungUp = true
	}
	if s.hungUp || events&syscall.EPOLLIN != 0 {
		s.read(buf, events)
	} else if events&syscall.EPOLLOUT != 0 {
		s.drain(events&brokenEvents == 0)
	}
}

// brokenEvents say that the connection has failed.
const brokenEvents = syscall.EPOLLHUP | syscall.EPOLLERR

// turn is what is to be done for a stream.
type turn uint8

const (
	turnNone    turn = iota
	turnDrain        // more of what waits may be written
	turnInitial      // the Handler is to be given what is there already
	turnRead
	turnEnd // the connection has ended, and the Handler is still to be told
)

// turn says what is to be done next, and with what: the Handler, its bytes, or a descriptor and how much to read from it. out
// is whether the kernel takes more: every event says that of a connection that takes any, whatever else it came for.
func (s *loopStream) turn(out bool) (what turn, h Handler, initial []byte, fd, size int) {
	s.mu.Lock()
	if out && (len(s.queue) > 0 || s.held != nil) {
		s.mu.Unlock()
		return turnDrain, nil, nil, -1, 0
	}
	if s.closed {
		s.mu.Unlock()
		s.finish(ErrClosed)
		return turnNone, nil, nil, -1, 0
	}
	defer s.mu.Unlock()
	switch {
	case s.fd < 0 && !s.ended:
		return turnNone, nil, nil, -1, 0
	case s.paused, s.full:
		s.unread = true
		return turnNone, nil, nil, -1, 0
	case len(s.initial) > 0:
		initial, s.initial = s.initial, nil
		return turnInitial, s.h, initial, -1, 0
	case s.fd < 0:
		return turnEnd, nil, nil, -1, 0
	}
	s.initial = nil
	size = readBufferBytes
	if s.held != nil {
		size = heldBytes
	}
	return turnRead, s.h, nil, s.fd, size
}

// read handles events that tell of something to be read, and perhaps that more may be written.
func (s *loopStream) read(buf []byte, events uint32) {
	for range maxReadsPerEvent {
		what, h, initial, fd, size := s.turn(events&syscall.EPOLLOUT != 0)
		if what == turnDrain {
			s.drain(events&brokenEvents == 0)
			what, h, initial, fd, size = s.turn(false)
		}
		events = 0
		switch what {
		case turnNone, turnDrain:
			return
		case turnInitial:
			h.Read(initial)
			s.loop.noteRead(s, h, len(initial))
			continue
		case turnEnd:
			s.finish(nil)
			return
		case turnRead:
		}
		n, err := readFD(fd, buf[:size])
		switch {
		case err == syscall.EAGAIN: //nolint:errorlint // it is what the system says, and nothing around it
			return
		case err != nil:
			s.finish(os.NewSyscallError("read", err))
			return
		case n == 0:
			s.flush(h) // it may Shutdown
			if !s.outlasts() {
				s.finish(io.EOF)
			}
			return
		}
		h.Read(buf[:n])
		s.loop.noteRead(s, h, n)
		if n < size && !s.hungUp {
			return
		}
		s.loop.flushIfDue()
	}
	s.loop.schedule(s) // there may be more; others first
}

// outlasts reports, at the peer's end, whether the peer is still to have bytes that were written before Shutdown.
// Then drain finishes, or the linger time is up.
func (s *loopStream) outlasts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eof = s.shutdown && len(s.queue) > 0
	return s.eof
}

// flush has h flush what it has read.
func (s *loopStream) flush(h Handler) {
	if s.unflushed {
		s.unflushed = false
		h.Flush()
	}
}

// guardedFlush is for flush what guardedEvent is for onEvent.
func (s *loopStream) guardedFlush(h Handler) {
	defer s.recover()
	s.flush(h)
}

// finish has the Handler flush, closes the descriptor and tells the Handler. It runs in the loop.
func (s *loopStream) finish(err error) {
	if s.unflushed {
		s.mu.Lock()
		h := s.h
		s.mu.Unlock()
		s.guardedFlush(h)
	}
	s.mu.Lock()
	switch {
	case s.ended:
		err, s.ended, s.werr = s.werr, false, nil
	case s.fd < 0:
		s.mu.Unlock()
		return
	default:
		s.loop.remove(s.slot)
		s.closeLocked()
		s.queue = nil
		if s.linger != nil {
			s.linger.Stop()
		}
	}
	switch {
	case s.werr != nil:
		err = s.werr
	case s.closed:
		err = ErrClosed
	case len(s.initial) > 0: // a Conn's until just now, when the end was read
		s.endedLocked(err)
		s.mu.Unlock()
		return
	}
	h := s.h
	s.mu.Unlock()
	h.Closed(err)
}

func (s *loopStream) Write(p []byte) (queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.werr != nil || s.shutdown || s.closed || s.fd < 0 {
		s.noteEndLocked() // as a write would
		return len(s.queue)
	}
	if len(s.queue) == 0 {
		n, err := writeFD(s.fd, p)
		s.taken += int64(n)
		if err != nil {
			s.failLocked(err)
			return 0
		}
		p = p[n:]
	}
	s.queue = append(s.queue, p...)
	return len(s.queue)
}

// failLocked ends the connection after a failed write; the loop then reports it.
func (s *loopStream) failLocked(err error) {
	s.werr = err
	s.queue = nil
	s.hangUpLocked()
}

// hangUpLocked makes the loop find the connection's end.
func (s *loopStream) hangUpLocked() {
	s.paused, s.full = false, false
	if s.fd < 0 {
		s.noteEndLocked()
		return
	}
	// ENOTCONN means that it has ended already, and the loop knows or will be told by schedule.
	_ = syscall.Shutdown(s.fd, syscall.SHUT_RDWR)
	if s.started {
		s.loop.schedule(s)
	}
}

// noteEndLocked has the Handler told, even if it has paused the stream, that the connection had ended before it had the Handler.
func (s *loopStream) noteEndLocked() {
	if s.ended {
		s.paused = false
		s.loop.schedule(s)
	}
}

// drain writes on, now that the kernel takes more. well says that the connection has not failed.
func (s *loopStream) drain(well bool) {
	s.mu.Lock()
	if c := s.held; c != nil && well {
		defer c.connected()
	}
	if len(s.queue) == 0 || s.fd < 0 {
		s.mu.Unlock()
		return
	}
	n, err := writeFD(s.fd, s.queue)
	s.taken += int64(n)
	if err != nil {
		s.failLocked(err)
		s.mu.Unlock()
		return
	}
	s.queue = s.queue[n:]
	done, eof, h := len(s.queue) == 0, s.eof, s.h
	if done {
		s.queue = nil
		if s.shutdown {
			_ = syscall.Shutdown(s.fd, syscall.SHUT_WR) // fails only if the connection has ended
		}
	}
	s.mu.Unlock()
	if done {
		h.Drained()
		if eof {
			s.finish(io.EOF)
		}
	}
}

func (s *loopStream) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

func (s *loopStream) Delivered() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	unsent := 0
	if s.fd >= 0 {
		unsent = unacknowledged(s.fd)
	}
	return max(s.taken-int64(unsent), 0)
}

func (s *loopStream) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.queue = nil
	s.hangUpLocked()
	orphan := !s.started && s.fd >= 0
	if orphan { // the loop does not know it
		s.closeLocked()
	}
	s.mu.Unlock()
}

func (s *loopStream) Shutdown(linger time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shutdown || s.fd < 0 {
		s.noteEndLocked()
		return
	}
	s.shutdown = true
	s.paused = false
	if s.unread && s.started {
		s.unread = false
		s.loop.schedule(s)
	}
	s.linger = time.AfterFunc(linger, s.Close)
	if len(s.queue) == 0 {
		_ = syscall.Shutdown(s.fd, syscall.SHUT_WR) // fails only if the connection has ended
	}
}
