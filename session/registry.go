package session

import (
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

const (
	// rememberedEnds is for how many closed sessions the registry remembers why they were closed.
	// It tells clients that return too late.
	rememberedEnds = 8192
)

// Observer hears what happens to sessions, for metrics and logs. It is called without a lock,
// unless a method says otherwise.
type Observer interface {
	Parked(s *Session, why reason.Reason)
	Closed(s *Session, why reason.Reason, was State, buffered int)
	// Panicked reports a panic with v while these sessions expired. It must end their links.
	Panicked(v any, sessions []*Session)
	// Dropped counts events that were dropped because of their Retention while their client was
	// away. The session's lock may be held, so it must not call back.
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

	evicting   sync.Mutex // held by EvictForMemory, and taken before mu; guards the fields below
	sweepAt    uint64     // the ticket that EvictForMemory looks at next; 0 for the oldest
	sweepBegan time.Time  // at the oldest
	sweepNext  time.Time  // set after a search of all parked sessions freed nothing

	expiring sync.WaitGroup // expiries under way; Freeze waits for them

	mu        sync.Mutex // guards the fields below and every change of a session's state
	byPID     map[string]*Session
	parked    *parkedLRU
	maxParked int
	live      int
	frozen    bool // for a handover: no session expires
	// During the grace after a handover, sessions that were parked for it are not evicted.
	graceTimer *time.Timer                       // nil when there is no grace
	ends       *lru.Cache[string, reason.Reason] // by pid
}

// NewRegistry returns an empty Registry that parks at most maxParked sessions, and at least one.
func NewRegistry(limits Limits, maxParked int, budget *buffer.Budget, observer Observer) *Registry {
	maxParked = max(maxParked, 1)
	r := &Registry{
		budget: budget, observer: observer, byPID: make(map[string]*Session),
		parked: newParkedLRU(maxParked), maxParked: maxParked,
	}
	r.current.Store(&limits)
	var err error
	if r.ends, err = lru.New[string, reason.Reason](rememberedEnds); err != nil {
		panic(err)
	}
	return r
}

// limits returns the limits in force.
func (r *Registry) limits() *Limits { return r.current.Load() }

// SetLimits changes the limits, also for open sessions, with the exception of Retention. It closes
// no session: one beyond a new limit is closed at the next event that checks the limit.
func (r *Registry) SetLimits(limits Limits, maxParked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limits.Retention = r.limits().Retention // parked sessions have dropped events by it
	r.maxParked = max(maxParked, 1)
	if !r.inGraceLocked() {
		r.parked.resize(max(r.maxParked, r.parked.len())) // evicts none; Park does
	}
	r.current.Store(&limits)
}

// SetOwner makes pids name this replica: owner is its id, of eight base64url characters. Call it
// before the first session is opened.
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
