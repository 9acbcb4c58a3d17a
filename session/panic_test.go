package session

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// panickyLink is an Upstream in which some calls panic.
type panickyLink struct {
	link
	parked, resumed, paused, closed bool
}

func (l *panickyLink) SessionParked(s *Session, why reason.Reason, d time.Duration) {
	if l.parked {
		panic("parked")
	}
	l.link.SessionParked(s, why, d)
}

func (l *panickyLink) SessionResumed(s *Session, away time.Duration, missed int) {
	if l.resumed {
		panic("resumed")
	}
	l.link.SessionResumed(s, away, missed)
}

func (l *panickyLink) SetReadPaused(paused bool) {
	if l.paused {
		panic("paused")
	}
	l.link.SetReadPaused(paused)
}

func (l *panickyLink) SessionsClosed(closed []*Session, why reason.Reason) {
	l.link.SessionsClosed(closed, why)
	if l.closed {
		panic("closed")
	}
}

// panics runs fn, which must panic.
func panics(t *testing.T, fn func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	fn()
}

// checkNothingLeft checks that no session is left.
func (w *world) checkNothingLeft() {
	w.t.Helper()
	if live, parked := w.Counts(); live != 0 || parked != 0 {
		w.t.Errorf("%d sessions are live, %d parked", live, parked)
	}
	if len(w.byPID) != 0 {
		w.t.Errorf("the registry knows %d pids", len(w.byPID))
	}
	if b := w.budget; b.Packets() != 0 || b.Bytes() != 0 {
		w.t.Errorf("%d packets and %d bytes are in memory", b.Packets(), b.Bytes())
	}
}

func TestPanicWhileASessionIsParked(t *testing.T) {
	for name, set := range map[string]func(l *panickyLink){
		"the link is told":   func(l *panickyLink) { l.parked = true },
		"the link is paused": func(l *panickyLink) { l.paused = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := roomy
				limits.WindowBytes = 100
				w := newWorld(t, limits, 10)
				up := &panickyLink{link: link{t: t}}
				var cursors []*Cursor
				for _, namespace := range []string{"/a", "/b", "/c"} {
					c := w.New(up, namespace, &client{1}, true)
					w.append(c.s, withOffset("a packet that makes the session's link pause"))
					cursors = append(cursors, c)
				}
				set(up)
				panics(t, func() { w.Park(cursors, time.Minute, reason.TransportClose) })
				up.paused = false
				for _, c := range cursors {
					if r := w.Resume(Claim{PID: c.s.PID(), Namespace: c.s.Namespace()}, &client{2}); r.Refused != reason.Internal {
						t.Errorf("%s: %+v", c.s.Namespace(), r)
					}
				}
				equal(t, "the link is told", up.told(), []string{"internal: /a /b /c"})
				w.checkNothingLeft()
			})
		})
	}
}

func TestPanicWhileASessionIsResumed(t *testing.T) {
	for name, set := range map[string]func(w *world, l *panickyLink){
		"the link is told": func(_ *world, l *panickyLink) { l.resumed = true },
		"retention": func(w *world, _ *panickyLink) {
			w.limits().Retention = func(string, []byte) (Retention, []byte) { panic("retention") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			up := &panickyLink{link: link{t: t}}
			c := w.New(up, "/", &client{1}, true)
			w.append(c.s, withOffset("packet"))
			w.Park([]*Cursor{c}, time.Minute, reason.TransportClose)
			set(w, up)
			panics(t, func() { w.resume(c.s, "") })
			if r := w.resume(c.s, ""); r.Refused != reason.Internal || c.s.State() != Closed {
				t.Errorf("%+v, and the session is %v", r, c.s.State())
			}
			equal(t, "the link is told", up.told(), []string{"internal: /"})
			w.checkNothingLeft()
		})
	}
}

// After one link's panic the other links are told, and all logs released.
func TestPanicWhileSessionsAreClosed(t *testing.T) {
	w := newWorld(t, roomy, 10)
	var links []*panickyLink
	var cursors []*Cursor
	for range 3 {
		up := &panickyLink{link: link{t: t}, closed: true}
		c := w.New(up, "/", &client{1}, true)
		w.append(c.s, withOffset("packet"))
		links, cursors = append(links, up), append(cursors, c)
	}
	panics(t, func() { w.Park(cursors, 0, reason.TransportClose) })
	for _, up := range links {
		equal(t, "the link is told", up.told(), []string{"expired: /"})
	}
	w.checkNothingLeft()
}

func TestEachContinuesAfterAPanic(t *testing.T) {
	var got []int
	panics(t, func() {
		each([]int{1, 2, 3, 4}, func(n int) {
			got = append(got, n)
			if n%2 == 0 {
				panic(n)
			}
		})
	})
	if !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Errorf("fn was called for %v", got)
	}
}

// A client that is refused may have trimmed the log further than the index knows.
func TestSupersededEventIsGone(t *testing.T) {
	w := newRetentionWorld(t, roomy)
	c := w.open("/")
	w.append(c.s, withOffset("lx1"))
	w.append(c.s, withOffset("b"))
	read(c, 2)
	w.ParkDisconnected(c, time.Minute, &ClientDisconnect{})
	w.append(c.s, withOffset("c"))
	r := w.Resume(Claim{PID: c.s.PID(), Namespace: "/", Offset: offsetOf(c.s, 1)}, &client{1})
	if r.Refused != reason.ClientDisconnect {
		t.Fatalf("%+v", r)
	}
	w.append(c.s, withOffset("lx2"))
	if got := c.s.log.Packets(); got != 3 || w.budget.Packets() != 3 {
		t.Errorf("the log has %d packets, the budget %d; want b, c and lx2", got, w.budget.Packets())
	}
	if p := c.s.log.At(2); p.Kind() == buffer.Dropped {
		t.Error("b was dropped")
	}
	w.finish()
}
