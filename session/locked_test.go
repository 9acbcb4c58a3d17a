package session

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// lockWatcher records, when a session is closed, whether the registry's lock is free and what the
// budget counts.
type lockWatcher struct {
	silent
	r        *Registry
	locked   atomic.Int32
	buffered atomic.Int64
}

func (w *lockWatcher) look() {
	if !w.r.mu.TryLock() {
		w.locked.Add(1)
		return
	}
	w.r.mu.Unlock()
}

func (w *lockWatcher) Closed(*Session, reason.Reason, State, int) {
	w.look()
	w.buffered.Store(w.r.budget.Packets())
}

func newLockWatcher(limits Limits, maxParked int, budget *buffer.Budget) *lockWatcher {
	w := &lockWatcher{}
	w.r = NewRegistry(limits, maxParked, budget, w)
	return w
}

// park parks a new session, which then misses this many equal packets.
func (w *lockWatcher) park(packets int) *Session {
	c := w.r.New(silent{}, "/", silent{}, true)
	w.r.Park([]*Cursor{c}, time.Hour, "cut")
	p := event()
	for range packets {
		if _, err := c.s.Append(p); err != nil {
			panic(err)
		}
	}
	return c.s
}

// The packets of a closed session are dropped without the registry's lock. They still count when
// the observer is told.
func TestLogsAreDroppedWithoutTheRegistrysLock(t *testing.T) {
	for name, end := range map[string]func(w *lockWatcher, s *Session){
		"closed":             func(w *lockWatcher, s *Session) { w.r.Close(s, reason.BufferFull) },
		"expired":            func(w *lockWatcher, s *Session) { w.r.expire(s.parked.group) },
		"refused":            func(w *lockWatcher, s *Session) { w.r.AbortParked(s.pid, "/", reason.BadOffset) },
		"evicted":            func(w *lockWatcher, s *Session) { w.park(0) },
		"evicted for memory": func(w *lockWatcher, s *Session) { w.r.EvictForMemory() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newLockWatcher(roomy, 1, buffer.NewBudget(1))
			s := w.park(100)
			end(w, s)
			if s.State() != Closed {
				t.Fatalf("the session is %v", s.State())
			}
			if n := w.locked.Load(); n > 0 {
				t.Error("the registry is locked while a session's end is told")
			}
			if n := w.buffered.Load(); n != 100 {
				t.Errorf("%d packets count when the end is told, want 100: they were dropped with the lock held", n)
			}
			if b := w.r.budget; b.Packets() != 0 || b.Bytes() != 0 {
				t.Errorf("%d packets and %d bytes are left", b.Packets(), b.Bytes())
			}
		})
	}
}

// A log is compacted before the registry's lock is taken to resume its session.
func TestLogsAreCompactedWithoutTheRegistrysLock(t *testing.T) {
	var w *lockWatcher
	limits := roomy
	limits.Retention = func(string, []byte) (Retention, []byte) {
		w.look()
		return DropVolatile, nil
	}
	w = newLockWatcher(limits, 1, buffer.NewBudget(0))
	c := w.r.New(silent{}, "/", &client{1}, true)
	for range 100 {
		if _, err := c.s.Append(event()); err != nil {
			t.Fatal(err)
		}
	}
	w.r.Park([]*Cursor{c}, time.Hour, "cut")
	r := w.r.Resume(Claim{PID: c.s.pid, Namespace: "/"}, &client{2})
	if r.Cursor == nil || r.Missed != 0 {
		t.Fatalf("Resume = %+v", r)
	}
	if n := w.locked.Load(); n > 0 {
		t.Errorf("the registry was locked for %d of 100 events", n)
	}
}

// No more sessions are evicted than necessary, even if many event loops notice that memory is
// short.
func TestEvictionForMemoryIsExact(t *testing.T) {
	const sessions, kept = 3 * lockedSteps, 100
	one := buffer.NewLog(nil)
	one.Append(event())
	room := 0
	for i := sessions - kept; i < sessions; i++ {
		room += (1 + i%3) * one.Bytes()
	}
	w := newLockWatcher(roomy, 2*sessions, buffer.NewBudget(int64(room)))
	parked := make([]*Session, sessions)
	for i := range parked {
		parked[i] = w.park(1 + i%3)
		w.park(0) // has nothing to free
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(w.r.EvictForMemory)
	}
	wg.Wait()
	for i, s := range parked {
		if want := i < sessions-kept; (s.State() == Closed) != want {
			t.Fatalf("session %d of %d is %v", i, sessions, s.State())
		}
	}
	if w.r.budget.Bytes() != int64(room) {
		t.Errorf("%d bytes are left, want %d", w.r.budget.Bytes(), room)
	}
	if _, n := w.r.Counts(); n != sessions+kept {
		t.Errorf("%d sessions are parked, want %d", n, sessions+kept)
	}
}

// A lower limit takes effect when the next session is parked.
func TestSurplusIsEvicted(t *testing.T) {
	w := newLockWatcher(roomy, 3*lockedSteps, buffer.NewBudget(0))
	for range 3 * lockedSteps {
		w.park(0)
	}
	w.r.SetLimits(roomy, 10)
	last := w.park(0)
	if _, n := w.r.Counts(); n != 10 || last.State() != Parked {
		t.Errorf("%d sessions are parked, want 10; the last is %v", n, last.State())
	}
}

// BenchmarkLongLogs measures for how long the registry's lock is held at most while sessions with
// long logs end.
func BenchmarkLongLogs(b *testing.B) {
	const packets, sessions = 90_000, 4
	limits := Limits{MaxPackets: packets, MaxBytes: 1 << 30, WindowBytes: 1 << 30}
	for _, bb := range []struct {
		name string
		end  func(w *lockWatcher, all []*Session)
	}{
		{"expire", func(w *lockWatcher, all []*Session) {
			for _, s := range all {
				w.r.expire(s.parked.group)
			}
		}},
		{"evict for memory", func(w *lockWatcher, _ []*Session) { w.r.EvictForMemory() }},
		{"resume", func(w *lockWatcher, all []*Session) {
			for _, s := range all {
				s.log.sent = packets
				offset := string(Offset{s.tag, packets}.AppendTo(nil))
				w.r.Resume(Claim{PID: s.pid, Namespace: "/", Offset: offset}, silent{})
			}
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var longest time.Duration
			for b.Loop() {
				b.StopTimer()
				w := newLockWatcher(limits, sessions, buffer.NewBudget(1))
				all := make([]*Session, sessions)
				for i := range all {
					c := w.r.New(silent{}, "/", silent{}, true)
					w.r.Park([]*Cursor{c}, time.Hour, "cut")
					all[i] = c.s
					for n := range packets {
						_, _ = c.s.Append(withOffset(fmt.Sprintf(`2["msg","a message of a hundred bytes, which differs from all others in this: %08d %d"]`, n, i)))
					}
				}
				stop := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() { longest = max(longest, longestWait(&w.r.mu, stop)) })
				b.StartTimer()
				bb.end(w, all)
				b.StopTimer()
				close(stop)
				wg.Wait()
				b.StartTimer()
			}
			b.ReportMetric(float64(longest.Microseconds()), "µs-locked")
		})
	}
}

// longestWait returns the longest time that it took to get a lock, until stop is closed.
func longestWait(mu *sync.Mutex, stop <-chan struct{}) (longest time.Duration) {
	for {
		select {
		case <-stop:
			return longest
		default:
			start := time.Now()
			mu.Lock()
			mu.Unlock()
			longest = max(longest, time.Since(start))
			time.Sleep(10 * time.Microsecond)
		}
	}
}
