package session

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

const maxAway = 2 * time.Minute

// later lets time pass, and waits for timers that are due.
func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestTransitions checks what each action does to a session in each state.
func TestTransitions(t *testing.T) {
	type action struct {
		name string
		do   func(w *world, c *Cursor)
	}
	var (
		park      = action{"park", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, maxAway, "cut") }}
		noTime    = action{"park for no time", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, 0, "cut") }}
		resume    = action{"resume", func(w *world, c *Cursor) { w.resume(c.s, "") }}
		refused   = action{"resume, refused", func(w *world, c *Cursor) { w.resume(c.s, offsetOf(c.s, 9)) }}
		abort     = action{"abort while parked", func(w *world, c *Cursor) { w.AbortParked(c.s.PID(), "/", reason.BadOffset) }}
		elsewhere = action{"abort in another namespace", func(w *world, c *Cursor) { w.AbortParked(c.s.PID(), "/x", reason.BadOffset) }}
		server    = action{"server disconnects", func(w *world, c *Cursor) { w.Close(c.s, reason.ServerDisconnect) }}
		client    = action{"client disconnects", func(w *world, c *Cursor) { w.Close(c.s, reason.ClientDisconnect) }}
		lost      = action{"link dies", func(w *world, c *Cursor) { w.Close(c.s, reason.UpstreamLost) }}
		full      = action{"over the limit", func(w *world, c *Cursor) { w.Close(c.s, reason.BufferFull) }}
		almost    = action{"time passes", func(*world, *Cursor) { later(maxAway - 1) }}
		tooLong   = action{"too much time passes", func(*world, *Cursor) { later(maxAway) }}
		forMemory = action{"evict for memory", func(w *world, _ *Cursor) { w.EvictForMemory() }}
		nothing   = action{"nothing", func(*world, *Cursor) {}}
	)
	tests := []struct {
		from   State
		action action
		want   State
		ended  reason.Reason // what the Observer is told
		told   bool          // whether the link is
	}{
		{Live, park, Parked, "", false},
		{Live, noTime, Closed, reason.Expired, true},
		{Live, resume, Live, "", false}, // asks for a takeover
		{Live, refused, Live, "", false},
		{Live, abort, Live, "", false},
		{Live, server, Closed, reason.ServerDisconnect, false},
		{Live, client, Closed, reason.ClientDisconnect, false},
		{Live, lost, Closed, reason.UpstreamLost, false},
		{Live, full, Live, "", false},
		{Live, tooLong, Live, "", false},
		{Live, forMemory, Live, "", false},

		{Parked, park, Parked, "", false}, // by its previous client, again
		{Parked, noTime, Parked, "", false},
		{Parked, resume, Live, "", false},
		{Parked, refused, Parked, "", false},
		{Parked, abort, Closed, reason.BadOffset, true},
		{Parked, elsewhere, Parked, "", false},
		{Parked, server, Closed, reason.ServerDisconnect, false},
		{Parked, client, Closed, reason.ClientDisconnect, false},
		{Parked, lost, Closed, reason.UpstreamLost, false},
		{Parked, full, Closed, reason.BufferFull, true},
		{Parked, almost, Parked, "", false},
		{Parked, tooLong, Closed, reason.Expired, true},
		{Parked, forMemory, Parked, "", false},

		{Closed, park, Closed, "", false},
		{Closed, noTime, Closed, "", false},
		{Closed, resume, Closed, "", false},
		{Closed, abort, Closed, "", false},
		{Closed, server, Closed, "", false},
		{Closed, client, Closed, "", false},
		{Closed, lost, Closed, "", false},
		{Closed, full, Closed, "", false},
		{Closed, tooLong, Closed, "", false},
		{Closed, nothing, Closed, "", false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v/%s", tt.from, tt.action.name), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, roomy, 10)
				c := w.open("/")
				switch tt.from {
				case Parked:
					park.do(w, c)
				case Closed:
					server.do(w, c)
				case Live:
				}
				if got := c.s.State(); got != tt.from {
					t.Fatalf("%v at first, want %v", got, tt.from)
				}
				w.noted()
				tt.action.do(w, c)
				if got := c.s.State(); got != tt.want {
					t.Errorf("%v, want %v", got, tt.want)
				}
				var ended, told []string
				if tt.ended != "" {
					ended = []string{fmt.Sprintf("/ ended: %s, was %v, 0 packets", tt.ended, tt.from)}
				}
				if tt.told {
					told = []string{string(tt.ended) + ": /"}
				}
				if tt.want == Parked && tt.from == Live {
					ended = []string{"/ parked: cut"}
				}
				equal(t, "the observer was told", w.noted(), ended)
				equal(t, "the link was told", w.link.told(), told)
				live, parked := w.Counts()
				if want := (map[State][2]int{Live: {1, 0}, Parked: {0, 1}, Closed: {0, 0}})[tt.want]; want != [2]int{live, parked} {
					t.Errorf("counts: %d live, %d parked; want %v", live, parked, want)
				}
				w.finish()
			})
		})
	}
}

func TestSetLimits(t *testing.T) {
	w := newWorld(t, roomy, 3)
	cursors := []*Cursor{w.open("/a"), w.open("/b"), w.open("/c"), w.open("/d")}
	w.Park(cursors[:3], maxAway, "cut")
	w.append(cursors[0].s, withOffset("1"))
	w.append(cursors[0].s, withOffset("2"))

	smaller := roomy
	smaller.MaxPackets, smaller.ReplayAckRequested = 2, true
	w.SetLimits(smaller, 2)
	if _, parked := w.Counts(); parked != 3 {
		t.Errorf("%d sessions are parked after the change, want all three", parked)
	}
	if _, err := cursors[0].s.Append(withOffset("3")); !errors.Is(err, ErrFull) {
		t.Errorf("a packet over the new limit: %v, want ErrFull", err)
	}
	w.Park(cursors[3:], maxAway, "cut")
	if _, parked := w.Counts(); parked != 2 {
		t.Errorf("%d sessions are parked after one more, want the new limit of 2", parked)
	}
	c := w.mustResume(cursors[3].s, "")
	w.append(c.s, ackRequested(1, "again"))
	read(c, 1)
	w.Park([]*Cursor{c}, maxAway, "cut")
	c = w.mustResumeAs(c.s, &client{3})
	equal(t, "a question that may have arrived is sent again", read(c, 1).data, []string{"again"})
	w.finish()
}
