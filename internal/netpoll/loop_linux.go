package netpoll

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

// This file is the event loop: a few goroutines wait in epoll for all connections, and handle
// events where they stand. A goroutine for each connection would cost an idle connection its stack,
// and each message a switch by the scheduler.
//
// Events are edge-triggered and registered once per connection, so reading and writing change no
// registration. EPOLLRDHUP announces a FIN that came with the last bytes, so a read that did not
// fill the buffer need not be repeated.

// streamEvents are the events that a connection is registered for.
const streamEvents = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET

const (
	// eventBatch is how many events are fetched at a time.
	eventBatch = 256
	// maxReadsPerEvent bounds how much of one busy connection is read before others get their turn.
	maxReadsPerEvent = 4
	// flushStreams and flushBytes bound what is read before it is flushed: it should neither wait
	// for long, nor have left the processor's cache by then. After a read of largeBytes the flush
	// comes as soon as the Stream is read.
	flushStreams = 64
	flushBytes   = 128 << 10
	largeBytes   = 8 << 10

	// epollET is syscall.EPOLLET, which is negative there.
	epollET = 1 << 31
)

// loop is one epoll instance and the goroutine that serves it. It lives as long as the process.
type loop struct {
	// Immutable.
	epfd   int
	wakeFD int // an eventfd: writing to it ends epoll_wait

	// Owned by the loop's goroutine.
	spareFD   int       // makes room for netConn; -1 if there is none
	toFlush   []toFlush // whose Handlers have read something and not flushed yet
	readBytes int       // that they have read

	mu    sync.Mutex // guards the fields below
	slots []slot
	free  []uint32
	tasks []*loopStream // scheduled: handled although no event came
	awake bool          // wakeFD is written to, and not read yet
	// barriers are closed when the loop has finished its current round.
	barriers []chan struct{}
}

// toFlush is a Stream that was read, and the Handler that read it.
type toFlush struct {
	s *loopStream
	h Handler
}

// slot tells an event's target. The generation tells a late event of a closed descriptor from one
// of its successor in the slot.
type slot struct {
	t          target
	generation uint32
}

// target is what owns a registered descriptor: a connection, or a listener.
type target interface {
	// handle handles events of the descriptor, in the loop. buf is scratch space for a read. Events
	// may come late, when the target has ended.
	handle(events uint32, buf []byte)
	// servedBy returns the loop that the target is registered with.
	servedBy() *loop
}

var (
	loopsOnce sync.Once
	loops     []*loop // empty if none could be started
	errLoops  error   // why there are fewer than there should be
	nextLoop  atomic.Uint32
)

// startLoops starts the event loops, once for the process.
func startLoops() error {
	loopsOnce.Do(func() {
		want := max(1, runtime.GOMAXPROCS(0)/2)
		for len(loops) < want {
			l, err := newLoop()
			if err != nil {
				errLoops = fmt.Errorf("netpoll: started %d of %d event loops: %w", len(loops), want, err)
				return
			}
			loops = append(loops, l)
		}
	})
	return errLoops
}

// pickLoop returns the loop for the next connection, or nil if goroutines should serve it.
func pickLoop() *loop {
	if loopOff.Load() {
		return nil
	}
	_ = startLoops() // Setup reports the error
	if len(loops) == 0 {
		return nil
	}
	return anyLoop()
}

// anyLoop spreads connections over the loops, of which there must be one.
func anyLoop() *loop { return loops[int(nextLoop.Add(1))%len(loops)] }

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
	l.spareFD, _ = newEventFD() // netConn tries again later
	go l.run()                  // never ends
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

// closeFD has no error to return: close frees the descriptor even when it fails.
func closeFD(fd int) { _ = syscall.Close(fd) }

// run serves the loop.
func (l *loop) run() {
	events := make([]syscall.EpollEvent, eventBatch)
	targets := make([]target, eventBatch)
	buf := make([]byte, readBufferBytes)
	for {
		n, err := syscall.EpollWait(l.epfd, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			// A descriptor of ours is gone: no connection can be served.
			panic(os.NewSyscallError("epoll_wait", err))
		}
		n = max(n, 0)
		l.find(events[:n], targets)
		for i := range n {
			if t := targets[i]; t != nil {
				targets[i] = nil
				t.handle(events[i].Events, buf)
				l.flushIfDue()
			}
		}
		barriers := l.runTasks(buf)
		l.flush()
		for _, passed := range barriers {
			close(passed)
		}
	}
}

// markForFlush notes that a Stream's Handler has read n bytes, which it flushes soon.
func (l *loop) markForFlush(s *loopStream, h Handler, n int) {
	if !s.toFlush {
		s.toFlush = true
		l.toFlush = append(l.toFlush, toFlush{s, h})
	}
	l.readBytes += n
	if n >= largeBytes {
		l.readBytes = flushBytes
	}
}

func (l *loop) flushIfDue() {
	if len(l.toFlush) >= flushStreams || l.readBytes >= flushBytes {
		l.flush()
	}
}

func (l *loop) flush() {
	for i, f := range l.toFlush {
		l.toFlush[i] = toFlush{}
		safely(f.s, func() { f.s.flush(f.h) })
	}
	l.toFlush, l.readBytes = l.toFlush[:0], 0
}

// waker is a loop as the target of its wakeFD.
type waker loop

func (w *waker) servedBy() *loop { return (*loop)(w) }

// handle implements target.
func (w *waker) handle(uint32, []byte) {
	l := (*loop)(w)
	var b [8]byte
	_, _ = syscall.Read(l.wakeFD, b[:]) // resets the eventfd
	l.mu.Lock()
	l.awake = false
	l.mu.Unlock()
}

// runTasks handles the scheduled Streams. It returns the barriers that were set before.
func (l *loop) runTasks(buf []byte) (barriers []chan struct{}) {
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	barriers, l.barriers = l.barriers, nil
	for _, s := range tasks {
		s.scheduled = false
	}
	l.mu.Unlock()
	for _, s := range tasks {
		s.handle(syscall.EPOLLIN, buf)
		l.flushIfDue()
	}
	return barriers
}

// schedule makes the loop handle a Stream although no event will come.
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
		l.wake()
	}
}

// wake ends the loop's epoll_wait.
func (l *loop) wake() {
	// Any number but 0 will do. The write fails only if it is set already.
	_, _ = syscall.Write(l.wakeFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// find sets the targets of events, nil for a target that has ended. With many connections, each
// target has to be fetched from memory. Here the processor fetches them all in parallel, since none
// of the accesses depends on another.
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
		if t := targets[i]; t != nil && t.servedBy() != l {
			targets[i] = nil // never true, but the check fetches the target
		}
	}
}

// add registers a target's descriptor, which must be open. It sets *place to the target's slot
// before any event can come.
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
		*place = 0
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// event returns the registration of a slot's descriptor. The kernel hands Fd and Pad back
// unchanged: they carry the slot's index and generation.
func (sl *slot) event(index, events uint32) syscall.EpollEvent {
	return syscall.EpollEvent{Events: events, Fd: int32(index), Pad: int32(sl.generation)}
}

// setEvents changes the events that a target's descriptor is registered for.
func (l *loop) setEvents(fd int, index, events uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ev := l.slots[index].event(index, events)
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_MOD, fd, &ev))
}

// unregister removes a descriptor that stays open, here or elsewhere.
func (l *loop) unregister(fd int) {
	_ = syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_DEL, fd, nil) // it is registered
}

// freeSlot gives up a target's slot. The target then closes its descriptor, which ends the
// registration.
func (l *loop) freeSlot(slot uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[slot].t = nil
	l.slots[slot].generation++
	l.free = append(l.free, slot)
}
