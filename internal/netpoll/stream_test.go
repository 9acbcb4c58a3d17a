package netpoll_test

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/steady"
)

// loopIsOff runs the tests with the event loop switched off. "make network" runs them both ways.
var loopIsOff = os.Getenv("TEST_EVENT_LOOP") == "off"

func TestMain(m *testing.M) {
	if err := netpoll.Setup(!loopIsOff); err != nil {
		panic(err)
	}
	// Event loops live as long as the process.
	steady.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"))
}

func TestReadsInOrder(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		data := randomBytes(t, 1<<20)
		s.Start(data[:100]) // bytes that were read before
		rest := data[100:]
		for size := 1; len(rest) > 0; size = size*2 + 1 {
			piece := rest[:min(size, len(rest))]
			write(t, peer, piece)
			rest = rest[len(piece):]
		}
		r.awaitBytes(t, data)
		peer.Close()
		wantClosed(t, r, io.EOF)
	})
}

func TestWriteDoesNotBlock(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		for range 2 {
			_, before, _ := r.counts()
			data := fillQueue(t, s)
			_, stuffed, _ := r.counts()
			if n.plain && stuffed != before {
				t.Fatalf("Drained was called while %d bytes are queued", s.Queued())
			}
			readExactly(t, peer, data)
			r.await(t, "Drained", func() bool { return r.drained > stuffed })
			if q := s.Queued(); q != 0 {
				t.Errorf("%d bytes are queued after Drained", q)
			}
			if _, drained, _ := r.counts(); n.plain && drained != before+1 {
				t.Errorf("Drained came %d times, want once", drained-before)
			}
		}
	})
}

func TestQueuedCountsBytesBeingWritten(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, _, _ := open(t, n)
		fillQueue(t, s)
		// The kernel may still accept bytes, so the numbers can only fall.
		before := s.Queued()
		got := s.Write([]byte("12345"))
		after := s.Queued()
		if got > before+5 || after > got {
			t.Errorf("Write of 5 bytes returned %d, Queued is %d; %d waited before", got, after, before)
		}
		if after < more/2 {
			t.Errorf("%d of %d bytes are queued, although the peer does not read", after, more)
		}
	})
}

func TestDrainedOnlyIfBytesHadToWait(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		if !n.plain {
			t.Skip("all bytes have to wait")
		}
		s, r, peer := open(t, n)
		for range 100 {
			if queued := s.Write([]byte("hello")); queued != 0 {
				t.Fatalf("%d bytes wait", queued)
			}
			readExactly(t, peer, []byte("hello"))
		}
		s.Close()
		r.awaitClosed(t)
		if _, drained, _ := r.counts(); drained != 0 {
			t.Errorf("Drained came %d times, want none", drained)
		}
	})
}

func TestWritesOfManyGoroutinesStayWhole(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, _, peer := open(t, n)
		const writers, each, size = 8, 50, 4 << 10
		for w := range writers {
			go func() {
				p := bytes.Repeat([]byte{byte('a' + w)}, size)
				for range each {
					s.Write(p)
				}
			}()
		}
		if err := peer.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
			t.Fatal(err)
		}
		block := make([]byte, size)
		seen := make(map[byte]int)
		for range writers * each {
			if _, err := io.ReadFull(peer, block); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(block, bytes.Repeat(block[:1], size)) {
				t.Fatal("two writes are mixed up")
			}
			seen[block[0]]++
		}
		for c, n := range seen {
			if n != each {
				t.Errorf("%d writes of %c, want %d", n, c, each)
			}
		}
	})
}

func TestPause(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		write(t, peer, []byte("before"))
		r.awaitBytes(t, []byte("before"))

		s.Pause()              // the reader is waiting for the network by now, or soon will be
		const first = 16 << 10 // the kernel takes as much, whatever is read
		data := randomBytes(t, more)
		write(t, peer, data[:first])
		if err := peer.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		taken, err := peer.Write(data[first:])
		if err == nil {
			t.Fatal("the peer could write everything, so it was read")
		}
		if read, _, _ := r.counts(); read != len("before") {
			t.Fatalf("%d bytes were read after Pause", read-len("before"))
		}

		s.Resume()
		if n.name == "tls" {
			// A failed write breaks a TLS connection, so only the first bytes are sure to arrive.
			r.await(t, "bytes after Resume", func() bool { return len(r.got) >= len("before")+first })
			return
		}
		r.awaitBytes(t, append([]byte("before"), data[:first+taken]...))
	})
}

func TestPauseWithinRead(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		calls := make(chan string, 16) // more than the number of calls
		r.onRead = func(p []byte) {
			calls <- string(p)
			s.Pause()
		}
		s.Start([]byte("initial"))
		if got := <-calls; got != "initial" {
			t.Fatalf("read %q first, want initial", got)
		}
		for _, want := range []string{"one", "two"} {
			write(t, peer, []byte(want))
			select {
			case got := <-calls:
				t.Fatalf("read %q while paused", got)
			case <-time.After(20 * time.Millisecond):
			}
			s.Resume()
			if got := <-calls; got != want {
				t.Fatalf("read %q, want %q", got, want)
			}
		}
		s.Close() // while paused
		wantClosed(t, r, netpoll.ErrClosed)
	})
}

func TestPausedBeforeStart(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		s.Pause()
		s.Start([]byte("initial "))
		write(t, peer, []byte("later"))
		select {
		case <-r.changed:
			t.Fatal("the handler was called while paused")
		case <-time.After(20 * time.Millisecond):
		}
		s.Resume()
		r.awaitBytes(t, []byte("initial later"))
		s.Close()
		r.awaitClosed(t)
	})
}

func TestDelivered(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, _, peer := open(t, n)
		if got := s.Delivered(); got != 0 {
			t.Fatalf("at first: Delivered() = %d", got)
		}
		data := fillQueue(t, s)
		first := s.Delivered()
		if first > more-int64(s.Queued()) {
			t.Errorf("Delivered() = %d, and only %d bytes wait", first, s.Queued())
		}
		readExactly(t, peer, data[:more/2])
		awaitDelivered(t, s, first+1)
		readExactly(t, peer, data[more/2:])
		awaitDelivered(t, s, more)
		if got := s.Delivered(); got != more {
			t.Errorf("Delivered() = %d of %d", got, more)
		}
	})
}

// awaitDelivered polls, because the kernel does not report its progress.
func awaitDelivered(t *testing.T, s netpoll.Stream, want int64) {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); s.Delivered() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Delivered() = %d, want %d", s.Delivered(), want)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, n := range networks {
		if !n.plain {
			continue // would measure the speed of the writer
		}
		b.Run(n.name, func(b *testing.B) {
			ours, peer := n.pair(b)
			go io.Copy(io.Discard, peer) //nolint:errcheck // returns when peer is closed
			r := newRecorder()
			s := n.new(ours, r)
			s.Start(nil)
			msg := make([]byte, 128)
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				s.Write(msg)
			}
			s.Close()
			r.awaitClosed(b)
		})
	}
}
