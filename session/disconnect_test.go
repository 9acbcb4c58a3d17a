package session

import (
	"testing"
	"testing/synctest"

	"github.com/holdfast/holdfast/internal/reason"
)

// disconnected returns a session that client 1 sent a DISCONNECT for. It had been sent three events
// and one that asks for an acknowledgement. The first event was confirmed.
func disconnected(w *world) (*Session, *Cursor) {
	var g ClientDisconnect
	g.LastSession()
	c := w.open("/")
	for _, p := range []string{"1", "2", "3"} {
		w.append(c.s, withOffset(p))
	}
	w.append(c.s, ackRequested(1, "4"))
	read(c, 4)
	c.Confirm(1)
	w.ParkDisconnected(c, maxAway, &g)
	return c.s, c
}

// What a client does after its DISCONNECT confirms nothing.
func TestParkDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		s, previous := disconnected(w)
		equal(t, "the observer is told", w.noted(), []string{"/ parked: client_disconnect"})
		equal(t, "and the link", w.link.moves, []string{"/ parked: client_disconnect, for 2m0s"})
		previous.Confirm(4)
		previous.Acknowledged(1)
		w.Park([]*Cursor{previous}, 0, "cut") // its connection ends
		w.append(s, withOffset("5"))
		c := w.mustResume(s, offsetOf(s, 1))
		equal(t, "what it missed", read(c, 10).data, []string{"2", "3", "5"})

		// From now on the session is like any other.
		c.Confirm(5)
		w.Park([]*Cursor{c}, maxAway, "cut")
		w.append(s, withOffset("6"))
		equal(t, "after a drop", read(w.mustResume(s, offsetOf(s, 3)), 10).data, []string{"6"})
		w.finish()
	})
}

func TestDisconnectedSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		s, _ := disconnected(w)
		later(maxAway)
		if s.State() != Closed {
			t.Errorf("%v after its time", s.State())
		}
		equal(t, "the link is told", w.link.told(), []string{"expired: /"})
		w.finish()
	})
}

// A client that sent a DISCONNECT may have ignored what is confirmed. It returns over another
// connection, or the same.
func TestResumeAfterADisconnect(t *testing.T) {
	later, same := &client{2}, &client{1}
	last, arrived := (*ClientDisconnect).LastSession, (*ClientDisconnect).AllArrived
	type known []func(*ClientDisconnect)
	tests := []struct {
		name    string
		owner   Owner
		offset  uint64 // 0 for none
		confirm uint64 // before its DISCONNECT
		known   known
		soon    bool
		want    []string // what is sent; nil if it is refused
	}{
		{"another connection, all is unconfirmed", later, 0, 0, known{last}, false, []string{"1", "2", "3", "5"}},
		{"another connection, some is confirmed", later, 1, 1, known{last}, false, []string{"2", "3", "5"}},
		{"another connection, it has more than is confirmed", later, 2, 1, known{last}, false, []string{"3", "5"}},
		{"another connection, it has ignored what is confirmed", later, 1, 2, known{last}, false, nil},
		{"another connection, it has ignored all that is confirmed", later, 0, 1, known{last}, false, nil},
		{"another connection, it has all events", later, 3, 4, known{}, false, []string{"5"}},
		{"another connection, others kept the first, some were on their way", later, 2, 0, known{}, false, nil},
		{"another connection, others kept the first, some had been", later, 2, 0, known{arrived}, false, []string{"3", "5"}},
		{"the same one, it has all events", same, 3, 0, known{}, true, []string{"5"}},
		{"the same one, some were on their way", same, 2, 0, known{}, false, nil},
		{"the same one, though it has no other session", same, 2, 0, known{last}, false, nil},
		{"the same one, some had been a moment ago", same, 2, 0, known{arrived}, true, nil},
		{"the same one, some had been", same, 2, 0, known{arrived}, false, []string{"3", "5"}},
		{"the same one, it has ignored what is confirmed", same, 2, 3, known{arrived}, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			c := w.open("/")
			for _, p := range []string{"1", "2", "3"} {
				w.append(c.s, withOffset(p))
			}
			w.append(c.s, ackRequested(1, "4"))
			read(c, 4)
			c.Confirm(tt.confirm)
			var g ClientDisconnect
			w.ParkDisconnected(c, maxAway, &g)
			for _, tell := range tt.known {
				tell(&g)
			}
			w.append(c.s, withOffset("5")) // was not sent, so no client can have buffered it
			claim := Claim{PID: c.s.PID(), Namespace: "/", DisconnectedRecently: tt.soon}
			if tt.offset > 0 {
				claim.Offset = offsetOf(c.s, tt.offset)
			}
			r := w.Resume(claim, tt.owner)
			switch {
			case tt.want == nil:
				if r.Cursor != nil || r.Refused != reason.ClientDisconnect || c.s.State() != Parked {
					t.Errorf("%+v, and it is %v; want it refused, and parked", r, c.s.State())
				}
				w.AbortParked(c.s.PID(), "/", r.Refused)
				equal(t, "the link is told", w.link.told(), []string{"client_disconnect: /"})
			case r.Cursor == nil:
				t.Errorf("refused: %+v", r)
			default:
				equal(t, "what is sent", read(r.Cursor, 10).data, tt.want)
			}
			w.finish()
		})
	}
}

// A client that connects again ends only the session that it disconnected, and only if it was the
// last client that had it.
func TestAbortDisconnected(t *testing.T) {
	w := newWorld(t, roomy, 10)
	s, _ := disconnected(w)
	if !s.DisconnectedBy(&client{1}) || s.DisconnectedBy(&client{2}) {
		t.Error("it is not known who left the session")
	}
	w.AbortDisconnected(s, &client{2})
	c := w.mustResume(s, offsetOf(s, 3))
	w.AbortDisconnected(s, &client{1})
	if s.State() != Live || s.DisconnectedBy(&client{1}) {
		t.Errorf("%v after it was another client's", s.State())
	}
	w.Park([]*Cursor{c}, maxAway, "cut")
	w.AbortDisconnected(s, &client{1})
	w.AbortDisconnected(s, &client{2}) // its connection was lost
	if s.State() != Parked {
		t.Errorf("%v, want Parked", s.State())
	}
	s, _ = disconnected(w)
	w.AbortDisconnected(s, &client{1})
	if s.State() != Closed {
		t.Errorf("%v, want Closed", s.State())
	}
	equal(t, "the link is told", w.link.told(), []string{"client_disconnect: /"})
	w.finish()
}
