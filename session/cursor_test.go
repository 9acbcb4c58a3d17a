package session

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

func TestReadGivesPacketsOnceInOrder(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	s := c.Session()
	if woken := w.append(s, withOffset("a")); woken != c {
		t.Errorf("Append wakes %v, want the session's cursor", woken)
	}
	w.append(s, ackRequested(7, "b"))
	w.append(s, noOffset("c"))
	w.append(s, withOffset("d"))

	var got received
	passed, last, _ := c.Read(3, &got)
	equal(t, "the first three", got.data, []string{"a", "b", "c"})
	equal(t, "their offsets", got.offsets, []string{"hf" + s.tag.String() + "1", "", ""})
	if passed != 3 || last != 3 || got.replays != 0 {
		t.Errorf("passed %d, last %d, replays %d; want 3, 3, 0", passed, last, got.replays)
	}
	rest := read(c, 10)
	equal(t, "the rest", rest.data, []string{"d"})
	equal(t, "its offset", rest.offsets, []string{"hf" + s.tag.String() + "4"})
	equal(t, "nothing is left", read(c, 10).data, nil)
	w.finish()
}

func TestReadStops(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	for i := range 5 {
		w.append(c.Session(), withOffset(fmt.Sprint(i)))
	}
	equal(t, "none", read(c, 0).data, nil)
	r := received{stop: 2}
	passed, last, _ := c.Read(5, &r)
	equal(t, "what Emit took", r.data, []string{"0", "1"})
	if passed != 2 || last != 2 {
		t.Errorf("passed %d, last %d; want 2, 2", passed, last)
	}
	equal(t, "the rest", read(c, 5).data, []string{"2", "3", "4"})
	w.finish()
}

// Passing a packet through a session allocates nothing, even with an offset.
func TestDeliveryDoesNotAllocate(t *testing.T) {
	c := quiet(1).New(silent{}, "/", silent{}, true)
	p, e := event(), &stamps{}
	n := testing.AllocsPerRun(1000, func() {
		if _, err := c.s.Append(p); err != nil {
			t.Fatal(err)
		}
		_, last, _ := c.Read(1, e)
		c.Confirm(last)
	})
	if n != 0 || e.n < 1000 {
		t.Errorf("%v allocations for each of %d packets", n, e.n)
	}
}

// stamps is an Emitter that only writes the offsets.
type stamps struct {
	n   int
	buf [32]byte
}

func (s *stamps) Emit(_ *buffer.Entry, offset Offset, _ bool) bool {
	if len(offset.AppendTo(s.buf[:0])) > 0 {
		s.n++
	}
	return true
}

func TestConfirm(t *testing.T) {
	tests := []struct {
		name     string
		confirms []uint64
		want     int // packets held, of 4 of which 3 were sent
	}{
		{"none", nil, 4},
		{"some", []uint64{2}, 2},
		{"all that was sent", []uint64{3}, 1},
		{"more than was sent", []uint64{4}, 1},
		{"far more", []uint64{1 << 63}, 1},
		{"twice", []uint64{2, 2}, 2},
		{"backwards", []uint64{3, 1}, 1},
		{"nothing", []uint64{0}, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			c := w.open("/")
			for i := range 4 {
				w.append(c.Session(), withOffset(fmt.Sprint(i)))
			}
			read(c, 3)
			for _, n := range tt.confirms {
				c.Confirm(n)
			}
			wantPackets(w, tt.want)
			equal(t, "then read", read(c, 10).data, []string{"3"})
			w.finish()
		})
	}
}

func TestAcknowledged(t *testing.T) {
	// Packets: 1 stamped, 2 asking 5, 3 plain, 4 asking 6, 5 asking 7; the first four were sent.
	tests := []struct {
		name string
		ids  []int64
		want int // packets held
	}{
		{"the first", []int64{5}, 3},
		{"the last sent", []int64{6}, 1},
		{"in turn", []int64{5, 6}, 1},
		{"out of turn", []int64{6, 5}, 1},
		{"twice", []int64{5, 5}, 3},
		{"one that was not sent yet", []int64{7}, 5},
		{"one that never was", []int64{99}, 5},
		{"a plain packet's", []int64{0}, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			c := w.open("/")
			s := c.Session()
			for _, p := range []*buffer.Packet{withOffset("1"), ackRequested(5, "2"), noOffset("3"), ackRequested(6, "4"), ackRequested(7, "5")} {
				w.append(s, p)
			}
			read(c, 4)
			for _, id := range tt.ids {
				c.Acknowledged(id)
			}
			wantPackets(w, tt.want)
			equal(t, "then read", read(c, 10).data, []string{"5"})
			w.finish()
		})
	}
}

// A client that resumed may answer an event that it received before, while the replay is still to
// be written. That event and those before it are not written again, but they are counted.
func TestAcknowledgedDuringReplay(t *testing.T) {
	for _, atLeastOnce := range []bool{false, true} {
		t.Run(fmt.Sprintf("at least once=%v", atLeastOnce), func(t *testing.T) {
			limits := roomy
			limits.ReplayAckRequested = atLeastOnce
			w := newWorld(t, limits, 10)
			c := w.open("/")
			s := c.Session()
			for _, p := range []*buffer.Packet{withOffset("1"), ackRequested(0, "2"), noOffset("3"), ackRequested(1, "4"), withOffset("5")} {
				w.append(s, p)
			}
			sent := read(c, 4)
			w.Park([]*Cursor{c}, time.Minute, "cut")

			r := w.resume(s, sent.offsets[0])
			if r.Cursor == nil || r.Missed != 4 {
				t.Fatalf("%+v, want 4 packets missed", r)
			}
			r.Cursor.Acknowledged(1)
			var got received
			passed, last, done := r.Cursor.Read(r.Missed, &got)
			equal(t, "after the ack", got.data, []string{"5"})
			if passed != 4 || last != 5 || !done {
				t.Errorf("passed %d, last %d, replay done %v; want 4, 5, true", passed, last, done)
			}
			w.finish()
		})
	}
}

func TestAcknowledgedAllOfReplay(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	s := c.Session()
	w.append(s, ackRequested(0, "1"))
	read(c, 1)
	w.Park([]*Cursor{c}, time.Minute, "cut")
	r := w.resume(s, "")
	r.Cursor.Acknowledged(0)
	r.Cursor.Confirm(1)
	w.append(s, withOffset("2"))
	var got received
	passed, last, done := r.Cursor.Read(2, &got)
	equal(t, "after the ack", got.data, []string{"2"})
	if passed != 2 || last != 2 || !done {
		t.Errorf("passed %d, last %d, replay done %v; want 2, 2, true", passed, last, done)
	}
	w.finish()
}

// A session ends during the replay. Its packets are dropped as they are read, even after an early
// ack.
func TestAcknowledgedDuringReplayThenClosed(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	s := c.Session()
	w.append(s, ackRequested(0, "1"))
	w.append(s, withOffset("2"))
	read(c, 1)
	w.Park([]*Cursor{c}, time.Minute, "cut")
	r := w.resume(s, "")
	r.Cursor.Acknowledged(0)
	w.Close(s, reason.ServerDisconnect)
	equal(t, "after the end", read(r.Cursor, r.Missed).data, []string{"2"})
	if n := w.budget.Bytes(); n != 0 {
		t.Errorf("%d bytes are held though all was read", n)
	}
	w.finish()
}

// A cursor that lost its session has no effect.
func TestStaleCursor(t *testing.T) {
	w := newWorld(t, roomy, 10)
	old := w.open("/")
	s := old.Session()
	w.append(s, withOffset("1"))
	w.append(s, ackRequested(5, "2"))
	read(old, 1)
	w.Park([]*Cursor{old}, time.Minute, "cut")
	now := w.mustResume(s, "")
	read(now, 2)

	w.append(s, withOffset("3"))
	var r received
	if passed, last, done := old.Read(10, &r); passed != 0 || last != 0 || done || r.data != nil {
		t.Errorf("a stale cursor read %q (%d, %d, %v)", r.data, passed, last, done)
	}
	old.Confirm(3)
	old.Acknowledged(5)
	old.Idle()
	w.Park([]*Cursor{old}, time.Minute, "late end")
	if old.Attached() || !now.Attached() || s.State() != Live || s.Attached() != now.Owner() {
		t.Errorf("the previous client's late end: session %v, attached to %v", s.State(), s.Attached())
	}
	wantPackets(w, 3)
	equal(t, "the present client reads", read(now, 10).data, []string{"3"})
	w.finish()
}

// An event is overdue at the second call that finds it sent and unanswered.
func TestUnanswered(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	look := func(what string, pending, overdue bool) {
		t.Helper()
		if p, o := c.Unanswered(); p != pending || o != overdue {
			t.Errorf("%s: pending %v, overdue %v; want %v, %v", what, p, o, pending, overdue)
		}
	}
	w.append(c.Session(), withOffset("1"))
	w.append(c.Session(), ackRequested(5, "2"))
	read(c, 1)
	look("before it is sent", false, false)
	read(c, 1)
	look("just sent", true, false)
	look("for a while", true, true)
	c.Acknowledged(5)
	look("answered", false, false)
	w.append(c.Session(), ackRequested(6, "3"))
	read(c, 1)
	look("the next one", true, false)
	c.Confirm(3)
	look("confirmed", false, false)
	w.append(c.Session(), ackRequested(7, "4"))
	read(c, 1)
	w.Park([]*Cursor{c}, time.Minute, "cut")
	look("parked", false, false)
	c = w.mustResume(c.Session(), "")
	look("resumed, and not sent again", false, false)
	w.finish()
}

func TestIdle(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	w.append(c.Session(), withOffset("1"))
	c.Idle()
	equal(t, "after Idle", read(c, 1).data, []string{"1"})
	c.Confirm(1)
	c.Idle()
	w.append(c.Session(), withOffset("2"))
	got := read(c, 1)
	equal(t, "after Idle", got.data, []string{"2"})
	equal(t, "its offset", got.offsets, []string{offsetOf(c.Session(), 2)})
	w.finish()
}
