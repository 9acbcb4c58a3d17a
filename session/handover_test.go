package session

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/reason"
)

// handOver moves the parked sessions to a registry of another process, with the same observer. It
// returns the sessions there, by pid. The old ones are closed.
func (w *world) handOver(elapsed time.Duration, sessions ...*Session) map[string]*Session {
	w.t.Helper()
	old, moved := w.Registry, make(map[string]*Session)
	old.Freeze()
	var data bytes.Buffer
	writer := handover.NewWriter(&data)
	writer.Process(&handover.Process{Ends: old.Ends().Export()})
	writer.Link(&handover.Link{})
	x := NewExporter(writer)
	for _, s := range sessions {
		if parked := s.State() == Parked; x.Session(s) != parked {
			w.t.Errorf("%s is %v, and exported: %v", s.Namespace(), s.State(), !parked)
		}
	}
	if err := writer.End(); err != nil {
		w.t.Fatalf("End: %v", err)
	}
	w.Registry = NewRegistry(*old.limits(), old.parked.limit, buffer.NewBudget(old.budget.Limit()), w)
	m := NewImporter(w.Registry, elapsed)
	err := handover.Read(data.Bytes(), handover.Handler{
		Process: func(p *handover.Process) error { w.Ends().Import(p.Ends); return nil },
		Blob:    m.Blob,
		Group:   func(g *handover.Group) error { m.Group(g); return nil },
		Session: func(in *handover.Session) error {
			s, err := m.Session(w.link, in)
			if err == nil {
				moved[s.pid] = s
				w.all = append(w.all, &Cursor{s: s})
			}
			return err
		},
	})
	if err != nil {
		w.t.Fatalf("Read: %v", err)
	}
	m.Finish()
	old.Thaw()
	for _, s := range sessions {
		old.Close(s, reason.UpstreamLost)
	}
	if b := old.budget; b.Bytes() != 0 || b.Packets() != 0 {
		w.t.Errorf("%d bytes and %d packets are left in the old process", b.Bytes(), b.Packets())
	}
	return moved
}

// endGraceNow ends the grace after a handover ahead of time.
func (r *Registry) endGraceNow() {
	r.mu.Lock()
	timer := r.parked.grace
	r.mu.Unlock()
	if timer != nil && timer.Stop() {
		r.endGrace()
	}
}

// HandOver lets another process take over. All connections are cut before.
func (m *machine) HandOver(t *rapid.T) {
	if !rarely(t) {
		return
	}
	var attached []*model
	var open []*Session
	for _, s := range m.sessions {
		if s.attached() {
			attached = append(attached, s)
		}
	}
	m.cut(attached, maxAway)
	for _, s := range m.sessions {
		if s.open() {
			open = append(open, s.s)
		}
	}
	moved := m.handOver(0, open...)
	m.endGraceNow()
	for _, s := range m.sessions {
		if s.open() {
			s.s = moved[s.s.PID()]
		}
	}
}

// decided says what a handover does with each field. A new field needs a decision here, and in
// Exporter and Importer unless it is built anew.
var decided = map[reflect.Type]string{
	reflect.TypeFor[Session](): `
		handed over: pid tag heard log reply suspicions owned takeovers binding namespace parked keyed
		always the same when it is handed over: state cursor readPaused
		built anew: registry upstream mu endedInFlight`,
	reflect.TypeFor[parkedState](): `
		handed over: group since sent inFlight
		the order: ticket
		built anew: index`,
	reflect.TypeFor[sentLog](): `handed over: sent Log confirmedEvent built anew: ackRequested`,
	reflect.TypeFor[parkedGroup](): `
		handed over: why ending disconnect expires
		built anew: timer sessions judged found`, // what found says of sessions that left is in buffered
	reflect.TypeFor[ClientDisconnect](): `handed over: allArrived lastSession`,
	reflect.TypeFor[suspicions]():       `handed over: buffered doubt reads built anew: s judgedTo suspects`,
	reflect.TypeFor[doubt]():            `handed over: from to failures ending narrowed alone proof`,
	reflect.TypeFor[reads]():            `handed over: poisons rules closes hold heldAt left here: since failedLate`,
	reflect.TypeFor[keyed]():            `handed over: key epoch trimmedEvents uncountable`,
	reflect.TypeFor[Registry](): `
		handed over: ends
		built anew: budget observer owner current evictor expiring mu byPID parked live frozen`,
}

func TestEveryFieldIsDecidedOn(t *testing.T) {
	for typ, text := range decided {
		words := strings.Fields(text)
		for field := range typ.Fields() {
			if !slices.Contains(words, field.Name) {
				t.Errorf("%v.%s: what becomes of it in a handover?", typ, field.Name)
			}
		}
	}
}

// A session that has everything is the same after a handover, and its remaining times are right.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := roomy
		limits.TakeoversPerMinute = 10
		w := newWorld(t, limits, 10)
		s := w.parked(3)
		s.Bind("binding")
		s.SetReply([]byte("reply"))
		s.mu.Lock()
		s.heard, s.log.sent, s.parked.sent, s.log.confirmedEvent, s.parked.inFlight = true, 2, 2, 0, true
		s.suspicions = &suspicions{
			buffered: bufferFilled,
			doubt:    &doubt{from: 1, to: 2, failures: 2, ending: ClosedByClient, narrowed: true, alone: 2, proof: 3},
			reads:    reads{poisons: 1, rules: 6, closes: true, hold: 4 * time.Second, heldAt: 3},
		}
		s.keyed = &keyed{Key{"digest", "handshake"}, 2, 3, true}
		s.takeovers.until = s.takeovers.until.Add(0)
		parked := *s.parked
		s.mu.Unlock()
		w.append(s, ackRequested(-7, `2-7["q"]`))
		w.append(s, &buffer.Packet{Kind: buffer.NoOffset, Data: bytes.Repeat([]byte("x"), 5000), Attachments: [][]byte{{1}, nil, bytes.Repeat([]byte("y"), 100)}})
		s.mu.Lock()
		s.log.Drop(2)
		s.mu.Unlock()
		later(20 * time.Second)

		got := w.handOver(0, s)[s.pid]
		if got == nil {
			t.Fatal("the session is gone")
		}
		compareSessions(t, got, s)
		if p := got.parked; !p.since.Equal(parked.since) || p.sent != parked.sent || p.inFlight != parked.inFlight {
			t.Errorf("parked is %+v, want %+v", *p, parked)
		}
		r := w.Resume(Claim{PID: s.pid, Namespace: "/", Binding: "binding"}, &client{5})
		if r.Cursor == nil || string(r.Reply) != "reply" || r.Away != 20*time.Second || r.Missed != 4 {
			t.Errorf("resumed: %+v", r)
		}
		w.endGraceNow()
		w.finish()
	})
}

// compareSessions compares what Session has, except for what is built anew.
func compareSessions(t *testing.T, got, want *Session) {
	t.Helper()
	_, rest, _ := strings.Cut(decided[reflect.TypeFor[Session]()], "handed over: ")
	handed, _, _ := strings.Cut(rest, "always the same")
	for name := range strings.FieldsSeq(handed) {
		switch name {
		case "log", "parked", "takeovers", "keyed", "suspicions":
			continue // the old ones are gone by now
		}
		a, b := reflect.ValueOf(got).Elem().FieldByName(name), reflect.ValueOf(want).Elem().FieldByName(name)
		if text, wantText := fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b); text != wantText {
			t.Errorf("%s is %s, want %s", name, text, wantText)
		}
	}
	if l, wantL := &got.log, &want.log; l.sent != wantL.sent || l.confirmedEvent != wantL.confirmedEvent {
		t.Errorf("sent %d with event %d confirmed, want %d and %d", l.sent, l.confirmedEvent, wantL.sent, wantL.confirmedEvent)
	}
	if *got.keyed != *want.keyed {
		t.Errorf("keyed is %+v, want %+v", *got.keyed, *want.keyed)
	}
	q, wantQ := *got.suspicions, *want.suspicions
	if *q.doubt != *wantQ.doubt || q.reads != wantQ.reads || q.buffered != wantQ.buffered {
		t.Errorf("suspicions are %+v with %+v, want %+v with %+v", q, q.doubt, wantQ, wantQ.doubt)
	}
}

// Sessions expire when they would have, together with those they were parked with. The time without
// a process counts.
func TestTimesAfterAHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		a, b, c := w.open("/a"), w.open("/b"), w.open("/c")
		w.Park([]*Cursor{a, b}, 30*time.Second, reason.TransportClose)
		later(10 * time.Second)
		w.ParkDisconnected(c, time.Minute, new(ClientDisconnect))
		moved := w.handOver(5*time.Second, a.s, b.s, c.s)
		later(15*time.Second - time.Nanosecond)
		if _, parked := w.Counts(); parked != 3 {
			t.Errorf("%d are parked just before the time is over", parked)
		}
		w.link.told()
		later(time.Nanosecond)
		equal(t, "expired", w.link.told(), []string{"expired: /a /b"})
		if !moved[c.s.pid].DisconnectedBy(c.owner) {
			t.Error("the third is not known to have been disconnected by its client")
		}
		later(39 * time.Second)
		if _, parked := w.Counts(); parked != 1 {
			t.Errorf("%d are parked before the time of the third is over", parked)
		}
		later(time.Second)
		equal(t, "expired", w.link.told(), []string{"expired: /c"})
		later(HandoverGrace)
		w.finish()
	})
}

// Nothing expires while the registry is frozen, and everything that is due afterwards.
func TestFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		s := w.parked(1) // for a minute
		w.Freeze()
		later(2 * time.Minute)
		if _, parked := w.Counts(); parked != 1 {
			t.Error("it expired while the registry was frozen")
		}
		if r := w.resume(s, ""); r.Refused != reason.Handover || r.Cursor != nil {
			t.Errorf("a client that comes meanwhile: %+v", r)
		}
		w.Thaw()
		later(frozenRetry)
		if _, parked := w.Counts(); parked != 0 {
			t.Error("it did not expire afterwards")
		}
		w.finish()
	})
}

// For a minute after a handover more sessions may be parked than otherwise, and those that were
// parked for it are not evicted for memory.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 2)
		w.budget = buffer.NewBudget(100)
		w.BeginGrace()
		var cursors []*Cursor
		for i := range 5 {
			cursors = append(cursors, w.open(fmt.Sprint("/", i)))
		}
		before := w.open("/before")
		w.Park([]*Cursor{before}, time.Hour, reason.TransportClose)
		w.append(before.s, withOffset("0"))
		w.Park(cursors, time.Hour, reason.Handover)
		for _, c := range cursors {
			w.append(c.s, withOffset(strings.Repeat("x", 100)))
		}
		w.EvictForMemory()
		if live, parked := w.Counts(); live != 0 || parked != 5 {
			t.Errorf("%d parked, want the 5 of the handover", parked)
		}
		w.SetLimits(*w.limits(), 3)
		w.mustResumeAs(cursors[0].s, &client{9})
		later(HandoverGrace)
		if _, parked := w.Counts(); parked != 3 {
			t.Errorf("%d parked after the grace, want 3", parked)
		}
		w.EvictForMemory()
		if _, parked := w.Counts(); parked != 0 {
			t.Errorf("%d parked, though memory is short", parked)
		}
		w.finish()
	})
}
