package netpoll_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
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
	return &arrivals{conns: make(chan *netpoll.Conn, 1000), failed: make(chan error, 1000)} // more than any test opens
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
		for spin := time.Now(); time.Since(spin) < 20*time.Microsecond; { // until it has about passed
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

// The Handler first gets the bytes that the Conn received before it became a Stream, even if the
// connection has ended.
func TestStreamOfAConnThatHasEnded(t *testing.T) {
	ended := func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		write(t, peer, []byte("received"))
		peer.Close()
		for _, err := ours.Received(); err == nil; _, err = ours.Received() {
			time.Sleep(time.Millisecond) // until the loop notices
		}
	}
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		ended(t, ours, peer)
		r := newRecorder()
		netpoll.New(ours, r).Start([]byte("initial, "))
		wantClosed(t, r, io.EOF)
		r.awaitBytes(t, []byte("initial, received"))
	})
	for _, tt := range []struct {
		name string
		end  func(s netpoll.Stream)
		want error
	}{
		{"paused", netpoll.Stream.Resume, io.EOF},
		{"paused, and written to", func(s netpoll.Stream) { s.Write([]byte("x")) }, io.EOF},
		{"paused, and shut down", func(s netpoll.Stream) { s.Shutdown(waitLimit) }, io.EOF},
		{"paused, and closed", netpoll.Stream.Close, netpoll.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
				ended(t, ours, peer)
				r := newRecorder()
				s := netpoll.New(ours, r)
				s.Pause()
				s.Start(nil)
				select {
				case <-r.changed:
					t.Fatal("the handler was called while paused")
				case <-time.After(20 * time.Millisecond):
				}
				tt.end(s)
				wantClosed(t, r, tt.want)
				if read, _, _ := r.counts(); (read > 0) == errors.Is(tt.want, netpoll.ErrClosed) {
					t.Errorf("%d bytes were read", read)
				}
			})
		})
	}
}

// A Pause before Start takes effect even if the Conn's buffer is full.
func TestPausedBeforeStartWithAFullBuffer(t *testing.T) {
	conns(t, func(t *testing.T, ours *netpoll.Conn, peer net.Conn) {
		data := randomBytes(t, 8*netpoll.ConnBufferBytes)
		write(t, peer, data)
		for held, _ := ours.Received(); len(held) < netpoll.ConnBufferBytes; held, _ = ours.Received() {
			time.Sleep(time.Millisecond)
		}
		r := newRecorder()
		s := netpoll.New(ours, r)
		s.Pause()
		s.Start(nil)
		select {
		case <-r.changed:
			t.Fatal("the handler was called while paused")
		case <-time.After(20 * time.Millisecond):
		}
		s.Resume()
		r.awaitBytes(t, data)
	})
}

// A Conn becomes a Stream while bytes arrive and the connection ends. All bytes are read in order,
// and then Closed is called once.
func TestConnBecomesAStreamAtAnyTime(t *testing.T) {
	for _, way := range []func(testing.TB, net.Listener) (*netpoll.Conn, net.Conn){accepted, dialled} {
		ln := tcpListener(t)
		for i := range 300 {
			ours, peer := way(t, ln)
			data := randomBytes(t, 3000)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for p := data; len(p) > 0; p = p[100:] {
					_, _ = peer.Write(p[:100])
				}
				peer.Close()
			}()
			first := make([]byte, 10)
			if _, err := io.ReadFull(ours, first); err != nil {
				t.Fatal(err)
			}
			if i%10 == 0 {
				<-sent
			}
			r := newRecorder()
			r.onRead = func([]byte) {
				if _, _, closed := r.counts(); closed > 0 {
					t.Error("Read after Closed")
				}
			}
			s := netpoll.New(ours, r)
			if i%3 == 0 {
				s.Pause()
				go s.Resume()
			}
			s.Start(first)
			r.awaitBytes(t, data)
			wantClosed(t, r, io.EOF)
		}
	}
}

func TestConnIsReleasedOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, ours *netpoll.Conn, peer net.Conn)
		want int32
	}{
		{"closed", func(_ *testing.T, ours *netpoll.Conn, _ net.Conn) { ours.Close() }, 1},
		{"ended by the peer", func(_ *testing.T, _ *netpoll.Conn, peer net.Conn) { peer.Close() }, 1},
		{"shut down", func(_ *testing.T, ours *netpoll.Conn, _ net.Conn) { ours.Shutdown(time.Millisecond) }, 1},
		{"closed as a Stream", func(t *testing.T, ours *netpoll.Conn, _ net.Conn) {
			r := newRecorder()
			s := netpoll.New(ours, r)
			s.Start(nil)
			s.Close()
			r.awaitClosed(t)
		}, 1},
		{"closed as a Stream that was not started", func(_ *testing.T, ours *netpoll.Conn, _ net.Conn) {
			netpoll.New(ours, newRecorder()).Close()
		}, 1},
		{"ended by the peer and closed", func(_ *testing.T, ours *netpoll.Conn, peer net.Conn) {
			peer.Close()
			ours.Close()
			ours.Close()
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var released atomic.Int32
			ours, peer := acceptedAfter(t, tcpListener(t), func(c *netpoll.Conn) { c.OnClose(func() { released.Add(1) }) })
			defer peer.Close()
			tt.end(t, ours, peer)
			await(t, "the release", func() bool { return released.Load() > 0 })
			ours.Close()
			if got := released.Load(); got != tt.want {
				t.Errorf("released %d times", got)
			}
		})
	}
	t.Run("closed before Start", func(t *testing.T) {
		released := 0
		a := closer{done: make(chan struct{}), released: &released}
		ln := tcpListener(t)
		defer accept(t, ln, a)()
		peer := netDial(t, ln.Addr())
		defer peer.Close()
		<-a.done
		if readAll(t, peer); released != 1 {
			t.Errorf("released %d times", released)
		}
	})
}

// closer is an Acceptor that closes one connection.
type closer struct {
	done     chan struct{}
	released *int
}

func (a closer) Accepted(c *netpoll.Conn) {
	defer close(a.done)
	c.OnClose(func() { *a.released++ })
	c.Close()
	c.Close()
	if err := c.Start(); err == nil {
		panic("started")
	}
}

func (a closer) AcceptFailed(err error) { panic(err) }

// await polls until ok returns true.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", waitLimit, what)
		}
	}
}
