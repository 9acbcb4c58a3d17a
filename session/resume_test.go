package session

import (
	"fmt"
	"testing"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

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

func TestAckRequestedPackets(t *testing.T) {
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
func TestAckRequestedSentDuringReplay(t *testing.T) {
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
func TestAckRequestedAfterCutReplay(t *testing.T) {
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
