package netpoll

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

// This file is the event loop under plain sockets on Linux. A goroutine that waits in a read costs an idle
// connection its stack, and every message a hand-over by the scheduler. Here a few goroutines wait, in epoll,
// for all connections, and handle what has come where they stand.
//
// Events are edge-triggered and registered once per connection: reading and writing change no registration. EPOLLRDHUP
// tells of a peer's end that came with the last bytes, so a read that did not fill the buffer need not be repeated.

// streamEvents are what a connection is watched for.
const streamEvents = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET

const (
	// eventBatch is how many events are fetched at a time.
	eventBatch = 256
	// maxReadsPerEvent bounds how much one busy connection is read before others have their turn.
	maxReadsPerEvent = 4
	// flushStreams and flushBytes bound what is read before it is flushed: neither is it to wait for long, nor to be out of
	// the processor's cache by then. Where largeBytes were read, that is as soon as the stream has been read.
	flushStreams = 64
	flushBytes   = 128 << 10
	largeBytes   = 8 << 10

	// epollET is syscall.EPOLLET, which is negative there.
	epollET = 1 << 31
)

// loop is one epoll instance and the goroutine that serves it, for the life of the process.
type loop struct {
	epfd   int
	wakeFD int // an eventfd
	// Owned by the loop's goroutine.
	spareFD   int         // for netConn, or -1
	unflushed []unflushed // whose Handlers have read something and are still to Flush
	readBytes int         // that they have read

	mu    sync.Mutex // guards the fields below
	slots []slot
	free  []uint32
	tasks []*loopStream // to be looked at although no event came
	awake bool          // wakeFD is written to, and not read yet
}

// unflushed is a stream that was read, and by whom.
type unflushed struct {
	s *loopStream
	h Handler
}

// slot is where an event finds whom it is for. The generation tells a late event for a closed
// descriptor from one for its successor in the slot.
type slot struct {
	t          target
	generation uint32
}

// target is a descriptor that a loop watches: a connection, or a listener.
type target interface {
	// guardedEvent handles what epoll told, in the loop. buf is room for a read. It may come late, when the target has ended.
	guardedEvent(events uint32, buf []byte)
	// watchedBy is the loop that watches the target.
	watchedBy() *loop
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

func newLoop() (*loop, error) {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	fd, err := newEventFD()
	if err != nil {
		closeFD(epfd)
		return nil, err
	}
	l := &loop{epfd: epfd, wakeFD: fd, slots: make([]slot, 1)} // slot 0 is wakeFD's
	l.slots[0].t = (*waker)(l)
	ev := (&slot{}).event(0, syscall.EPOLLIN|epollET)
	if err := syscall.EpollCtl(epfd, syscall.EPOLL_CTL_ADD, l.wakeFD, &ev); err != nil {
		closeFD(epfd)
		closeFD(l.wakeFD)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	l.spareFD, _ = newEventFD() // which can be done without
	go l.run()
	return l, nil
}

// newEventFD returns -1 and an error if there is none.
func newEventFD() (int, error) {
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("eventfd2", errno)
	}
	return int(fd), nil
}

// closeFD has no error to return: a descriptor that is open is closed, whatever else happens.
func closeFD(fd int) { _ = syscall.Close(fd) }

// run never ends.
func (l *loop) run() {
	events := make([]syscall.EpollEvent, eventBatch)
	targets := make([]target, eventBatch)
	buf := make([]byte, readBufferBytes)
	for {
		n, err := syscall.EpollWait(l.epfd, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			panic(os.NewSyscallError("epoll_wait", err)) // a descriptor of ours is gone: nothing can go on
		}
		n = max(n, 0)
		l.find(events[:n], targets)
		for i := range n {
			if t := targets[i]; t != nil {
				targets[i] = nil
				t.guardedEvent(events[i].Events, buf)
				l.flushIfDue()
			}
		}
		l.runTasks(buf)
		l.flush()
	}
}

// noteRead has a stream's Handler, which has read n bytes, flush a little later.
func (l *loop) noteRead(s *loopStream, h Handler, n int) {
	if !s.unflushed {
		s.unflushed = true
		l.unflushed = append(l.unflushed, unflushed{s, h})
	}
	l.readBytes += n
	if n >= largeBytes {
		l.readBytes = flushBytes
	}
}

func (l *loop) flushIfDue() {
	if len(l.unflushed) >= flushStreams || l.readBytes >= flushBytes {
		l.flush()
	}
}

func (l *loop) flush() {
	for i, u := range l.unflushed {
		l.unflushed[i] = unflushed{}
		u.s.guardedFlush(u.h)
	}
	l.unflushed, l.readBytes = l.unflushed[:0], 0
}

// waker is a loop as the target of its wakeFD.
type waker loop

func (w *waker) watchedBy() *loop { return (*loop)(w) }

// guardedEvent implements target.
func (w *waker) guardedEvent(uint32, []byte) {
	l := (*loop)(w)
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
		l.flushIfDue()
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

// find sets the targets that events are for, nil where there is none any more. With many connections each has to be fetched from
// memory first. Here the processor fetches them at the same time, as none has to wait for another's.
func (l *loop) find(events []syscall.EpollEvent, targets []target) {
	l.mu.Lock()
	for i := range events {
		index, generation := uint32(events[i].Fd), uint32(events[i].Pad)
		if int(index) < len(l.slots) && l.slots[index].generation == generation {
			targets[i] = l.slots[index].t
		}
	}
	l.mu.Unlock()
	for i := range events {
		if t := targets[i]; t != nil && t.watchedBy() != l {
			targets[i] = nil // is never so, but to know it the target has to be there
		}
	}
}

// add registers a target for what its descriptor, which must be open, is to be watched for. Its slot is what
// place is set to before any event can come.
func (l *loop) add(t target, fd int, place *uint32, events uint32) error {
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
	sl.t = t
	*place = index
	ev := sl.event(index, events)
	if err := syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
		sl.t = nil
		l.free = append(l.free, index)
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// event is what a slot's descriptor is registered with. The kernel keeps Fd and Pad for us: what they hold is ours to choose.
func (sl *slot) event(index, events uint32) syscall.EpollEvent {
	return syscall.EpollEvent{Events: events, Fd: int32(index), Pad: int32(sl.generation)}
}

// watch changes what a target's descriptor is watched for.
func (l *loop) watch(fd int, index, events uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ev := l.slots[index].event(index, events)
	_ = syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_MOD, fd, &ev) // it is registered
}

// forget ends the registration of a descriptor that is going to be somebody else's, or open elsewhere.
func (l *loop) forget(fd int) {
	_ = syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_DEL, fd, nil) // it is registered
}

// remove frees a target's slot. Its descriptor is closed next, which ends its registration.
func (l *loop) remove(slot uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[slot].t = nil
	l.slots[slot].generation++
	l.free = append(l.free, slot)
}
