package session

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

const (
	// rememberedEnds is how many ended sessions' reasons are kept, to tell a client that comes too late why.
	rememberedEnds = 8192
	// relieveEvery is how often EvictForMemory looks at all parked sessions while they hold nothing that it could free.
	sweepEvery = 100 * time.Millisecond
	// lockedSteps is how many sessions are looked at, or evicted, before the registry's lock is given up for a moment.
	lockedSteps = 256
)

// Observer is told what happens to sessions, for metrics and logs. No lock is held.
type Observer interface {
	Parked(s *Session, why reason.Reason)
	Closed(s *Session, why reason.Reason, was State, buffered int)
	// Panicked says that to expire these sessions panicked, and with what: their links are to be ended.
	Panicked(v any, sessions []*Session)
	// Dropped counts events that their client, which is away, will not have because of their Retention. A session's
	// lock may be held: it must not call back.
	Dropped(why Retention, events int)
	// Poisoned says that a packet is left out because its client cannot decode it. The session's lock is held: it must not
	// call back. The packet is valid during the call only.
	Poisoned(s *Session, p *buffer.Entry)
}

// Registry knows all sessions that can be resumed. It is safe for concurrent use.
type Registry struct {
	// Immutable.
	budget   *buffer.Budget
	observer Observer

	current atomic.Pointer[Limits]

	evicting sync.Mutex // held by EvictForMemory; taken before mu

	mu        sync.Mutex // guards the fields below, and every change of a session's state; never held while a log is walked
	byPID     map[string]*Session
	parked    list.List // of *Session, oldest parked first; kept to maxParked by Park
	maxParked int
	live      int
	ends      *lru.Cache[string, reason.Reason] // by pid
	sweepNext time.Time                         // when EvictForMemory is worth its while again
	sweepAt   *list.Element                     // of parked: what EvictForMemory looks at next; nil at the end
}

// NewRegistry returns an empty Registry in which maxParked sessions may be parked at a time.
func NewRegistry(limits Limits, maxParked int, budget *buffer.Budget, observer Observer) *Registry {
	r := &Registry{
		budget: budget, observer: observer, byPID: make(map[string]*Session), maxParked: max(maxParked, 1),
	}
	r.current.Store(&limits)
	var err error
	if r.ends, err = lru.New[string, reason.Reason](rememberedEnds); err != nil {
		panic(err)
	}
	return r
}

// limits are those in force.
func (r *Registry) limits() *Limits { return r.current.Load() }

// SetLimits changes the limits, for open sessions too, but for RetentionFunc. A session that is over a new limit is
// closed when something happens to it, as it would be at the old one.
func (r *Registry) SetLimits(limits Limits, maxParked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limits.Retention = r.limits().Retention // what a parked session has left out depends on them
	r.maxParked = max(maxParked, 1)
	r.current.Store(&limits)
}

// Counts returns how many sessions are live and parked.
func (r *Registry) Counts() (live, parked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live, r.parked.Len()
}

// New returns a live session with its first client's cursor. It can be resumed, and has
// a pid, if resumable.
func (r *Registry) New(up Upstream, namespace string, owner Owner, resumable bool) *Cursor {
	s := &Session{
		registry: r, upstream: up, namespace: namespace, state: Live, log: buffer.NewLog(r.budget), owned: owner.Handshake(),
	}
	s.cursor = &Cursor{s: s, owner: owner}
	if resumable {
		s.pid, s.tag = newPID(), newTag()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if resumable {
		r.byPID[s.pid] = s
	}
	r.live++
	return s.cursor
}
