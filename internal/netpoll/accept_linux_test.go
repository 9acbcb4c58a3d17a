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

// Without free descriptors accepting waits. It continues once some are free again.
func TestAcceptWithoutDescriptors(t *testing.T) {
	ln := tcpListener(t)
	a := newArrivals()
	defer accept(t, ln, a)()
	restore := exhaust(t, 1) // one for the peer's end
	peer := netDial(t, ln.Addr())
	defer peer.Close()
	var err error
	select {
	case err = <-a.failed:
	case <-a.conns:
		t.Fatal("a descriptor was free")
	}
	restore()
	if op := (*net.OpError)(nil); !errors.Is(err, syscall.EMFILE) || !errors.As(err, &op) || op.Op != "accept" {
		t.Errorf("failed with %v", err)
	}
	var ours *netpoll.Conn
	select {
	case ours = <-a.conns:
	case <-time.After(waitLimit):
		t.Fatal("no connection was accepted")
	}
	defer ours.Close()
	write(t, peer, []byte("x"))
	wantRead(t, ours, "x")
}

// While there are no descriptors, the waiting connection keeps the listener readable. The loop must
// not spin.
func TestAcceptBacksOff(t *testing.T) {
	const failures = 4
	for range 20 {
		took, ok := failingAccepts(t, failures)
		if !ok {
			continue // an earlier test's descriptor was closed in the meantime
		}
		if least := (failures - 1) * netpoll.AcceptPause; took < least {
			t.Errorf("%d failures within %v, want at least %v", failures, took, least)
		}
		return
	}
	t.Error("a descriptor was always free")
}

// failingAccepts returns how long accepting took to fail that often, from before the first failure.
// ok is false if the connection was accepted.
func failingAccepts(t *testing.T, failures int) (took time.Duration, ok bool) {
	ln := tcpListener(t)
	defer ln.Close()
	a := newArrivals()
	peer := netDial(t, ln.Addr())
	defer peer.Close()
	restore := exhaust(t, 1) // one for the listener's second descriptor
	defer restore()
	start := time.Now()
	defer accept(t, ln, a)()
	for range failures {
		select {
		case err := <-a.failed:
			if !errors.Is(err, syscall.EMFILE) {
				t.Fatal(err)
			}
		case c := <-a.conns:
			c.Close()
			return 0, false
		case <-time.After(waitLimit):
			t.Fatal("accepting neither failed nor succeeded")
		}
	}
	return time.Since(start), true
}

// Accept returns the error that keeps the loop from accepting, so that the caller can log it.
func TestAcceptCannotBegin(t *testing.T) {
	ln := tcpListener(t)
	accept(t, ln, newArrivals())() // starts the loop
	restore := exhaust(t, 0)
	stop, err := netpoll.Accept(ln, newArrivals())
	restore()
	if stop != nil || !errors.Is(err, syscall.EMFILE) || errors.Is(err, netpoll.ErrNoLoop) {
		t.Errorf("Accept without descriptors: %v", err)
	}
}

// A loop that cannot start returns an error and leaves no descriptor open.
func TestLoopWithoutDescriptors(t *testing.T) {
	for free := range 2 { // a loop needs two
		before := descriptors(t)
		restore := exhaust(t, free)
		err := netpoll.NewLoop()
		restore()
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("with %d descriptors: %v", free, err)
		}
		if got := descriptors(t); got > before { // fewer if an earlier test's was closed meanwhile
			t.Errorf("with %d descriptors: %d are open, %d were before", free, got, before)
		}
	}
}

func TestAcceptMany(t *testing.T) {
	for _, listen := range []func(testing.TB) net.Listener{tcpListener, unixListener} {
		before := descriptors(t)
		ln := listen(t)
		a := newArrivals()
		stop := accept(t, ln, a)
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
	defer accept(t, ln, a)()
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

// A listener can be stopped at any time. Only connections that it handed out stay open.
func TestAcceptIsStoppedWhileConnectionsCome(t *testing.T) {
	before := descriptors(t)
	for range 30 {
		ln := tcpListener(t)
		a := newArrivals()
		stop := accept(t, ln, a)
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
	wantErr := netpoll.ErrNoLoop
	if loopIsOff {
		wantErr = netpoll.ErrLoopOff
	}
	if stop, err := netpoll.Accept(oddListener{tcpListener(t)}, newArrivals()); stop != nil || !errors.Is(err, wantErr) {
		t.Errorf("a listener of no known kind: %v, want %v", err, wantErr)
	}
}

type oddListener struct{ net.Listener }
