package cluster

import (
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// Append is Write of a netpoll.Stream, except that the caller must Flush soon. The writes of
// several streams of one connection then go out together.
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
		// The net.Conn's reader has counted them, or they never came this way.
		s.consumed -= len(initial)
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
