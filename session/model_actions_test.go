package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// The actions of TestModel. rapid finds them by their signature.

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
	if refused == reason.BadOffset && rapid.IntRange(0, 5).Draw(t, "abort if 0") == 0 {
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
