package session

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/reason"
)

// This file hands parked sessions to another process. All clients are closed before, so no session
// is live. Between Freeze and Thaw nothing calls the registry except its own timers.

// Exporter writes sessions of a frozen registry to a snapshot.
type Exporter struct {
	w      *handover.Writer
	now    time.Time
	groups map[*parkedGroup]uint64
	// entries is used for one session at a time.
	entries []handover.Entry
}

// NewExporter returns an Exporter that writes to w.
func NewExporter(w *handover.Writer) *Exporter {
	return &Exporter{w: w, now: time.Now(), groups: make(map[*parkedGroup]uint64)}
}

// Session writes a session. It returns false if the session is not parked.
func (x *Exporter) Session(s *Session) bool {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Parked {
		return false
	}
	out := handover.Session{
		PID: s.pid, Namespace: s.namespace, Tag: uint64(s.tag), Group: x.group(s.parked.group), Place: s.parked.ticket,
		Sent: s.log.sent, SentWhenParked: s.parked.sent, Confirmed: s.log.confirmedEvent, Reply: s.reply,
		Binding: string(s.binding), Owned: s.owned, ParkedFor: x.now.Sub(s.parked.since),
		TakeoversLeft: s.takeovers.until.Sub(instant.Now()), Heard: s.heard, InFlight: s.parked.inFlight,
		Suspicions: exportSuspicionsLocked(s), Trimmed: s.log.Trimmed(),
	}
	if k := s.keyed; k != nil {
		out.Key = &handover.Key{
			Digest: k.key.Digest, Handshake: k.key.Handshake, Epoch: k.epoch, TrimmedEvents: k.trimmedEvents, Uncountable: k.uncountable,
		}
	}
	out.Entries = x.log(&s.log.Log)
	x.w.Session(&out)
	return true
}

// group returns the number of a group, which it writes the first time.
func (x *Exporter) group(p *parkedGroup) uint64 {
	n, ok := x.groups[p]
	if !ok {
		g := handover.Group{Reason: string(p.why), Ending: uint8(p.ending), Left: p.expires.Sub(x.now)}
		if d := p.disconnect; d != nil {
			g.Disconnected, g.AllArrived, g.LastSession = true, d.allArrived.Load(), d.lastSession.Load()
		}
		n = x.w.Group(&g)
		x.groups[p] = n
	}
	return n
}

// log returns the entries of a log, without copies of their bytes.
func (x *Exporter) log(l *buffer.Log) []handover.Entry {
	clear(x.entries)
	x.entries = x.entries[:0]
	for seq := l.Trimmed() + 1; seq <= l.Last(); seq++ {
		e := l.At(seq)
		out := handover.Entry{
			Kind: uint8(e.Kind()), ShortLived: e.ShortLived(), AckID: e.AckID(), DroppedLate: e.DroppedLate(),
			Data: handover.Part{Bytes: e.Data(), Shared: e.Shared(e.Data())},
		}
		for _, a := range e.Attachments() {
			out.Attachments = append(out.Attachments, handover.Part{Bytes: a, Shared: e.Shared(a)})
		}
		x.entries = append(x.entries, out)
	}
	return x.entries
}

// exportSuspicionsLocked returns what another process must know of a parked session. It judges the
// packets itself. The registry's lock is held too.
func exportSuspicionsLocked(s *Session) *handover.Suspicions {
	q := suspicions{}
	if s.suspicions != nil {
		q = *s.suspicions
	}
	group := s.parked.group
	for _, f := range group.found {
		if f.s != s && f.verdict != Fine && !group.has(f.s) && s.log.hasOffsets(s.log.Trimmed(), s.parked.sent) {
			q.moveBuffered(bufferFilled) // the other process does not find f
		}
	}
	if q.suspects = nil; q.idle() {
		return nil
	}
	out := &handover.Suspicions{
		Buffered: uint8(q.buffered), Poisons: q.reads.poisons, Rules: uint8(q.reads.rules), Closes: q.reads.closes,
		Hold: q.reads.hold, HeldAt: q.reads.heldAt,
	}
	if d := q.doubt; d != nil {
		out.Doubt = &handover.Doubt{
			From: d.from, To: d.to, Failures: d.failures, Ending: uint8(d.ending), Narrowed: d.narrowed,
			Alone: d.alone, Proof: d.proof,
		}
	}
	return out
}

// Importer builds parked sessions from a snapshot, before the registry serves anyone.
type Importer struct {
	r       *Registry
	now     time.Time
	elapsed time.Duration // since the snapshot was written
	groups  []*parkedGroup
	parked  []placed
	held    [][]byte // shared payloads
}

// placed is a session with its place among the parked ones.
type placed struct {
	s     *Session
	place uint64
}

// NewImporter returns an Importer for a snapshot that was written some time ago.
func NewImporter(r *Registry, elapsed time.Duration) *Importer {
	return &Importer{r: r, now: time.Now(), elapsed: max(elapsed, 0)}
}

// Blob takes a payload that several sessions share.
func (m *Importer) Blob(b []byte) []byte {
	shared := m.r.budget.Hold(b)
	m.held = append(m.held, shared)
	return shared
}

// Group adds a group of sessions.
func (m *Importer) Group(g *handover.Group) {
	why, ok := reason.Parse(g.Reason)
	if !ok { // of another version
		why = reason.TransportClose
	}
	p := &parkedGroup{
		why: why, ending: Ending(min(g.Ending, uint8(LeftOpen))),
		expires: m.now.Add(g.Left - m.elapsed),
	}
	if g.Disconnected {
		p.disconnect = new(ClientDisconnect)
		p.disconnect.allArrived.Store(g.AllArrived)
		p.disconnect.lastSession.Store(g.LastSession)
	}
	m.groups = append(m.groups, p)
}

// Session builds a session of a link. The session is not in the registry before Finish.
func (m *Importer) Session(up Upstream, in *handover.Session) (*Session, error) {
	if !IsPID(in.PID) {
		return nil, fmt.Errorf("session: a snapshot has a malformed pid")
	}
	s := &Session{
		registry: m.r, upstream: up, pid: in.PID, tag: tag(in.Tag), namespace: in.Namespace,
		state: Parked, heard: in.Heard, owned: in.Owned, binding: Binding(in.Binding), reply: slices.Clone(in.Reply),
		log:       sentLog{Log: buffer.NewLog(m.r.budget), sent: in.Sent, confirmedEvent: in.Confirmed},
		takeovers: takeoverLimit{until: instant.Now().Add(in.TakeoversLeft - m.elapsed)},
		parked: &parkedState{
			group: m.groups[in.Group], // the snapshot was verified
			since: m.now.Add(-in.ParkedFor - m.elapsed), sent: in.SentWhenParked, inFlight: in.InFlight,
		},
	}
	if k := in.Key; k != nil {
		s.keyed = &keyed{Key{k.Digest, k.Handshake}, k.Epoch, k.TrimmedEvents, k.Uncountable}
	}
	s.suspicions = importSuspicions(s, in.Suspicions)
	restoreLog(&s.log, in)
	m.parked = append(m.parked, placed{s, in.Place})
	return s, nil
}

// restoreLog fills an empty log.
func restoreLog(log *sentLog, in *handover.Session) {
	log.Restore(in.Trimmed)
	for i := range in.Entries {
		e := &in.Entries[i]
		kind := buffer.Kind(e.Kind)
		if kind == buffer.Dropped || kind > buffer.Answer {
			log.AppendDropped(e.DroppedLate)
			continue
		}
		p := buffer.Packet{Data: e.Data.Bytes, AckID: e.AckID, Kind: kind, ShortLived: e.ShortLived}
		for _, a := range e.Attachments {
			p.Attachments = append(p.Attachments, a.Bytes)
		}
		log.AppendShared(&p)
		if kind == buffer.AckRequested {
			log.ackRequested++
		}
	}
}

// Drop forgets a session that was built, because its link could not be restored.
func (m *Importer) Drop(s *Session) {
	m.parked = slices.DeleteFunc(m.parked, func(p placed) bool { return p.s == s })
	s.log.Release()
	m.r.ends.add(s.pid, reason.UpstreamLost)
}

// Finish adds the sessions to the registry. They can be resumed from then on, and expire.
func (m *Importer) Finish() {
	r := m.r
	slices.SortStableFunc(m.parked, func(a, b placed) int { return cmp.Compare(a.place, b.place) })
	r.mu.Lock()
	r.parked.beginGrace(r.endGrace)
	for _, p := range m.groups {
		p.timer = time.AfterFunc(p.expires.Sub(m.now), func() { r.expire(p) }) // waits for r.mu
	}
	for _, in := range m.parked {
		r.byPID[in.s.pid] = in.s
		g := in.s.parked.group
		g.sessions = append(g.sessions, in.s)
		r.parked.add(in.s)
	}
	for _, p := range m.groups {
		if len(p.sessions) == 0 {
			p.timer.Stop()
		}
	}
	r.mu.Unlock()
	for _, b := range m.held {
		r.budget.Unhold(b)
	}
	m.held = nil
}

func importSuspicions(s *Session, in *handover.Suspicions) *suspicions {
	if in == nil {
		return nil
	}
	q := &suspicions{
		s:        s,
		buffered: bufferState(min(in.Buffered, uint8(bufferFlushed))),
		reads: reads{
			poisons: in.Poisons, rules: Verdict(in.Rules) &^ Undecodable, closes: in.Closes,
			hold: min(in.Hold, maxHoldTime), heldAt: in.HeldAt,
		},
	}
	if d := in.Doubt; d != nil {
		q.doubt = &doubt{
			from: d.From, to: d.To, failures: d.Failures, ending: Ending(min(d.Ending, uint8(LeftOpen))), narrowed: d.Narrowed,
			alone: d.Alone, proof: d.Proof,
		}
	}
	return q
}
