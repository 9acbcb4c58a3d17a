package session

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

func TestOldestParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		start := time.Now()
		var cursors []*Cursor
		for i, namespace := range []string{"/a", "/b", "/c", "/d"} {
			cursors = append(cursors, w.New(w.link, namespace, &client{uint64(i)}, true))
		}
		for i, c := range cursors[:3] {
			time.Sleep(time.Second)
			w.Park([]*Cursor{c}, time.Minute, []reason.Reason{"ping_timeout", "transport_close", "going_away"}[i])
		}
		if _, err := cursors[1].Session().Append(&buffer.Packet{Data: []byte(`2["x"]`), Kind: buffer.WithOffset}); err != nil {
			t.Fatal(err)
		}
		want := []ParkedInfo{
			{Namespace: "/a", Since: start.Add(time.Second), Expires: start.Add(61 * time.Second), Reason: "ping_timeout"},
			{
				Namespace: "/b", Since: start.Add(2 * time.Second), Expires: start.Add(62 * time.Second), Reason: "transport_close",
				Packets: 1, Bytes: cursors[1].Session().log.Bytes(),
			},
		}
		if got := w.OldestParked(2); !slices.Equal(got, want) {
			t.Errorf("OldestParked(2) = %+v\nwant %+v", got, want)
		}
		if got := w.OldestParked(100); len(got) != 3 || got[2].Namespace != "/c" {
			t.Errorf("OldestParked(100) = %+v, want the three that are parked", got)
		}
		w.Resume(Claim{PID: cursors[0].Session().PID(), Namespace: "/a"}, &client{9})
		if got := w.OldestParked(1); len(got) != 1 || got[0].Namespace != "/b" {
			t.Errorf("OldestParked(1) = %+v, want /b: /a was resumed", got)
		}
		for _, c := range cursors {
			w.Close(c.Session(), reason.UpstreamLost)
		}
		if got := w.OldestParked(1); len(got) != 0 {
			t.Errorf("OldestParked(1) = %+v, want none", got)
		}
	})
}

// newParked returns a parkedLRU to which n sessions were added.
func newParked(n, size int) (*parkedLRU, []*Session) {
	l := newParkedLRU(size)
	all := make([]*Session, n)
	for i := range all {
		all[i] = &Session{state: Parked, parked: &parkedState{}}
		l.add(all[i])
	}
	return l, all
}

// visitAll visits all sessions, in steps.
func (l *parkedLRU) visitAll() (all []*Session, steps int) {
	for ticket, more := uint64(0), true; more; steps++ {
		ticket, more = l.visit(ticket, func(s *Session) bool {
			all = append(all, s)
			return true
		})
	}
	return all, steps
}

func TestParkedAreVisitedOldestFirst(t *testing.T) {
	l, all := newParked(3*lockedSteps, 3*lockedSteps)
	var want []*Session
	for i, s := range all {
		if i%3 == 0 { // leaves a gap
			s.state = Live
			l.remove(s)
			continue
		}
		want = append(want, s)
	}
	if got, _ := l.visitAll(); !slices.Equal(got, want) {
		t.Errorf("%d sessions were visited, want %d in their order", len(got), len(want))
	}
	if n := len(l.takeEvicted()); n != 0 {
		t.Errorf("%d sessions that left count as evicted", n)
	}
}

func TestOldestParkedIsEvicted(t *testing.T) {
	l, all := newParked(5, 3)
	if got := l.takeEvicted(); !slices.Equal(got, all[:2]) {
		t.Errorf("%d were evicted, want the first two", len(got))
	}
	l.resize(1)
	if got := l.takeEvicted(); !slices.Equal(got, all[2:4]) {
		t.Errorf("%d were evicted, want the next two", len(got))
	}
	l.resize(2)
	l.add(&Session{state: Parked, parked: &parkedState{}})
	if got := l.takeEvicted(); len(got) != 0 || l.len() != 2 {
		t.Errorf("%d were evicted, %d are parked; want room for two", len(got), l.len())
	}
}

// A session that stays while millions come and go does not make a visit long.
func TestTicketsAreRenumbered(t *testing.T) {
	l, all := newParked(2, 10)
	l.next += 2 * maxSpan
	s := &Session{state: Parked, parked: &parkedState{}}
	l.add(s)
	got, steps := l.visitAll()
	if !slices.Equal(got, append(all, s)) || steps > 2 {
		t.Errorf("%d sessions were visited in %d steps, want three in their order", len(got), steps)
	}
	for _, s := range got {
		s.state = Live
		l.remove(s)
	}
	if l.len() != 0 || len(l.takeEvicted()) != 0 {
		t.Errorf("%d are left after all were removed", l.len())
	}
}

func BenchmarkOldestParked(b *testing.B) {
	w := newWorld(b, roomy, 100_000)
	for i := range 100_000 {
		w.Park([]*Cursor{w.New(w.link, "/", &client{uint64(i)}, true)}, time.Hour, "transport_close")
	}
	b.ReportAllocs()
	for b.Loop() {
		w.OldestParked(100)
	}
}
