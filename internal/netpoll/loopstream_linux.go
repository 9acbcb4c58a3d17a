package netpoll

import (
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// loopStream is a Stream that an event loop serves. It owns a descriptor, not a net.Conn: for that,
// the runtime's own poller would wake up too.
type loopStream struct {
	loop *loop // immutable

	slot      uint32 // set once, with mu and loop.mu held; 0 until the Stream is registered
	scheduled bool   // guarded by loop.mu

	// Owned by the loop.
	hungUp  bool // the end is announced: read until it is found
	toFlush bool // the Handler has read something and not flushed yet

	// mu guards the fields below. Only the loop closes a registered descriptor, and holds mu then.
	mu      sync.Mutex
	phase   phase
	read    readState
	missed  bool // an event came while reading was off
	h       Handler
	conn    *Conn  // the Conn that the Stream still belongs to; nil once it is a Stream of its own
	initial []byte // the Handler gets it before anything is read
	fd      int    // -1 once closed
	queue   []byte
	taken   int64 // bytes that the kernel has taken since the beginning
	err     error // what Closed gets, unless the loop finds out first
	linger  *time.Timer
	onClose func() // called when fd is closed; may be nil
}

// newLoopStream returns nil if no loop can serve conn. Otherwise conn is used up.
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
		return nil // out of descriptors, most likely: a goStream needs no second one
	}
	s := &loopStream{h: h, loop: l, fd: fd}
	if c, ok := conn.(TrackedConn); ok {
		conn, s.onClose = c.Unwrap()
	}
	conn.Close() // the duplicate stays open, and the runtime's poller forgets the connection
	return s
}

func (s *loopStream) handler() Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.h
}

// Start implements Stream.
func (s *loopStream) Start(initial []byte) {
	s.mu.Lock()
	if c := s.conn; c != nil {
		s.mu.Unlock()
		c.handOver(initial)
		return
	}
	defer s.mu.Unlock()
	if err := s.registerLocked(); err != nil {
		s.read.moveLocked(readOn) // there is nothing to wait for
		s.reportEndLocked(err)
		return
	}
	s.initial = initial
	// Bytes that came before the registration raise an event by themselves; the initial ones do
	// not.
	if len(initial) > 0 {
		s.loop.schedule(s)
	}
}

// registerLocked makes the loop serve the Stream. If that fails, the descriptor is closed.
func (s *loopStream) registerLocked() error {
	if s.fd < 0 {
		return ErrClosed
	}
	if err := s.loop.add(s, s.fd, &s.slot, streamEvents); err != nil {
		s.err = err
		s.closeLocked()
		return err
	}
	return nil
}

// closeLocked moves to closed, and closes the descriptor.
func (s *loopStream) closeLocked() {
	s.phase.moveLocked(closed)
	s.queue = nil
	if s.linger != nil {
		s.linger.Stop()
	}
	closeFD(s.fd)
	s.fd = -1
	if s.onClose != nil {
		s.onClose()
	}
}

// reportEndLocked makes the loop tell the Handler that the connection ended before the Handler had
// it. The Handler reads what is initial first, unless this side closed the connection.
func (s *loopStream) reportEndLocked(err error) {
	s.phase.moveLocked(endPending)
	if s.err == ErrClosed { //nolint:errorlint // never wrapped
		s.initial = nil
		s.read.moveLocked(readOn)
	} else {
		s.err = err
	}
	s.loop.schedule(s)
}

// Pause implements Stream. Before Start it works on a Conn that has ended, too: its Handler has not
// read anything yet.
func (s *loopStream) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.phase {
	case open, closed, endPending:
		s.read.moveLocked(readPaused)
	case frozen: // it does not read
	case writeClosing, writeClosed, readClosed, failed, closing: // the end must be found
	}
}

// Resume implements Stream.
func (s *loopStream) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read == readPaused && s.phase != frozen {
		s.readOnLocked()
	}
}

// readOnLocked turns reading on, and catches up on events that were missed.
func (s *loopStream) readOnLocked() {
	s.read.moveLocked(readOn)
	if s.missed {
		s.missed = false
		s.loop.schedule(s)
	}
}

func (s *loopStream) servedBy() *loop { return s.loop }

// Write implements Stream.
func (s *loopStream) Write(p []byte) (queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.phase {
	case open:
	case frozen:
		s.queue = append(s.queue, p...)
		return len(s.queue)
	default:
		s.noticeEndLocked() // as a failed write would
		return len(s.queue)
	}
	if len(s.queue) == 0 {
		n, err := writeFD(s.fd, p, sendFD)
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

// failLocked ends the connection after a failed write. The loop then reports the error.
func (s *loopStream) failLocked(err error) {
	s.phase.moveLocked(failed)
	s.err = err
	s.queue = nil
	s.hangUpLocked()
}

// hangUpLocked makes the loop find the end of an open connection.
func (s *loopStream) hangUpLocked() {
	s.read.moveLocked(readOn)
	// ENOTCONN means that the connection has ended already, which the loop finds too.
	_ = syscall.Shutdown(s.fd, syscall.SHUT_RDWR)
	if s.slot != 0 {
		s.loop.schedule(s)
	}
}

// noticeEndLocked makes the loop report the end to a Handler that paused the Stream and does not
// know it.
func (s *loopStream) noticeEndLocked() {
	if s.phase == endPending {
		s.read.moveLocked(readOn)
		s.loop.schedule(s)
	}
}

// drain writes more of the queue, now that the kernel takes more. ok is false if the connection has
// failed.
func (s *loopStream) drain(ok bool) {
	s.mu.Lock()
	if c := s.conn; c != nil && ok {
		defer c.connected()
	}
	if len(s.queue) == 0 || s.phase == frozen {
		s.mu.Unlock()
		return
	}
	n, err := writeFD(s.fd, s.queue, sendFD)
	s.taken += int64(n)
	if err != nil {
		s.failLocked(err)
		s.mu.Unlock()
		return
	}
	if s.queue = s.queue[n:]; len(s.queue) > 0 {
		s.mu.Unlock()
		return
	}
	s.queue = nil
	peerGone := s.phase == readClosed
	if peerGone || s.phase == writeClosing {
		s.phase.moveLocked(writeClosed)
		s.sendFINLocked()
	}
	h := s.h
	s.mu.Unlock()
	h.Drained()
	if peerGone {
		s.finish(io.EOF)
	}
}

// sendFINLocked ends the writing side.
func (s *loopStream) sendFINLocked() {
	_ = syscall.Shutdown(s.fd, syscall.SHUT_WR) // fails only if the connection has ended
}

// Queued implements Stream.
func (s *loopStream) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Delivered implements Stream.
func (s *loopStream) Delivered() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	unsent := 0
	if s.fd >= 0 {
		unsent = unacknowledged(s.fd)
	}
	return max(s.taken-int64(unsent), 0)
}

// Close implements Stream.
func (s *loopStream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || s.phase == endPending { // else a write failed, which explains more
		s.err = ErrClosed
	}
	switch s.phase {
	case closing, closed:
	case endPending:
		s.initial = nil
		s.noticeEndLocked()
	case open, writeClosing, writeClosed, readClosed, failed, frozen:
		s.phase.moveLocked(closing)
		s.queue = nil
		s.hangUpLocked()
		if s.slot == 0 { // the loop does not know it
			s.closeLocked()
		}
	}
}

// Shutdown implements Stream.
func (s *loopStream) Shutdown(linger time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != open {
		s.noticeEndLocked()
		return
	}
	s.linger = time.AfterFunc(linger, s.Close)
	if len(s.queue) > 0 {
		s.phase.moveLocked(writeClosing)
	} else {
		s.phase.moveLocked(writeClosed)
		s.sendFINLocked()
	}
	if s.read == readPaused {
		s.readOnLocked()
	}
}
