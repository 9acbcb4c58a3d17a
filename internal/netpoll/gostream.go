package netpoll

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// chunkBytes bounds one write of the writer, so that Delivered shows progress in between.
const chunkBytes = 64 << 10

// goStream is a Stream that goroutines serve: a reader for its whole life, and a writer while bytes
// are queued. A plain socket is also written from Write, as far as the kernel takes it. A
// connection that is not a plain socket (TLS) is written by the writer only, because nothing tells
// whether its Write would block.
//
// It uses package net and ordinary system calls, so it works on every system, and when the event
// loop is switched off.
type goStream struct {
	// Immutable.
	conn   net.Conn
	raw    syscall.RawConn // nil if the connection is not a plain socket
	socket syscall.RawConn // the socket underneath, or nil
	h      Handler

	// mu guards the fields below. It is not held while conn is closed: that waits for the reader,
	// which may want mu.
	mu      sync.Mutex
	wake    sync.Cond // wakes the reader, which waits while paused or for the writer's end
	phase   phase
	read    readState // on or paused; counts only while the phase is open
	queue   []byte    // waits for the writer
	inHand  int       // bytes that the writer took from the queue and the kernel has not taken yet
	taken   int64     // bytes that the kernel has taken since the beginning
	writing bool      // the writer runs
	err     error     // of a failed write
	try     tryWrite
}

func newGoStream(conn net.Conn, h Handler) *goStream {
	s := &goStream{conn: conn, h: h}
	s.wake.L = &s.mu
	s.try.fn = s.try.writeFD
	s.raw = rawConn(conn)
	s.socket = s.raw
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
		s.socket = rawConn(c.NetConn())
	}
	return s
}

func rawConn(conn net.Conn) syscall.RawConn {
	if runtime.GOOS == "windows" {
		return nil // see fd_windows.go
	}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

func (s *goStream) handler() Handler { return s.h }

// Start implements Stream.
func (s *goStream) Start(initial []byte) {
	// It ends when the connection ends, Close closes it, or Shutdown's linger time is up.
	go s.readLoop(initial)
}

// Pause implements Stream.
func (s *goStream) Pause() { s.setRead(readPaused) }

// Resume implements Stream.
func (s *goStream) Resume() { s.setRead(readOn) }

func (s *goStream) setRead(to readState) {
	s.mu.Lock()
	s.read.moveLocked(to)
	s.mu.Unlock()
	s.wake.Broadcast()
}

// Close implements Stream.
func (s *goStream) Close() {
	s.mu.Lock()
	s.phase.moveLocked(closing)
	s.queue = nil
	s.mu.Unlock()
	s.wake.Broadcast()
	s.closeConn()
}

// closeConn closes the socket itself. To close a TLS connection would write an alert, which may
// block; a peer that should see an orderly end got the alert from Shutdown.
func (s *goStream) closeConn() {
	if c, ok := s.conn.(interface{ NetConn() net.Conn }); ok {
		c.NetConn().Close()
		return
	}
	s.conn.Close()
}

// Shutdown implements Stream.
func (s *goStream) Shutdown(linger time.Duration) {
	s.mu.Lock()
	if s.phase != open {
		s.mu.Unlock()
		return
	}
	s.conn.SetDeadline(time.Now().Add(linger)) // fails only if the connection has ended
	if s.raw != nil && !s.writing {
		s.phase.moveLocked(writeClosed)
		s.mu.Unlock()
		s.wake.Broadcast()
		s.closeWrite()
		return
	}
	s.phase.moveLocked(writeClosing)
	if !s.writing {
		s.startWriterLocked() // TLS ends with an alert, which may block
	}
	s.mu.Unlock()
	s.wake.Broadcast()
}

// closeWrite tells the peer that nothing more will come.
func (s *goStream) closeWrite() {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails only if the connection has ended
		return
	}
	s.conn.Close()
}

// readLoop is the reader.
func (s *goStream) readLoop(initial []byte) {
	var err error
	safely(s, func() { err = s.readAll(initial) })
	err = s.finish(err)
	s.closeConn()
	safely(s, func() { s.h.Closed(err) })
}

// finish moves to closed and returns the error for Closed; err is why reading ended. After the
// peer's orderly end it first waits for bytes queued before Shutdown. Shutdown's deadline bounds
// that wait.
func (s *goStream) finish(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, io.EOF) {
		s.phase.moveLocked(readClosed)
	}
	for s.phase == readClosed && s.writing {
		s.wake.Wait()
	}
	if s.err != nil {
		err = s.err // it ended the reading, or says more
	}
	if s.phase == closing || s.phase != open && errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrClosed
	}
	s.phase.moveLocked(closed)
	return err
}

// readAll passes everything to the Handler until reading ends, and returns why.
func (s *goStream) readAll(initial []byte) error {
	if len(initial) > 0 && s.waitResumed() {
		s.deliver(initial)
	}
	if s.raw != nil {
		return s.readSocket()
	}
	return s.readConn()
}

func (s *goStream) deliver(p []byte) {
	s.h.Read(p)
	s.h.Flush()
}

func (s *goStream) pausedLocked() bool { return s.read == readPaused && s.phase == open }

// waitResumed waits while the Stream is paused. It returns false if the Stream was closed.
func (s *goStream) waitResumed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pausedLocked() {
		s.wake.Wait()
	}
	return s.phase != closing
}

func (s *goStream) paused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pausedLocked()
}

// readSocket reads a plain socket. It takes a buffer only when there is something to read, so an
// idle connection holds none.
func (s *goStream) readSocket() error {
	var (
		bufp *[]byte // nil if nothing was read, because of a pause
		n    int
		rerr error
	)
	ready := func(fd uintptr) bool {
		bufp = nil
		if s.paused() {
			return true
		}
		b := readBuffers.Get().(*[]byte)
		if n, rerr = readFD(int(fd), *b, sysRead); errors.Is(rerr, syscall.EAGAIN) {
			readBuffers.Put(b)
			return false
		}
		bufp = b
		return true
	}
	for {
		if !s.waitResumed() {
			return ErrClosed
		}
		if err := s.raw.Read(ready); err != nil {
			return err
		}
		if bufp == nil {
			continue
		}
		if rerr == nil && n > 0 {
			s.deliver((*bufp)[:n])
		}
		readBuffers.Put(bufp)
		switch {
		case rerr != nil:
			return os.NewSyscallError("read", rerr)
		case n == 0:
			return io.EOF
		}
	}
}

// readConn reads a connection that is not a plain socket. It waits with a small buffer.
func (s *goStream) readConn() error {
	small := make([]byte, 4<<10)
	for {
		if !s.waitResumed() {
			return ErrClosed
		}
		n, err := s.conn.Read(small)
		if n > 0 {
			if !s.waitResumed() { // paused while it read
				return ErrClosed
			}
			s.deliver(small[:n])
		}
		if err != nil {
			return err
		}
	}
}

// Write implements Stream.
func (s *goStream) Write(p []byte) (queued int) {
	queued, err := s.write(p)
	if err != nil {
		s.closeConn()
	}
	return queued
}

// write returns the error of a failed write.
func (s *goStream) write(p []byte) (queued int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != open {
		return s.queuedLocked(), nil
	}
	if !s.writing && s.raw != nil {
		n, err := s.try.write(s.raw, p)
		s.taken += int64(n)
		if err != nil {
			s.failLocked(err)
			return 0, err
		}
		p = p[n:]
	}
	if len(p) > 0 {
		s.queue = append(s.queue, p...)
		if !s.writing {
			s.startWriterLocked()
		}
	}
	return s.queuedLocked(), nil
}

// Queued implements Stream.
func (s *goStream) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queuedLocked()
}

func (s *goStream) queuedLocked() int { return len(s.queue) + s.inHand }

// Delivered implements Stream.
func (s *goStream) Delivered() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	unsent := 0
	if s.socket != nil {
		// Control fails only if the connection has ended.
		_ = s.socket.Control(func(fd uintptr) { unsent = unacknowledged(int(fd)) })
	}
	return max(s.taken-int64(unsent), 0)
}

// failLocked notes a failed write. The caller closes conn afterwards, without the lock, and the
// reader then reports the error.
func (s *goStream) failLocked(err error) {
	if s.phase.moveLocked(failed) {
		s.err = err
	}
	s.queue, s.inHand = nil, 0
	s.wake.Broadcast()
}

func (s *goStream) startWriterLocked() {
	s.writing = true
	go s.writeLoop() // ends when nothing is queued, or when the connection fails or is closed
}

// writeLoop is the writer.
func (s *goStream) writeLoop() {
	s.mu.Lock()
	wrote, err := s.writeQueueLocked()
	if s.phase == writeClosing || s.phase == readClosed {
		s.mu.Unlock()
		s.closeWrite()
		s.mu.Lock()
		s.phase.moveLocked(writeClosed)
	}
	s.writing = false
	s.mu.Unlock()
	s.wake.Broadcast()
	if wrote && err == nil {
		safely(s, s.h.Drained)
	}
}

// writeQueueLocked writes until the queue is empty, and returns with the lock held as it was
// called. It gives the lock up while it writes.
func (s *goStream) writeQueueLocked() (wrote bool, err error) {
	var batch []byte
	for len(s.queue) > 0 {
		batch, s.queue = s.queue, batch[:0]
		s.inHand = len(batch)
		s.mu.Unlock()
		err = s.writeAll(batch)
		wrote = true
		s.mu.Lock()
		if err != nil {
			s.failLocked(err) // before the reader can notice
			s.mu.Unlock()
			s.closeConn()
			s.mu.Lock()
		}
	}
	s.queue = nil // frees its memory
	return wrote, err
}

func (s *goStream) writeAll(batch []byte) error {
	for len(batch) > 0 {
		n, err := s.conn.Write(batch[:min(len(batch), chunkBytes)])
		batch = batch[n:]
		s.mu.Lock()
		s.taken += int64(n)
		s.inHand = len(batch)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
