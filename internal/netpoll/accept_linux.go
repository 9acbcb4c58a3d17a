package netpoll

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// acceptPause is how long no connection is accepted after one could not be for want of something: descriptors, memory.
const acceptPause = 100 * time.Millisecond

// Acceptor gets the connections of a listener. Its methods are called in the loop, and must not wait.
type Acceptor interface {
	// Accepted gets a connection, and is to Start or Close it.
	Accepted(c *Conn)
	// AcceptFailed says why a connection could not be accepted. Others will be, a little later.
	AcceptFailed(err error)
}

// acceptor is a listener that a loop serves.
type acceptor struct {
	loop *loop
	slot uint32 // guarded by loop.mu
	// The option that its family may have is set for each connection: not all kernels let connections inherit it.
	family int
	addr   net.Addr
	a      Acceptor

	mu    sync.Mutex // guards fd
	fd    int        // -1 when closed
	pause *time.Timer
}

// Accept accepts the connections of a listener in a loop, until stop is called. It returns nil if no loop can: the listener
// is then as before. Otherwise nobody else is to accept from it.
func Accept(ln net.Listener, a Acceptor) (stop func()) {
	family, ok := listensOn(ln)
	if !ok {
		return nil
	}
	l := pickLoop()
	if l == nil {
		return nil
	}
	fd, err := duplicate(ln.(syscall.Conn))
	if err != nil {
		return nil
	}
	ac := &acceptor{loop: l, fd: fd, family: family, addr: ln.Addr(), a: a}
	ac.mu.Lock()
	defer ac.mu.Unlock()
	if err := l.add(ac, fd, &ac.slot, syscall.EPOLLIN); err != nil {
		closeFD(fd)
		return nil
	}
	return ac.stop
}

// listensOn reports whether a listener is one of plain sockets, and of which family of addresses.
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

func (ac *acceptor) stop() {
	ac.mu.Lock()
	defer ac.mu.Unlock()
	if ac.fd < 0 {
		return
	}
	ac.loop.forget(ac.fd)
	ac.loop.remove(ac.slot)
	closeFD(ac.fd)
	ac.fd = -1
	if ac.pause != nil {
		ac.pause.Stop()
	}
}

func (ac *acceptor) watchedBy() *loop { return ac.loop }

// guardedEvent implements target.
func (ac *acceptor) guardedEvent(uint32, []byte) {
	ac.loop.flush()        // there may be many connections
	for range eventBatch { // others have their turn then; what is left is told of again
		fd, sa, err := ac.accept()
		switch {
		case err == nil:
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EINTR):
			continue
		default:
			ac.a.AcceptFailed(&net.OpError{Op: "accept", Net: ac.addr.Network(), Addr: ac.addr, Err: os.NewSyscallError("accept4", err)})
			ac.wait()
			return
		}
		noDelay(fd, ac.family)
		ac.a.Accepted(newConn(pickLoop(), fd, netAddr(sa)))
	}
}

func (ac *acceptor) accept() (fd int, sa syscall.Sockaddr, err error) {
	ac.mu.Lock()
	defer ac.mu.Unlock()
	if ac.fd < 0 {
		return -1, nil, net.ErrClosed
	}
	return syscall.Accept4(ac.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
}

// wait accepts nothing for a while.
func (ac *acceptor) wait() {
	ac.mu.Lock()
	defer ac.mu.Unlock()
	if ac.fd < 0 {
		return
	}
	ac.loop.watch(ac.fd, ac.slot, 0)
	ac.pause = time.AfterFunc(acceptPause, ac.goOn)
}

func (ac *acceptor) goOn() {
	ac.mu.Lock()
	defer ac.mu.Unlock()
	if ac.fd >= 0 {
		ac.loop.watch(ac.fd, ac.slot, syscall.EPOLLIN)
	}
}
