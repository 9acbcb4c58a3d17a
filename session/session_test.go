package session

import (
	"errors"
	"fmt"
	"strings"
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
			if got := w.budget.Packets(); got != int64(tt.want) {
				t.Errorf("%d packets are held, want %d", got, tt.want)
			}
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
			if got := w.budget.Packets(); got != int64(tt.want) {
				t.Errorf("%d packets are held, want %d", got, tt.want)
			}
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

func TestAppendErrors(t *testing.T) {
	limits := Limits{MaxPackets: 3, MaxBytes: 1000, WindowBytes: 500}
	tests := []struct {
		name  string
		park  bool
		close reason.Reason
		sizes []int
		want  []error
	}{
		{"live, any number", false, "", []int{1, 1, 1, 1, 1, 1000}, []error{nil, nil, nil, nil, nil, nil}},
		{"parked, up to the packet limit", true, "", []int{1, 1, 1, 1}, []error{nil, nil, nil, ErrFull}},
		{"parked, up to the byte limit", true, "", []int{800, 200}, []error{nil, ErrFull}},
		{"parked, one too large", true, "", []int{1001}, []error{ErrFull}},
		{"closed", false, reason.ServerDisconnect, []int{1, 1}, []error{ErrClosed, ErrClosed}},
		{"parked and closed", true, reason.UpstreamLost, []int{1}, []error{ErrClosed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, limits, 10)
			c := w.open("/")
			s := c.Session()
			if tt.park {
				w.Park([]*Cursor{c}, time.Minute, "cut")
			}
			if tt.close != "" {
				w.Close(s, tt.close)
			}
			for i, n := range tt.sizes {
				cur, err := s.Append(noOffset(strings.Repeat("x", n)))
				if !errors.Is(err, tt.want[i]) || (tt.want[i] == nil) != (err == nil) {
					t.Errorf("packet %d of %d bytes: %v, want %v", i+1, n, err, tt.want[i])
				}
				if wakes := err == nil && !tt.park; (cur != nil) != wakes {
					t.Errorf("packet %d: cursor to wake %v, want one: %v", i+1, cur, wakes)
				}
			}
			w.finish()
		})
	}
}

func TestStringsAndAccessors(t *testing.T) {
	for s, want := range map[State]string{Live: "live", Parked: "parked", Closed: "closed", 0: "unknown", 99: "unknown"} {
		if got := s.String(); got != want {
			t.Errorf("State(%d) = %q, want %q", s, got, want)
		}
	}
	w := newWorld(t, roomy, 10)
	c := w.open("/chat")
	s := c.Session()
	if s.Namespace() != "/chat" || s.Upstream() != w.link || !IsPID(s.PID()) || c.Owner() != s.Attached() || !c.Attached() {
		t.Errorf("namespace %q, upstream %v, pid %q, owner %v, attached %v", s.Namespace(), s.Upstream(), s.PID(), c.Owner(), s.Attached())
	}
	w.Park([]*Cursor{c}, time.Minute, "cut")
	if s.Attached() != nil || c.Attached() {
		t.Errorf("parked, but attached to %v", s.Attached())
	}
	w.finish()

	plainOne := w.New(w.link, "/", &client{1}, false)
	if plainOne.Session().PID() != "" {
		t.Error("a session that cannot be resumed has a pid")
	}
	w.Close(plainOne.Session(), reason.ServerDisconnect)
}

func TestHold(t *testing.T) {
	const window = 10_000
	limits := Limits{MaxPackets: 1000, MaxBytes: 1 << 20, WindowBytes: window}
	big := withOffset(strings.Repeat("x", window/4)) // four of them reach the window, two are more than half of it
	fill := func(t *testing.T) (*world, *Cursor) {
		w := newWorld(t, limits, 10)
		c := w.open("/")
		for i := range 4 {
			if w.link.readPaused() != 0 {
				t.Fatalf("held after %d packets", i)
			}
			w.append(c.Session(), big)
		}
		if w.link.readPaused() != 1 {
			t.Fatal("not held at the window")
		}
		read(c, 4)
		return w, c
	}
	tests := []struct {
		name string
		do   func(*world, *Cursor)
		want int
	}{
		{"a little confirmed", func(_ *world, c *Cursor) { c.Confirm(2) }, 1},
		{"more than half confirmed", func(_ *world, c *Cursor) { c.Confirm(3) }, 0},
		{"confirmed, filled again", func(w *world, c *Cursor) {
			c.Confirm(3)
			for range 3 {
				w.append(c.Session(), big)
			}
		}, 1},
		{"answered", func(w *world, c *Cursor) {
			w.append(c.Session(), ackRequested(1, "a"))
			read(c, 1)
			c.Acknowledged(1)
		}, 0},
		{"still more", func(w *world, c *Cursor) { w.append(c.Session(), big) }, 1},
		{"parked", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, time.Minute, "cut") }, 0},
		{"parked for no time", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, 0, "cut") }, 0},
		{"more while parked", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.append(c.Session(), big)
		}, 0},
		{"closed by the server", func(w *world, c *Cursor) { w.Close(c.Session(), reason.ServerDisconnect) }, 0},
		{"closed by the client", func(w *world, c *Cursor) { w.Close(c.Session(), reason.ClientDisconnect) }, 0},
		{"closed, read, and the client gone", func(w *world, c *Cursor) {
			w.Close(c.Session(), reason.ServerDisconnect)
			read(c, 1)
			w.Park([]*Cursor{c}, time.Minute, "cut")
		}, 0},
		{"resumed with nothing received", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.mustResume(c.Session(), "")
		}, 1},
		{"resumed with half received", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.mustResume(c.Session(), offsetOf(c.Session(), 2))
		}, 0},
		{"resumed, and then all confirmed", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			c = w.mustResume(c.Session(), "")
			read(c, 4)
			c.Confirm(4)
		}, 0},
		{"resumed, and cut again", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.Park([]*Cursor{w.mustResume(c.Session(), "")}, time.Minute, "cut")
		}, 0},
		{"refused", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.resume(c.Session(), offsetOf(c.Session(), 99))
		}, 0},
		{"abandoned", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.AbortParked(c.Session().PID(), "/", reason.BadOffset)
		}, 0},
		{"a takeover is asked for", func(w *world, c *Cursor) { w.resume(c.Session(), "") }, 1},
		{"taken over", func(w *world, c *Cursor) {
			r := w.resume(c.Session(), "")
			if r.Takeover != c.Owner() {
				t.Errorf("%+v", r)
			}
			w.Park([]*Cursor{c}, time.Minute, "takeover")
			w.mustResume(c.Session(), "")
		}, 1},
		{"the previous client's confirmation", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, time.Minute, "cut")
			w.mustResume(c.Session(), "")
			c.Confirm(4)
		}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, c := fill(t)
			tt.do(w, c)
			if got := w.link.readPaused(); got != tt.want {
				t.Errorf("held by %d sessions, want %d", got, tt.want)
			}
			w.finish()
		})
	}
}

func offsetOf(s *Session, seq uint64) string { return string(Offset{s.tag, seq}.AppendTo(nil)) }

// Resuming with less than a window in the log must not pause the link in between.
func TestResumeDoesNotFlapHold(t *testing.T) {
	w := newWorld(t, Limits{MaxPackets: 1000, MaxBytes: 1 << 20, WindowBytes: 10_000}, 10)
	c := w.open("/")
	for range 4 {
		w.append(c.Session(), withOffset(strings.Repeat("x", 2500)))
	}
	read(c, 4)
	w.Park([]*Cursor{c}, time.Minute, "cut")
	w.mustResume(c.Session(), offsetOf(c.Session(), 3))
	if w.link.pause != 1 {
		t.Errorf("the link was paused %d times, want once, before the cut", w.link.pause)
	}
	w.finish()
}

// The window is smaller while the budget is exceeded.
func TestHoldWhileBudgetIsExceeded(t *testing.T) {
	w := newWorld(t, roomy, 10)
	w.Registry = NewRegistry(roomy, 10, buffer.NewBudget(scarceWindowBytes/2), w)
	c := w.open("/")
	w.append(c.Session(), withOffset(strings.Repeat("x", scarceWindowBytes*3/4)))
	if w.link.readPaused() != 0 {
		t.Error("held below what is always allowed")
	}
	w.append(c.Session(), withOffset(strings.Repeat("x", scarceWindowBytes*3/8)))
	if w.link.readPaused() != 1 {
		t.Error("not held though memory is scarce")
	}
	read(c, 2)
	c.Confirm(1)
	if w.link.readPaused() != 0 {
		t.Error("held though memory is there again")
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
	if n := w.budget.Packets(); n != 3 {
		t.Errorf("%d packets are held, want 3", n)
	}
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
