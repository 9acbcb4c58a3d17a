package netpoll_test

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

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
