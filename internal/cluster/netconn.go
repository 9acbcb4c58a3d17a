package cluster

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// This file makes a Stream a net.Conn.

// Read implements net.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 {
		switch {
		case s.inEnd != nil:
			return 0, s.inEnd
		case hasPassed(s.readBy):
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
			case hasPassed(s.writeBy):
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

func hasPassed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

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

// setDeadlineLocked wakes those who wait when t has come. Deadlines are rare, so each starts a
// timer.
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
