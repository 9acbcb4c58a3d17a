package session

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/holdfast/holdfast/internal/reason"
)

const (
	// lockedSteps bounds how many parked sessions are visited or evicted under one lock of the
	// registry.
	lockedSteps = 256
	// maxSpan is how many tickets may lie between the oldest parked session and the newest, if
	// that is more than sparseSpan for each session.
	maxSpan    = 1 << 20
	sparseSpan = 16
)

// parkedLRU holds the parked sessions. The one parked longest is evicted when there are too many.
// The registry's lock guards it.
//
// simplelru has no iterator: its Keys and Values copy everything. Therefore its keys are tickets,
// which grow with each session that is parked. Looking up one ticket after another visits the
// sessions from the oldest, in steps, at a bounded cost for each step.
type parkedLRU struct {
	lru     *simplelru.LRU[uint64, *Session]
	size    int
	next    uint64     // ticket; 0 is none
	evicted []*Session // by add and resize; takeEvicted empties it
}

func newParkedLRU(size int) *parkedLRU {
	l := &parkedLRU{size: size, next: 1}
	l.lru = l.newLRU()
	return l
}

func (l *parkedLRU) newLRU() *simplelru.LRU[uint64, *Session] {
	lru, err := simplelru.NewLRU(l.size, func(_ uint64, s *Session) {
		// A session that leaves by itself has another state by now. It cannot be closed here:
		// the lock of the session that is being parked is held.
		if s.state == Parked {
			l.evicted = append(l.evicted, s)
		}
	})
	if err != nil {
		panic(err) // the size is at least 1
	}
	return lru
}

func (l *parkedLRU) len() int { return l.lru.Len() }

// add adds a session that is parked now. It may evict the one parked longest.
func (l *parkedLRU) add(s *Session) {
	if span := l.next - l.oldest(); span >= maxSpan && span >= sparseSpan*uint64(l.len()) {
		l.renumber()
	}
	l.addNewest(s)
}

func (l *parkedLRU) addNewest(s *Session) {
	s.parked.ticket = l.next
	l.next++
	l.lru.Add(s.parked.ticket, s)
}

// remove removes a session that is no longer parked.
func (l *parkedLRU) remove(s *Session) {
	l.lru.Remove(s.parked.ticket)
}

// resize changes how many sessions may be parked. It may evict some.
func (l *parkedLRU) resize(size int) {
	l.size = size
	l.lru.Resize(size)
}

// takeEvicted returns the sessions that were evicted since the last call. They are still in state
// Parked.
func (l *parkedLRU) takeEvicted() []*Session {
	evicted := l.evicted
	l.evicted = nil
	return evicted
}

// oldest is the ticket of the session parked longest, or the next ticket if none is parked.
func (l *parkedLRU) oldest() uint64 {
	if ticket, _, ok := l.lru.GetOldest(); ok {
		return ticket
	}
	return l.next
}

// visit calls fn for sessions from a ticket on, oldest first, until it returns false or lockedSteps
// tickets were looked up. It returns the ticket to continue with. more is false if none was left.
func (l *parkedLRU) visit(from uint64, fn func(s *Session) bool) (next uint64, more bool) {
	from = max(from, l.oldest())
	more = from < l.next
	for end := min(from+lockedSteps, l.next); from < end; from++ {
		if s, ok := l.lru.Peek(from); ok && !fn(s) {
			return from + 1, more
		}
	}
	return from, more
}

// renumber gives the sessions new tickets without gaps. Otherwise a session that stays parked while
// millions come and go would make a visit of all sessions long.
func (l *parkedLRU) renumber() {
	sessions := l.lru.Values()
	l.lru = l.newLRU()
	for _, s := range sessions {
		l.addNewest(s)
	}
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
