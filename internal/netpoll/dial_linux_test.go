package netpoll_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

func TestDial(t *testing.T) {
	for _, tt := range []struct{ network, address string }{
		{"tcp", "127.0.0.1:0"},
		{"tcp", "[::1]:0"},
		{"tcp", "0.0.0.0:0"},
		{"tcp", "[::ffff:127.0.0.1]:0"},
		{"unix", filepath.Join(t.TempDir(), "s")},
		{"unix", fmt.Sprintf("@holdfast-test-%d", os.Getpid())}, // an abstract socket
	} {
		t.Run(tt.address, func(t *testing.T) {
			ln, err := net.Listen(tt.network, tt.address)
			if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := netpoll.Dial(t.Context(), ln.Addr(), waitLimit)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if sc, ok := c.(*netpoll.Conn); ok == loopIsOff {
				t.Errorf("got a %T", c)
			} else if ok && tt.network == "tcp" && !sc.NoDelay() {
				t.Error("small writes wait")
			}
			peer, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			readExactly(t, peer, []byte("hello"))
			write(t, peer, []byte("bye"))
			wantRead(t, c, "bye")
		})
	}
}

func TestDialFails(t *testing.T) {
	free := tcpListener(t)
	free.Close()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		addr    net.Addr
		timeout time.Duration
		want    error
	}{
		{"nothing listens", t.Context(), free.Addr(), waitLimit, syscall.ECONNREFUSED},
		{"no such socket", t.Context(), &net.UnixAddr{Name: filepath.Join(t.TempDir(), "none"), Net: "unix"}, waitLimit, syscall.ENOENT},
		{"the caller has given up", canceled, free.Addr(), waitLimit, context.Canceled},
		{"it takes long", t.Context(), blackHole(t), 50 * time.Millisecond, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := netpoll.Dial(tt.ctx, tt.addr, tt.timeout)
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			want := tt.want
			if loopIsOff && errors.Is(err, os.ErrDeadlineExceeded) && errors.Is(want, context.DeadlineExceeded) {
				want = os.ErrDeadlineExceeded // package net returns either
			}
			var op *net.OpError
			if !errors.Is(err, want) || !errors.As(err, &op) || op.Op != "dial" || op.Timeout() != errors.Is(tt.want, context.DeadlineExceeded) {
				t.Errorf("got %v (%#v), want %v", err, err, tt.want)
			}
		})
	}
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := netpoll.Dial(ctx, blackHole(t), waitLimit); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no descriptors", func(t *testing.T) {
		ln := tcpListener(t)
		restore := exhaust(t, 0)
		_, err := netpoll.Dial(t.Context(), ln.Addr(), waitLimit)
		restore()
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("got %v", err)
		}
	})
}

func TestDialLeavesNothingOpen(t *testing.T) {
	hole := blackHole(t)
	free := tcpListener(t)
	free.Close()
	before := descriptors(t)
	for range 20 {
		for _, addr := range []net.Addr{hole, free.Addr()} {
			if _, err := netpoll.Dial(t.Context(), addr, time.Millisecond); err == nil {
				t.Fatal("connected")
			}
		}
	}
	await(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
}

// blackHole returns an address that does not answer, because its queue of connections is full.
func blackHole(t *testing.T) net.Addr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*syscall.SockaddrInet4).Port}
	enough := waitLimit // the first has room: if that fails, the machine is slow
	for range 10 {
		c, err := net.DialTimeout("tcp", addr.String(), enough)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
		enough = 50 * time.Millisecond
	}
	t.Fatal("the queue never fills up")
	return nil
}

// Dial succeeds even if the server closes the connection immediately.
func TestDialToAServerThatClosesImmediately(t *testing.T) {
	ln := tcpListener(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for range 200 {
		c, err := netpoll.Dial(t.Context(), ln.Addr(), waitLimit)
		if err != nil {
			t.Fatal(err)
		}
		wantEnd(t, c, io.EOF)
		c.Close()
	}
}

// If no server listens, Linux may choose the dialled port as the local one too. The connection then
// connects to itself. Local ports of outgoing connections are even, so this happens within a few
// thousand attempts to an even port.
func TestDialIsNeverToItself(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	var ln net.Listener
	for ln == nil || ln.Addr().(*net.TCPAddr).Port%2 == 1 {
		l := tcpListener(t)
		even := *l.Addr().(*net.TCPAddr)
		even.Port &^= 1
		l.Close()
		if l, err := net.ListenTCP("tcp", &even); err == nil {
			ln = l
		}
	}
	ln.Close()
	for range 16000 {
		c, err := netpoll.Dial(t.Context(), ln.Addr(), waitLimit)
		if err == nil {
			t.Fatalf("connected to %v from %v", c.RemoteAddr(), c.LocalAddr())
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}
