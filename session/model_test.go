package session

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// TestModel runs random operations of links and clients, and compares the sessions with a model
// made of slices. The log is everything that was ever appended, and the rest are places in it. It
// also plays the client, which must receive each packet once and in order, whatever happens to its
// connections.
func TestModel(t *testing.T) { rapid.Check(t, checkModel) }

// FuzzModel is TestModel with choices made by the fuzzer, which looks for new paths through the
// code.
func FuzzModel(f *testing.F) {
	// The fuzzer mutates random choices. Uniform ones, or too few for a run, would tell nothing.
	random := make([]byte, 32<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	check := rapid.MakeFuzz(checkModel)
	for seed := range byte(4) {
		f.Add(bytes.Repeat([]byte{seed}, 1<<10))
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		choices := bytes.Clone(random)
		subtle.XORBytes(choices, choices, changes)
		check(t, choices)
	})
}

func checkModel(t *rapid.T) {
	rapid.SyncTest(t, func(t *rapid.T) {
		m := newMachine(t)
		for range 5 { // one is about thirty actions
			t.Repeat(rapid.StateMachineActions(m))
		}
		m.drain(t)
	})
}

// machine is a registry and the model of it.
type machine struct {
	*world
	sessions  []*model
	order     []*model // the parked ones, oldest first
	stale     []*Cursor
	told      []string // what the link should have been told: "reason namespace"
	heard     []string // what it was
	handshake uint64
	ackID     int64
}

// model is what a session should be. Packets are numbered from 1: packet n is log[n-1].
type model struct {
	s     *Session
	cur   *Cursor // of the client that has the session, or had it when it was closed
	state State
	why   reason.Reason // why it was closed
	log   []buffer.Packet

	confirmed  int // or dropped for another reason
	sent       int // to any client
	at         int // the cursor
	skipTo     int
	replayTo   int
	readPaused bool
	deadline   time.Time

	client modelClient
}

// modelClient is a client with all its connections.
type modelClient struct {
	wire       []int        // in flight
	has        map[int]bool // what it handled
	lost       map[int]bool // AckRequested packets that may have arrived, with at most once
	last       int          // WithOffset packet it handled
	unanswered []int        // AckRequested packets it handled
	foreign    string       // an offset of an earlier session of its own
}

const (
	modelMaxParked  = 2
	modelMaxPackets = 12
	modelMaxBytes   = 3000
	modelWindow     = 1200
	modelBinding    = Binding("of all sessions")
)

func newMachine(t *rapid.T) *machine {
	limits := Limits{
		MaxPackets: modelMaxPackets, MaxBytes: modelMaxBytes, WindowBytes: modelWindow,
		ReplayAckRequested: rapid.Bool().Draw(t, "at least once"),
	}
	m := &machine{world: newWorld(t, limits, modelMaxParked), handshake: 10}
	for i := range 3 {
		m.sessions = append(m.sessions, m.fresh(fmt.Sprint("/", i), ""))
	}
	return m
}

func (m *machine) fresh(namespace, foreign string) *model {
	m.handshake++
	cur := m.New(m.link, namespace, &client{m.handshake}, true)
	cur.s.Bind(modelBinding)
	m.all = append(m.all, cur)
	return &model{
		s: cur.s, cur: cur, state: Live,
		client: modelClient{has: make(map[int]bool), lost: make(map[int]bool), foreign: foreign},
	}
}

// pick draws a session that ok accepts, or returns nil if there is none.
func (m *machine) pick(t *rapid.T, ok func(*model) bool) *model {
	var names []string
	for _, s := range m.sessions {
		if ok(s) {
			names = append(names, s.s.Namespace())
		}
	}
	if len(names) == 0 {
		return nil // nothing to do; a fuzzer may choose this action again and again
	}
	name := rapid.SampledFrom(names).Draw(t, "session")
	return m.sessions[slices.IndexFunc(m.sessions, func(s *model) bool { return s.s.Namespace() == name })]
}

func (s *model) attached() bool { return s.cur != nil }
func (s *model) live() bool     { return s.state == Live }
func (s *model) parked() bool   { return s.state == Parked }
func (s *model) open() bool     { return s.state != Closed }

// dropped returns how many of the oldest packets are no longer in memory.
func (s *model) dropped() int {
	switch {
	case s.open():
		return s.confirmed
	case s.attached():
		return max(s.confirmed, s.at)
	}
	return len(s.log)
}

// size returns what a log counts for packets.
func size(packets []buffer.Packet) int {
	l := buffer.NewLog(nil)
	for _, p := range packets {
		l.Append(&p)
	}
	return l.Bytes()
}

func (s *model) updateHeld() {
	n := size(s.log[s.dropped():])
	switch {
	case s.state != Live:
		s.readPaused = false
	case n >= modelWindow:
		s.readPaused = true
	case n < modelWindow/2:
		s.readPaused = false
	}
}

// end closes a session in the model.
func (m *machine) end(s *model, why reason.Reason, toldUpstream bool) {
	s.state, s.why = Closed, why
	m.order = slices.DeleteFunc(m.order, func(o *model) bool { return o == s })
	if why == reason.ClientDisconnect {
		s.cur = nil
	}
	if toldUpstream {
		m.told = append(m.told, fmt.Sprint(why, " ", s.s.Namespace()))
	}
	s.updateHeld()
}

// cut ends the connection of sessions, and parks those that are open.
func (m *machine) cut(sessions []*model, d time.Duration) {
	cursors := slices.Clone(m.stale) // they have no effect
	for _, s := range sessions {
		cursors = append(cursors, s.cur)
		m.stale = append(m.stale, s.cur)
	}
	m.Park(cursors, d, "cut")
	for _, s := range sessions {
		s.cur = nil
		for _, n := range s.client.wire {
			if s.log[n-1].Kind == buffer.AckRequested && !m.limits().ReplayAckRequested {
				s.client.lost[n] = true
			}
		}
		s.client.wire = nil
		if s.open() {
			s.state, s.deadline = Parked, time.Now().Add(d)
			s.updateHeld()
			m.order = append(m.order, s)
		}
	}
	for len(m.order) > modelMaxParked {
		m.end(m.order[0], reason.Evicted, true)
	}
}

// resumed updates the model for a client that resumed and has everything up to claim.
func (m *machine) resumed(t tester, s *model, r Resumption, claim int) {
	t.Helper()
	if r.Cursor == nil {
		t.Fatalf("%s: %+v, want it resumed", s.s.Namespace(), r)
	}
	m.order = slices.DeleteFunc(m.order, func(o *model) bool { return o == s })
	s.confirmed = max(s.confirmed, claim)
	if r.Missed != len(s.log)-s.confirmed {
		t.Errorf("%d missed, want %d", r.Missed, len(s.log)-s.confirmed)
	}
	s.cur, s.state, s.at, s.replayTo = r.Cursor, Live, s.confirmed, len(s.log)
	s.skipTo = 0
	if !m.limits().ReplayAckRequested {
		s.skipTo = s.sent
	}
	s.updateHeld()
	// A client that claims less than it received has lost the rest since, like a reloaded page.
	c := &s.client
	for n := range c.has {
		if n > s.confirmed && c.last > s.confirmed {
			delete(c.has, n)
			c.lost[n] = s.log[n-1].Kind == buffer.AckRequested && !m.limits().ReplayAckRequested
		}
	}
	if c.last > s.confirmed {
		c.last = 0
		c.unanswered = slices.DeleteFunc(c.unanswered, func(n int) bool { return n > s.confirmed })
	}
}

// resume lets the client of s return with an offset.
func (m *machine) resume(s *model, offset string, foreign bool) Resumption {
	m.handshake++
	owner := &client{m.handshake}
	claim := Claim{
		PID: s.s.PID(), Namespace: s.s.Namespace(), Offset: offset, ForeignOffset: foreign, Binding: modelBinding,
	}
	r := m.Resume(claim, owner)
	if r.Takeover == nil {
		return r
	}
	if !s.live() || r.Takeover != s.cur.Owner() {
		m.t.Errorf("%s is %v, and to be taken over from %v", s.s.Namespace(), s.state, r.Takeover)
	}
	m.cut([]*model{s}, maxAway)
	if s.state == Closed {
		m.t.Errorf("%s was evicted, though parked last", s.s.Namespace())
	}
	return m.Resume(claim, owner)
}

// comeBack resumes s as its client would.
func (m *machine) comeBack(t tester, s *model) {
	offset := s.client.foreign
	if s.client.last > 0 {
		offset = offsetOf(s.s, uint64(s.client.last))
	}
	r := m.resume(s, offset, false)
	m.resumed(t, s, r, s.client.last)
}

// Check compares the registry with the model.
func (m *machine) Check(t *rapid.T) {
	bytes, packets, pausing, live := 0, 0, 0, 0
	for _, s := range m.sessions {
		if got := s.s.State(); got != s.state {
			t.Errorf("%s is %v, want %v", s.s.Namespace(), got, s.state)
		}
		if s.cur != nil && s.cur.Attached() != s.live() {
			t.Errorf("%s is %v, and its cursor attached: %v", s.s.Namespace(), s.state, s.cur.Attached())
		}
		readPaused := s.log[s.dropped():]
		packets += len(readPaused)
		bytes += size(readPaused)
		if s.readPaused {
			pausing++
		}
		if s.live() {
			live++
		}
	}
	// Logs share equal bytes. Package buffer tests how these count.
	if b := m.budget; b.Bytes() > int64(bytes) || (b.Bytes() == 0) != (bytes == 0) || b.Packets() != int64(packets) {
		t.Errorf("%d bytes, %d packets in memory; want %d at most, %d", b.Bytes(), b.Packets(), bytes, packets)
	}
	if got := m.link.readPaused(); got != pausing {
		t.Errorf("the link is paused by %d sessions, want %d", got, pausing)
	}
	if l, p := m.Counts(); l != live || p != len(m.order) {
		t.Errorf("%d live, %d parked; want %d, %d", l, p, live, len(m.order))
	}
	for _, call := range m.link.told() {
		why, names, _ := strings.Cut(call, ": ")
		for name := range strings.FieldsSeq(names) {
			m.heard = append(m.heard, why+" "+name)
		}
	}
	slices.Sort(m.heard)
	slices.Sort(m.told)
	equal(t, "the link was told", m.heard, m.told)
}

// drain lets all clients return once more and receive everything.
func (m *machine) drain(t *rapid.T) {
	for _, s := range m.sessions {
		if s.parked() {
			m.comeBack(t, s)
		}
		if !s.attached() {
			continue
		}
		for s.at < len(s.log) {
			m.read(t, s, 3, 0)
		}
		m.arrive(t, s, len(s.client.wire))
		for n := range s.log {
			if !s.client.has[n+1] && !s.client.lost[n+1] {
				t.Errorf("%s: packet %d never came", s.s.Namespace(), n+1)
			}
		}
	}
	m.Check(t)
	m.finish()
	synctest.Wait()
}
