package netpoll_test

import (
	"sync"
	"testing"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// fragile is a recorder that panics in a chosen method.
type fragile struct {
	*recorder
	mu       sync.Mutex
	breakAt  string // name of the method that panics
	panicked []any
}

func (f *fragile) hit(method string) {
	f.mu.Lock()
	broken := f.breakAt == method
	f.mu.Unlock()
	if broken {
		panic("broken " + method)
	}
}

func (f *fragile) Read(p []byte) {
	f.hit("Read")
	f.recorder.Read(p)
}

func (f *fragile) Flush() {
	f.recorder.Flush()
	f.hit("Flush")
}

func (f *fragile) Drained() {
	f.hit("Drained")
	f.recorder.Drained()
}

func (f *fragile) Closed(err error) {
	f.recorder.Closed(err)
	f.hit("Closed")
}

func (f *fragile) Panicked(v any) { f.change(func() { f.panicked = append(f.panicked, v) }) }

func TestPanicsAreConfined(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		for _, method := range []string{"Read", "Flush", "Drained", "Closed"} {
			t.Run(method, func(t *testing.T) {
				healthy, r, healthyPeer := open(t, n)
				ours, peer := n.pair(t)
				f := &fragile{recorder: newRecorder(), breakAt: method}
				s := n.new(ours, f)
				s.Start(nil)
				switch method {
				case "Read", "Flush":
					write(t, peer, []byte("x"))
				case "Drained":
					if n.plain {
						readExactly(t, peer, fillQueue(t, s))
					} else {
						s.Write([]byte("x")) // a TLS write always goes through the queue
					}
				case "Closed":
					peer.Close()
				}
				f.await(t, "Panicked", func() bool { return len(f.panicked) > 0 })
				f.awaitClosed(t)
				if got := f.panicked; len(got) != 1 || got[0] != "broken "+method {
					t.Errorf("Panicked got %v", got)
				}
				if _, _, closed := f.counts(); closed != 1 {
					t.Errorf("Closed came %d times", closed)
				}

				write(t, healthyPeer, []byte("hello"))
				r.awaitBytes(t, []byte("hello"))
				healthy.Write([]byte("hello"))
				readExactly(t, healthyPeer, []byte("hello"))
			})
		}
	})
}

// Connections open and close while others are served. No event may reach the wrong one.
func TestManyStreams(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for i := range 20 {
					ours, peer := n.pair(t)
					r := newRecorder()
					s := n.new(ours, r)
					s.Start(nil)
					msg := []byte{byte(worker), byte(i)}
					write(t, peer, msg)
					r.awaitBytes(t, msg)
					s.Write(msg)
					readExactly(t, peer, msg)
					if i%2 == 0 {
						s.Close()
					} else {
						peer.Close()
					}
					r.awaitClosed(t)
					peer.Close()
				}
			})
		}
		wg.Wait()
	})
}

var _ netpoll.PanicHandler = (*fragile)(nil)
