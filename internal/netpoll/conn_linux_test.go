package netpoll_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

func init() {
	for _, way := range []struct {
		name string
		pair func(t testing.TB, ln net.Listener) (*netpoll.Conn, net.Conn)
	}{{"accepted", accepted}, {"dialled", dialled}} {
		networks = append(networks,
			network{"tcp, " + way.name, true, connPair(way.pair, tcpListener), netpoll.New},
			network{"unix, " + way.name, true, connPair(way.pair, unixListener), netpoll.New})
	}
}

// conns runs a test for each kind of Conn.
func conns(t *testing.T, test func(t *testing.T, ours *netpoll.Conn, peer net.Conn)) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			ours, peer := n.pair(t)
			if c, ok := ours.(*netpoll.Conn); ok {
				test(t, c, peer)
			} else {
				t.Skip("no Conn")
			}
		})
	}
}

func tcpListener(t testing.TB) net.Listener { return listener(t, "tcp", "127.0.0.1:0") }

func unixListener(t testing.TB) net.Listener {
	return listener(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func listener(t testing.TB, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// connPair returns a function that opens pairs of connections, one of which is a Conn.
func connPair(way func(testing.TB, net.Listener) (*netpoll.Conn, net.Conn), listen func(testing.TB) net.Listener) func(testing.TB) (net.Conn, net.Conn) {
	return func(t testing.TB) (net.Conn, net.Conn) {
		t.Helper()
		ours, peer := way(t, listen(t))
		t.Cleanup(func() {
			ours.Close()
			peer.Close()
		})
		b := peer.(interface {
			SetReadBuffer(n int) error
			SetWriteBuffer(n int) error
		})
		if err := errors.Join(b.SetReadBuffer(kernelBytes), b.SetWriteBuffer(kernelBytes), ours.SetBuffers(kernelBytes)); err != nil {
			t.Fatal(err)
		}
		return ours, peer
	}
}

// accept makes the event loop accept a listener's connections until stop is called.
func accept(t testing.TB, ln net.Listener, a netpoll.Acceptor) (stop func()) {
	t.Helper()
	stop, err := netpoll.Accept(ln, a)
	if errors.Is(err, netpoll.ErrLoopOff) && loopIsOff {
		t.Skip("needs the event loop")
	} else if err != nil {
		t.Fatal(err)
	}
	return stop
}

// arrivals is an Acceptor that starts the connections.
type arrivals struct {
	prepare func(c *netpoll.Conn) // called before Start, if not nil
	conns   chan *netpoll.Conn
	failed  chan error
}

func newArrivals() *arrivals {
	const enough = 1000 // more than any test opens
	return &arrivals{conns: make(chan *netpoll.Conn, enough), failed: make(chan error, enough)}
}

func (a *arrivals) Accepted(c *netpoll.Conn) {
	if a.prepare != nil {
		a.prepare(c)
	}
	if err := c.Start(); err != nil {
		a.failed <- err
		return
	}
	a.conns <- c
}

func (a *arrivals) AcceptFailed(err error) { a.failed <- err }

func (a *arrivals) next(t testing.TB) *netpoll.Conn {
	t.Helper()
	select {
	case c := <-a.conns:
		return c
	case err := <-a.failed:
		t.Fatal(err)
	case <-time.After(waitLimit):
		t.Fatal("no connection was accepted")
	}
	return nil
}

func accepted(t testing.TB, ln net.Listener) (*netpoll.Conn, net.Conn) {
	t.Helper()
	return acceptedAfter(t, ln, nil)
}

// acceptedAfter accepts a connection that is prepared before it is started.
func acceptedAfter(t testing.TB, ln net.Listener, prepare func(*netpoll.Conn)) (*netpoll.Conn, net.Conn) {
	t.Helper()
	a := newArrivals()
	a.prepare = prepare
	defer accept(t, ln, a)()
	peer := netDial(t, ln.Addr())
	return a.next(t), peer
}

// netDial connects with package net, as clients do.
func netDial(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func dialled(t testing.TB, ln net.Listener) (*netpoll.Conn, net.Conn) {
	t.Helper()
	ours, err := netpoll.Dial(t.Context(), ln.Addr(), waitLimit)
	if err != nil {
		t.Fatal(err)
	}
	if loopIsOff {
		ours.Close()
		t.Skip("needs the event loop")
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return ours.(*netpoll.Conn), peer
}

// wantRead fails unless it reads want.
func wantRead(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// wantEnd fails unless Read returns an error that is want.
func wantEnd(t testing.TB, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, want) {
		t.Fatalf("Read = %d, %v; want %v", n, err, want)
	}
}

func TestConnReadsAndWrites(t *testing.T) {
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		write(t, peer, []byte("hello"))
		wantRead(t, ours, "he")
		wantRead(t, ours, "llo")
		if n, err := ours.Write([]byte("bye")); n != 3 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		readExactly(t, peer, []byte("bye"))
		if got, want := ours.LocalAddr().String(), peer.RemoteAddr().String(); got != want {
			t.Errorf("LocalAddr %s, the peer's RemoteAddr is %s", got, want)
		}
		if got, want := ours.RemoteAddr().String(), peer.LocalAddr().String(); got != want && ours.RemoteAddr().Network() == "tcp" {
			t.Errorf("RemoteAddr %s, the peer's LocalAddr is %s", got, want)
		}
		write(t, peer, []byte("last"))
		closeWrite(t, peer)
		await(t, "the peer's end", func() bool { _, err := ours.Received(); return err != nil })
		// A server may answer and close before it has the whole request. The answer must still be
		// read.
		if _, err := ours.Write([]byte("x")); err != nil {
			t.Errorf("Write after the end, which was not read yet: %v", err)
		}
		wantRead(t, ours, "last")
		wantEnd(t, ours, io.EOF)
	})
}

func TestConnClose(t *testing.T) {
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		read := make(chan error)
		go func() {
			_, err := ours.Read(make([]byte, 1))
			read <- err
		}()
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read got %v, want %v", err, net.ErrClosed)
		}
		if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write got %v, want %v", err, net.ErrClosed)
		}
		if got := readAll(t, peer); len(got) > 0 {
			t.Errorf("the peer read %q", got)
		}
	})
}

func TestConnDeadlines(t *testing.T) {
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		set := func(d time.Time) {
			t.Helper()
			if err := ours.SetDeadline(d); err != nil {
				t.Fatal(err)
			}
		}
		set(time.Unix(1, 0)) // long past
		wantEnd(t, ours, os.ErrDeadlineExceeded)
		write(t, peer, []byte("x"))
		wantEnd(t, ours, os.ErrDeadlineExceeded) // even with bytes to read, as in package net
		set(time.Time{})
		wantRead(t, ours, "x")

		const soon = 30 * time.Millisecond
		start := time.Now()
		set(start.Add(soon))
		wantEnd(t, ours, os.ErrDeadlineExceeded)
		if took := time.Since(start); took < soon {
			t.Errorf("the deadline passed after %v, want %v", took, soon)
		}
		wantEnd(t, ours, os.ErrDeadlineExceeded) // until the deadline is moved

		set(time.Now().Add(time.Hour))
		read := make(chan error)
		go func() {
			_, err := ours.Read(make([]byte, 1))
			read <- err
		}()
		select {
		case err := <-read:
			t.Fatalf("Read got %v before its deadline", err)
		case <-time.After(soon):
		}
		set(time.Now())
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read got %v when its deadline was moved to now", err)
		}
		set(time.Time{})
		go func() {
			_, err := ours.Read(make([]byte, 1))
			read <- err
		}()
		write(t, peer, []byte("y"))
		if err := <-read; err != nil {
			t.Errorf("Read without a deadline got %v", err)
		}
	})
}

// When a deadline is moved just as it passes, the old one must not take effect after the move.
func TestConnDeadlineIsMovedInTime(t *testing.T) {
	ours, peer := accepted(t, tcpListener(t))
	defer ours.Close()
	defer peer.Close()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(done)
	for range 2 { // makes the expiring timer wait for the lock
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_, _ = ours.Received()
				}
			}
		})
	}
	for range 100 {
		_ = ours.SetReadDeadline(time.Now().Add(20 * time.Microsecond))
		for spin := time.Now(); time.Since(spin) < 20*time.Microsecond; { // about until then
		}
		_ = ours.SetReadDeadline(time.Now().Add(time.Hour))
		write(t, peer, []byte("x"))
		wantRead(t, ours, "x")
	}
}

// A Conn stops reading when its buffer is full. Nothing is lost.
func TestConnBufferIsBounded(t *testing.T) {
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		data := randomBytes(t, more)
		if err := peer.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		taken, err := peer.Write(data)
		if err == nil {
			t.Fatal("the peer could write everything")
		}
		if held, _ := ours.Received(); len(held) > 2*netpoll.ConnBufferBytes {
			t.Errorf("%d bytes are buffered", len(held))
		}
		go func() {
			defer peer.Close()
			write(t, peer, data[taken:])
		}()
		if got, err := io.ReadAll(ours); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes of %d, %v", len(got), len(data), err)
		}
	})
}

// After Shutdown a Conn discards what the peer sends. It buffers nothing and still notices the
// peer's end.
func TestConnShutdownDiscardsInput(t *testing.T) {
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		if err := peer.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(make([]byte, more)); err == nil {
			t.Fatal("the peer could write everything")
		}
		if _, err := ours.Write([]byte("bye")); err != nil {
			t.Fatal(err)
		}
		ours.Shutdown(waitLimit)
		write(t, peer, make([]byte, more))
		if held, _ := ours.Received(); len(held) > 0 {
			t.Errorf("%d bytes are buffered", len(held))
		}
		if got := readAll(t, peer); string(got) != "bye" {
			t.Errorf("the peer got %q", got)
		}
		closeWrite(t, peer)
		wantEnd(t, ours, io.EOF)
	})
}

// await polls until ok returns true.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", waitLimit, what)
		}
	}
}
