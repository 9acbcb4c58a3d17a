package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// readBufferBytes is one read's size. It is a little over 64 KiB, so that a frame of 64 KiB
// and its header come in one read.
const readBufferBytes = 64<<10 + 512

var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, readBufferBytes)
	return &b
}}

// ErrClosed is what Closed gets when this side closed the stream.
var ErrClosed = errors.New("stream: closed by this side")

// Handler gets what happens on a Stream. Its methods are not called concurrently,
// but for Drained.
type Handler interface {
	// Read gets bytes as they arrive. p is valid, and may be changed, during the call only.
	Read(p []byte)
	// Drained says that bytes which had to wait are all written.
	Drained()
	// Closed is the last call, once: io.EOF after the peer's orderly end, ErrClosed
	// after Close, else the network's error.
	Closed(err error)
}

// PanicHandler is a Handler that is told of its own panics. The stream is closed then, and the process goes on.
type PanicHandler interface {
	Handler
	Panicked(v any)
}

// recoverFor is deferred around calls of a Handler.
func recoverFor(h Handler, closeStream func()) {
	ph, ok := h.(PanicHandler)
	if !ok {
		return
	}
	if v := recover(); v != nil {
		closeStream()
		ph.Panicked(v)
	}
}

// Stream is a connection with a Handler. It is safe for concurrent use.
type Stream interface {
	// Start begins reading; initial is what was read from the connection before.
	Start(initial []byte)
	// Pause stops calls to Handler.Read, but for what has been read already, until Resume.
	Pause()
	// Resume undoes Pause.
	Resume()
	// Write takes all of p: it goes to the kernel at once as far as that takes it, and a copy of the rest waits.
	// It returns how many bytes now wait. It does not block. After an error, which Handler.Closed
	// will report, bytes are dropped.
	Write(p []byte) (queued int)
	// Queued is how many bytes wait for the kernel.
	Queued() int
	// Close ends the connection at once. Handler.Closed is called then, if the stream was started.
	Close()
	// Shutdown ends the writing side once all that waits is written, and the connection when the peer has ended
	// its side too, or after linger. Reading goes on meanwhile, so that the peer's last packets are neither lost
	// nor answered by a reset.
	Shutdown(linger time.Duration)
	// RemoteAddr is the peer's address.
	RemoteAddr() net.Addr
}

// New makes a Stream of conn, which it owns from then on. Nothing is read before Start.
func New(conn net.Conn, h Handler) Stream {
	if s := newLoopStream(conn, h); s != nil {
		return s
	}
	return newGoStream(conn, h)
}

// goStream is a Stream with a goroutine that reads, and one that writes while the kernel takes no more.
// Where both locks are held, wmu was taken first.
type goStream struct {
	conn net.Conn
	raw  syscall.RawConn // nil where the connection is not a plain socket (TLS)
	h    Handler

	rmu     sync.Mutex // guards the next three
	paused  bool
	closed  bool
	resumed sync.Cond

	wmu      sync.Mutex // guards the fields below; never held during a blocking write
	queue    []byte     // waiting for the writer
	writing  bool       // the writer runs
	werr     error
	shutdown bool // CloseWrite once the queue is empty

	tryBuf []byte // arguments and results of tryWrite, guarded by wmu
	tryN   int
	tryErr error
	tryFn  func(fd uintptr) bool
}

func newGoStream(conn net.Conn, h Handler) *goStream {
	s := &goStream{conn: conn, h: h}
	s.resumed.L = &s.rmu
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	s.tryFn = s.tryWrite
	return s
}

func (s *goStream) Start(initial []byte) {
	go s.readLoop(initial) // ends when the connection ends, or Close closes it
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

// waitResumed returns false if the stream was closed.
func (s *goStream) waitResumed() bool {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	for s.paused && !s.closed {
		s.resumed.Wait()
	}
	return !s.closed
}

func (s *goStream) readLoop(initial []byte) {
	defer recoverFor(s.h, s.Close)
	if len(initial) > 0 && s.waitResumed() {
		s.h.Read(initial)
	}
	var err error
	if s.raw != nil {
		err = s.readRaw()
	} else {
		err = s.readConn()
	}
	s.rmu.Lock()
	if s.closed {
		err = ErrClosed
	}
	s.closed = true
	s.rmu.Unlock()
	s.conn.Close()
	s.h.Closed(err)
}

// readRaw reads a plain socket. It takes a buffer only once there is something to
// read: an idle connection holds none.
func (s *goStream) readRaw() error {
	var (
		n     int
		rerr  error
		bufp  *[]byte
		ready = func(fd uintptr) bool {
			bufp = readBuffers.Get().(*[]byte)
			n, rerr = readFD(fd, *bufp)
			if rerr == syscall.EAGAIN {
				readBuffers.Put(bufp)
				return false
			}
			return true
		}
	)
	for {
		if !s.waitResumed() {
			return ErrClosed
		}
		if err := s.raw.Read(ready); err != nil {
			return err
		}
		switch {
		case rerr != nil:
			readBuffers.Put(bufp)
			return os.NewSyscallError("read", rerr)
		case n == 0:
			readBuffers.Put(bufp)
			return io.EOF
		}
		s.h.Read((*bufp)[:n])
		readBuffers.Put(bufp)
	}
}

func readFD(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err != syscall.EINTR {
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
			s.h.Read(small[:n])
		}
		if err != nil {
			return err
		}
	}
}

func (s *goStream) Write(p []byte) (queued int) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.werr != nil || s.shutdown || len(p) == 0 {
		return len(s.queue)
	}
	if !s.writing && s.raw != nil {
		n := s.writeNow(p)
		if s.werr != nil {
			return 0
		}
		p = p[n:]
	}
	if len(p) > 0 {
		s.queue = append(s.queue, p...)
		if !s.writing {
			s.writing = true
			go s.writeLoop() // ends when the queue is empty, or the connection fails or is closed
		}
	}
	return len(s.queue)
}

// writeNow writes what the kernel takes without waiting; wmu is held.
func (s *goStream) writeNow(p []byte) int {
	s.tryBuf, s.tryN, s.tryErr = p, 0, nil
	err := s.raw.Write(s.tryFn)
	s.tryBuf = nil
	if err == nil {
		err = s.tryErr
	}
	if err != nil {
		s.failLocked(err)
	}
	return s.tryN
}

// tryWrite always reports true: the poller is not to wait.
func (s *goStream) tryWrite(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), s.tryBuf)
		if err == syscall.EINTR {
			continue
		}
		if n > 0 {
			s.tryN = n
		}
		if err != nil && err != syscall.EAGAIN {
			s.tryErr = os.NewSyscallError("write", err)
		}
		return true
	}
}

// failLocked ends the connection after a failed write; the reader then reports it.
func (s *goStream) failLocked(err error) {
	s.werr = err
	s.queue = nil
	s.conn.Close()
	s.Resume()
}

func (s *goStream) writeLoop() {
	defer recoverFor(s.h, s.Close)
	var batch []byte
	for {
		s.wmu.Lock()
		if len(s.queue) == 0 || s.werr != nil {
			s.writing = false
			if s.werr == nil {
				s.queue = nil
				if s.shutdown {
					s.closeWriteLocked()
				}
			}
			failed := s.werr != nil
			s.wmu.Unlock()
			if !failed {
				s.h.Drained()
			}
			return
		}
		batch, s.queue = s.queue, batch[:0]
		s.wmu.Unlock()
		if _, err := s.conn.Write(batch); err != nil {
			s.wmu.Lock()
			s.failLocked(err)
			s.writing = false
			s.wmu.Unlock()
			return
		}
	}
}

// Queued does not count what the writer has in hand.
func (s *goStream) Queued() int {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return len(s.queue)
}

func (s *goStream) Close() {
	s.rmu.Lock()
	s.closed = true
	s.rmu.Unlock()
	s.conn.Close()
	s.resumed.Broadcast()
}

func (s *goStream) Shutdown(linger time.Duration) {
	s.Resume()
	_ = s.conn.SetDeadline(time.Now().Add(linger)) // a failed call means that the connection has ended
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.shutdown {
		return
	}
	s.shutdown = true
	if !s.writing {
		s.closeWriteLocked()
	}
}

func (s *goStream) closeWriteLocked() {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails only if the connection has ended
		return
	}
	s.conn.Close()
}

func (s *goStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }
