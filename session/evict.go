package session

import (
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// sweepEvery is how long an evictor waits after it has searched all parked sessions and freed
// nothing. For the same time it continues where its last call stopped.
const sweepEvery = 100 * time.Millisecond

// evictor evicts parked sessions while the logs hold more than the budget allows.
type evictor struct {
	r *Registry // immutable

	mu        sync.Mutex // held by run, and taken before Registry.mu; guards the fields below
	next      uint64     // the ticket to look at next; 0 for the oldest
	began     time.Time  // when the search was at the oldest
	waitUntil time.Time  // set after a search of all parked sessions freed nothing
}

// run evicts parked sessions that hold packets, the one parked longest first, until the budget is
// kept or none is left.
//
// It works for one caller at a time, and returns immediately for others, because what it evicts
// counts until it is released.
func (e *evictor) run() {
	if !e.r.budget.Exceeded() || !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	now := time.Now()
	if now.Before(e.waitUntil) {
		return
	}
	if now.Sub(e.began) >= sweepEvery {
		e.next, e.began = 0, now
	}
	for fromOldest := e.next == 0; e.r.budget.Exceeded(); {
		switch {
		case e.evictSome():
		case fromOldest:
			e.next, e.waitUntil = 0, now.Add(sweepEvery)
			return
		default: // sessions that held nothing at the last look may hold something now
			e.next, e.began, fromOldest = 0, now, true
		}
	}
}

// evictSome looks at the next parked sessions. It evicts those that hold packets until enough would
// be free if they shared nothing. It returns false if no session was left to look at.
func (e *evictor) evictSome() (more bool) {
	r := e.r
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		excess := r.budget.Bytes() - r.budget.Limit()
		if excess <= 0 {
			more = true // the caller looks again
			return
		}
		e.next, more = r.parked.visit(e.next, func(s *Session) bool {
			if r.parked.spares(s) {
				return true
			}
			if packets, bytes := s.buffered(); packets > 0 {
				end(s, reason.Evicted)
				excess -= int64(bytes)
			}
			return excess > 0
		})
	})
	return more
}
