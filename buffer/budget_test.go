package buffer

import (
	"math"
	"sync"
	"testing"
)

func TestBudgetExceeded(t *testing.T) {
	tests := []struct {
		name  string
		limit int64
		bytes int
		want  bool
	}{
		{"below", 100, 99, false},
		{"at the limit", 100, 100, false},
		{"above", 100, 101, true},
		{"no limit", 0, math.MaxInt, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBudget(tt.limit)
			b.add(tt.bytes, 1)
			if b.Exceeded() != tt.want || b.Limit() != tt.limit {
				t.Errorf("%d bytes of %d: exceeded %v, want %v", tt.bytes, b.Limit(), b.Exceeded(), tt.want)
			}
			b.add(-tt.bytes, -1)
			if b.Exceeded() || b.Bytes() != 0 || b.Packets() != 0 {
				t.Errorf("after all: %d bytes, %d packets", b.Bytes(), b.Packets())
			}
		})
	}
}

func TestNilBudget(t *testing.T) {
	l := NewLog(nil)
	l.Append(&Packet{Data: []byte("a")})
	l.Release()
	if b := l.budget; b.Exceeded() || b.Bytes() != 0 || b.Packets() != 0 || b.Limit() != 0 {
		t.Error("a nil Budget counts something")
	}
}

func TestBudgetIsShared(t *testing.T) {
	b := NewBudget(0)
	var wg sync.WaitGroup
	logs := make([]Log, 4)
	for i := range logs {
		wg.Go(func() {
			logs[i] = NewLog(b)
			for n := range 1000 {
				logs[i].Append(&Packet{Data: make([]byte, n%100)})
				if n%10 == 9 {
					logs[i].Trim(logs[i].Last() - 5)
				}
			}
		})
	}
	wg.Wait()
	bytes, packets := 0, 0
	for i := range logs {
		bytes += logs[i].Bytes()
		packets += logs[i].Len()
	}
	if b.Bytes() != int64(bytes) || b.Packets() != int64(packets) || packets == 0 {
		t.Errorf("budget %d bytes, %d packets; the logs have %d and %d", b.Bytes(), b.Packets(), bytes, packets)
	}
	for i := range logs {
		logs[i].Release()
	}
	if b.Bytes() != 0 || b.Packets() != 0 {
		t.Errorf("after all: %d bytes, %d packets", b.Bytes(), b.Packets())
	}
}
