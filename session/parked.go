package session

import (
	"math"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/holdfast/holdfast/internal/reason"
)

const (
	// lockedSteps bounds how many parked sessions are visited or evicted under one lock of the
	// registry.
	lockedSteps = 256
	// maxSpan is how many tickets may lie between the oldest parked session and the newest, if that
	// is more than sparseSpan for each session.
	maxSpan    = 1 << 20
	sparseSpan = 16
)

// HandoverGrace is how long sessions are protected from eviction after a handover. All clients are
// away then, and come back at about the same time.
const HandoverGrace = time.Minute

// parkedLRU holds the parked sessions. When there are too many, it evicts the one that has been
// parked longest. The registry's lock guards it.
//
// simplelru has no iterator: its Keys and Values copy everything. Therefore its keys are tickets,
// numbers that increase with each session that is parked. Looking up one ticket after another
// visits the sessions from the oldest on, in steps of bounded cost.
type parkedLRU struct {
	lru     *simplelru.LRU[uint64, *Session]
	limit   int         // as configured
	size    int         // of lru: more than limit after that was lowered, and during the grace
	next    uint64      // ticket; 0 is none
	evicted []*Session  // by add and resize; takeEvicted empties it
	grace   *time.Timer // after a handover; otherwise nil
}

// newParkedLRU returns an empty parkedLRU for limit sessions, and at least one.
func newParkedLRU(limit int) *parkedLRU {
	limit = max(limit, 1)
	l := &parkedLRU{limit: limit, size: limit, next: 1}
	l.lru = l.newLRU()
	return l
}

func (l *parkedLRU) newLRU() *simplelru.LRU[uint64, *Session] {
	lru, err := simplelru.NewLRU(l.size, func(_ uint64, s *Session) {
		// A session that was removed has another state by now. An evicted one cannot be closed
		// here, because the lock of the session that is being parked is held.
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

// add adds a session that has just been parked. It may evict the one that was parked first.
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

// resize changes the size of the LRU. It may evict some sessions.
func (l *parkedLRU) resize(size int) {
	l.size = size
	l.lru.Resize(size)
}

// setLimit changes how many sessions may be parked. It evicts none: see surplus.
func (l *parkedLRU) setLimit(limit int) {
	l.limit = max(limit, 1)
	if l.grace == nil {
		l.resize(max(l.limit, l.len()))
	}
}

// surplus reports whether more sessions are parked than allowed.
func (l *parkedLRU) surplus() bool { return l.grace == nil && l.len() > l.limit }

// evictSurplus evicts some of the sessions beyond the limit.
func (l *parkedLRU) evictSurplus() {
	if l.surplus() {
		l.resize(max(l.limit, l.len()-lockedSteps))
	}
}

// beginGrace suspends the limit for HandoverGrace. After that it calls end, once, in a goroutine.
func (l *parkedLRU) beginGrace(end func()) {
	l.resize(math.MaxInt)
	if l.grace != nil {
		l.grace.Stop()
	}
	l.grace = time.AfterFunc(HandoverGrace, end)
}

// endGrace restores the limit. It evicts no session: see surplus.
func (l *parkedLRU) endGrace() {
	l.grace = nil
	l.setLimit(l.limit)
}

// spares reports whether the grace protects a session from eviction.
func (l *parkedLRU) spares(s *Session) bool {
	return l.grace != nil && s.parked.group.why == reason.Handover
}

// takeEvicted returns the sessions that were evicted since the last call. They are still in state
// Parked.
func (l *parkedLRU) takeEvicted() []*Session {
	evicted := l.evicted
	l.evicted = nil
	return evicted
}

// oldest returns the first ticket in use, or the next ticket if no session is parked.
func (l *parkedLRU) oldest() uint64 {
	if ticket, _, ok := l.lru.GetOldest(); ok {
		return ticket
	}
	return l.next
}

// visit calls fn for sessions from a ticket on, oldest first. It stops when fn returns false, or
// after lockedSteps tickets. It returns the ticket to continue with. more is false if there was no
// ticket to look up.
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
// millions come and go would make each visit of all sessions slow.
func (l *parkedLRU) renumber() {
	sessions := l.lru.Values()
	l.lru = l.newLRU()
	for _, s := range sessions {
		l.addNewest(s)
	}
}
