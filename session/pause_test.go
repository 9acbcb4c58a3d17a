package session

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

func TestReadPause(t *testing.T) {
	const window = 10_000
	limits := Limits{MaxPackets: 1000, MaxBytes: 1 << 20, WindowBytes: window}
	big := withOffset(strings.Repeat("x", window/4)) // four of them reach the window, two are more than half of it
	fill := func(t *testing.T) (*world, *Cursor) {
		w := newWorld(t, limits, 10)
		c := w.open("/")
		for i := range 4 {
			if w.link.readPaused() != 0 {
				t.Fatalf("paused after %d packets", i)
			}
			w.append(c.Session(), big)
		}
		if w.link.readPaused() != 1 {
			t.Fatal("not paused at the window")
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
		{"aborted while parked", func(w *world, c *Cursor) {
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
				t.Errorf("paused by %d sessions, want %d", got, tt.want)
			}
			w.finish()
		})
	}
}

// Resuming with less than a window in the log must not pause the link in between.
func TestResumeDoesNotFlapReadPause(t *testing.T) {
	w := newWorld(t, Limits{MaxPackets: 1000, MaxBytes: 1 << 20, WindowBytes: 10_000}, 10)
	c := w.open("/")
	for range 4 {
		w.append(c.Session(), withOffset(strings.Repeat("x", 2500)))
	}
	read(c, 4)
	w.Park([]*Cursor{c}, time.Minute, "cut")
	w.mustResume(c.Session(), offsetOf(c.Session(), 3))
	if w.link.pauses != 1 {
		t.Errorf("the link was paused %d times, want once, before the cut", w.link.pauses)
	}
	w.finish()
}

// The window is smaller while the budget is exceeded.
func TestReadPauseWhileBudgetIsExceeded(t *testing.T) {
	w := newWorld(t, roomy, 10)
	w.Registry = NewRegistry(roomy, 10, buffer.NewBudget(scarceWindowBytes/2), w)
	c := w.open("/")
	w.append(c.Session(), withOffset(strings.Repeat("x", scarceWindowBytes*3/4)))
	if w.link.readPaused() != 0 {
		t.Error("paused below what is always allowed")
	}
	w.append(c.Session(), withOffset(strings.Repeat("x", scarceWindowBytes*3/8)))
	if w.link.readPaused() != 1 {
		t.Error("not paused though memory is scarce")
	}
	read(c, 2)
	c.Confirm(1)
	if w.link.readPaused() != 0 {
		t.Error("paused though memory is there again")
	}
	w.finish()
}
