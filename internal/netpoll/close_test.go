package netpoll_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// closeWrite half-closes c, so that only its other end can still write.
func closeWrite(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// wantClosed waits for Closed and checks its error.
func wantClosed(t *testing.T, r *recorder, want error) {
	t.Helper()
	r.awaitClosed(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.closed) != 1 || !errors.Is(r.closed[0], want) {
		t.Errorf("Closed got %v, want %v once", r.closed, want)
	}
}

func TestShutdownDeliversQueuedBytes(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		data := fillQueue(t, s)
		s.Shutdown(waitLimit)
		if queued := s.Write([]byte("too late")); queued == 0 {
			t.Error("the queue is empty")
		}
		write(t, peer, []byte("said meanwhile"))
		r.awaitBytes(t, []byte("said meanwhile"))
		if got := readAll(t, peer); !bytes.Equal(got, data) {
			t.Errorf("the peer got %d bytes, want the %d that were written before Shutdown", len(got), len(data))
		}
		write(t, peer, []byte(", and after"))
		r.awaitBytes(t, []byte("said meanwhile, and after"))
		peer.Close()
		wantClosed(t, r, io.EOF)
	})
}

func TestShutdownOfAnIdleStream(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		s.Write([]byte("bye"))
		s.Shutdown(waitLimit)
		if got := readAll(t, peer); string(got) != "bye" {
			t.Errorf("the peer got %q, want bye", got)
		}
		peer.Close()
		wantClosed(t, r, io.EOF)
	})
}

// A peer that half-closed the connection may still read, so it gets the queued bytes.
func TestShutdownOutlastsThePeersEnd(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		data := fillQueue(t, s)
		s.Shutdown(waitLimit)
		write(t, peer, []byte("last"))
		closeWrite(t, peer)
		r.awaitBytes(t, []byte("last"))
		if got := readAll(t, peer); !bytes.Equal(got, data) {
			t.Errorf("the peer got %d bytes, want %d", len(got), len(data))
		}
		wantClosed(t, r, io.EOF)
	})
}

func TestShutdownEndsAfterLinger(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		for _, tt := range []struct {
			name    string
			prepare func(s netpoll.Stream)
		}{
			{"idle", func(netpoll.Stream) {}},
			{"bytes wait", func(s netpoll.Stream) { fillQueue(t, s) }},
			{"paused", func(s netpoll.Stream) { s.Pause() }},
		} {
			t.Run(tt.name, func(t *testing.T) {
				s, r, _ := open(t, n)
				tt.prepare(s)
				const linger = 50 * time.Millisecond
				start := time.Now()
				promptly(t, "Shutdown", func() { s.Shutdown(linger) })
				s.Pause()             // has no effect now
				s.Shutdown(waitLimit) // nor has this
				wantClosed(t, r, netpoll.ErrClosed)
				if took := time.Since(start); took < linger || took > linger+5*time.Second {
					t.Errorf("the connection ended after %v, want %v", took, linger)
				}
			})
		}
	})
}

// Ending a TLS connection writes an alert. A peer that does not read must not block Shutdown.
func TestShutdownDoesNotWaitForTheAlert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe() // unbuffered: a write blocks until it is read
		ours, peer := secure(t, a, b)
		defer peer.Close()
		r := newRecorder()
		s := netpoll.New(ours, r)
		s.Start(nil)
		const linger = 100 * time.Millisecond
		start := time.Now()
		s.Shutdown(linger)
		s.Write([]byte("x"))
		if took := time.Since(start); took > 0 {
			t.Errorf("Shutdown and Write took %v", took)
		}
		r.awaitClosed(t)
		if took := time.Since(start); took != linger {
			t.Errorf("the connection ended after %v, want %v", took, linger)
		}
	})
}

func TestShutdownBeforeStart(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		s.Write([]byte("bye"))
		s.Shutdown(waitLimit)
		s.Start([]byte("initial"))
		r.awaitBytes(t, []byte("initial"))
		if got := readAll(t, peer); string(got) != "bye" {
			t.Errorf("the peer got %q, want bye", got)
		}
		peer.Close()
		wantClosed(t, r, io.EOF)
	})
}

func TestClose(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		for _, tt := range []struct {
			name    string
			prepare func(s netpoll.Stream)
		}{
			{"idle", func(netpoll.Stream) {}},
			{"bytes wait", func(s netpoll.Stream) { fillQueue(t, s) }},
			{"paused", func(s netpoll.Stream) { s.Pause() }},
			{"shutting down", func(s netpoll.Stream) { s.Shutdown(waitLimit) }},
			{"closed", func(s netpoll.Stream) { s.Close() }},
		} {
			t.Run(tt.name, func(t *testing.T) {
				s, r, peer := open(t, n)
				tt.prepare(s)
				promptly(t, "Close", s.Close)
				wantClosed(t, r, netpoll.ErrClosed)
				if err := peer.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, peer); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the peer's end is still open")
				}
				s.Write([]byte("x")) // has no effect
				s.Resume()
				s.Shutdown(time.Second)
			})
		}
	})
}

func TestCloseBeforeStart(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, _ := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		s.Close()
		s.Start([]byte("initial"))
		wantClosed(t, r, netpoll.ErrClosed)
		if read, _, _ := r.counts(); read != 0 {
			t.Errorf("%d bytes were read after Close", read)
		}
	})
}

func TestCloseWithinRead(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		r.onRead = func([]byte) {
			s.Write([]byte("bye"))
			s.Close()
		}
		s.Start(nil)
		write(t, peer, []byte("x"))
		wantClosed(t, r, netpoll.ErrClosed)
	})
}

func TestResetByPeer(t *testing.T) {
	s, r, peer := open(t, networks[0])
	_ = s
	if err := peer.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	wantClosed(t, r, syscall.ECONNRESET)
}

func TestWriteErrorIsReported(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		for _, tt := range []struct {
			name string
			wait bool // the queue holds bytes that wait for the kernel
		}{{"immediately", false}, {"from the writer", true}} {
			t.Run(tt.name, func(t *testing.T) {
				s, r, peer := open(t, n)
				s.Pause() // so that only a write notices the end
				if tt.wait {
					fillQueue(t, s)
				}
				write(t, peer, []byte("unread by us")) // makes closing a Unix socket a reset, too
				plain := peer
				if c, ok := peer.(interface{ NetConn() net.Conn }); ok {
					plain = c.NetConn()
				}
				if c, ok := plain.(*net.TCPConn); ok {
					if err := c.SetLinger(0); err != nil {
						t.Fatal(err)
					}
				}
				plain.Close()
				for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
					s.Write([]byte("x"))
					if _, _, closed := r.counts(); closed > 0 {
						break
					}
				}
				r.awaitClosed(t)
				if err := r.closed[0]; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("Closed(%v), want the write's error", err)
				}
				s.Write([]byte("x"))
				s.Shutdown(time.Second)
				s.Close()
				if _, drained, closed := r.counts(); closed != 1 || drained != 0 && n.plain {
					t.Errorf("Closed came %d times and Drained %d times, want once and never", closed, drained)
				}
				if q := s.Queued(); q != 0 {
					t.Errorf("%d bytes are still queued", q)
				}
			})
		}
	})
}

// trackedConn counts how often its socket is closed.
type trackedConn struct {
	*net.TCPConn
	left func()
}

func (c trackedConn) Unwrap() (net.Conn, func()) { return c.TCPConn, c.left }

func (c trackedConn) Close() error {
	c.left()
	return c.TCPConn.Close()
}

func TestTrackedConn(t *testing.T) {
	if loopIsOff {
		t.Skip("only the event loop takes a socket over")
	}
	for _, tt := range []struct {
		name string
		end  func(s netpoll.Stream, peer net.Conn)
	}{
		{"closed", func(s netpoll.Stream, _ net.Conn) { s.Close() }},
		{"ended by the peer", func(s netpoll.Stream, peer net.Conn) { peer.Close() }},
		{"shut down", func(s netpoll.Stream, _ net.Conn) { s.Shutdown(time.Millisecond) }},
	} {
		for _, started := range []bool{true, false} {
			name := tt.name
			if !started {
				name += " before Start"
			}
			t.Run(name, func(t *testing.T) {
				ours, peer := tcpPair(t)
				left := make(chan struct{}, 10) // more than the calls that are expected
				r := newRecorder()
				s := netpoll.New(trackedConn{ours.(*net.TCPConn), func() { left <- struct{}{} }}, r)
				if len(left) > 0 {
					t.Fatal("told of a close when the Stream took it over")
				}
				if started {
					s.Start(nil)
				}
				tt.end(s, peer)
				if !started {
					s.Start(nil)
				}
				r.awaitClosed(t)
				if len(left) != 1 {
					t.Errorf("told of a close %d times, want once", len(left))
				}
			})
		}
	}
}

// A connection that is not a socket cannot be half-closed. It ends when everything is written.
func TestPipe(t *testing.T) {
	ours, peer := net.Pipe()
	r := newRecorder()
	s := netpoll.New(ours, r)
	s.Start(nil)
	write(t, peer, []byte("hello"))
	r.awaitBytes(t, []byte("hello"))
	s.Write([]byte("bye"))
	s.Shutdown(waitLimit)
	if got := readAll(t, peer); string(got) != "bye" {
		t.Errorf("the peer got %q, want bye", got)
	}
	r.awaitClosed(t)
}

func TestConcurrentUse(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		for i := range 30 {
			ours, peer := n.pair(t)
			r := newRecorder()
			s := n.new(ours, r)
			r.onRead = func(p []byte) { s.Write(p) }
			s.Start(nil)
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = io.Copy(io.Discard, peer) })
			wg.Go(func() { _, _ = peer.Write(bytes.Repeat([]byte("x"), 64<<10)) })
			for range 3 {
				wg.Go(func() {
					for range 100 {
						s.Write(bytes.Repeat([]byte("y"), 1000))
						s.Queued()
						s.Delivered()
					}
				})
			}
			wg.Go(func() {
				for range 100 {
					s.Pause()
					s.Resume()
				}
			})
			end := []func(){
				s.Close,
				func() { s.Shutdown(10 * time.Millisecond) },
				func() { peer.Close() },
			}
			wg.Go(end[i%len(end)])
			wg.Go(end[(i/2)%len(end)])
			r.awaitClosed(t)
			peer.Close()
			wg.Wait()
			if _, _, closed := r.counts(); closed != 1 {
				t.Fatalf("Closed came %d times", closed)
			}
		}
	})
}

// A peer sends bytes and half-closes the connection. The handler answers in Flush and shuts down,
// and the peer still gets the answer.
func TestShutdownInFlushAtThePeersEnd(t *testing.T) {
	for _, n := range []network{
		{"tcp", true, tcpPair, netpoll.New},
		{"unix", true, unixPair, netpoll.New},
		{"tcp by goroutines", true, tcpPair, goroutines},
	} {
		t.Run(n.name, func(t *testing.T) {
			ours, peer := n.pair(t)
			r := newRecorder()
			s := n.new(ours, r)
			want := bytes.Repeat([]byte("x"), more)
			var once sync.Once
			r.onFlush = func() {
				once.Do(func() {
					s.Write(want)
					s.Shutdown(waitLimit)
				})
			}
			write(t, peer, []byte("bye"))
			if err := peer.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			s.Start(nil)
			got, err := io.ReadAll(peer)
			if err != nil || len(got) != len(want) {
				t.Errorf("the peer got %d bytes, %v; want %d", len(got), err, len(want))
			}
			r.awaitClosed(t)
		})
	}
}
