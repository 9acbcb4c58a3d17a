package session

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

type silent struct{}

func (silent) SessionsClosed([]*Session, reason.Reason)             {}
func (silent) SetReadPaused(bool)                                   {}
func (silent) SessionParked(*Session, reason.Reason, time.Duration) {}
func (silent) SessionResumed(*Session, time.Duration, int)          {}
func (silent) Parked(*Session, reason.Reason)                       {}
func (silent) Closed(*Session, reason.Reason, State, int)           {}
func (silent) Panicked(any, []*Session)                             {}
func (silent) Dropped(Retention, int)                               {}
func (silent) Poisoned(*Session, *buffer.Entry)                     {}
func (silent) Handshake() uint64                                    { return 1 }
func quiet(maxParked int) *Registry {
	return NewRegistry(roomy, maxParked, buffer.NewBudget(1<<30), silent{})
}

func event() *buffer.Packet { return withOffset(`2["msg","a message of some fifty bytes, or so"]`) }

// BenchmarkDelivery measures a packet: appended, read and confirmed.
func BenchmarkDelivery(b *testing.B) {
	for _, burst := range []int{1, 16} {
		b.Run(fmt.Sprintf("burst=%d", burst), func(b *testing.B) {
			c := quiet(1).New(silent{}, "/", silent{}, true)
			p := event()
			e := &stamps{}
			b.ReportAllocs()
			for b.Loop() {
				for range burst {
					if _, err := c.s.Append(p); err != nil {
						b.Fatal(err)
					}
				}
				_, last, _ := c.Read(burst, e)
				c.Confirm(last)
			}
		})
	}
}

// BenchmarkParkResume measures a recovery among many parked sessions.
func BenchmarkParkResume(b *testing.B) {
	const others = 10_000
	r := quiet(others + 1)
	for range others {
		r.Park([]*Cursor{r.New(silent{}, "/", silent{}, true)}, time.Hour, "cut")
	}
	c := r.New(silent{}, "/", silent{}, true)
	handshake := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		r.Park([]*Cursor{c}, time.Hour, "cut")
		handshake++
		if c = r.Resume(Claim{PID: c.s.pid, Namespace: "/"}, &client{handshake}).Cursor; c == nil {
			b.Fatal("not resumed")
		}
	}
}

// BenchmarkParkedMemory measures the memory of a parked session without packets, and without its
// link.
func BenchmarkParkedMemory(b *testing.B) {
	const sessions = 20_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		r := quiet(sessions)
		before := heap()
		for range sessions {
			r.Park([]*Cursor{r.New(silent{}, "/", silent{}, true)}, time.Hour, "cut")
		}
		b.ReportMetric(float64(heap()-before)/sessions, "B/session")
		runtime.KeepAlive(r)
	}
}
