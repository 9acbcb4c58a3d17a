package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// A client whose session ends still gets what the server sent before.
func TestClosedSessionCanBeRead(t *testing.T) {
	for _, why := range []reason.Reason{reason.ServerDisconnect, reason.UpstreamLost} {
		t.Run(string(why), func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			c := w.open("/")
			for i := range 4 {
				w.append(c.s, withOffset(fmt.Sprint(i+1)))
			}
			read(c, 1)
			w.Close(c.s, why)
			if c.Attached() || c.s.Attached() != c.Owner() {
				t.Errorf("cursor attached %v, session attached to %v: want the client known, but not attached", c.Attached(), c.s.Attached())
			}
			if n := w.budget.Packets(); n != 3 {
				t.Errorf("%d packets are held, want the 3 that were not sent", n)
			}
			equal(t, "the client reads", read(c, 2).data, []string{"2", "3"})
			c.Confirm(3)
			c.Acknowledged(1)
			equal(t, "then", read(c, 2).data, []string{"4"})
			equal(t, "then", read(c, 2).data, nil)
			if n := w.budget.Bytes(); n != 0 {
				t.Errorf("%d bytes are held though all was sent", n)
			}
			w.finish()
		})
	}
}

func TestCloseFreesMemory(t *testing.T) {
	tests := []struct {
		name string
		do   func(*world, *Cursor)
		want int64 // packets held, of 3 of which 1 was sent
	}{
		{"closed by the server", func(w *world, c *Cursor) { w.Close(c.s, reason.ServerDisconnect) }, 2},
		{"closed by the server, and its client gone", func(w *world, c *Cursor) {
			w.Close(c.s, reason.ServerDisconnect)
			w.Park([]*Cursor{c}, maxAway, "cut")
		}, 0},
		{"closed by the client, which handles nothing that comes after", func(w *world, c *Cursor) { w.Close(c.s, reason.ClientDisconnect) }, 0},
		{"parked and closed", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, maxAway, "cut")
			w.Close(c.s, reason.ServerDisconnect)
		}, 0},
		{"parked for no time", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, 0, "cut") }, 0},
		{"aborted while parked", func(w *world, c *Cursor) {
			w.Park([]*Cursor{c}, maxAway, "cut")
			w.AbortParked(c.s.PID(), "/", reason.BadOffset)
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			c := w.open("/")
			for i := range 3 {
				w.append(c.s, withOffset(fmt.Sprint(i+1)))
			}
			read(c, 1)
			tt.do(w, c)
			if got := w.budget.Packets(); got != tt.want {
				t.Errorf("%d packets are held, want %d", got, tt.want)
			}
			w.finish()
		})
	}
}

// A session that cannot be resumed ends with its client, even if packets were not sent.
func TestParkUnrecoverable(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.New(w.link, "/", &client{1}, false)
	w.append(c.s, withOffset("1"))
	w.append(c.s, withOffset("2"))
	read(c, 1)
	w.Park([]*Cursor{c}, maxAway, "cut")
	if c.s.State() != Closed || w.budget.Bytes() != 0 {
		t.Errorf("%v, %d bytes are held", c.s.State(), w.budget.Bytes())
	}
	equal(t, "the observer was told", w.noted(), []string{"/ ended: not_parked, was live, 2 packets"})
	equal(t, "the link was told", w.link.told(), []string{"not_parked: /"})
	w.finish()
}

func TestTombstones(t *testing.T) {
	tests := []struct {
		want reason.Reason
		end  func(*world, *Session)
	}{
		{reason.Expired, func(*world, *Session) { later(time.Minute) }},
		{reason.Evicted, func(w *world, _ *Session) {
			for range 10 {
				w.Park([]*Cursor{w.open("/")}, time.Minute, "cut")
			}
		}},
		{reason.BufferFull, func(w *world, s *Session) { w.Close(s, reason.BufferFull) }},
		{reason.ServerDisconnect, func(w *world, s *Session) { w.Close(s, reason.ServerDisconnect) }},
		{reason.ClientDisconnect, func(w *world, s *Session) { w.Close(s, reason.ClientDisconnect) }},
		{reason.UpstreamLost, func(w *world, s *Session) { w.Close(s, reason.UpstreamLost) }},
		{reason.BadOffset, func(w *world, s *Session) { w.AbortParked(s.PID(), "/", reason.BadOffset) }},
		{reason.ServerDisconnect, func(w *world, s *Session) { // the first reason counts
			w.Close(s, reason.ServerDisconnect)
			w.Close(s, reason.UpstreamLost)
		}},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprintf("%d %s", i, tt.want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, roomy, 10)
				s := w.parked(1)
				tt.end(w, s)
				for range 2 { // the reason is still known after the first time
					if r := w.resume(s, ""); r.Refused != tt.want || r.Cursor != nil || r.Takeover != nil {
						t.Errorf("%+v, want refused as %s", r, tt.want)
					}
				}
				w.finish()
			})
		})
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	w := newWorld(t, roomy, 10)
	first := w.New(w.link, "/", &client{1}, true)
	w.Close(first.s, reason.ServerDisconnect)
	for range rememberedEnds {
		w.Close(w.New(w.link, "/", &client{1}, true).s, reason.ServerDisconnect)
	}
	if r := w.resume(first.s, ""); r.Refused != reason.UnknownPID {
		t.Errorf("%+v, want it forgotten", r)
	}
	w.finish()
}

func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 3)
		var c [6]*Cursor
		for i := range c {
			c[i] = w.open(fmt.Sprint("/", i))
		}
		w.Park([]*Cursor{c[0]}, maxAway, "cut")
		w.Park([]*Cursor{c[1], c[2]}, maxAway, "cut")
		// The one that came back and was parked again is the most recent.
		w.Park([]*Cursor{w.mustResume(c[0].s, "")}, maxAway, "cut")
		w.noted()

		w.Park([]*Cursor{c[3]}, maxAway, "cut")
		equal(t, "the observer was told", w.noted(), []string{"/3 parked: cut", "/1 ended: evicted, was parked, 0 packets"})
		equal(t, "the link was told", w.link.told(), []string{"evicted: /1"})
		w.Park([]*Cursor{c[4], c[5]}, maxAway, "cut")
		equal(t, "the link was told", w.link.told(), []string{"evicted: /0 /2"})
		if _, parked := w.Counts(); parked != 3 {
			t.Errorf("%d are parked, want 3", parked)
		}
		later(maxAway)
		told := w.link.told() // both timers are due at the same time
		slices.Sort(told)
		equal(t, "the link was told", told, []string{"expired: /3", "expired: /4 /5"})
		w.finish()
	})
}

// One client may have more sessions than may be parked in all.
func TestEvictionOfThoseParkedTogether(t *testing.T) {
	for _, limit := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := newWorld(t, roomy, limit)
			a, b, c := w.open("/a"), w.open("/b"), w.open("/c")
			w.Park([]*Cursor{a, b, c}, maxAway, "cut")
			if _, parked := w.Counts(); parked != max(limit, 1) || c.s.State() != Parked || a.s.State() != Closed {
				t.Errorf("%d are parked; the first is %v, the last %v", parked, a.s.State(), c.s.State())
			}
			w.finish()
		})
	}
}

func TestEvictForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		w.Registry = NewRegistry(roomy, 10, buffer.NewBudget(3000), w)
		bigs := 0
		big := func() *buffer.Packet { // no two are equal, or logs would share them
			bigs++
			return withOffset(strings.Repeat("x", 900) + fmt.Sprint(100+bigs))
		}
		var c [4]*Cursor
		for i := range c {
			c[i] = w.open(fmt.Sprint("/", i))
			w.Park([]*Cursor{c[i]}, maxAway, "cut")
		}
		for _, i := range []int{3, 2, 1} { // the one parked longest has nothing
			w.append(c[i].s, big())
		}
		w.EvictForMemory()
		equal(t, "within the budget", w.link.told(), nil)
		w.append(c[3].s, big())
		w.EvictForMemory()
		equal(t, "the one parked longest that holds something", w.link.told(), []string{"evicted: /1"})

		live := w.open("/live")
		for range 20 {
			w.append(live.s, big())
		}
		w.EvictForMemory()
		equal(t, "all that hold something", w.link.told(), []string{"evicted: /2 /3"})
		if c[0].s.State() != Parked || live.s.State() != Live || w.link.readPaused() != 1 {
			t.Errorf("the one that holds nothing is %v, the live one %v; paused %d", c[0].s.State(), live.s.State(), w.link.readPaused())
		}

		w.append(c[0].s, big())
		w.EvictForMemory()
		equal(t, "looked at again immediately", w.link.told(), nil)
		time.Sleep(sweepEvery)
		w.EvictForMemory()
		equal(t, "looked at again", w.link.told(), []string{"evicted: /0"})
		w.finish()
	})
}

// A client returns after Append reported a full session and before that is closed. It has missed
// nothing, and must keep the session.
func TestResumedBeforeItIsClosedForItsBuffer(t *testing.T) {
	limits := Limits{MaxPackets: 2, MaxBytes: 1 << 20, WindowBytes: 1 << 19}
	w := newWorld(t, limits, 10)
	s := w.parked(2)
	if _, err := s.Append(withOffset("3")); !errors.Is(err, ErrFull) {
		t.Fatalf("%v, want ErrFull", err)
	}
	c := w.mustResume(s, "")
	w.Close(s, reason.BufferFull)
	if s.State() != Live || !c.Attached() {
		t.Fatalf("%v", s.State())
	}
	equal(t, "the client reads", read(c, 10).data, []string{"1", "2", "3"})
	equal(t, "the link was told", w.link.told(), nil)
	w.finish()
}

// One call tells a link about all its sessions that end together for one reason.
func TestEndedTogether(t *testing.T) {
	w := newWorld(t, roomy, 10)
	other := &link{t: t}
	never := func(up Upstream, namespace string) *Cursor { return w.New(up, namespace, &client{1}, false) }
	w.Park([]*Cursor{w.open("/a"), never(w.link, "/b"), never(w.link, "/c"), never(other, "/d")}, 0, "cut")
	told := w.link.told()
	slices.Sort(told)
	equal(t, "the link was told", told, []string{"expired: /a", "not_parked: /b /c"})
	equal(t, "the other link was told", other.told(), []string{"not_parked: /d"})
	w.finish()
}

func TestAbort(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	first := w.open("/chat")
	w.Park([]*Cursor{first}, time.Minute, "test")
	w.noted()
	w.Abort(c, reason.Internal)
	w.Abort(first, reason.Internal)
	if got, want := w.noted(), []string{"/ ended: internal, was live, 0 packets"}; !slices.Equal(got, want) {
		t.Errorf("the observer was told %q, want %q", got, want)
	}
	if got, want := w.link.told(), []string{"internal: /"}; !slices.Equal(got, want) {
		t.Errorf("the link was told %q, want %q", got, want)
	}
	if got := w.Resume(Claim{PID: c.Session().PID(), Namespace: "/"}, &client{2}); got.Refused != reason.Internal {
		t.Errorf("resumed: %+v, want it refused as internal", got)
	}
	w.Close(first.Session(), reason.UpstreamLost) // its timer ends with it
}

// brokenLink is an Upstream that panics when it is told about closed sessions.
type brokenLink struct{ link }

func (*brokenLink) SessionsClosed([]*Session, reason.Reason) { panic("broken") }

func TestPanicAtExpiryIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		c := w.New(&brokenLink{}, "/", &client{1}, true)
		w.Park([]*Cursor{c}, time.Minute, "test")
		w.noted()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := w.noted(), []string{"/ ended: expired, was parked, 0 packets", "panicked: broken, with 1 sessions"}; !slices.Equal(got, want) {
			t.Errorf("the observer was told %q, want %q", got, want)
		}
		if live, parked := w.Counts(); live+parked != 0 { // no lock is still held
			t.Errorf("%d sessions live, %d parked, want none", live, parked)
		}
	})
}
