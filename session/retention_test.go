package session

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/buffer"
)

// retentions is a RetentionFunc for packets like "v1", which is volatile, and "lx1", of which the
// latest of each second letter is kept. It keeps all others.
func retentions(_ string, packet []byte) (Retention, []byte) {
	switch packet[0] {
	case 'v':
		return DropVolatile, nil
	case 'l':
		return KeepLatest, packet[1:2]
	}
	return Keep, nil
}

func newRetentionWorld(t tester, limits Limits) *world {
	limits.Retention = retentions
	return newWorld(t, limits, 10)
}

func TestRetention(t *testing.T) {
	tests := []struct {
		name            string
		sent, unsent    string // while live; none of the sent ones arrived
		away            string // appended while parked
		want            string
		dropped, latest int
	}{
		{"volatile events go", "a", "b", "v1 c v2", "a b c", 2, 0},
		{"the newest of each name stays, at its place", "", "", "a lx1 b ly1 c lx2 d", "a b ly1 c lx2 d", 0, 1},
		{"a name of its own each", "", "", "lx1 ly1 lz1", "lx1 ly1 lz1", 0, 0},
		{"nothing but volatile events", "v1", "v2", "v3", "", 3, 0},
		{"what was not confirmed is judged too", "a v1 lx1", "v2 lx2 b", "lx3", "a b lx3", 2, 2},
		{"the newest was sent", "lx1 a", "", "b", "lx1 a b", 0, 0},
		{"nothing comes while it is away", "v1 lx1 a", "lx2 v2", "", "a lx2", 2, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newRetentionWorld(t, roomy)
				c := w.open("/")
				for p := range strings.FieldsSeq(tt.sent) {
					w.append(c.s, withOffset(p))
				}
				read(c, 100)
				for p := range strings.FieldsSeq(tt.unsent) {
					w.append(c.s, withOffset(p))
				}
				w.Park([]*Cursor{c}, time.Minute, "cut")
				for p := range strings.FieldsSeq(tt.away) {
					w.append(c.s, withOffset(p))
				}
				r := w.resume(c.s, "")
				if r.Missed != len(strings.Fields(tt.want)) {
					t.Errorf("%d missed, want %q", r.Missed, tt.want)
				}
				got := read(r.Cursor, r.ToRead)
				equal(t, "read", got.data, strings.Fields(tt.want))
				if w.dropped[DropVolatile] != tt.dropped || w.dropped[KeepLatest] != tt.latest {
					t.Errorf("%v dropped, want %d volatile, %d superseded", w.dropped, tt.dropped, tt.latest)
				}
				w.finish()
			})
		})
	}
}

// Patterns apply neither to events that ask for an acknowledgement nor to other packets.
func TestRetentionKeepsOtherPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRetentionWorld(t, roomy)
		c := w.open("/")
		w.Park([]*Cursor{c}, time.Minute, "cut")
		w.append(c.s, ackRequested(1, "v asks"))
		w.append(c.s, noOffset("v is none"))
		equal(t, "read", read(w.mustResume(c.s, ""), 9).data, []string{"v asks", "v is none"})
		w.finish()
	})
}

// Offsets that a client knows stay valid when packets around them are dropped.
func TestRetentionKeepsKnownOffsets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRetentionWorld(t, roomy)
		c := w.open("/")
		for p := range strings.FieldsSeq("lx1 v1 a lx2 b c") {
			w.append(c.s, withOffset(p))
		}
		offsets := read(c, 5).offsets // not c
		w.Park([]*Cursor{c}, time.Minute, "cut")
		for p := range strings.FieldsSeq("lx3 v2 lx4 d") {
			w.append(c.s, withOffset(p))
		}
		r := w.resume(c.s, offsets[2]) // it has a
		got := read(r.Cursor, r.ToRead)
		equal(t, "read", got.data, []string{"b", "c", "lx4", "d"})
		want := []string{offsets[4], offsetOf(c.s, 6), offsetOf(c.s, 8), offsetOf(c.s, 9)} // lx3 had 7
		equal(t, "offsets", got.offsets, want)

		// A second absence begins anew.
		w.Park([]*Cursor{r.Cursor}, time.Minute, "cut")
		w.append(c.s, withOffset("lx5"))
		equal(t, "read again", read(w.mustResume(c.s, got.offsets[2]), 9).data, []string{"d", "lx5"})
		w.finish()
	})
}

// Any number of KeepLatest events takes the space of a few.
func TestLatestIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRetentionWorld(t, Limits{MaxPackets: 20, MaxBytes: 40_000, WindowBytes: 1 << 20})
		c := w.open("/")
		for i := range 500 { // unconfirmed when it is parked
			w.append(c.s, withOffset(fmt.Sprint("lx", i)))
		}
		read(c, 250)
		w.Park([]*Cursor{c}, time.Minute, "cut")
		most := 0
		for i := range 100_000 {
			w.append(c.s, withOffset(fmt.Sprintf("l%c%d%s", 'a'+i%10, i, strings.Repeat(".", i%200))))
			most = max(most, c.s.log.Len()-250)
		}
		if most > 2*(maxGaps+11) {
			t.Errorf("the log had room for %d packets", most)
		}
		if got := read(w.mustResume(c.s, ""), 1000).data; len(got) != 11 || got[0] != "lx499" || !strings.HasPrefix(got[10], "lj99999") {
			t.Errorf("read %.300q", got)
		}
		w.finish()
	})
}

// TestRetentionModel plays a server that sends at random, and a client whose connection ends at
// random. The model is a slice of what the client must receive next. While it is away volatile
// events are left out, and all but the newest of each name.
func TestRetentionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			w := newRetentionWorld(t, Limits{MaxPackets: 1 << 20, MaxBytes: 1 << 30, WindowBytes: 1 << 20})
			m := &retentionMachine{world: w, t: t, cur: w.open("/"), live: true}
			m.s = m.cur.s
			for range 5 {
				t.Repeat(rapid.StateMachineActions(m))
			}
			m.drain(t)
			w.finish()
		})
	})
}

type retentionMachine struct {
	*world
	t    *rapid.T
	s    *Session
	cur  *Cursor // the last client's
	live bool

	n       int
	missing []string // the model: what the client must receive, in order
	wire    []sent   // in flight
	offset  string   // of the last one that arrived
	seq     uint64
}

type sent struct{ data, offset string }

// compact applies retention to the model.
func (m *retentionMachine) compact() {
	kept := make([]string, 0, len(m.missing))
	for i, p := range m.missing {
		f, name := retentions("", []byte(p))
		newer := func(o string) bool { return o[0] == 'l' && o[1:2] == string(name) }
		if f == Keep || f == KeepLatest && !slices.ContainsFunc(m.missing[i+1:], newer) {
			kept = append(kept, p)
		}
	}
	m.missing = kept
}

// Append lets the server send.
func (m *retentionMachine) Append(t *rapid.T) {
	for range rapid.IntRange(1, 20).Draw(t, "packets") {
		m.n++
		data := rapid.SampledFrom([]string{"k", "v", "la", "lb", "lc"}).Draw(t, "event") +
			fmt.Sprint(m.n, strings.Repeat(".", rapid.SampledFrom([]int{0, 70, 3000}).Draw(t, "size")))
		p := withOffset(data)
		if rapid.Bool().Draw(t, "binary") {
			p.Attachments = [][]byte{[]byte("attachment of " + data)}
		}
		m.append(m.s, p)
		m.missing = append(m.missing, data)
		if !m.live {
			m.compact()
		}
	}
}

// Emit implements Emitter.
func (m *retentionMachine) Emit(p *buffer.Entry, offset Offset, _ bool) bool {
	for _, a := range p.Attachments() {
		if string(a) != "attachment of "+string(p.Data()) {
			m.t.Errorf("%.20q has the attachment %.20q", p.Data(), a)
		}
	}
	_, seq, ok := parseOffset(string(offset.AppendTo(nil)))
	if !ok || seq <= m.seq {
		m.t.Errorf("offset %v comes after number %d", offset, m.seq)
	}
	m.seq = seq
	m.wire = append(m.wire, sent{string(p.Data()), string(offset.AppendTo(nil))})
	return true
}

// Read writes to the client's connection.
func (m *retentionMachine) Read(t *rapid.T) {
	if m.live {
		m.cur.Read(rapid.IntRange(0, 30).Draw(t, "packets"), m)
	}
}

// Arrive lets the client receive some of what is in flight.
func (m *retentionMachine) Arrive(t *rapid.T) {
	m.arrive(t, rapid.IntRange(0, len(m.wire)).Draw(t, "packets"))
}

func (m *retentionMachine) arrive(t *rapid.T, n int) {
	for _, p := range m.wire[:n] {
		if len(m.missing) == 0 || m.missing[0] != p.data {
			t.Fatalf("%.20q arrives; what it is to get is %.20q", p.data, m.missing)
		}
		m.missing, m.offset = m.missing[1:], p.offset
	}
	m.wire = m.wire[n:]
}

// Confirm confirms what has arrived.
func (m *retentionMachine) Confirm(*rapid.T) {
	if _, seq, ok := parseOffset(m.offset); ok && m.live {
		m.cur.Confirm(seq)
	}
}

// Cut ends the connection. What was in flight is lost.
func (m *retentionMachine) Cut(*rapid.T) {
	if !m.live {
		return
	}
	m.Park([]*Cursor{m.cur}, time.Hour, "cut")
	m.live, m.wire = false, nil
	m.compact()
}

// Resume lets the client return, even while its old connection seems open.
func (m *retentionMachine) Resume(t *rapid.T) {
	m.Cut(t)
	r := m.resume(m.s, m.offset)
	if r.Cursor == nil {
		t.Fatalf("not resumed: %+v", r)
	}
	if r.Missed != len(m.missing) || r.ToRead < r.Missed {
		t.Errorf("%d missed, %d to read; want %d", r.Missed, r.ToRead, len(m.missing))
	}
	_, m.seq, _ = parseOffset(m.offset)
	m.cur, m.live = r.Cursor, true
}

// Check checks what is in memory.
func (m *retentionMachine) Check(t *rapid.T) {
	l := &m.s.log
	if !m.live && m.s.parked.index != nil && l.Packets() < len(m.missing) {
		t.Errorf("the log has %d packets; the client is to get %d", l.Packets(), len(m.missing))
	}
	if m.budget.Packets() != int64(l.Packets()) {
		t.Errorf("the budget counts %d packets, the log %d", m.budget.Packets(), l.Packets())
	}
}

func (m *retentionMachine) drain(t *rapid.T) {
	if !m.live {
		m.Resume(t)
	}
	m.cur.Read(1<<20, m)
	m.arrive(t, len(m.wire))
	if len(m.missing) > 0 {
		t.Errorf("never came: %.20q", m.missing)
	}
}

// BenchmarkAppendParked measures a packet while its client is away: without patterns, kept, and
// dropped by them.
func BenchmarkAppendParked(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 50)
	for _, bb := range []struct {
		name, event string
		retentions  RetentionFunc
	}{
		{"not configured", "k", nil},
		{"kept", "k", retentions},
		{"volatile", "v", retentions},
		{"latest", "la", retentions},
	} {
		b.Run(bb.name, func(b *testing.B) {
			limits := roomy
			limits.MaxPackets, limits.MaxBytes, limits.Retention = 1<<30, math.MaxInt, bb.retentions
			r := NewRegistry(limits, 1, buffer.NewBudget(1<<40), silent{})
			c := r.New(silent{}, "/", silent{}, true)
			r.Park([]*Cursor{c}, time.Hour, "cut")
			p := withOffset(bb.event + string(payload))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.s.Append(p); err != nil {
					b.Fatal(err)
				}
				if c.s.log.Len() >= 1000 {
					c.s.log.Trim(c.s.log.Last())
				}
			}
		})
	}
}

// The link is told in order, even about a session that is taken over.
func TestUpstreamIsToldOfMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		c := w.open("/chat")
		w.Park([]*Cursor{c}, time.Minute, "transport_close")
		w.append(c.s, withOffset("a"))
		time.Sleep(3 * time.Second)
		c = w.mustResume(c.s, "")
		w.Park([]*Cursor{c}, time.Second, "takeover")
		w.mustResume(c.s, "")
		equal(t, "moves", w.link.moves, []string{
			"/chat parked: transport_close, for 1m0s", "/chat resumed after 3s, missed 1",
			"/chat parked: takeover, for 1s", "/chat resumed after 0s, missed 1",
		})
		w.finish()
	})
}
