package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

func TestParkedSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		c := w.open("/")
		w.append(c.s, withOffset("a"))
		w.Park([]*Cursor{c}, maxAway, "cut")
		later(maxAway - time.Nanosecond)
		wantState(t, "before the limit", c.s, Parked)
		later(time.Nanosecond)
		wantState(t, "at the limit", c.s, Closed)
		if n := w.budget.Bytes(); n != 0 {
			t.Errorf("%d bytes are held", n)
		}
		if r := w.resume(c.s, ""); r.Refused != reason.Expired {
			t.Errorf("a client that comes too late: %+v", r)
		}
		w.finish()
	})
}

func TestResumeStopsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		c := w.open("/")
		w.Park([]*Cursor{c}, maxAway, "cut")
		later(maxAway - time.Nanosecond)
		r := w.resume(c.s, "")
		if r.Cursor == nil || r.Away != maxAway-time.Nanosecond {
			t.Fatalf("just before the limit: %+v", r)
		}
		later(maxAway)
		wantState(t, "after the previous limit", c.s, Live)
		w.Park([]*Cursor{r.Cursor}, maxAway, "cut")
		later(maxAway - time.Nanosecond)
		wantState(t, "parked again, before the limit", c.s, Parked)
		later(time.Nanosecond)
		wantState(t, "parked again, at the limit", c.s, Closed)
		w.finish()
	})
}

func TestParkedTogetherExpireTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		other := &link{t: t}
		a, b, back := w.open("/a"), w.open("/b"), w.open("/back")
		elsewhere := w.New(other, "/elsewhere", &client{1}, true)
		w.Park([]*Cursor{a, b, back, elsewhere, b}, maxAway, "cut")
		later(time.Second)
		mine := w.open("/mine") // parked later: expires later
		w.Park([]*Cursor{mine}, maxAway, "cut")
		w.mustResume(back.s, "")
		w.noted()

		later(maxAway - time.Second)
		equal(t, "the link was told", w.link.told(), []string{"expired: /a /b"})
		equal(t, "the other link was told", other.told(), []string{"expired: /elsewhere"})
		if back.s.State() != Live || mine.s.State() != Parked {
			t.Errorf("the one that came back is %v, the one parked later %v", back.s.State(), mine.s.State())
		}
		later(time.Second)
		equal(t, "the link was told", w.link.told(), []string{"expired: /mine"})
		w.finish()
	})
}
