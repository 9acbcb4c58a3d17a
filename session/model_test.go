package session

import (
	"bytes"
	"crypto/subtle"
	"errors"
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

// TestModel does at random what links and clients do, and compares the sessions with a model of
// slices. The log is everything that was ever appended, and the rest are places in it. It also
// plays the client, which must receive each packet once and in order, whatever happens to its
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

// Append lets the server send.
func (m *machine) Append(t *rapid.T) {
	s := m.pick(t, func(*model) bool { return true })
	for range rapid.IntRange(1, 6).Draw(t, "packets") {
		p := buffer.Packet{Kind: rapid.SampledFrom([]buffer.Kind{buffer.WithOffset, buffer.AckRequested, buffer.NoOffset}).Draw(t, "kind")}
		p.Data = []byte(fmt.Sprint(len(s.log)+1, strings.Repeat(".", rapid.IntRange(0, 300).Draw(t, "size"))))
		if rapid.Bool().Draw(t, "binary") {
			p.Attachments = [][]byte{[]byte("attachment")}
		}
		if p.Kind == buffer.AckRequested {
			m.ackID++
			p.AckID = m.ackID
		}
		cur, err := s.s.Append(&p)
		if !s.open() {
			if !errors.Is(err, ErrClosed) {
				t.Fatalf("Append to a closed session: %v", err)
			}
			return
		}
		s.log = append(s.log, p)
		s.updateHeld()
		readPaused := s.log[s.confirmed:]
		full := s.parked() && (len(readPaused) > modelMaxPackets || size(readPaused) > modelMaxBytes)
		if errors.Is(err, ErrFull) != full || (err != nil) != full {
			t.Fatalf("Append to a session that is %v and has %d packets: %v", s.state, len(readPaused), err)
		}
		if s.live() && cur != s.cur || s.parked() && cur != nil {
			t.Errorf("Append to a session that is %v wakes %v", s.state, cur)
		}
		if !full {
			continue
		}
		if rapid.Bool().Draw(t, "the client is back first") {
			m.comeBack(t, s)
		} else {
			m.end(s, reason.BufferFull, true)
		}
		m.Close(s.s, reason.BufferFull)
		return
	}
}

// Read lets the client's writer read, even from a closed session.
func (m *machine) Read(t *rapid.T) {
	s := m.pick(t, (*model).attached)
	if s == nil {
		return
	}
	m.read(t, s, rapid.IntRange(0, 8).Draw(t, "packets"), rapid.IntRange(0, 8).Draw(t, "stop"))
}

func (m *machine) read(t tester, s *model, n, stop int) {
	got := received{stop: stop}
	passed, last, done := s.cur.Read(n, &got)
	var want, offsets []string
	replays, wantPassed := 0, 0
	wantDone := s.at < s.replayTo
	for wantPassed < n && s.at < len(s.log) {
		s.at++
		wantPassed++
		p := s.log[s.at-1]
		if s.at <= s.confirmed || p.Kind == buffer.AckRequested && s.at <= s.skipTo {
			continue
		}
		want = append(want, string(p.Data))
		offsets = append(offsets, "")
		if p.Kind == buffer.WithOffset {
			offsets[len(offsets)-1] = offsetOf(s.s, uint64(s.at))
		}
		if s.at <= s.replayTo {
			replays++
		}
		s.client.wire = append(s.client.wire, s.at)
		if len(want) == stop {
			break
		}
	}
	s.sent = max(s.sent, s.at)
	wantDone = wantDone && s.at >= s.replayTo
	equal(t, "read", got.data, want)
	equal(t, "offsets", got.offsets, offsets)
	if passed != wantPassed || last != uint64(s.at) || done != wantDone || got.replays != replays {
		t.Errorf("passed %d, last %d, replay done %v, %d replays; want %d, %d, %v, %d",
			passed, last, done, got.replays, wantPassed, s.at, wantDone, replays)
	}
}

// Arrive lets the client handle some of what is in flight.
func (m *machine) Arrive(t *rapid.T) {
	s := m.pick(t, func(s *model) bool { return len(s.client.wire) > 0 })
	if s == nil {
		return
	}
	m.arrive(t, s, rapid.IntRange(1, len(s.client.wire)).Draw(t, "packets"))
}

func (m *machine) arrive(t tester, s *model, n int) {
	c := &s.client
	for _, seq := range c.wire[:n] {
		p := s.log[seq-1]
		again := c.has[seq]
		for before := 1; before < seq; before++ {
			if !c.has[before] && !c.lost[before] {
				t.Errorf("%s: packet %d came before %d", s.s.Namespace(), seq, before)
			}
		}
		switch p.Kind {
		case buffer.WithOffset:
			if again {
				t.Errorf("%s: event %d came twice", s.s.Namespace(), seq)
			}
			c.last = seq
		case buffer.AckRequested:
			if again && !m.limits().ReplayAckRequested || c.lost[seq] {
				t.Errorf("%s: event %d, which asks, came twice", s.s.Namespace(), seq)
			}
			if !again {
				c.unanswered = append(c.unanswered, seq)
			}
		case buffer.NoOffset, buffer.Answer, buffer.Dropped: // an ack that comes twice has no effect
		}
		c.has[seq] = true
	}
	c.wire = c.wire[n:]
}

// Confirm confirms some packets that have arrived.
func (m *machine) Confirm(t *rapid.T) {
	s := m.pick(t, (*model).attached)
	if s == nil {
		return
	}
	arrived := s.at
	if len(s.client.wire) > 0 {
		arrived = s.client.wire[0] - 1
	}
	n := rapid.IntRange(0, arrived).Draw(t, "up to")
	s.cur.Confirm(uint64(n))
	s.confirmed = max(s.confirmed, n)
	s.updateHeld()
}

// Answer lets the client answer an event, perhaps one from an earlier connection.
func (m *machine) Answer(t *rapid.T) {
	s := m.pick(t, func(s *model) bool { return s.live() && len(s.client.unanswered) > 0 })
	if s == nil {
		return
	}
	i := rapid.IntRange(0, len(s.client.unanswered)-1).Draw(t, "which")
	n := s.client.unanswered[i]
	s.client.unanswered = slices.Delete(s.client.unanswered, i, i+1)
	s.cur.Acknowledged(s.log[n-1].AckID)
	s.confirmed = max(s.confirmed, n)
	s.updateHeld()
}

// Cut ends the connection of a client with all its sessions.
func (m *machine) Cut(t *rapid.T) {
	var some []*model
	for _, s := range m.sessions {
		if s.attached() && rapid.Bool().Draw(t, "cut "+s.s.Namespace()) {
			some = append(some, s)
		}
	}
	m.cut(some, time.Duration(rapid.IntRange(1, 120).Draw(t, "seconds"))*time.Second)
}

// Reconnect lets a client return to a session that is parked, live or closed.
func (m *machine) Reconnect(t *rapid.T) {
	s := m.pick(t, func(*model) bool { return true })
	offset, claim, refused, foreign := "", 0, reason.Reason(""), false
	switch how := rapid.SampledFrom([]string{"true", "none", "earlier session", "old", "too new", "garbage", "stale", "elsewhere", "unbound"}).Draw(t, "how"); how {
	case "true":
		if s.open() {
			m.comeBack(t, s)
			return
		}
	case "none":
	case "earlier session":
		offset = "hfAAAAAAAA" + "5"
	case "old":
		claim = rapid.IntRange(0, s.client.last).Draw(t, "offset")
		if claim > 0 {
			offset = offsetOf(s.s, uint64(claim))
		}
	case "too new":
		offset, refused = offsetOf(s.s, uint64(s.sent+rapid.IntRange(1, 5).Draw(t, "ahead"))), reason.BadOffset
	case "garbage":
		foreign, refused = true, reason.BadOffset
	case "stale":
		if s.open() {
			claim := Claim{PID: s.s.PID(), Namespace: s.s.Namespace(), Binding: modelBinding}
			if r := m.Resume(claim, &client{1}); r.Refused != reason.Stale || r.Cursor != nil || r.Takeover != nil {
				t.Errorf("an older client: %+v", r)
			}
		}
		return
	case "unbound":
		if s.open() {
			r := m.Resume(Claim{PID: s.s.PID(), Namespace: s.s.Namespace(), Binding: "another"}, &client{1 << 60})
			if r.Refused != reason.Binding || r.Cursor != nil || r.Takeover != nil {
				t.Errorf("without its binding: %+v", r)
			}
		}
		return
	case "elsewhere":
		want := reason.WrongNamespace
		if !s.open() {
			want = s.why
		}
		if r := m.Resume(Claim{PID: s.s.PID(), Namespace: "/elsewhere"}, &client{1 << 60}); r.Refused != want || r.Cursor != nil {
			t.Errorf("in another namespace: %+v", r)
		}
		return
	}
	if !s.open() {
		refused = s.why
	}
	r := m.resume(s, offset, foreign)
	if refused == "" {
		m.resumed(t, s, r, claim)
		return
	}
	if r.Refused != refused || r.Cursor != nil {
		t.Errorf("offset %q: %+v, want refused as %s", offset, r, refused)
	}
	if refused == reason.BadOffset && rapid.IntRange(0, 5).Draw(t, "abandon if 0") == 0 {
		m.AbortParked(s.s.PID(), s.s.Namespace(), reason.BadOffset)
		if s.parked() {
			m.end(s, reason.BadOffset, true)
		}
	}
}

// rarely makes actions that end sessions rare, so that much happens to them before.
func rarely(t *rapid.T) bool { return rapid.IntRange(0, 5).Draw(t, "if 0") == 0 }

// End lets a link close a session.
func (m *machine) End(t *rapid.T) {
	if !rarely(t) {
		return
	}
	s := m.pick(t, func(*model) bool { return true })
	why := rapid.SampledFrom([]reason.Reason{reason.ServerDisconnect, reason.ClientDisconnect, reason.UpstreamLost, reason.BufferFull}).Draw(t, "reason")
	m.Close(s.s, why)
	if s.parked() || s.live() && why != reason.BufferFull {
		m.end(s, why, why == reason.BufferFull)
	}
}

// Fresh replaces a session that has ended, if its client has received everything.
func (m *machine) Fresh(t *rapid.T) {
	s := m.pick(t, func(s *model) bool { return !s.open() && (s.cur == nil || s.at == len(s.log)) })
	if s == nil {
		return
	}
	foreign := s.client.foreign
	if s.client.last > 0 {
		foreign = offsetOf(s.s, uint64(s.client.last))
	}
	m.sessions[slices.Index(m.sessions, s)] = m.fresh(s.s.Namespace(), foreign)
}

// Pass lets time pass.
func (m *machine) Pass(t *rapid.T) {
	if !rarely(t) {
		return
	}
	later(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
	for _, s := range m.sessions {
		if s.parked() && !time.Now().Before(s.deadline) {
			m.end(s, reason.Expired, true)
		}
	}
}

// Check compares the registry with the model.
func (m *machine) Check(t *rapid.T) {
	bytes, packets, holds, live := 0, 0, 0, 0
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
			holds++
		}
		if s.live() {
			live++
		}
	}
	// Logs share equal bytes. Package buffer tests how these count.
	if b := m.budget; b.Bytes() > int64(bytes) || (b.Bytes() == 0) != (bytes == 0) || b.Packets() != int64(packets) {
		t.Errorf("%d bytes, %d packets in memory; want %d at most, %d", b.Bytes(), b.Packets(), bytes, packets)
	}
	if got := m.link.readPaused(); got != holds {
		t.Errorf("the link is held by %d sessions, want %d", got, holds)
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
