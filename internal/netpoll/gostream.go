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

// chunkBytes is how much the writer gives the kernel at a time, to see progress between.
const chunkBytes = 64 << 10

// goStream is a Stream with a goroutine that reads, and one that writes while the kernel takes no more.
// A connection that is not a plain socket (TLS) is written by the latter only: nobody can tell when its Write would
// block. Where both locks are held, wmu was taken first.
type goStream struct {
	// Immutable.
	conn   net.Conn
	raw    syscall.RawConn // nil where the connection is not a plain socket
	socket syscall.RawConn // the socket below, if there is one
	h      Handler

	rmu     sync.Mutex // guards the fields below
	paused  bool
	ending  bool // Shutdown was called, or a write failed: pausing has no effect any more
	closed  bool // by Close, or the reader's end
	resumed sync.Cond

	wmu       sync.Mutex // guards the fields below; never held during a blocking call
	queue     []byte     // waiting for the writer
	inHand    int        // bytes that the writer has taken from queue, and the kernel not yet from it
	taken     int64      // bytes that the kernel took, since the beginning
	writing   bool       // the writer runs
	werr      error
	shutdown  bool      // nothing more is taken, and the writing side ends once the queue is empty
	shutDown  bool      // it has ended
	unwritten sync.Cond // signalled when writing ends
	try       tryWrite
}

func newGoStream(conn net.Conn, h Handler) *goStream {
	s := &goStream{conn: conn, h: h}
	s.resumed.L = &s.rmu
	s.unwritten.L = &s.wmu
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
		return nil // see socket_windows.go
	}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

func (s *goStream) Start(initial []byte) {
	go s.readLoop(initial) // ends when the connection ends, Close closes it, or Shutdown's time is up
}

func (s *goStream) Pause() {
	s.rmu.Lock()
	s.paused = true
	s.rmu.Unlock()
}

func (s *goStream) Resume() {
	s.rmu.Lock()
	s.paused = false
	s.rmu.Unlock()
	s.resumed.Broadcast()
}

// end makes the reader see how the connection ends, even if it is paused.
func (s *goStream) end() {
	s.rmu.Lock()
	s.ending = true
	s.rmu.Unlock()
	s.resumed.Broadcast()
}

func (s *goStream) Close() {
	s.rmu.Lock()
	s.closed = true
	s.rmu.Unlock()
	s.resumed.Broadcast()
	s.closeConn()
}

// closeConn closes the socket itself: closing a TLS connection would write an alert first, and may
// wait for that. A peer that is to see an orderly end got it by Shutdown.
func (s *goStream) closeConn() {
	if c, ok := s.conn.(interface{ NetConn() net.Conn }); ok {
		c.NetConn().Close()
		return
	}
	s.conn.Close()
}

func (s *goStream) Shutdown(linger time.Duration) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.shutdown {
		return
	}
	s.shutdown = true
	s.conn.SetDeadline(time.Now().Add(linger)) // fails only if the connection has ended
	s.end()
	switch {
	case s.writing: // the writer does it
	case s.raw != nil:
		s.closeWrite()
		s.shutDown = true
	default:
		s.startWriterLocked() // TLS has an alert to write
	}
}

// closeWrite tells the peer that no more will come.
func (s *goStream) closeWrite() {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails only if the connection has ended
		return
	}
	s.conn.Close()
}

// readLoop is the reader.
func (s *goStream) readLoop(initial []byte) {
	err := s.read(initial)
	werr := s.endWriting(errors.Is(err, io.EOF))
	s.rmu.Lock()
	if werr != nil {
		err = werr // it made the reader end, or tells more
	}
	if s.closed || s.ending && errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrClosed
	}
	s.closed = true
	s.rmu.Unlock()
	s.closeConn()
	defer recoverFor(s.h, s.Close)
	s.h.Closed(err)
}

// endWriting returns the error of a write that failed. After the peer's orderly end it waits for what is still to be
// written, if Shutdown asked for that; Shutdown's time bounds it.
func (s *goStream) endWriting(orderly bool) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for orderly && s.shutdown && s.writing {
		s.unwritten.Wait()
	}
	return s.werr
}

// read hands over all there is to read, and returns how it ended.
func (s *goStream) read(initial []byte) error {
	defer recoverFor(s.h, s.Close)
	if len(initial) > 0 && s.waitResumed() {
		s.handOver(initial)
	}
	if s.raw != nil {
		return s.readSocket()
	}
	return s.readConn()
}

func (s *goStream) handOver(p []byte) {
	s.h.Read(p)
	s.h.Flush()
}

// waitResumed waits while the stream is paused. It returns false if it was closed.
func (s *goStream) waitResumed() bool {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	for s.paused && !s.ending && !s.closed {
		s.resumed.Wait()
	}
	return !s.closed
}

// mayRead reports whether waitResumed would return at once.
func (s *goStream) mayRead() bool {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	return !s.paused || s.ending || s.closed
}

// readSocket reads a plain socket. It takes a buffer only once there is something to
// read: an idle connection holds none.
func (s *goStream) readSocket() error {
	var (
		bufp *[]byte // nil if nothing was read, because of a pause
		n    int
		rerr error
	)
	ready := func(fd uintptr) bool {
		bufp = nil
		if !s.mayRead() {
			return true
		}
		b := readBuffers.Get().(*[]byte)
		if n, rerr = readFD(int(fd), *b); errors.Is(rerr, syscall.EAGAIN) {
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
			s.handOver((*bufp)[:n])
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

func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := recvFD(fd, p)
		if err == nil || !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// readConn reads what is not a plain socket, with a small buffer while it waits.
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
			s.handOver(small[:n])
		}
		if err != nil {
			return err
		}
	}
}

func (s *goStream) Write(p []byte) (queued int) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.werr != nil || s.shutdown {
		return s.queuedLocked()
	}
	if !s.writing && s.raw != nil {
		n, err := s.try.write(s.raw, p)
		s.taken += int64(n)
		if err != nil {
			s.failLocked(err)
			return 0
		}
		p = p[n:]
	}
	if len(p) > 0 {
		s.queue = append(s.queue, p...)
		if !s.writing {
			s.startWriterLocked()
		}
	}
	return s.queuedLocked()
}

func (s *goStream) Queued() int {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.queuedLocked()
}

func (s *goStream) queuedLocked() int { return len(s.queue) + s.inHand }

func (s *goStream) Delivered() int64 {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	unsent := 0
	if s.socket != nil {
		// It fails only if the connection has ended.
		_ = s.socket.Control(func(fd uintptr) { unsent = unacknowledged(int(fd)) })
	}
	return max(s.taken-int64(unsent), 0)
}

// failLocked ends the connection after a failed write; the reader then reports it.
func (s *goStream) failLocked(err error) {
	s.werr = err
	s.queue, s.inHand = nil, 0
	s.closeConn()
	s.end()
}

func (s *goStream) startWriterLocked() {
	s.writing = true
	go s.writeLoop() // ends when nothing is left to write, or the connection fails or is closed
}

// writeLoop is the writer.
func (s *goStream) writeLoop() {
	var batch []byte
	wrote := false
	s.wmu.Lock()
	for len(s.queue) > 0 {
		batch, s.queue = s.queue, batch[:0]
		s.inHand = len(batch)
		s.wmu.Unlock()
		err := s.writeAll(batch)
		s.wmu.Lock()
		if err != nil {
			s.failLocked(err)
		}
		wrote = true
	}
	s.queue = nil // do not keep its memory
	if s.shutdown && !s.shutDown && s.werr == nil {
		s.wmu.Unlock()
		s.closeWrite()
		s.wmu.Lock()
		s.shutDown = true
	}
	s.writing = false
	failed := s.werr != nil
	s.wmu.Unlock()
	s.unwritten.Broadcast()
	if wrote && !failed {
		defer recoverFor(s.h, s.Close)
		s.h.Drained()
	}
}

func (s *goStream) writeAll(batch []byte) error {
	for len(batch) > 0 {
		n, err := s.conn.Write(batch[:min(len(batch), chunkBytes)])
		batch = batch[n:]
		s.wmu.Lock()
		s.taken += int64(n)
		s.inHand = len(batch)
		s.wmu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// tryWrite writes to a socket what the kernel takes without waiting. It holds the arguments and results of its
// own callback, which then need not be allocated for each write.
type tryWrite struct {
	buf []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func (t *tryWrite) write(raw syscall.RawConn, p []byte) (int, error) {
	t.buf = p
	err := raw.Write(t.fn)
	if err == nil {
		err = t.err
	}
	n := t.n
	t.buf, t.n, t.err = nil, 0, nil
	return n, err
}

// writeFD always reports true: the poller is not to wait.
func (t *tryWrite) writeFD(fd uintptr) bool {
	t.n, t.err = writeFD(int(fd), t.buf)
	return true
}

// writeFD writes what the kernel takes without waiting.
func writeFD(fd int, p []byte) (written int, err error) {
	for written < len(p) {
		n, err := sendFD(fd, p[written:])
		switch {
		case err == nil:
			written += n
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return written, nil
		default:
			return written, os.NewSyscallError("write", err)
		}
	}
	return written, nil
}
