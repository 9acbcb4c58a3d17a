//go:build linux

package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTimeout is returned by Run.
var ErrTimeout = errors.New("loop: timeout")

// readBytes is how much one read takes at most: what Node.js takes.
const readBytes = 64 << 10

// maxRestBytes bounds what a Handler may leave unused.
const maxRestBytes = 2 << 20

// Handler is told what happens on a connection, in Run's goroutine.
type Handler interface {
	// Opened is called once for a dialled connection.
	Opened(c *Conn)
	// Data receives what was read, and returns how many bytes it consumed. The rest comes again,
	// with what follows. Data may be changed but not kept. An error closes the connection, as if it
	// had come from the network.
	Data(c *Conn, data []byte) (used int, err error)
	// Closed is called once for a connection that ended by itself: not after
	// Close or Cut.
	Closed(c *Conn, err error)
}

// Loop is an event loop. All but Post belongs to the goroutine that calls Run.
type Loop struct {
	// Tick, if not nil, is called about every TickEvery while Run runs.
	Tick      func(now time.Time)
	TickEvery time.Duration

	epoll, wake int
	sources     map[int32]*source
	generation  int32
	events      [256]unix.EpollEvent
	buf         []byte
	broken      []*Conn // failed outside of their own event
	nextTick    time.Time

	mu     sync.Mutex // guards posted
	posted []func()
}

// source is what a file descriptor stands for.
type source struct {
	generation int32 // tells a descriptor's events from those of an earlier connection with the same number
	conn       *Conn
	accept     func(c *Conn) Handler // not nil: a listener
}

// New returns a loop; Close ends it.
func New() (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("loop: epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll) //nolint:errcheck // given up
		return nil, fmt.Errorf("loop: eventfd: %w", err)
	}
	l := &Loop{epoll: epoll, wake: wake, sources: make(map[int32]*source), buf: make([]byte, readBytes)}
	if err := l.add(wake, &source{}, unix.EPOLLIN); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close closes every connection and listener. Run must have returned.
func (l *Loop) Close() {
	for fd := range l.sources {
		unix.Close(int(fd)) //nolint:errcheck // given up
	}
	clear(l.sources)
	unix.Close(l.epoll) //nolint:errcheck // given up
}

func (l *Loop) add(fd int, s *source, events uint32) error {
	l.generation++
	s.generation = l.generation
	l.sources[int32(fd)] = s
	return l.control(unix.EPOLL_CTL_ADD, fd, s.generation, events)
}

func (l *Loop) control(op, fd int, generation int32, events uint32) error {
	if err := unix.EpollCtl(l.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: generation}); err != nil {
		return fmt.Errorf("loop: epoll_ctl: %w", err)
	}
	return nil
}

// Listen accepts connections on a free port of 127.0.0.1, and returns the
// port. Accept gives each its Handler.
func (l *Loop) Listen(accept func(c *Conn) Handler) (port int, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("loop: socket: %w", err)
	}
	// The kernel cuts the backlog to what it allows.
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.Listen(fd, 1<<16-1),
	)
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err == nil {
		err = l.add(fd, &source{accept: accept}, unix.EPOLLIN)
	}
	if err != nil {
		unix.Close(fd) //nolint:errcheck // given up
		return 0, fmt.Errorf("loop: listen: %w", err)
	}
	return name.(*unix.SockaddrInet4).Port, nil
}

// Dial begins to connect. H hears of the outcome, never before Dial returns.
func (l *Loop) Dial(addr netip.AddrPort, h Handler) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("loop: socket: %w", err)
	}
	setNoDelay(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd) //nolint:errcheck // given up
		return nil, fmt.Errorf("loop: connect: %w", err)
	}
	c := &Conn{loop: l, fd: fd, handler: h, state: dialling}
	if err := l.addConn(c, unix.EPOLLOUT); err != nil {
		return nil, err
	}
	return c, nil
}

func (l *Loop) addConn(c *Conn, events uint32) error {
	s := &source{conn: c}
	err := l.add(c.fd, s, events)
	c.generation = s.generation
	if err != nil {
		c.Close()
	}
	return err
}

// setNoDelay turns Nagle's algorithm off, as every Socket.IO peer does. It
// fails only for what is not a TCP socket.
func setNoDelay(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// Post has f called by Run. It is safe for concurrent use.
func (l *Loop) Post(f func()) {
	l.mu.Lock()
	l.posted = append(l.posted, f)
	l.mu.Unlock()
	// It can only fail when the counter is full: then Run wakes anyway.
	_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Run handles events until done returns true: it is asked before and after
// each turn. Run returns ErrTimeout after timeout, 0 meaning never, and ctx's
// error once ctx has ended.
func (l *Loop) Run(ctx context.Context, timeout time.Duration, done func() bool) error {
	stop := context.AfterFunc(ctx, func() { l.Post(func() {}) })
	defer stop()
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if done() {
			return nil
		}
		now := time.Now()
		if !deadline.IsZero() && !now.Before(deadline) {
			return ErrTimeout
		}
		if l.Tick != nil && !now.Before(l.nextTick) {
			l.nextTick = now.Add(l.TickEvery)
			l.Tick(now)
		}
		if err := l.turn(l.untilNext(now, deadline)); err != nil {
			return err
		}
	}
}

// untilNext is how long a turn may sleep, in milliseconds; -1 is for ever.
func (l *Loop) untilNext(now, deadline time.Time) int {
	next := deadline
	if l.Tick != nil && (next.IsZero() || l.nextTick.Before(next)) {
		next = l.nextTick
	}
	if next.IsZero() {
		return -1
	}
	// Rounded up: a turn too early would spin.
	return int((next.Sub(now) + time.Millisecond - 1) / time.Millisecond)
}

// turn waits for events and handles them.
func (l *Loop) turn(timeout int) error {
	n, err := unix.EpollWait(l.epoll, l.events[:], timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("loop: epoll_wait: %w", err)
	}
	for i := range max(n, 0) {
		e := &l.events[i]
		s := l.sources[e.Fd]
		switch {
		case s == nil || s.generation != e.Pad: // closed in this turn
		case s.conn != nil:
			s.conn.ready(e.Events)
		case s.accept != nil:
			l.acceptAll(int(e.Fd), s.accept)
		default:
			l.runPosted()
		}
	}
	for len(l.broken) > 0 {
		c := l.broken[0]
		l.broken = l.broken[1:]
		c.end(c.err)
	}
	return nil
}

func (l *Loop) runPosted() {
	var counter [8]byte
	_, _ = unix.Read(l.wake, counter[:]) // to zero it; EAGAIN says it is
	l.mu.Lock()
	todo := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range todo {
		f()
	}
}

func (l *Loop) acceptAll(listener int, accept func(*Conn) Handler) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // EAGAIN; or it was gone already; or no descriptor is left, which its peer will report
		}
		setNoDelay(fd)
		c := &Conn{loop: l, fd: fd, state: open}
		c.handler = accept(c)
		if err := l.addConn(c, unix.EPOLLIN); err != nil {
			c.handler.Closed(c, err)
		}
	}
}

// state is a connection's place in its life:
//
//	dialling -> open    the connection is established
//	either   -> closed  terminal
type state uint8

const (
	dialling state = iota + 1
	open
	closed
)

// Conn is a connection of a Loop.
type Conn struct {
	loop       *Loop
	fd         int
	generation int32
	handler    Handler
	state      state
	rest       []byte // what the handler has not used up
	out        []byte // what the kernel has not taken
	err        error  // why it is among the loop's broken
}

// Write sends data, or keeps a copy of what cannot be sent yet. What is
// written to a closed connection is lost; an error is given to Closed later.
func (c *Conn) Write(data []byte) {
	if c.state != open || c.err != nil {
		return
	}
	if len(c.out) > 0 {
		c.out = append(c.out, data...)
		return
	}
	n, err := write(c.fd, data)
	if err != nil {
		c.breakOff(err)
		return
	}
	if n < len(data) {
		c.out = append(c.out, data[n:]...)
		c.watch(unix.EPOLLIN | unix.EPOLLOUT)
	}
}

// write returns 0 and no error while nothing can be written.
func write(fd int, data []byte) (int, error) {
	for {
		n, err := unix.Write(fd, data)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		default:
			return n, err
		}
	}
}

// Unsent is how many bytes wait for the kernel.
func (c *Conn) Unsent() int { return len(c.out) }

// Close closes the connection as a peer that is done does.
func (c *Conn) Close() {
	if c.state == closed {
		return
	}
	c.state = closed
	delete(c.loop.sources, int32(c.fd))
	unix.Close(c.fd) //nolint:errcheck // it is gone whatever this says
}

// Cut closes the connection with a reset, and leaves no TIME_WAIT behind.
func (c *Conn) Cut() {
	if c.state == closed {
		return
	}
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	c.Close()
}

// breakOff ends the connection after the event that is being handled.
func (c *Conn) breakOff(err error) {
	c.err = err
	c.loop.broken = append(c.loop.broken, c)
}

func (c *Conn) end(err error) {
	if c.state == closed {
		return
	}
	c.Close()
	c.handler.Closed(c, err)
}

func (c *Conn) watch(events uint32) {
	if err := c.loop.control(unix.EPOLL_CTL_MOD, c.fd, c.generation, events); err != nil {
		c.breakOff(err)
	}
}

// ready handles an event.
func (c *Conn) ready(events uint32) {
	if c.state == dialling {
		c.established()
		return
	}
	if events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		n, err := write(c.fd, c.out)
		if err != nil {
			c.end(err)
			return
		}
		c.out = c.out[n:]
		if len(c.out) == 0 {
			c.out = nil
			c.watch(unix.EPOLLIN)
		}
	}
	if events&^unix.EPOLLOUT != 0 {
		c.read()
	}
}

func (c *Conn) established() {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		c.end(fmt.Errorf("loop: connect: %w", err))
		return
	}
	c.state = open
	c.watch(unix.EPOLLIN)
	c.handler.Opened(c)
}

// read reads once: what is left makes the descriptor ready again.
func (c *Conn) read() {
	l := c.loop
	if need := len(c.rest) + readBytes; need > len(l.buf) {
		l.buf = make([]byte, need*2)
	}
	have := copy(l.buf, c.rest)
	n, err := unix.Read(c.fd, l.buf[have:have+readBytes])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		c.end(err)
		return
	case n == 0:
		c.end(io.EOF)
		return
	}
	data := l.buf[:have+n]
	used, err := c.handler.Data(c, data)
	if c.state == closed {
		return
	}
	if rest := data[used:]; err == nil && len(rest) > maxRestBytes {
		err = errors.New("loop: too much left unused")
	}
	if err != nil {
		c.end(err)
		return
	}
	if c.rest = append(c.rest[:0], data[used:]...); len(c.rest) == 0 {
		c.rest = nil
	}
}
