package buffer

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Logs of many sessions, each with its own goroutine, share only the Budget. A quarter of the
// packets are shared. They all have one content (a broadcast), or each its own.
func BenchmarkParallel(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		for _, kind := range []string{"live", "broadcast", "own"} {
			b.Run(fmt.Sprintf("%s/%dB", kind, size), func(b *testing.B) {
				budget := NewBudget(1 << 40)
				var workers atomic.Int64
				keeper := NewLog(budget) // of a session that also has the broadcast
				keeper.AppendShared(&Packet{Data: bytes.Repeat([]byte{'x'}, size)})
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					l := NewLog(budget)
					own := bytes.Repeat([]byte{'x'}, size)
					if kind == "own" {
						own[0] = byte(workers.Add(1))
					}
					small := &Packet{Data: own[:50]}
					shared := &Packet{Data: own}
					for pb.Next() {
						for range 3 {
							l.Append(small)
						}
						if kind == "live" {
							l.Append(small)
						} else {
							l.AppendShared(shared)
						}
						if budget.Exceeded() {
							b.Error("exceeded")
						}
						l.Trim(l.Last())
					}
				})
				keeper.Release()
				if budget.Bytes() != 0 || budget.Packets() != 0 {
					b.Errorf("%d bytes, %d packets are left", budget.Bytes(), budget.Packets())
				}
			})
		}
	}
}

// How long a session waits for the shared payloads' lock while another one keeps a large payload:
// less than it takes to copy it.
func BenchmarkSharesLocked(b *testing.B) {
	budget := NewBudget(0)
	large := make([]byte, 4<<20)
	stop := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() { // ends with stop
		l := NewLog(budget)
		for i := byte(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				large[0] = i
				l.AppendShared(&Packet{Data: large})
				l.Trim(l.Last())
			}
		}
	})
	var locked time.Duration
	for b.Loop() {
		start := time.Now()
		budget.shares.mu.Lock()
		budget.shares.mu.Unlock() //nolint:staticcheck // waiting for it is all
		locked += time.Since(start)
		time.Sleep(10 * time.Microsecond)
	}
	close(stop)
	other.Wait()
	b.ReportMetric(float64(locked.Nanoseconds())/float64(b.N), "ns-locked/op")
}
