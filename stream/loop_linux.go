package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// This file is the event loop under plain sockets on Linux. A goroutine that waits in a read costs an idle
// connection its stack, and every message a hand-over by the scheduler. Here a few goroutines wait, in epoll,
// for all connections, and handle what has come where they stand.
//
// Events are edge-triggered and registered once per connection: reading and writing change no registration. EPOLLRDHUP
// tells of a peer's end that came with the last bytes, so a read that did not fill the buffer need not be repeated.

const (
	// eventBatch is how many events are fetched at a time.
	eventBatch = 256
	// maxReadsPerEvent bounds how much one busy connection is read before others have their turn.
	maxReadsPerEvent = 4

	// epollET is syscall.EPOLLET, which is negative there.
	epollET = 1 << 31
)

// loop is one epoll instance and the goroutine that serves it, for the life of the process.
type loop struct {
	epfd   int
	wakeFD int // an eventfd

	mu    sync.Mutex // guards the fields below
	slots []slot
	free  []uint32
	tasks []*loopStream // to be read although no event came
	awake bool          // wakeFD is written to, and not read yet
}

// slot is where an event finds its stream. The generation tells a late event for a closed
// connection from one for its successor in the slot.
type slot struct {
	s          *loopStream
	generation uint32
}

var (
	loopsOnce sync.Once
	loops     []*loop // empty if the kernel gives us none
	nextLoop  atomic.Uint32
)

// pickLoop returns the loop for the next connection, or nil.
func pickLoop() *loop {
	loopsOnce.Do(func() {
		for range max(1, runtime.GOMAXPROCS(0)/2) {
			l, err := newLoop()
			if err != nil {
				return
			}
			loops = append(loops, l)
		}
	})
	if len(loops) == 0 {
		return nil
	}
	return loops[int(nextLoop.Add(1))%len(loops)]
}

const eventfdFlags = syscall.O_CLOEXEC | syscall.O_NONBLOCK

func newLoop() (*loop, error) {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, eventfdFlags, 0)
	if errno != 0 {
		closeFD(epfd)
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	l := &loop{epfd: epfd, wakeFD: int(fd), slots: make([]slot, 1)} // slot 0 is wakeFD's
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN | epollET}
	if err := syscall.EpollCtl(epfd, syscall.EPOLL_CTL_ADD, l.wakeFD, &ev); err != nil {
		closeFD(epfd)
		closeFD(l.wakeFD)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	go l.run()
	return l, nil
}

// closeFD has no error to return: a descriptor that is open is closed, whatever else happens.
func closeFD(fd int) { _ = syscall.Close(fd) }

// run never ends.
func (l *loop) run() {
	events := make([]syscall.EpollEvent, eventBatch)
	buf := make([]byte, readBufferBytes)
	for {
		n, err := syscall.EpollWait(l.epfd, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			panic(os.NewSyscallError("epoll_wait", err)) // a descriptor of ours is gone: nothing can go on
		}
		for i := range max(n, 0) {
			ev := &events[i]
			if ev.Fd == 0 {
				l.drainWake()
				continue
			}
			if s := l.find(uint32(ev.Fd), uint32(ev.Pad)); s != nil {
				s.guardedEvent(ev.Events, buf)
			}
		}
		l.runTasks(buf)
	}
}

func (l *loop) drainWake() {
	var b [8]byte
	_, _ = syscall.Read(l.wakeFD, b[:]) // only resets it
	l.mu.Lock()
	l.awake = false
	l.mu.Unlock()
}

func (l *loop) runTasks(buf []byte) {
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	for _, s := range tasks {
		s.scheduled = false
	}
	l.mu.Unlock()
	for _, s := range tasks {
		s.guardedEvent(syscall.EPOLLIN, buf)
	}
}

// schedule has a stream read although no event will come for what is there.
func (l *loop) schedule(s *loopStream) {
	l.mu.Lock()
	if s.scheduled {
		l.mu.Unlock()
		return
	}
	s.scheduled = true
	l.tasks = append(l.tasks, s)
	wake := !l.awake
	l.awake = true
	l.mu.Unlock()
	if wake {
		_, _ = syscall.Write(l.wakeFD, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // any number but 0; fails only when it is set already
	}
}

func (l *loop) find(index, generation uint32) *loopStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(index) >= len(l.slots) || l.slots[index].generation != generation {
		return nil
	}
	return l.slots[index].s
}

// add registers a stream. Its descriptor must be open.
func (l *loop) add(s *loopStream) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var index uint32
	if n := len(l.free); n > 0 {
		index = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		index = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	sl := &l.slots[index]
	sl.generation++
	sl.s = s
	s.slot = index
	ev := syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET,
		Fd:     int32(index), Pad: int32(sl.generation), // the kernel keeps them for us: what they hold is ours to choose
	}
	if err := syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_ADD, s.fd, &ev); err != nil {
		sl.s = nil
		l.free = append(l.free, index)
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

func (l *loop) remove(s *loopStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[s.slot].s = nil
	l.slots[s.slot].generation++
	l.free = append(l.free, s.slot)
}

// loopStream is a Stream that a loop serves. It owns a plain descriptor, not a net.Conn: the runtime's own
// poller would wake up for it as well.
type loopStream struct {
	h    Handler
	loop *loop

	slot      uint32 // guarded by loop.mu, as is scheduled
	scheduled bool

	// Owned by the loop once started.
	initial []byte
	hungUp  bool // the peer's end is announced: read until it comes

	mu       sync.Mutex // guards the fields below; fd is closed with it held, and by the loop only
	fd       int        // -1 when closed
	started  bool
	paused   bool
	unread   bool // an event came while paused
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
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	l := pickLoop()
	if l == nil {
		return nil
	}
	fd, derr := -1, error(nil)
	err = raw.Control(func(old uintptr) {
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			derr = errno
			return
		}
		fd = int(n)
	})
	if err != nil || derr != nil {
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
	s.initial = initial
	s.mu.Lock()
	err := ErrClosed
	if s.fd >= 0 {
		if err = s.loop.add(s); err != nil {
			s.werr = err
			s.closeLocked()
		}
	}
	s.started = err == nil
	s.mu.Unlock()
	if err != nil {
		go s.refused(err)
		return
	}
	// Bytes that came before the registration raise an edge by themselves; the initial ones do not.
	if len(initial) > 0 {
		s.loop.schedule(s)
	}
}

// refused tells of a stream that could not be started.
func (s *loopStream) refused(err error) {
	defer recoverFor(s.h, s.Close)
	s.h.Closed(err)
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

// guardedEvent keeps a panic of the Handler's from ending the loop.
func (s *loopStream) guardedEvent(events uint32, buf []byte) {
	defer recoverFor(s.h, s.Close)
	s.onEvent(events, buf)
}

// onEvent runs in the loop.
func (s *loopStream) onEvent(events uint32, buf []byte) {
	if events&syscall.EPOLLOUT != 0 {
		s.drain()
	}
	if events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		s.hungUp = true
	}
	if s.hungUp || events&syscall.EPOLLIN != 0 {
		s.read(buf)
	}
}

// readable reports whether the stream is to be read now, and its descriptor.
func (s *loopStream) readable() (fd int, ok bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.finish(ErrClosed)
		return -1, false
	}
	defer s.mu.Unlock()
	if s.paused {
		s.unread = true
		return -1, false
	}
	return s.fd, s.fd >= 0
}

func (s *loopStream) read(buf []byte) {
	for range maxReadsPerEvent {
		fd, ok := s.readable()
		if !ok {
			return
		}
		if p := s.initial; len(p) > 0 {
			s.initial = nil
			s.h.Read(p)
			continue
		}
		n, err := readFD(fd, buf)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return
		case err != nil:
			s.finish(os.NewSyscallError("read", err))
			return
		case n == 0:
			if !s.outlasts() {
				s.finish(io.EOF)
			}
			return
		}
		s.h.Read(buf[:n])
		if n < len(buf) && !s.hungUp {
			return
		}
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

// finish closes the descriptor and tells the Handler. It runs in the loop, or instead of it.
func (s *loopStream) finish(err error) {
	s.mu.Lock()
	if s.fd < 0 {
		s.mu.Unlock()
		return
	}
	s.loop.remove(s)
	s.closeLocked()
	s.queue = nil
	if s.linger != nil {
		s.linger.Stop()
	}
	switch {
	case s.werr != nil:
		err = s.werr
	case s.closed:
		err = ErrClosed
	}
	s.mu.Unlock()
	s.h.Closed(err)
}

func (s *loopStream) Write(p []byte) (queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.werr != nil || s.shutdown || s.closed || s.fd < 0 {
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
	s.paused = false
	if s.fd < 0 {
		return
	}
	// ENOTCONN means that it has ended already, and the loop knows or will be told by schedule.
	_ = syscall.Shutdown(s.fd, syscall.SHUT_RDWR)
	if s.started {
		s.loop.schedule(s)
	}
}

// drain writes on, now that the kernel takes more.
func (s *loopStream) drain() {
	s.mu.Lock()
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
	done, eof := len(s.queue) == 0, s.eof
	if done {
		s.queue = nil
		if s.shutdown {
			_ = syscall.Shutdown(s.fd, syscall.SHUT_WR) // fails only if the connection has ended
		}
	}
	s.mu.Unlock()
	if done {
		s.h.Drained()
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
