package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// Observer is told what happens to sessions, for metrics and logs. It is called without a lock,
// unless a method says otherwise.
type Observer interface {
	Parked(s *Session, why reason.Reason)
	Closed(s *Session, why reason.Reason, was State, buffered int)
	// Panicked reports a panic with value v while these sessions expired. It must end their links.
	Panicked(v any, sessions []*Session)
	// Dropped counts events that were dropped because of their Retention while the client was away.
	// The session's lock may be held, so it must not call back.
	Dropped(why Retention, events int)
	// Poisoned reports a packet that is left out because its client cannot decode it. The session's
	// lock is held, so it must not call back. The packet is valid only during the call.
	Poisoned(s *Session, p *buffer.Entry)
}

// Registry knows all sessions that can be resumed. It is safe for concurrent use.
type Registry struct {
	// Immutable.
	budget   *buffer.Budget
	observer Observer
	owner    string // the id of this replica, which pids name; see SetOwner

	current atomic.Pointer[Limits]

	evictor evictor

	expiring sync.WaitGroup // expiries in progress; Freeze waits for them

	ends *Ends

	mu     sync.Mutex // guards the fields below and every change of a session's state
	byPID  map[string]*Session
	parked *parkedLRU
	live   int
	frozen bool // for a handover: no session expires, and none is resumed
}

// NewRegistry returns an empty Registry that parks at most maxParked sessions, and at least one.
func NewRegistry(limits Limits, maxParked int, budget *buffer.Budget, observer Observer) *Registry {
	r := &Registry{
		budget: budget, observer: observer, ends: newEnds(), byPID: make(map[string]*Session), parked: newParkedLRU(maxParked),
	}
	r.evictor.r = r
	r.current.Store(&limits)
	return r
}

// limits returns the limits in force.
func (r *Registry) limits() *Limits { return r.current.Load() }

// SetLimits changes all limits except Retention, also for existing sessions. It closes no session:
// one beyond a new limit is closed at the next event that checks the limit.
func (r *Registry) SetLimits(limits Limits, maxParked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limits.Retention = r.limits().Retention // parked sessions have dropped events by it
	r.parked.setLimit(maxParked)            // evicts none; Park does
	r.current.Store(&limits)
}

// SetOwner makes new pids contain the id of this replica, eight base64url characters. It must be
// called before the first session is opened.
func (r *Registry) SetOwner(owner string) { r.owner = owner }

// Counts returns how many sessions are live and parked.
func (r *Registry) Counts() (live, parked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live, r.parked.len()
}

// New returns the first client's cursor on a new live session. The session has a pid, and can be
// resumed, only if resumable.
func (r *Registry) New(up Upstream, namespace string, owner Owner, resumable bool) *Cursor {
	s := &Session{
		registry: r, upstream: up, namespace: namespace, state: Live, log: sentLog{Log: buffer.NewLog(r.budget)}, owned: owner.Handshake(),
	}
	s.cursor = &Cursor{s: s, owner: owner}
	if resumable {
		s.pid, s.tag = newPID(r.owner), newTag()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if resumable {
		r.byPID[s.pid] = s
	}
	r.live++
	return s.cursor
}

// moveLocked is the only function that changes a session's state. r.mu and s.mu are held. It calls
// nothing outside this package, so it leaves no state half-changed.
func (r *Registry) moveLocked(s *Session, to State) {
	from := s.state
	s.state = to // first: parkedLRU tells an eviction by the state
	switch from {
	case Live:
		r.live--
	case Parked:
		r.parked.remove(s)
		s.parked.group.remove(s)
		s.parked = nil
	case Closed: // terminal
	}
	switch to {
	case Live:
		r.live++
	case Parked:
		s.parked.group.sessions = append(s.parked.group.sessions, s)
		r.parked.add(s)
	case Closed:
	}
}

// EvictForMemory evicts parked sessions that hold packets while the logs of all sessions exceed the
// budget. It never drops what live clients have not confirmed: their links are paused instead.
func (r *Registry) EvictForMemory() { r.evictor.run() }

// Ends says why recent sessions were closed.
func (r *Registry) Ends() *Ends { return r.ends }

// Freeze stops expiry until Thaw, for a handover. When it returns, the links of sessions that
// expired before know it.
func (r *Registry) Freeze() {
	r.mu.Lock()
	r.frozen = true
	r.mu.Unlock()
	r.expiring.Wait()
}

// Thaw undoes Freeze. Sessions that should have expired in the meantime expire soon.
func (r *Registry) Thaw() {
	r.mu.Lock()
	r.frozen = false
	r.mu.Unlock()
}

// BeginGrace protects sessions that were parked for a handover from eviction, for HandoverGrace.
func (r *Registry) BeginGrace() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parked.beginGrace(r.endGrace)
}

// endGrace evicts the sessions that exceed the limit by now.
func (r *Registry) endGrace() {
	r.mu.Lock()
	r.parked.endGrace()
	r.mu.Unlock()
	r.evictSurplus()
}

// ParkedInfo describes a parked session to an operator. Nothing in it identifies a client.
type ParkedInfo struct {
	Namespace string
	Since     time.Time
	Expires   time.Time
	Reason    reason.Reason // as given to Park
	Packets   int           // that wait for the client
	Bytes     int           // about how much memory they take
}

// OldestParked describes the n sessions that have been parked longest, the oldest first. It locks
// the Registry for a bounded number of steps at a time, however many sessions are parked.
func (r *Registry) OldestParked(n int) []ParkedInfo {
	var sessions []*Session
	var infos []ParkedInfo
	step := func(from uint64) (next uint64, more bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if infos == nil {
			most := min(n, r.parked.len())
			sessions, infos = make([]*Session, 0, most), make([]ParkedInfo, 0, most)
		}
		return r.parked.visit(from, func(s *Session) bool {
			sessions = append(sessions, s)
			g := s.parked.group
			infos = append(infos, ParkedInfo{Namespace: s.namespace, Since: s.parked.since, Expires: g.expires, Reason: g.why})
			return len(infos) < n
		})
	}
	for ticket, more := uint64(0), n > 0; more && len(infos) < n; {
		ticket, more = step(ticket)
	}
	for i, s := range sessions { // some may have been resumed meanwhile
		infos[i].Packets, infos[i].Bytes = s.buffered()
	}
	return infos
}
