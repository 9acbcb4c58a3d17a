package session

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/buffer"
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
		park     = action{"park", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, maxAway, "cut") }}
		noTime   = action{"park for no time", func(w *world, c *Cursor) { w.Park([]*Cursor{c}, 0, "cut") }}
		resume   = action{"resume", func(w *world, c *Cursor) { w.resume(c.s, "") }}
		refused  = action{"resume, refused", func(w *world, c *Cursor) { w.resume(c.s, offsetOf(c.s, 9)) }}
		abandon  = action{"abandon", func(w *world, c *Cursor) { w.AbortParked(c.s.PID(), "/", reason.BadOffset) }}
		elsewhr  = action{"abandon in another namespace", func(w *world, c *Cursor) { w.AbortParked(c.s.PID(), "/x", reason.BadOffset) }}
		server   = action{"server disconnects", func(w *world, c *Cursor) { w.Close(c.s, reason.ServerDisconnect) }}
		client   = action{"client disconnects", func(w *world, c *Cursor) { w.Close(c.s, reason.ClientDisconnect) }}
		lost     = action{"link dies", func(w *world, c *Cursor) { w.Close(c.s, reason.UpstreamLost) }}
		full     = action{"over the limit", func(w *world, c *Cursor) { w.Close(c.s, reason.BufferFull) }}
		almost   = action{"time passes", func(*world, *Cursor) { later(maxAway - 1) }}
		tooLong  = action{"too much time passes", func(*world, *Cursor) { later(maxAway) }}
		relieved = action{"relief", func(w *world, _ *Cursor) { w.EvictForMemory() }}
		nothing  = action{"nothing", func(*world, *Cursor) {}}
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
		{Live, abandon, Live, "", false},
		{Live, server, Closed, reason.ServerDisconnect, false},
		{Live, client, Closed, reason.ClientDisconnect, false},
		{Live, lost, Closed, reason.UpstreamLost, false},
		{Live, full, Live, "", false},
		{Live, tooLong, Live, "", false},
		{Live, relieved, Live, "", false},

		{Parked, park, Parked, "", false}, // by its previous client, again
		{Parked, noTime, Parked, "", false},
		{Parked, resume, Live, "", false},
		{Parked, refused, Parked, "", false},
		{Parked, abandon, Closed, reason.BadOffset, true},
		{Parked, elsewhr, Parked, "", false},
		{Parked, server, Closed, reason.ServerDisconnect, false},
		{Parked, client, Closed, reason.ClientDisconnect, false},
		{Parked, lost, Closed, reason.UpstreamLost, false},
		{Parked, full, Closed, reason.BufferFull, true},
		{Parked, almost, Parked, "", false},
		{Parked, tooLong, Closed, reason.Expired, true},
		{Parked, relieved, Parked, "", false},

		{Closed, park, Closed, "", false},
		{Closed, noTime, Closed, "", false},
		{Closed, resume, Closed, "", false},
		{Closed, abandon, Closed, "", false},
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

func TestParkedSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		c := w.open("/")
		w.append(c.s, withOffset("a"))
		w.Park([]*Cursor{c}, maxAway, "cut")
		later(maxAway - time.Nanosecond)
		if got := c.s.State(); got != Parked {
			t.Fatalf("before the limit: %v, want Parked", got)
		}
		later(time.Nanosecond)
		if got := c.s.State(); got != Closed {
			t.Fatalf("at the limit: %v, want Closed", got)
		}
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
		if got := c.s.State(); got != Live {
			t.Fatalf("after the previous limit: %v, want Live", got)
		}
		w.Park([]*Cursor{r.Cursor}, maxAway, "cut")
		later(maxAway - time.Nanosecond)
		if got := c.s.State(); got != Parked {
			t.Fatalf("parked again, before the limit: %v, want Parked", got)
		}
		later(time.Nanosecond)
		if got := c.s.State(); got != Closed {
			t.Fatalf("parked again, at the limit: %v, want Closed", got)
		}
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

func TestBinding(t *testing.T) {
	const right, wrong = Binding("right"), Binding("wrong")
	tests := []struct {
		name           string
		bound, present Binding
		offset         uint64
		refused        reason.Reason
	}{
		{"right", right, right, 0, ""},
		{"of none", "", "", 0, ""},
		{"wrong", right, wrong, 0, reason.Binding},
		{"absent", right, "", 0, reason.Binding},
		{"of a session that has none", "", right, 0, reason.Binding},
		{"a part", right, right[:3], 0, reason.Binding},
		{"wrong, as the offset is", right, wrong, 99, reason.Binding},
	}
	for _, tt := range tests {
		for _, live := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/live %v", tt.name, live), func(t *testing.T) {
				w := newWorld(t, roomy, 10)
				c := w.open("/")
				c.s.Bind(tt.bound)
				w.append(c.s, withOffset("1"))
				want := Live
				if !live {
					w.Park([]*Cursor{c}, maxAway, "cut")
					want = Parked
				}
				claim := Claim{PID: c.s.PID(), Namespace: "/", Binding: tt.present}
				if tt.offset > 0 {
					claim.Offset = offsetOf(c.s, tt.offset)
				}
				r := w.Resume(claim, &client{2})
				if r.Refused != tt.refused {
					t.Fatalf("%+v, want refused %q", r, tt.refused)
				}
				if tt.refused == "" {
					w.finish()
					return
				}
				if r.Cursor != nil || r.Takeover != nil || c.s.State() != want {
					t.Errorf("refused, but %+v, and the session is %v", r, c.s.State())
				}
				if live && !c.Attached() {
					t.Error("its client has lost it")
				}
				w.finish()
			})
		}
	}
}

func TestResumeOffsets(t *testing.T) {
	// Four packets, of which three were sent, and the first was confirmed.
	tests := []struct {
		name    string
		offset  func(*Session) string
		foreign bool
		want    []string
		refused reason.Reason
	}{
		{"none", func(*Session) string { return "" }, false, []string{"2", "3", "4"}, ""},
		{"own", func(s *Session) string { return offsetOf(s, 2) }, false, []string{"3", "4"}, ""},
		{"own, all that was sent", func(s *Session) string { return offsetOf(s, 3) }, false, []string{"4"}, ""},
		{"own, what is confirmed", func(s *Session) string { return offsetOf(s, 1) }, false, []string{"2", "3", "4"}, ""},
		{"own, appended but not sent", func(s *Session) string { return offsetOf(s, 4) }, false, nil, reason.BadOffset},
		{"own, beyond the end", func(s *Session) string { return offsetOf(s, 5) }, false, nil, reason.BadOffset},
		{"own, far beyond", func(s *Session) string { return offsetOf(s, 1<<63-1) }, false, nil, reason.BadOffset},
		{"an earlier session's", func(*Session) string { return "hfAAAAAAAA2" }, false, []string{"2", "3", "4"}, ""},
		{"an earlier session's, large", func(*Session) string { return "hfAAAAAAAAzzz" }, false, []string{"2", "3", "4"}, ""},
		{"not of our making", func(*Session) string { return "" }, true, nil, reason.BadOffset},
		{"not of our making, beside our own", func(s *Session) string { return offsetOf(s, 3) }, true, []string{"4"}, ""},
		{"not of our making, beside an earlier session's", func(*Session) string { return "hfAAAAAAAA2" }, true, nil, reason.BadOffset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			c := w.open("/")
			s := c.s
			s.SetReply([]byte("reply"))
			for i := range 4 {
				w.append(s, withOffset(fmt.Sprint(i+1)))
			}
			read(c, 3)
			c.Confirm(1)
			w.Park([]*Cursor{c}, maxAway, "cut")
			r := w.Resume(Claim{PID: s.PID(), Namespace: "/", Offset: tt.offset(s), ForeignOffset: tt.foreign}, &client{2})
			if r.Refused != tt.refused {
				t.Fatalf("%+v, want refused %q", r, tt.refused)
			}
			if tt.refused != "" {
				if r.Cursor != nil || r.Takeover != nil || s.State() != Parked {
					t.Errorf("refused, but %+v, and the session is %v", r, s.State())
				}
				w.finish()
				return
			}
			if r.Missed != len(tt.want) || string(r.Reply) != "reply" {
				t.Errorf("%d missed, reply %q; want %d", r.Missed, r.Reply, len(tt.want))
			}
			w.append(s, withOffset("new"))
			var got received
			passed, last, done := r.Cursor.Read(10, &got)
			equal(t, "the client reads", got.data, append(tt.want, "new"))
			if passed != len(got.data) || last != 5 || !done || got.replays != len(tt.want) {
				t.Errorf("passed %d, last %d, replay done %v, %d replays", passed, last, done, got.replays)
			}
			w.finish()
		})
	}
}

func TestResumeUnknown(t *testing.T) {
	w := newWorld(t, roomy, 10)
	s := w.parked(1)
	if r := w.Resume(Claim{PID: newPID(""), Namespace: "/"}, &client{2}); r.Refused != reason.UnknownPID {
		t.Errorf("an unknown pid: %+v", r)
	}
	if r := w.Resume(Claim{PID: "", Namespace: "/"}, &client{2}); r.Refused != reason.UnknownPID {
		t.Errorf("no pid: %+v", r)
	}
	if r := w.Resume(Claim{PID: s.PID(), Namespace: "/other"}, &client{2}); r.Refused != reason.WrongNamespace {
		t.Errorf("another namespace: %+v", r)
	}
	equal(t, "its own client reads", read(w.mustResume(s, ""), 10).data, []string{"1"})

	never := w.New(w.link, "/", &client{1}, false)
	if r := w.Resume(Claim{PID: never.s.PID(), Namespace: "/"}, &client{2}); r.Refused != reason.UnknownPID {
		t.Errorf("a session without a pid was found: %+v", r)
	}
	w.Close(never.s, reason.UpstreamLost)
	w.finish()
}

func TestReplayDone(t *testing.T) {
	w := newWorld(t, roomy, 10)
	s := w.parked(3)
	c := w.mustResume(s, "")
	var r received
	for i, want := range []bool{false, false, true, false} {
		if i == 3 {
			w.append(s, withOffset("new"))
		}
		if _, _, done := c.Read(1, &r); done != want {
			t.Errorf("after %d packets: replay done %v, want %v", i+1, done, want)
		}
	}
	if r.replays != 3 {
		t.Errorf("%d packets were replays, want 3", r.replays)
	}
	w.finish()
}

func TestAskingPackets(t *testing.T) {
	// Sent: stamped 1, asking 2, plain 3, asking 4. Not sent: asking 5, stamped 6.
	packets := []*buffer.Packet{withOffset("1"), ackRequested(1, "2"), noOffset("3"), ackRequested(2, "4"), ackRequested(3, "5"), withOffset("6")}
	tests := []struct {
		name        string
		atLeastOnce bool
		confirmed   uint64
		answered    []int64
		want        []string
	}{
		{"at most once", false, 0, nil, []string{"3", "5", "6"}},
		{"at most once, answered", false, 0, []int64{1}, []string{"3", "5", "6"}},
		{"at most once, confirmed", false, 3, nil, []string{"5", "6"}},
		{"at least once", true, 0, nil, []string{"2", "3", "4", "5", "6"}},
		{"at least once, answered", true, 0, []int64{1}, []string{"3", "4", "5", "6"}},
		{"at least once, both answered", true, 0, []int64{2, 1}, []string{"5", "6"}},
		{"at least once, confirmed", true, 3, nil, []string{"4", "5", "6"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			limits := roomy
			limits.ReplayAckRequested = tt.atLeastOnce
			w := newWorld(t, limits, 10)
			c := w.open("/")
			for _, p := range packets {
				w.append(c.s, p)
			}
			offset := read(c, 4).offsets[0]
			c.Confirm(tt.confirmed)
			for _, id := range tt.answered {
				c.Acknowledged(id)
			}
			// The connection ends before anything is written, twice. What may have arrived stays
			// the same.
			w.Park([]*Cursor{c}, maxAway, "cut")
			c = w.mustResume(c.s, offset)
			w.Park([]*Cursor{c}, maxAway, "cut")
			r := w.resume(c.s, offset)
			var got received
			passed, last, done := r.Cursor.Read(r.Missed, &got)
			equal(t, "the client reads", got.data, tt.want)
			if passed != r.Missed || last != 6 || !done {
				t.Errorf("passed %d of %d, last %d, replay done %v", passed, r.Missed, last, done)
			}
			w.finish()
		})
	}
}

// It matters whether a packet was sent, but not to which client.
func TestAskingPacketSentDuringReplay(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	w.append(c.s, withOffset("1"))
	w.append(c.s, ackRequested(1, "2"))
	w.Park([]*Cursor{c}, maxAway, "cut")
	c = w.mustResume(c.s, "")
	equal(t, "the second client reads", read(c, 10).data, []string{"1", "2"})
	w.Park([]*Cursor{c}, maxAway, "cut")
	c = w.mustResume(c.s, "")
	equal(t, "the third client reads", read(c, 10).data, []string{"1"})
	w.finish()
}

// What a previous client may have received still counts if a later client was sent less.
func TestAskingPacketAfterCutReplay(t *testing.T) {
	w := newWorld(t, roomy, 10)
	c := w.open("/")
	for _, p := range []*buffer.Packet{withOffset("1"), withOffset("2"), ackRequested(1, "3"), withOffset("4")} {
		w.append(c.s, p)
	}
	read(c, 4)
	w.Park([]*Cursor{c}, maxAway, "cut")
	c = w.mustResume(c.s, "")
	equal(t, "the second client reads", read(c, 1).data, []string{"1"})
	w.Park([]*Cursor{c}, maxAway, "cut")
	c = w.mustResume(c.s, offsetOf(c.s, 1))
	equal(t, "the third client reads", read(c, 10).data, []string{"2", "4"})
	w.Park([]*Cursor{c}, maxAway, "cut")
	c = w.mustResume(c.s, "")
	equal(t, "the fourth client reads", read(c, 1).data, []string{"2"})
	w.Park([]*Cursor{c}, maxAway, "cut")
	if r := w.resume(c.s, offsetOf(c.s, 4)); r.Cursor == nil {
		t.Errorf("what an earlier client was sent is refused: %+v", r)
	}
	w.finish()
}
