package buffer

import (
	"bytes"
	"fmt"
	"testing"
)

// BenchmarkAppendTrim measures the log of a live session.
func BenchmarkAppendTrim(b *testing.B) {
	for _, size := range []int{50, 1 << 10, 16 << 10} {
		for _, burst := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%dB/burst=%d", size, burst), func(b *testing.B) {
				l := NewLog(NewBudget(1 << 30))
				p := Packet{Kind: WithOffset, Data: bytes.Repeat([]byte("x"), size)}
				b.SetBytes(int64(size * burst))
				b.ReportAllocs()
				for b.Loop() {
					for range burst {
						l.Append(&p)
					}
					l.Trim(l.Last())
				}
			})
		}
	}
}

// BenchmarkAppendTrimBehind measures a log that is never empty, because confirmations are one round
// trip behind.
func BenchmarkAppendTrimBehind(b *testing.B) {
	for _, behind := range []uint64{1, 100} {
		b.Run(fmt.Sprintf("behind=%d", behind), func(b *testing.B) {
			l := NewLog(NewBudget(1 << 30))
			p := Packet{Kind: WithOffset, Data: bytes.Repeat([]byte("x"), 50)}
			b.ReportAllocs()
			for b.Loop() {
				if seq := l.Append(&p); seq > behind {
					l.Trim(seq - behind)
				}
			}
		})
	}
}

func BenchmarkAppendBinary(b *testing.B) {
	l := NewLog(nil)
	p := Packet{Kind: WithOffset, Data: bytes.Repeat([]byte("x"), 50), Attachments: [][]byte{make([]byte, 100)}}
	b.ReportAllocs()
	for b.Loop() {
		l.Trim(l.Append(&p))
	}
}
