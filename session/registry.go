package session

import (
	"container/list"
	"slices"
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

// parking is sessions that were parked together, and expire together.
type parking struct {
	timer    *time.Timer
	sessions []*Session
	why      reason.Reason
	ending   Ending            // of their client's connection
	left     *ClientDisconnect // of their client; nil if it was lost
	expires  time.Time
}

// inFlight counts the sessions beside s of which packets were in flight. The registry's lock is held.
func (p *parking) inFlight(s *Session) (n int) {
	for _, o := range p.sessions {
		if o != s && o.inFlight {
			n++
		}
	}
	return n
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

// Resumption is the outcome of Resume.
type Resumption struct {
	// Cursor is the new client's place in the log; nil if it was refused, and Refused says why.
	Cursor  *Cursor
	Refused reason.Reason
	// Takeover is a client that the session is still attached to: it has to give the session up
	// (Detach, Park) before the new one can have it.
	Takeover Owner
	Reply    []byte        // the CONNECT reply to repeat
	ToRead   int           // numbers that Cursor.Read has to pass
	Missed   int           // packets among them
	Away     time.Duration // how long the session was parked
	// Trial is what to try out on the client before Cursor.Read; nil for nearly all.
	Trial *Trial
}

// Claim is what a client presents to have its session back.
type Claim struct {
	PID       string
	Namespace string
	Offset    string // "" for none
	// ForeignOffset says that it presented an offset that is not of our making.
	ForeignOffset bool
	Binding       Binding
	// Soon says that the client left the session a moment ago, over this connection.
	DisconnectedRecently bool
}

// Resume attaches owner to the session that claim names, if it is parked. It implements
// what docs/design.md says under "Resuming". Nothing about a session is told, and nothing done to it, before the
// claim has its binding.
func (r *Registry) Resume(claim Claim, owner Owner) Resumption {
	r.prepare(claim, owner)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.byPID[claim.PID]
	if s == nil {
		if why, ok := r.ends.Get(claim.PID); ok {
			return Resumption{Refused: why}
		}
		return Resumption{Refused: reason.UnknownPID}
	}
	if s.namespace != claim.Namespace {
		return Resumption{Refused: reason.WrongNamespace}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.binding.equal(claim.Binding):
		return Resumption{Refused: reason.Binding}
	case s.owned > owner.Handshake(), s.state == Live && s.owned == owner.Handshake():
		return Resumption{Refused: reason.Stale}
	case s.state == Live && !s.allowTakeoverLocked(r.limits().TakeoversPerMinute):
		return Resumption{Refused: reason.Limit}
	case s.state == Live:
		return Resumption{Takeover: s.cursor.owner}
	}
	from, refused := s.resumeFromLocked(&claim)
	if refused != "" {
		return Resumption{Refused: refused}
	}
	if s.ambiguousLocked(from, owner, claim.DisconnectedRecently) {
		return Resumption{Refused: reason.ClientDisconnect}
	}
	trial := s.examineLocked(from)
	if trial != nil {
		trial.Siblings = s.parking.inFlight(s)
	}
	s.away, s.left = nil, nil
	c := &Cursor{s: s, owner: owner, sent: from, replayTo: s.log.Last()}
	if !r.limits().ReplayAckRequested {
		c.skipTo = s.sent
	}
	s.cursor, s.owned = c, owner.Handshake()
	r.moveLocked(s, Live)
	away, missed := time.Since(s.parkedAt), s.log.Packets()
	s.upstream.SessionResumed(s, away, missed)
	return Resumption{Cursor: c, Reply: s.reply, ToRead: s.log.Len(), Missed: missed, Away: away, Trial: trial}
}

// prepare does what Resume would do to the log of a parked session, without the registry's lock: the log may be long. Resume
// finds little left to do.
func (r *Registry) prepare(claim Claim, owner Owner) {
	r.mu.Lock()
	s := r.byPID[claim.PID]
	r.mu.Unlock()
	if s == nil || s.namespace != claim.Namespace {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Parked && s.binding.equal(claim.Binding) && s.owned <= owner.Handshake() {
		s.resumeFromLocked(&claim)
	}
}

// resumeFromLocked returns the number of the last packet that a client with this claim has, or why it cannot resume. The log of the
// session, which is parked, is left without what this client need not have. s.mu is held.
func (s *Session) resumeFromLocked(claim *Claim) (from uint64, refused reason.Reason) {
	var has uint64 // the last event that the client has handled
	if tag, seq, ok := parseOffset(claim.Offset); ok && tag == s.tag {
		if seq > s.sent {
			return 0, reason.BadOffset
		}
		has = seq
	} else if claim.ForeignOffset {
		return 0, reason.BadOffset
	}
	if s.left != nil && has < s.withOffset { // it has ignored some that are not there any more
		return 0, reason.ClientDisconnect
	}
	from = max(s.log.Trimmed(), has)
	s.trimLocked(from)
	if s.registry.limits().Retention != nil && s.away == nil {
		s.compactLocked()
	}
	return from, ""
}

// ambiguousLocked reports whether it cannot be known which events after from the client has, because it left the session while
// they were on their way. If it connects again over the same connection before they arrive it puts them aside, and
// handles them with the reply, be that over the next connection; those that came before that it has ignored.
func (s *Session) ambiguousLocked(from uint64, owner Owner, soon bool) bool {
	if s.left == nil {
		return false
	}
	onItsWay := !s.left.arrived.Load()
	if s.owned == owner.Handshake() {
		if !onItsWay && !soon {
			return false
		}
	} else if !onItsWay || s.left.last.Load() {
		return false
	}
	for i := from + 1; i <= min(s.sentWhenParked, s.log.Last()); i++ {
		if s.log.At(i).Kind() == buffer.WithOffset {
			return true
		}
	}
	return false
}

// allowTakeoverLocked counts one takeover, unless there were too many of late.
func (s *Session) allowTakeoverLocked(perMinute int) bool {
	if perMinute <= 0 {
		return true
	}
	now, each := time.Now(), time.Minute/time.Duration(perMinute)
	from := s.takeoversUntil
	if from.Before(now) {
		from = now
	}
	if from.Add(each).Sub(now) > time.Minute {
		return false
	}
	s.takeoversUntil = from.Add(each)
	return true
}

// AbortParked closes a parked session whose client came back, but cannot resume it for this reason: nobody else will.
func (r *Registry) AbortParked(pid, namespace string, why reason.Reason) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		if s := r.byPID[pid]; s != nil && s.namespace == namespace && s.State() == Parked {
			end(s, why)
		}
	})
}

// AbortDisconnected closes a session that this client left, and does not come back to.
func (r *Registry) AbortDisconnected(s *Session, owner Owner) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		if s.DisconnectedBy(owner) {
			end(s, reason.ClientDisconnect)
		}
	})
}

// end closes the sessions that choose, with r.mu held, calls end for; and tells of them.
func (r *Registry) end(tellUpstream bool, choose func(end func(*Session, reason.Reason))) {
	var gone []ended
	defer func() { r.finish(gone, tellUpstream) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	choose(func(s *Session, why reason.Reason) { gone = append(gone, r.closeLocked(s, why)) })
}

// Park parks the sessions of one client for at most d. Cursors that are no longer their session's, and closed
// sessions, are passed over. Sessions that cannot be resumed, or not for any time, are closed instead.
// why is for the Observer.
func (r *Registry) Park(cursors []*Cursor, d time.Duration, why reason.Reason) {
	r.ParkEnded(cursors, d, why, Lost)
}

// ParkEnded is Park for a client of which it is known how its connection ended.
func (r *Registry) ParkEnded(cursors []*Cursor, d time.Duration, why reason.Reason, ending Ending) {
	r.parkAll(cursors, d, &parking{why: why, ending: ending})
}

// Leave parks the session of a client that has said goodbye to it. The client is still there, and ignores what it has been
// sent since it did so: nothing of that is confirmed any more. g says what becomes known of it later.
func (r *Registry) ParkDisconnected(c *Cursor, d time.Duration, g *ClientDisconnect) {
	r.parkAll([]*Cursor{c}, d, &parking{why: reason.ClientDisconnect, left: g})
}

// ClientDisconnect is what is known of a client that left a session.
type ClientDisconnect struct {
	arrived atomic.Bool
	last    atomic.Bool
}

// AllArrived says that what the client had been sent when it left the session has arrived, before it connected again.
func (g *ClientDisconnect) AllArrived() { g.arrived.Store(true) }

// LastSession says that the client has no other session on its connection either: so it closes that, and has put nothing aside.
func (g *ClientDisconnect) LastSession() { g.last.Store(true) }

func (r *Registry) parkAll(cursors []*Cursor, d time.Duration, p *parking) {
	parked, gone, surplus := r.park(cursors, d, p)
	for _, s := range parked {
		r.observer.Parked(s, p.why)
	}
	r.finish(gone, true)
	for surplus {
		surplus = r.evictSurplus()
	}
}

// evictSurplus closes the sessions parked longest until there are no more parked than may be. It returns true if there still are:
// after SetLimits there may be many.
func (r *Registry) evictSurplus() (more bool) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		for n := 0; n < lockedSteps && r.parked.Len() > r.maxParked; n++ {
			end(parkedIn(r.parked.Front()), reason.Evicted)
		}
		more = r.parked.Len() > r.maxParked
	})
	return more
}

func (r *Registry) park(cursors []*Cursor, d time.Duration, p *parking) (parked []*Session, gone []ended, surplus bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.expires = time.Now().Add(d)
	p.timer = time.AfterFunc(d, func() { r.expire(p) }) // waits for r.mu
	for _, c := range cursors {
		if e := r.leaveLocked(c, d, p); e.s != nil {
			gone = append(gone, e)
		}
	}
	parked = slices.Clone(p.sessions)
	if len(parked) == 0 {
		p.timer.Stop()
	}
	return parked, gone, r.parked.Len() > r.maxParked
}

// Fail closes a client's session, of which nothing is to be relied on any more, for this reason. A cursor that is no
// longer its session's is without effect.
func (r *Registry) Abort(c *Cursor, why reason.Reason) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		if c.leave() {
			end(c.s, why)
		}
	})
}

// leave takes the client off the session, and reports whether it had it. The registry's lock is held.
func (c *Cursor) leave() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	had := c.s.cursor == c
	if had {
		c.s.cursor = nil
	}
	return had
}

// leaveLocked takes a session's client away, and parks the session with those of p, or closes it. What it
// returns has no session unless it is closed now. r.mu is held.
func (r *Registry) leaveLocked(c *Cursor, d time.Duration, p *parking) ended {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return ended{}
	}
	s.cursor = nil
	switch {
	case s.state == Closed:
		return ended{s: s, was: Closed} // to be released
	case s.pid == "":
		return r.endLocked(s, reason.NotParked)
	case d <= 0:
		return r.endLocked(s, reason.Expired)
	}
	r.moveLocked(s, Parked)
	s.parkedAt, s.parking = time.Now(), p
	s.left, s.sentWhenParked, s.inFlight = p.left, c.sent, c.sent > s.log.Trimmed()
	p.sessions = append(p.sessions, s)
	s.place = r.parked.PushBack(s)
	s.upstream.SessionParked(s, p.why, d)
	return ended{}
}

// moveLocked is the only place where a session's state changes. r.mu and s.mu are held.
func (r *Registry) moveLocked(s *Session, to State) {
	switch s.state {
	case Live:
		r.live--
	case Parked:
		r.unparkLocked(s)
	case Closed: // nobody moves it from there
	}
	s.state = to
	if to == Live {
		r.live++
	}
	s.updateReadPauseLocked()
}

// unparkLocked takes a session out of what parked ones are in; r.mu and s.mu are held.
func (r *Registry) unparkLocked(s *Session) {
	if r.sweepAt == s.place {
		r.sweepAt = s.place.Next()
	}
	r.parked.Remove(s.place)
	p := s.parking
	s.place, s.parking = nil, nil
	p.sessions = slices.DeleteFunc(p.sessions, func(o *Session) bool { return o == s })
	if len(p.sessions) == 0 {
		p.timer.Stop()
	}
}

// parkedIn is the session of an element of Registry.parked.
func parkedIn(e *list.Element) *Session { return e.Value.(*Session) }

func (r *Registry) expire(p *parking) {
	var sessions []*Session
	defer func() {
		if v := recover(); v != nil {
			r.observer.Panicked(v, sessions)
		}
	}()
	r.end(true, func(end func(*Session, reason.Reason)) {
		sessions = slices.Clone(p.sessions)
		for _, s := range sessions {
			end(s, reason.Expired)
		}
	})
}

// Close ends a session for a reason that its link knows. What its client has not been sent yet can still be read,
// but for ClientDisconnect: a client handles nothing that comes after it. BufferFull ends a parked session only:
// if a client resumed it after Append said so, all it missed is there.
func (r *Registry) Close(s *Session, why reason.Reason) {
	r.end(why == reason.BufferFull, func(end func(*Session, reason.Reason)) {
		if why != reason.BufferFull || s.State() == Parked {
			end(s, why)
		}
	})
}

// EvictForMemory closes parked sessions that hold packets, the one parked longest first, until the budget is kept again or
// none is left. What live clients have not confirmed is never dropped; their links are held instead.
//
// One call at a time does this; others return at once, for what it closes is counted only when it is released.
func (r *Registry) EvictForMemory() {
	if !r.budget.Exceeded() || !r.evicting.TryLock() {
		return
	}
	defer r.evicting.Unlock()
	if !r.beginSweep() {
		return
	}
	for r.budget.Exceeded() {
		if !r.evictSome() {
			r.endSweep()
			return
		}
	}
}

// beginRelief makes relieveSome begin with the session parked longest, unless that was in vain a moment ago.
func (r *Registry) beginSweep() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepAt = r.parked.Front()
	return !time.Now().Before(r.sweepNext)
}

// endRelief notes that all parked sessions have been looked at, and the budget is still exceeded.
func (r *Registry) endSweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepNext = time.Now().Add(sweepEvery)
}

// relieveSome looks at the next parked sessions, and closes those that hold packets until enough would be free if they shared
// nothing. It returns false if there are none.
func (r *Registry) evictSome() (more bool) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		more = r.sweepAt != nil
		excess := r.budget.Bytes() - r.budget.Limit()
		for n := 0; n < lockedSteps && r.sweepAt != nil && excess > 0; n++ {
			s := parkedIn(r.sweepAt)
			r.sweepAt = r.sweepAt.Next()
			if packets, bytes := s.buffered(); packets > 0 {
				end(s, reason.Evicted)
				excess -= int64(bytes)
			}
		}
	})
	return more
}

// ended is a session that has just been closed.
type ended struct {
	s        *Session
	why      reason.Reason
	was      State
	buffered int
}

// closeLocked closes a session; r.mu is held, s.mu is not. was is Closed if it was closed before.
func (r *Registry) closeLocked(s *Session, why reason.Reason) ended {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.endLocked(s, why)
}

// endLocked is closeLocked with s.mu held too.
func (r *Registry) endLocked(s *Session, why reason.Reason) ended {
	e := ended{s, why, s.state, s.log.Packets()}
	if s.state == Closed {
		return e
	}
	r.moveLocked(s, Closed)
	if s.pid != "" {
		delete(r.byPID, s.pid)
		r.ends.Add(s.pid, why)
	}
	if why == reason.ClientDisconnect {
		s.cursor = nil
	}
	return e
}

// finish tells of ended sessions, and their links if those do not know. Then it drops their packets, which may take a while.
// No lock is held.
func (r *Registry) finish(gone []ended, tellUpstream bool) {
	r.tell(gone, tellUpstream)
	for _, e := range gone {
		e.s.release()
	}
}

func (r *Registry) tell(gone []ended, tellUpstream bool) {
	if len(gone) == 0 {
		return
	}
	type group struct {
		up  Upstream
		why reason.Reason
	}
	links := make(map[group][]*Session)
	for _, e := range gone {
		if e.was == Closed {
			continue
		}
		r.observer.Closed(e.s, e.why, e.was, e.buffered)
		g := group{e.s.upstream, e.why}
		links[g] = append(links[g], e.s)
	}
	if !tellUpstream {
		return
	}
	for g, sessions := range links {
		g.up.SessionsClosed(sessions, g.why)
	}
}
