package netpoll_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// Without descriptors accepting waits, and goes on when there are some again.
func TestAcceptWithoutDescriptors(t *testing.T) {
	ln := tcpListener(t)
	a := newArrivals()
	defer netpoll.Accept(ln, a)()
	restore := exhaust(t, 1) // for the peer's end
	peer := netDial(t, ln.Addr())
	defer peer.Close()
	err := <-a.failed
	restore()
	if op := (*net.OpError)(nil); !errors.Is(err, syscall.EMFILE) || !errors.As(err, &op) || op.Op != "accept" {
		t.Errorf("failed with %v", err)
	}
	var ours *netpoll.Conn
	select {
	case ours = <-a.conns:
	case <-time.After(patience):
		t.Fatal("no connection was accepted")
	}
	defer ours.Close()
	write(t, peer, []byte("x"))
	wantRead(t, ours, "x")
}

func TestAcceptMany(t *testing.T) {
	for _, listen := range []func(testing.TB) net.Listener{tcpListener, unixListener} {
		before := descriptors(t)
		ln := listen(t)
		a := newArrivals()
		stop := netpoll.Accept(ln, a)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					c, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := c.Write([]byte("x")); err != nil {
						t.Error(err)
					}
					c.Close()
				}
			})
		}
		for range 8 * 50 {
			c := a.next(t)
			wantRead(t, c, "x")
			wantEnd(t, c, io.EOF)
		}
		wg.Wait()
		stop()
		stop()
		ln.Close()
		if path := ln.Addr().String(); ln.Addr().Network() == "unix" {
			if _, err := os.Stat(path); err == nil {
				t.Error("the socket's file is still there")
			}
		}
		await(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
	}
}

func TestAcceptedConnectionsDoNotDelay(t *testing.T) {
	ln := tcpListener(t)
	a := newArrivals()
	defer netpoll.Accept(ln, a)()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c := a.next(t)
	defer c.Close()
	if !c.NoDelay() {
		t.Error("small writes wait")
	}
}

// A listener can be stopped at any time; none of its connections stays open unless it was handed out.
func TestAcceptIsStoppedWhileConnectionsCome(t *testing.T) {
	before := descriptors(t)
	for range 30 {
		ln := tcpListener(t)
		a := newArrivals()
		stop := netpoll.Accept(ln, a)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5 {
					if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
						c.Close()
					}
				}
			})
		}
		a.next(t)
		stop()
		ln.Close()
		wg.Wait()
	}
	await(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
}

func TestAcceptOfOtherListeners(t *testing.T) {
	if stop := netpoll.Accept(oddListener{tcpListener(t)}, newArrivals()); stop != nil {
		t.Error("a listener of no known kind is served")
	}
}

type oddListener struct{ net.Listener }
