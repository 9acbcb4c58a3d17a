package netpoll

import (
	"io"
	"os"
	"syscall"
)

// handle implements target.
func (s *loopStream) handle(events uint32, buf []byte) {
	safely(s, func() { s.onEvent(events, buf) })
}

// brokenEvents report that the connection has failed.
const brokenEvents = syscall.EPOLLHUP | syscall.EPOLLERR

func (s *loopStream) onEvent(events uint32, buf []byte) {
	if events&(syscall.EPOLLRDHUP|brokenEvents) != 0 {
		s.hungUp = true
	}
	if s.hungUp || events&syscall.EPOLLIN != 0 {
		s.readAll(buf, events)
	} else if events&syscall.EPOLLOUT != 0 {
		s.drain(events&brokenEvents == 0)
	}
}

// step is what the loop does next for a Stream.
type step uint8

const (
	stepNone    step = iota
	stepDrain        // write more of the queue
	stepInitial      // pass the initial bytes to the Handler
	stepRead
	stepEnd // end, and tell the Handler
)

// next says what to do next, and with what: the Handler and its bytes, or the descriptor and how
// much to read from it. writable is whether the kernel takes more: each event reports that,
// whatever else it came for.
func (s *loopStream) next(writable bool) (do step, h Handler, initial []byte, fd, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case writable && (len(s.queue) > 0 || s.conn != nil):
		return stepDrain, nil, nil, -1, 0
	case s.phase == closing:
		return stepEnd, nil, nil, -1, 0
	case s.phase == closed:
		return stepNone, nil, nil, -1, 0
	case s.read != readOn:
		s.missed = true
		return stepNone, nil, nil, -1, 0
	case len(s.initial) > 0:
		initial, s.initial = s.initial, nil
		return stepInitial, s.h, initial, -1, 0
	case s.phase == endPending:
		return stepEnd, nil, nil, -1, 0
	}
	s.initial = nil
	size = readBufferBytes
	if s.conn != nil {
		size = connBufferBytes
	}
	return stepRead, s.h, nil, s.fd, size
}

// readAll reads until the kernel has no more, or others should get their turn. It writes first if
// the event says that more may be written.
func (s *loopStream) readAll(buf []byte, events uint32) {
	for range maxReadsPerEvent {
		do, h, initial, fd, size := s.next(events&syscall.EPOLLOUT != 0)
		if do == stepDrain {
			s.drain(events&brokenEvents == 0)
			do, h, initial, fd, size = s.next(false)
		}
		events = 0
		switch do {
		case stepNone, stepDrain:
			return
		case stepInitial:
			h.Read(initial)
			s.loop.markForFlush(s, h, len(initial))
			continue
		case stepEnd:
			s.finish(ErrClosed)
			return
		case stepRead:
		}
		n, err := readFD(fd, buf[:size], recvFD)
		switch {
		case err == syscall.EAGAIN: //nolint:errorlint // a bare errno
			return
		case err != nil:
			s.finish(os.NewSyscallError("read", err))
			return
		case n == 0:
			s.flush(h) // which may call Shutdown
			if !s.outlivesPeer() {
				s.finish(io.EOF)
			}
			return
		}
		h.Read(buf[:n])
		s.loop.markForFlush(s, h, n)
		if n < size && !s.hungUp {
			return
		}
		s.loop.flushIfDue()
	}
	s.loop.schedule(s) // there may be more; others first
}

// outlivesPeer reports, at the peer's FIN, whether bytes that were queued before Shutdown still
// have to reach it. Then drain finishes, or the linger time is up.
func (s *loopStream) outlivesPeer() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase.moveLocked(readClosed)
	return s.phase == readClosed
}

// flush flushes h if it has read something.
func (s *loopStream) flush(h Handler) {
	if s.toFlush {
		s.toFlush = false
		h.Flush()
	}
}

// finish flushes the Handler, closes the descriptor and tells the Handler. It runs in the loop. err
// counts unless this side ended the connection, or failed to write, before.
func (s *loopStream) finish(err error) {
	if s.toFlush {
		s.flush(s.handler())
	}
	s.mu.Lock()
	switch s.phase {
	case closed:
		s.mu.Unlock()
		return
	case endPending:
		s.phase.moveLocked(closed)
	case open, writeClosing, writeClosed, readClosed, failed, closing, frozen:
		s.loop.freeSlot(s.slot)
		s.closeLocked()
		// The Handler may have been changed during the read that found the end.
		if s.err == nil && len(s.initial) > 0 {
			s.reportEndLocked(err)
			s.mu.Unlock()
			return
		}
	}
	if s.err != nil {
		err = s.err
	}
	h := s.h
	s.mu.Unlock()
	h.Closed(err)
}
