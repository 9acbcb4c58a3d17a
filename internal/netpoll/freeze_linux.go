package netpoll

import (
	"net"
	"os"
	"syscall"
)

// This file moves Streams to another process. Freeze stops a Stream: the loop neither reads from
// its socket nor writes to it. After a Barrier, Export says what the next process needs, and Adopt
// makes a Stream of that. Thaw undoes Freeze.

// Freezer is a Stream that can be moved to another process.
type Freezer interface {
	Stream
	// Freeze stops reading and writing. It returns false if the connection is about to end; the
	// Stream is then unchanged. A read that the loop has begun may still reach the Handler until
	// Barrier returns. Meanwhile, Write queues.
	Freeze() bool
	// Export returns what a frozen Stream consists of, which is valid until Thaw. Call it after
	// Barrier. It returns false if the connection has ended.
	Export() (Exported, bool)
	// Thaw undoes Freeze. The Stream reads, even if it was paused before.
	Thaw()
}

// Exported is a frozen Stream.
type Exported struct {
	FD      int
	Initial []byte // was read, and not passed to the Handler
	Queue   []byte // was written by the Handler, and not taken by the kernel
}

// Freeze implements Freezer.
func (s *loopStream) Freeze() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil || s.slot == 0 || !s.phase.moveLocked(frozen) {
		return false
	}
	if s.read == readOn {
		s.read.moveLocked(readPaused)
	}
	return true
}

// Export implements Freezer.
func (s *loopStream) Export() (Exported, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Exported{s.fd, s.initial, s.queue}, s.phase == frozen
}

// Thaw implements Freezer.
func (s *loopStream) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.phase.moveLocked(open) {
		return
	}
	s.missed = true // the events of the meantime were ignored
	s.readOnLocked()
	if len(s.queue) == 0 {
		return
	}
	// If some remains, the loop hears when the kernel takes more.
	n, err := writeFD(s.fd, s.queue, sendFD)
	s.taken += int64(n)
	if err != nil {
		s.failLocked(err)
		return
	}
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
		go safely(s, s.h.Drained) // which must not be called with a lock held
	}
}

// Barrier waits until each event loop has finished what it was doing when Barrier was called.
func Barrier() {
	var passed []chan struct{}
	for _, l := range loops {
		ch := make(chan struct{})
		l.mu.Lock()
		l.barriers = append(l.barriers, ch)
		wake := !l.awake
		l.awake = true
		l.mu.Unlock()
		if wake {
			l.wake()
		}
		passed = append(passed, ch)
	}
	for _, ch := range passed {
		<-ch
	}
}

// Adopt makes a Stream of a socket that another process has exported. The bytes of e must not
// change afterwards. Start passes e.Initial to the Handler.
func Adopt(e Exported, h Handler) (Stream, error) {
	syscall.CloseOnExec(e.FD)
	l := pickLoop()
	if l == nil {
		return adoptConn(e, h)
	}
	if err := syscall.SetNonblock(e.FD, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	// Its registration raises the events.
	return &loopStream{h: h, loop: l, fd: e.FD, queue: e.Queue}, nil
}

// adoptConn is Adopt where the event loop is off.
func adoptConn(e Exported, h Handler) (Stream, error) {
	f := os.NewFile(uintptr(e.FD), "")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	s := newGoStream(conn, h)
	s.Write(e.Queue)
	return s, nil
}
