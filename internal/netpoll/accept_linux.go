package netpoll

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// acceptPause is how long a listener rests after accept failed, most likely because descriptors or
// memory ran out. Otherwise the loop would spin: the waiting connection keeps the listener
// readable.
const acceptPause = 100 * time.Millisecond

var (
	// ErrLoopOff means that the event loop is switched off; see Setup.
	ErrLoopOff = errors.New("netpoll: the event loop is switched off")
	// ErrNoLoop means that no event loop can serve a listener: none could be started, or the
	// listener is not a plain socket.
	ErrNoLoop = errors.New("netpoll: no event loop serves this listener")
)

// Acceptor receives the connections of a listener. Its methods are called in the loop, AcceptFailed
// in rare cases from a timer. They must not wait.
type Acceptor interface {
	// Accepted receives a connection, and must Start or Close it.
	Accepted(c *Conn)
	// AcceptFailed reports why a connection could not be accepted. Accepting resumes a little
	// later.
	AcceptFailed(err error)
}

// listener is a listening socket that a loop serves.
type listener struct {
	// Immutable.
	loop   *loop
	slot   uint32
	family int // decides on the options to set: not all kernels let connections inherit them
	addr   net.Addr
	a      Acceptor

	mu    sync.Mutex // guards the fields below
	fd    int        // -1 once closed
	pause *time.Timer
}

// Accept accepts the connections of a listener in a loop until stop is called. Until then nothing
// else may accept from it. After an error the listener is as before.
func Accept(ln net.Listener, a Acceptor) (stop func(), err error) {
	if loopOff.Load() {
		return nil, ErrLoopOff
	}
	family, ok := listensOn(ln)
	if !ok {
		return nil, ErrNoLoop
	}
	l := pickLoop()
	if l == nil {
		return nil, ErrNoLoop
	}
	fd, err := duplicate(ln.(syscall.Conn))
	if err != nil {
		return nil, fmt.Errorf("netpoll: duplicate the listener: %w", err)
	}
	n := &listener{loop: l, fd: fd, family: family, addr: ln.Addr(), a: a}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := l.add(n, fd, &n.slot, syscall.EPOLLIN); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("netpoll: register the listener: %w", err)
	}
	return n.stop, nil
}

// listensOn reports whether a listener is a plain socket, and its address family.
func listensOn(ln net.Listener) (family int, ok bool) {
	switch ln := ln.(type) {
	case *net.TCPListener:
		return syscall.AF_INET, true // or AF_INET6, which makes no difference here
	case *net.UnixListener:
		return syscall.AF_UNIX, ln.Addr().Network() == "unix"
	}
	return 0, false
}

// duplicate returns a second descriptor of a socket.
func duplicate(conn syscall.Conn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, derr := -1, error(nil)
	err = raw.Control(func(old uintptr) {
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			derr = os.NewSyscallError("fcntl", errno)
			return
		}
		fd = int(n)
	})
	return fd, errors.Join(err, derr)
}

func (n *listener) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return
	}
	n.loop.unregister(n.fd)
	n.loop.freeSlot(n.slot)
	closeFD(n.fd)
	n.fd = -1
	if n.pause != nil {
		n.pause.Stop()
	}
}

func (n *listener) servedBy() *loop { return n.loop }

// handle implements target.
func (n *listener) handle(uint32, []byte) {
	n.loop.flush()         // accepting may take a while
	for range eventBatch { // then others get their turn; epoll reports the rest again
		fd, sa, err := n.accept()
		switch {
		case err == nil:
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EINTR):
			continue
		default:
			n.fail(os.NewSyscallError("accept4", err))
			n.rest()
			return
		}
		noDelay(fd, n.family)
		n.a.Accepted(newConn(anyLoop(), fd, netAddr(sa), connected))
	}
}

func (n *listener) accept() (fd int, sa syscall.Sockaddr, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return -1, nil, net.ErrClosed
	}
	return syscall.Accept4(n.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
}

func (n *listener) fail(err error) {
	n.a.AcceptFailed(&net.OpError{Op: "accept", Net: n.addr.Network(), Addr: n.addr, Err: err})
}

// rest accepts nothing for acceptPause.
func (n *listener) rest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return
	}
	_ = n.loop.setEvents(n.fd, n.slot, 0) // without it the listener fails more often
	n.pause = time.AfterFunc(acceptPause, n.resume)
}

// resume accepts again. If that fails it reports the error and rests again: a listener must not
// fall silent.
func (n *listener) resume() {
	n.mu.Lock()
	if n.fd < 0 {
		n.mu.Unlock()
		return
	}
	err := n.loop.setEvents(n.fd, n.slot, syscall.EPOLLIN)
	n.mu.Unlock()
	if err != nil {
		n.fail(err)
		n.rest()
	}
}
