package logging

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// maxQueuedBytes is how much is queued while the output is blocked.
	maxQueuedBytes = 1 << 20
	// stallTimeout is how long a Write waits for its line to be written before it
	// considers the output stalled. Disks and terminals normally need less, and a
	// longer wait would delay all connections of an event loop.
	stallTimeout = 10 * time.Millisecond
)

// writer is an io.Writer whose Write never fails, and never blocks for long.
//
// Lines go through a queue to a goroutine, which runs while the queue is not
// empty. Normally Write waits for its line, so that nothing is pending when the
// process ends. After a wait that timed out the output is stalled, and no Write
// waits until the queue is empty again.
//
// It is safe for concurrent use.
type writer struct {
	// Immutable.
	out  io.Writer                 // written to by drain only
	lost func(lines uint64) []byte // the line that reports lost lines

	mu       sync.Mutex // guards the fields below; never held during I/O
	queue    []entry
	queued   int  // bytes in queue
	draining bool // a drain goroutine runs
	stalled  bool // a Write timed out, and queue has not been empty since
	dropped  uint64
}

type entry struct {
	line    []byte
	written chan struct{} // closed after the attempt to write it
}

func newWriter(out io.Writer, lost func(lines uint64) []byte) *writer {
	return &writer{out: out, lost: lost}
}

// Write queues a copy of line and returns its length and no error.
func (w *writer) Write(line []byte) (int, error) {
	e := entry{bytes.Clone(line), make(chan struct{})}
	if w.enqueue(e) {
		return len(line), nil
	}
	timer := time.NewTimer(stallTimeout)
	defer timer.Stop()
	select {
	case <-e.written:
	case <-timer.C:
		w.mu.Lock()
		w.stalled = w.draining // drain may just have finished
		w.mu.Unlock()
	}
	return len(line), nil
}

// enqueue adds e to the queue, or drops it. It returns true if Write must not
// wait for e.
func (w *writer) enqueue(e entry) (done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalled && w.queued+len(e.line) > maxQueuedBytes {
		w.dropped++
		return true
	}
	w.queue = append(w.queue, e)
	w.queued += len(e.line)
	if !w.draining {
		w.draining = true
		go w.drain() // ends when the queue is empty
	}
	return w.stalled
}

// drain writes the queue until it is empty.
func (w *writer) drain() {
	for {
		e, ok := w.next()
		if !ok {
			return
		}
		_, err := w.out.Write(e.line)
		if dropped := w.account(err); dropped > 0 {
			if _, err := w.out.Write(w.lost(dropped)); err != nil {
				w.restore(dropped)
			}
		}
		close(e.written)
	}
}

// next removes and returns the first entry. If there is none, it ends the drain.
func (w *writer) next() (e entry, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.queue, w.draining, w.stalled = nil, false, false
		return entry{}, false
	}
	e = w.queue[0]
	w.queue[0] = entry{}
	w.queue = w.queue[1:]
	w.queued -= len(e.line)
	return e, true
}

// account counts a line if err says that it failed. Once the queue has been
// written, it returns and resets the number of lost lines for the caller to
// report.
func (w *writer) account(err error) (report uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.dropped++
		return 0
	}
	if len(w.queue) > 0 {
		return 0
	}
	report, w.dropped = w.dropped, 0
	return report
}

// restore counts lost lines again after their report was lost as well.
func (w *writer) restore(dropped uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped += dropped
}
