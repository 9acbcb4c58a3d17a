package buffer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDrop(t *testing.T) {
	b := NewBudget(0)
	l := NewLog(b)
	for _, s := range []string{"a", "b", "c"} {
		l.Append(text(s))
	}
	l.Drop(2)
	l.Drop(2)
	if l.At(2).Kind() != Dropped || l.Last() != 3 || l.Len() != 3 || l.Packets() != 2 || b.Packets() != 2 {
		t.Errorf("packet 2 is %+v; Last %d, Len %d, Packets %d, budget %d", l.At(2), l.Last(), l.Len(), l.Packets(), b.Packets())
	}
	if got := contents(&l); !slices.Equal(got, []string{"a", "", "c"}) {
		t.Errorf("the log has %q", got)
	}
	l.Release()
	if l.Packets() != 0 || l.Bytes() != 0 || b.Packets() != 0 || b.Bytes() != 0 {
		t.Errorf("released: %d packets, %d bytes; budget %d, %d", l.Packets(), l.Bytes(), b.Packets(), b.Bytes())
	}
}

// Packets up to fixed keep their numbers. The others move up.
func TestCompact(t *testing.T) {
	tests := []struct {
		fixed uint64
		want  []string
	}{
		{0, []string{"b", "d"}},
		{1, []string{"", "b", "d"}},
		{2, []string{"", "b", "d"}},
		{3, []string{"", "b", "", "d"}},
		{5, []string{"", "b", "", "d", ""}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint("fixed=", tt.fixed), func(t *testing.T) {
			l := NewLog(nil)
			for _, s := range []string{"A", "b", "C", "d", "E"} {
				l.Append(text(s))
			}
			l.Compact(tt.fixed, func(e *Entry) bool { return e.Data()[0] < 'a' })
			if got := contents(&l); !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// The few remaining packets must not keep the memory of all packets.
func TestCompactFreesMemory(t *testing.T) {
	l := NewLog(NewBudget(0))
	for i := range 10_000 {
		l.Append(text(fmt.Sprint(i, " some fifty bytes of a packet that comes often")))
	}
	l.Compact(0, func(e *Entry) bool { return !strings.HasPrefix(string(e.Data()), "5000 ") })
	if cap(l.entries) > keptEntries || cap(l.chunk) > maxChunkBytes || &l.At(1).Data()[0] != &l.chunk[0] {
		t.Errorf("one packet has room for %d, in %d bytes", cap(l.entries), cap(l.chunk))
	}
	if got := contents(&l); len(got) != 1 || !strings.HasPrefix(got[0], "5000 ") {
		t.Errorf("%q is left", got)
	}
}

// TestLogModel compares a log with a slice under random operations.
func TestLogModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBudget(0)
		l := NewLog(b)
		var model []string // "" is a dropped packet
		trimmed := 0
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				p := text(fmt.Sprint(l.Last(), strings.Repeat("x", rapid.SampledFrom([]int{0, 50, 100, 3000}).Draw(t, "size"))))
				want := string(p.Data)
				if rapid.Bool().Draw(t, "binary") {
					p.Attachments = [][]byte{[]byte("attachment"), []byte(strings.Repeat("y", 70))}
					want += "+attachment+" + strings.Repeat("y", 70)
				}
				model = append(model, want)
				if rapid.Bool().Draw(t, "shared") {
					p.ShortLived = rapid.Bool().Draw(t, "brief")
					l.AppendShared(p)
				} else {
					l.Append(p)
				}
			},
			"trim": func(t *rapid.T) {
				n := rapid.IntRange(0, len(model)).Draw(t, "packets")
				model, trimmed = model[n:], trimmed+n
				l.Trim(uint64(trimmed))
			},
			"drop": func(t *rapid.T) {
				if len(model) > 0 {
					i := rapid.IntRange(0, len(model)-1).Draw(t, "packet")
					model[i] = ""
					l.Drop(uint64(trimmed + 1 + i))
				}
			},
			"compact": func(t *rapid.T) {
				fixed := rapid.IntRange(0, trimmed+len(model)).Draw(t, "fixed")
				every := byte('0' + rapid.IntRange(0, 9).Draw(t, "first digit"))
				var kept []string
				for i, s := range model {
					if s != "" && s[0] == every {
						s = ""
					}
					if s != "" || trimmed+1+i <= fixed {
						kept = append(kept, s)
					}
				}
				model = kept
				l.Compact(uint64(fixed), func(e *Entry) bool { return e.Data()[0] == every })
			},
			"": func(t *rapid.T) {
				if got := contents(&l); !slices.Equal(got, model) {
					t.Fatalf("%.20q, want %.20q", got, model)
				}
				packets := 0
				for _, s := range model {
					if s != "" {
						packets++
					}
				}
				if l.Packets() != packets || b.Packets() != int64(packets) || l.Trimmed() != uint64(trimmed) {
					t.Errorf("%d packets, in the budget %d, trimmed %d; want %d, %d", l.Packets(), b.Packets(), l.Trimmed(), packets, trimmed)
				}
			},
		})
		l.Release()
		if l.Bytes() != 0 || b.Bytes() != 0 || b.Packets() != 0 || b.shares.blobs != nil {
			t.Errorf("released: %d bytes; budget %d bytes, %d packets", l.Bytes(), b.Bytes(), b.Packets())
		}
	})
}

// An event that may have been written still counts as one when it is dropped, until it is known not
// to have arrived.
func TestDroppedLate(t *testing.T) {
	l := NewLog(NewBudget(0))
	for i := range 6 {
		l.Append(&Packet{Kind: WithOffset, Data: []byte{byte('a' + i)}})
	}
	l.Drop(1)
	l.DropLate(2)
	l.Compact(4, func(e *Entry) bool { return e.Data()[0] >= 'd' }) // "d" may have been written; "e" and "f" have not
	late := func() (all []bool) {
		for seq := l.Trimmed() + 1; seq <= l.Last(); seq++ {
			all = append(all, l.At(seq).DroppedLate())
		}
		return all
	}
	if got, want := late(), []bool{false, true, false, true}; !slices.Equal(got, want) {
		t.Errorf("late: %v, want %v", got, want)
	}
	l.NeverWritten(2, 9)
	if got, want := late(), []bool{false, true, false, false}; !slices.Equal(got, want) {
		t.Errorf("after NeverWritten: %v, want %v", got, want)
	}
}
