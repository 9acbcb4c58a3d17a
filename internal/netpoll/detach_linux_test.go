package netpoll_test

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// detached is a connection that was accepted and then detached when its first bytes arrived.
type detached struct {
	conn     net.Conn
	release  func()
	err      error
	received string
}

func detach(t *testing.T, ln net.Listener, before func(c *netpoll.Conn), release func()) (*detached, net.Conn) {
	t.Helper()
	done := make(chan *detached, 1)
	var once sync.Once
	ours, peer := acceptedAfter(t, ln, func(c *netpoll.Conn) {
		c.OnClose(release)
		c.Notify(func() {
			once.Do(func() {
				p, _ := c.Received()
				d := &detached{received: string(p)}
				before(c)
				d.conn, d.release, d.err = c.Detach()
				done <- d
			})
		})
	})
	write(t, peer, []byte("begin"))
	d := <-done
	t.Cleanup(func() {
		ours.Close() // has no effect
		peer.Close()
		if d.conn != nil {
			d.conn.Close()
		}
	})
	return d, peer
}

func TestDetach(t *testing.T) {
	for _, listen := range []func(testing.TB) net.Listener{tcpListener, unixListener} {
		ln := listen(t)
		t.Run(ln.Addr().Network(), func(t *testing.T) {
			released := 0
			d, peer := detach(t, ln, func(*netpoll.Conn) {}, func() { released++ })
			if d.err != nil || d.received != "begin" {
				t.Fatalf("received %q, %v", d.received, d.err)
			}
			write(t, peer, []byte(" and go on"))
			wantRead(t, d.conn, " and go on")
			if _, err := d.conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			readExactly(t, peer, []byte("hello"))
			switch c := d.conn.(type) {
			case *net.TCPConn: // has the options that package net sets on accepted connections
				for _, opt := range [][2]int{{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE}, {syscall.IPPROTO_TCP, syscall.TCP_NODELAY}} {
					if got := socketOption(t, c, opt[0], opt[1]); got == 0 {
						t.Errorf("option %v is not set", opt)
					}
				}
				if got := socketOption(t, c, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE); got != 15 {
					t.Errorf("keep-alives after %d s, want 15", got)
				}
			case *net.UnixConn:
			default:
				t.Errorf("detached as %T", d.conn)
			}
			if released != 0 {
				t.Errorf("released %d times", released)
			}
			d.release()
			if released != 1 {
				t.Errorf("Detach returned a different release function")
			}
		})
	}
}

func socketOption(t *testing.T, c syscall.Conn, level, opt int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	var verr error
	if err := raw.Control(func(fd uintptr) { v, verr = syscall.GetsockoptInt(int(fd), level, opt) }); err != nil || verr != nil {
		t.Fatal(err, verr)
	}
	return v
}

func TestDetachAfterClose(t *testing.T) {
	var released atomic.Int32
	d, _ := detach(t, tcpListener(t), func(c *netpoll.Conn) { c.Close() }, func() { released.Add(1) })
	if !errors.Is(d.err, net.ErrClosed) || d.conn != nil || d.release != nil {
		t.Errorf("Detach = %v, %v", d.conn, d.err)
	}
	await(t, "the release", func() bool { return released.Load() == 1 })
}

// descriptors returns the number of open file descriptors.
func descriptors(t testing.TB) int {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(dir)
}

// exhaust uses up all file descriptors except the given number. restore frees them.
func exhaust(t testing.TB, but int) (restore func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = uint64(descriptors(t)) + 100
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var files []int
	for quiet := time.Now(); time.Since(quiet) < 20*time.Millisecond; { // a loop may still close an earlier test's
		fd, err := syscall.Dup(0)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		files, quiet = append(files, fd), time.Now()
	}
	for range but {
		_ = syscall.Close(files[len(files)-1])
		files = files[:len(files)-1]
	}
	restore = sync.OnceFunc(func() {
		for _, fd := range files {
			_ = syscall.Close(fd)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restore)
	return restore
}

// Detach briefly needs a second descriptor. It succeeds even when the process has none left.
func TestDetachWithoutDescriptors(t *testing.T) {
	for range 3 {
		restore := func() {}
		d, peer := detach(t, tcpListener(t), func(*netpoll.Conn) { restore = exhaust(t, 0) }, func() {})
		restore()
		if d.err != nil {
			t.Fatal(d.err)
		}
		write(t, peer, []byte("x"))
		wantRead(t, d.conn, "x")
	}
}
