package buffer

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func text(s string) *Packet { return &Packet{Kind: WithOffset, Data: []byte(s)} }

// contents are the packets of a log as text, attachments behind a +.
func contents(l *Log) []string {
	var all []string
	for seq := l.Trimmed() + 1; seq <= l.Last(); seq++ {
		p := l.At(seq)
		s := string(p.Data())
		for _, a := range p.Attachments() {
			s += "+" + string(a)
		}
		all = append(all, s)
	}
	return all
}

func TestLogNumbersPackets(t *testing.T) {
	l := NewLog(nil)
	if l.Len() != 0 || l.Last() != 0 || l.Trimmed() != 0 || l.Bytes() != 0 {
		t.Fatalf("an empty log: Len %d, Last %d, Trimmed %d, Bytes %d", l.Len(), l.Last(), l.Trimmed(), l.Bytes())
	}
	for i, s := range []string{"a", "b", "c"} {
		if got, want := l.Append(text(s)), uint64(i+1); got != want {
			t.Errorf("%q has number %d, want %d", s, got, want)
		}
	}
	l.Trim(2)
	if got := l.Append(text("d")); got != 4 {
		t.Errorf("after a trim: number %d, want 4", got)
	}
	l.Trim(4)
	l.Idle()
	if got := l.Append(text("e")); got != 5 {
		t.Errorf("after all were trimmed: number %d, want 5", got)
	}
	if got := contents(&l); !slices.Equal(got, []string{"e"}) {
		t.Errorf("the log has %q", got)
	}
}

func TestTrim(t *testing.T) {
	tests := []struct {
		name    string
		seqs    []uint64
		trimmed uint64
		want    []string
	}{
		{"nothing", []uint64{0}, 0, []string{"a", "b", "c"}},
		{"the first", []uint64{1}, 1, []string{"b", "c"}},
		{"some", []uint64{2}, 2, []string{"c"}},
		{"in steps", []uint64{1, 2}, 2, []string{"c"}},
		{"again", []uint64{2, 2}, 2, []string{"c"}},
		{"backwards", []uint64{2, 1, 0}, 2, []string{"c"}},
		{"all", []uint64{3}, 3, nil},
		{"beyond the end", []uint64{100}, 3, nil},
		{"far beyond the end", []uint64{1<<64 - 1}, 3, nil},
		{"an empty log", []uint64{3, 4}, 3, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBudget(0)
			l := NewLog(b)
			for _, s := range []string{"a", "b", "c"} {
				l.Append(text(s))
			}
			for _, seq := range tt.seqs {
				l.Trim(seq)
			}
			if got := contents(&l); !slices.Equal(got, tt.want) || l.Trimmed() != tt.trimmed || l.Last() != 3 {
				t.Errorf("Trim(%v): %q, Trimmed %d, Last %d; want %q, %d, 3", tt.seqs, got, l.Trimmed(), l.Last(), tt.want, tt.trimmed)
			}
			if want := len(tt.want) * (1 + packetOverhead); l.Bytes() != want || b.Bytes() != int64(want) || b.Packets() != int64(len(tt.want)) {
				t.Errorf("Trim(%v): %d bytes, budget %d bytes and %d packets; want %d bytes", tt.seqs, l.Bytes(), b.Bytes(), b.Packets(), want)
			}
		})
	}
}

func TestAppendCopies(t *testing.T) {
	for _, size := range []int{0, 1, 100, maxChunkBytes / 4, maxChunkBytes/4 + 1, maxChunkBytes * 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			l := NewLog(nil)
			data, att := bytes.Repeat([]byte("x"), size), bytes.Repeat([]byte("y"), size)
			atts := [][]byte{att, nil}
			want := Packet{Kind: AckRequested, AckID: 7, Data: slices.Clone(data), Attachments: [][]byte{slices.Clone(att), nil}}
			l.Append(&Packet{Kind: AckRequested, AckID: 7, Data: data, Attachments: atts})
			clear(data)
			clear(att)
			clear(atts)
			got := l.At(1)
			if !bytes.Equal(got.Data(), want.Data) || got.Kind() != AckRequested || got.AckID() != 7 {
				t.Errorf("the packet changed with the caller's bytes")
			}
			if atts := got.Attachments(); len(atts) != 2 || !bytes.Equal(atts[0], want.Attachments[0]) || len(atts[1]) != 0 {
				t.Errorf("the attachments changed with the caller's bytes")
			}
		})
	}
}

// A packet's bytes have no spare capacity: appending to them must not write into the next packet.
func TestPacketsDoNotOverlap(t *testing.T) {
	l := NewLog(nil)
	l.Append(text("first"))
	l.Append(text("second"))
	_ = append(l.At(1).Data(), "xxxxxx"...)
	if got := string(l.At(2).Data()); got != "second" {
		t.Errorf("the second packet is %q", got)
	}
}

// A chunk is reused only when it holds no packet of the log.
func TestChunkReuseKeepsPackets(t *testing.T) {
	for _, behind := range []int{0, 1, 2, 5, 40, 200} {
		t.Run(fmt.Sprintf("behind=%d", behind), func(t *testing.T) {
			b := NewBudget(0)
			l := NewLog(b)
			var model []string
			for i := range 3000 {
				s := fmt.Sprintf("packet %d %s", i, strings.Repeat("x", i*37%300))
				p := text(s)
				if i%7 == 0 {
					p.Attachments = [][]byte{[]byte(fmt.Sprint("attachment ", i))}
					s += fmt.Sprint("+attachment ", i)
				}
				l.Append(p)
				model = append(model, s)
				if len(model) > behind {
					model = model[len(model)-behind:]
					l.Trim(l.Last() - uint64(behind))
				}
				if i%500 == 499 { // now and then all is confirmed
					model = nil
					l.Trim(l.Last())
				}
				if got := contents(&l); !slices.Equal(got, model) {
					t.Fatalf("after packet %d the log has %q, want %q", i, got, model)
				}
			}
			l.Release()
			if l.Bytes() != 0 || b.Bytes() != 0 || b.Packets() != 0 {
				t.Errorf("released: %d bytes; budget %d bytes, %d packets", l.Bytes(), b.Bytes(), b.Packets())
			}
		})
	}
}

func TestBytesCountsAttachments(t *testing.T) {
	l := NewLog(nil)
	l.Append(&Packet{Data: make([]byte, 10), Attachments: [][]byte{make([]byte, 1000), make([]byte, 5)}})
	if least, most := 1015, 1015+packetOverhead+2*24; l.Bytes() < least || l.Bytes() > most {
		t.Errorf("%d bytes, want %d to %d", l.Bytes(), least, most)
	}
}

// Empty packets use memory too, so they must count.
func TestEmptyPacketsCount(t *testing.T) {
	l := NewLog(nil)
	l.Append(&Packet{})
	if l.Bytes() < packetOverhead {
		t.Errorf("%d bytes", l.Bytes())
	}
}

func TestIdle(t *testing.T) {
	l := NewLog(nil)
	l.Append(text("a"))
	l.Idle()
	if got := contents(&l); !slices.Equal(got, []string{"a"}) {
		t.Errorf("Idle dropped what is in the log: %q", got)
	}
	l.Trim(1)
	l.Idle()
	if l.chunk != nil || l.entries != nil {
		t.Errorf("an idle log keeps %d entries, %d bytes", cap(l.entries), cap(l.chunk))
	}
}

// A log that was long releases its memory, unless it becomes long repeatedly.
func TestEmptyLogKeepsLittle(t *testing.T) {
	for _, tt := range []struct {
		name      string
		lengths   []int // that the log has, one after the other, between being empty
		keepsRoom bool
	}{
		{"short", []int{1}, true},
		{"long", []int{2 * busyEntries}, false},
		{"busy", []int{2 * keptEntries, 2 * keptEntries}, true},
		{"busy no more", []int{2 * keptEntries, 2 * keptEntries, keptEntries / 8}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLog(nil)
			for _, n := range tt.lengths {
				for range n {
					l.Append(text("a"))
				}
				l.Trim(l.Last())
			}
			if keeps := cap(l.entries) > 0; keeps != tt.keepsRoom || cap(l.entries) > busyEntries || cap(l.chunk) > maxChunkBytes {
				t.Errorf("an empty log keeps %d entries, %d bytes; want it to keep entries: %v", cap(l.entries), cap(l.chunk), tt.keepsRoom)
			}
		})
	}
}

// What was trimmed can be collected, also while the log is never empty.
func TestTrimDropsReferences(t *testing.T) {
	l := NewLog(nil)
	for i := range 1000 {
		l.Append(text("a"))
		if i > 10 {
			l.Trim(l.Last() - 10)
		}
	}
	for i := range l.head {
		if l.entries[i].data != nil {
			t.Fatalf("entry %d before the head still refers to its packet", i)
		}
	}
	if cap(l.entries) > 64 {
		t.Errorf("ten packets take room for %d", cap(l.entries))
	}
}

func TestReleaseIsFinalForTheBudget(t *testing.T) {
	b := NewBudget(0)
	l := NewLog(b)
	l.Append(text("a"))
	l.Release()
	l.Release()
	l.Trim(l.Last())
	if b.Bytes() != 0 || b.Packets() != 0 {
		t.Errorf("budget %d bytes, %d packets", b.Bytes(), b.Packets())
	}
}

func TestSmallPacketsDoNotAllocate(t *testing.T) {
	l := NewLog(NewBudget(0))
	p := text(strings.Repeat("x", 50))
	round := func() {
		for range 16 {
			l.Append(p)
		}
		l.Trim(l.Last())
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations for 16 packets that were confirmed, want none", n)
	}
}
