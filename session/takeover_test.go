package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

func TestTakeover(t *testing.T) {
	w := newWorld(t, roomy, 10)
	first := w.open("/")
	s := first.s
	w.append(s, withOffset("a"))
	w.append(s, withOffset("b"))
	sent := read(first, 1)

	older, same := &client{0}, &client{1}
	for _, o := range []*client{older, same} {
		if r := w.Resume(Claim{PID: s.PID(), Namespace: "/", Offset: sent.offsets[0]}, o); r.Refused != reason.Stale || r.Takeover != nil || r.Cursor != nil {
			t.Errorf("handshake %d: %+v, want it refused as stale", o.handshake, r)
		}
	}
	r := w.resume(s, sent.offsets[0])
	if r.Takeover != first.Owner() || r.Cursor != nil || r.Refused != "" {
		t.Fatalf("a later handshake: %+v, want a takeover of the first client", r)
	}
	if !first.Attached() {
		t.Fatal("the session was given away before its client gave it up")
	}
	w.append(s, withOffset("c")) // meanwhile
	read(first, 1)
	w.Park([]*Cursor{first}, maxAway, "takeover")
	r = w.resume(s, sent.offsets[0])
	if r.Cursor == nil || r.Missed != 2 {
		t.Fatalf("after it was given up: %+v", r)
	}
	w.Park([]*Cursor{first}, maxAway, "late end of the old transport")
	equal(t, "the new client reads", read(r.Cursor, 10).data, []string{"b", "c"})
	if r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{1}); r.Refused != reason.Stale {
		t.Errorf("the first client's late CONNECT: %+v, want it refused as stale", r)
	}
	w.Park([]*Cursor{r.Cursor}, maxAway, "cut")
	if r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{1}); r.Refused != reason.Stale {
		t.Errorf("the first client's CONNECT after the second one's end: %+v, want it refused as stale", r)
	}
	back := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, r.Cursor.Owner())
	if back.Cursor == nil {
		t.Errorf("the second client once more, on the same connection: %+v", back)
	}
	w.finish()
}

func TestTakeoversAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := roomy
		limits.TakeoversPerMinute = 6
		w := newWorld(t, limits, 10)
		c := w.open("/")
		s := c.s
		handshake := uint64(1)
		take := func() reason.Reason {
			handshake++
			owner := &client{handshake}
			r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, owner)
			if r.Takeover != nil {
				w.Park([]*Cursor{c}, maxAway, "takeover")
				r = w.Resume(Claim{PID: s.PID(), Namespace: "/"}, owner)
				c = r.Cursor
			}
			return r.Refused
		}
		for i := range 6 {
			if got := take(); got != "" {
				t.Fatalf("takeover %d is refused: %s", i+1, got)
			}
		}
		if got := take(); got != reason.Limit || !c.Attached() {
			t.Errorf("one more: %q, and attached %v; want it refused, and the session where it was", got, c.Attached())
		}
		w.Park([]*Cursor{c}, maxAway, "cut") // resuming a parked session is not a takeover
		for range 20 {
			c = w.mustResumeAs(s, &client{handshake})
			w.Park([]*Cursor{c}, maxAway, "cut")
		}
		c = w.mustResumeAs(s, &client{handshake})
		later(10 * time.Second)
		if got := take(); got != "" {
			t.Errorf("ten seconds later: %s", got)
		}
		if got := take(); got != reason.Limit {
			t.Errorf("a second one then: %q", got)
		}
		w.finish()
	})
}

// In a takeover with a bad offset the previous client loses the session, although the new one is
// refused.
func TestTakeoverWithBadOffset(t *testing.T) {
	w := newWorld(t, roomy, 10)
	first := w.open("/")
	claim := Claim{PID: first.s.PID(), Namespace: "/", Offset: offsetOf(first.s, 99)}
	if r := w.Resume(claim, &client{2}); r.Takeover != first.Owner() {
		t.Fatalf("while the session is live: %+v, want a takeover", r)
	}
	w.Park([]*Cursor{first}, maxAway, "takeover")
	if r := w.Resume(claim, &client{2}); r.Refused != reason.BadOffset {
		t.Errorf("then: %+v, want a bad offset", r)
	}
	w.finish()
}
