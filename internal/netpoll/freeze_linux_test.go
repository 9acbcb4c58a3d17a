package netpoll_test

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// plainNetworks are those whose Streams can be frozen.
func plainNetworks(t *testing.T, test func(t *testing.T, n network)) {
	if loopIsOff {
		t.Skip("Streams that goroutines serve cannot be frozen")
	}
	for _, n := range networks[:2] {
		t.Run(n.name, func(t *testing.T) { test(t, n) })
	}
}

func freeze(t *testing.T, s netpoll.Stream) netpoll.Freezer {
	t.Helper()
	f, ok := s.(netpoll.Freezer)
	if !ok || !f.Freeze() {
		t.Fatal("the Stream cannot be frozen")
	}
	netpoll.Barrier()
	return f
}

// A frozen Stream neither reads nor writes. Afterwards it catches up, and reports that it has
// drained.
func TestFreezeAndThaw(t *testing.T) {
	plainNetworks(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		f := freeze(t, s)
		if f.Freeze() {
			t.Error("frozen twice")
		}
		s.Pause()
		s.Resume() // has no effect meanwhile
		if _, err := peer.Write([]byte("in")); err != nil {
			t.Fatal(err)
		}
		if queued := s.Write([]byte("out")); queued != 3 || s.Queued() != 3 {
			t.Errorf("%d bytes are queued, %d", queued, s.Queued())
		}
		netpoll.Barrier()
		if got, _, _ := r.counts(); got != 0 {
			t.Errorf("read %d bytes while frozen", got)
		}
		if e, ok := f.Export(); !ok || string(e.Queue) != "out" || len(e.Initial) != 0 || e.FD < 3 {
			t.Errorf("exported %+v, %v", e, ok)
		}
		f.Thaw()
		r.awaitBytes(t, []byte("in"))
		got := make([]byte, 3)
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != "out" {
			t.Errorf("the peer got %q, %v", got, err)
		}
		r.await(t, "Drained", func() bool { return r.drained == 1 })
	})
}

// What waits when a Stream is frozen and moved arrives, in both directions and in order, however
// much the kernel holds of it.
func TestMoveUnderTraffic(t *testing.T) {
	plainNetworks(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		s.Start(nil)
		in, out := randomBytes(t, more), randomBytes(t, more)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = peer.Write(in) })
		received := make([]byte, len(out))
		var readErr error
		wg.Go(func() { _, readErr = io.ReadFull(peer, received) })
		for i, part := range slices.Collect(slices.Chunk(out, more/8)) {
			s.Write(part)
			if i%2 == 1 {
				f := freeze(t, s)
				s.Write(nil)
				next, err := netpoll.MoveTo(f, r)
				if err != nil {
					t.Fatal(err)
				}
				s = next
			}
		}
		r.awaitBytes(t, in)
		wg.Wait()
		if readErr != nil || !bytes.Equal(received, out) {
			t.Errorf("the peer got something else: %v", readErr)
		}
		peer.Close()
		r.awaitClosed(t)
	})
}

// Thaw and the Stream that takes over notice that the peer has closed.
func TestPeerEndsWhileFrozen(t *testing.T) {
	plainNetworks(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		f := freeze(t, s)
		if _, err := peer.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		peer.Close()
		netpoll.Barrier()
		if _, _, closed := r.counts(); closed != 0 {
			t.Error("closed while frozen")
		}
		f.Thaw()
		r.awaitBytes(t, []byte("last"))
		r.awaitClosed(t)

		ours, peer := n.pair(t)
		old, moved := newRecorder(), newRecorder()
		s = n.new(ours, old)
		s.Start(nil)
		f = freeze(t, s)
		if _, err := peer.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		peer.Close()
		if _, err := netpoll.MoveTo(f, moved); err != nil {
			t.Fatal(err)
		}
		moved.awaitBytes(t, []byte("last"))
		moved.awaitClosed(t)
	})
}

// A frozen Stream can be closed, and one that has ended cannot be frozen.
func TestFreezeAndClose(t *testing.T) {
	plainNetworks(t, func(t *testing.T, n network) {
		s, r, _ := open(t, n)
		f := freeze(t, s)
		s.Close()
		r.awaitClosed(t)
		if _, ok := f.Export(); ok {
			t.Error("exported after Close")
		}
		if f.Freeze() {
			t.Error("frozen after its end")
		}
		f.Thaw()

		s, _, _ = open(t, n)
		s.Shutdown(time.Minute)
		if s.(netpoll.Freezer).Freeze() {
			t.Error("frozen after Shutdown")
		}
	})
}

func TestStreamsThatCannotBeFrozen(t *testing.T) {
	ours, _ := tlsPair(t)
	s := netpoll.New(ours, newRecorder())
	if _, ok := s.(netpoll.Freezer); ok {
		t.Error("a Stream under TLS can be frozen")
	}
	s.Close()
	s.Start(nil)
}

// Without an event loop, goroutines take over.
func TestAdoptByGoroutines(t *testing.T) {
	if loopIsOff {
		t.Skip("nothing can be frozen")
	}
	ours, peer := tcpPair(t)
	old, r := newRecorder(), newRecorder()
	s := netpoll.New(ours, old)
	s.Start(nil)
	f := freeze(t, s)
	s.Write([]byte("out"))
	if err := netpoll.Setup(false); err != nil {
		t.Fatal(err)
	}
	next, err := netpoll.MoveTo(f, r)
	if err := netpoll.Setup(true); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Write([]byte("in")); err != nil {
		t.Fatal(err)
	}
	r.awaitBytes(t, []byte("in"))
	got := make([]byte, 3)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "out" {
		t.Errorf("the peer got %q, %v", got, err)
	}
	next.Close()
	r.awaitClosed(t)
}

// A read that the loop has begun is over when Barrier returns.
func TestBarrier(t *testing.T) {
	if loopIsOff {
		t.Skip("there is no loop")
	}
	ours, peer := tcpPair(t)
	r := newRecorder()
	began, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.onRead = func([]byte) {
		once.Do(func() {
			close(began)
			<-release
		})
	}
	s := netpoll.New(ours, r)
	s.Start(nil)
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	<-began
	if !s.(netpoll.Freezer).Freeze() {
		t.Fatal("cannot be frozen")
	}
	passed := make(chan struct{})
	go func() {
		netpoll.Barrier()
		close(passed)
	}()
	select {
	case <-passed:
		t.Error("Barrier did not wait for the read")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	<-passed
	if got, _, _ := r.counts(); got != 1 {
		t.Errorf("read %d bytes", got)
	}
	s.Close()
	r.awaitClosed(t)
}
