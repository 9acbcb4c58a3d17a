package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

// A client that cannot decode a packet gives up its connection and opens another one. Both kinds of
// clients look like one whose network has changed when the new connection asks for the session:
//
//   - One of 4.8 closes the first connection. On a busy machine that shows a little later.
//   - One before 4.8 leaves the first connection open. Its engine still answers there. An engine
//     that was given up for any other reason was closed, and does not.
//
// So before a client takes a session over from a connection over which units of a trial were sent,
// holdfast pings that one, and waits until it answers or closes.

const (
	// minSignTime and maxSignTime bound how long the first connection has to answer: twice as long
	// as it took to answer for the unit, and a little more.
	minSignTime = 2 * time.Second
	maxSignTime = 5 * time.Second
	// signAfter is for how long after a trial that a client has passed it is asked. If it gives a
	// sign, it was slower than the trial allowed.
	signAfter = time.Minute
)

// tried is what is known about units that were sent over a connection.
type tried struct {
	units int             // how many; 0 if there were none
	only  trialUnit       // the unit, if there was one, with Hold, and before any packet of a session
	first bool            // the first of them came before any packet of a session
	held  bool            // the latest one had a Hold
	began instant.Instant // when the first one was written
	at    instant.Instant // when the latest one was written
	took  time.Duration   // until it was handled; the one before, while it is in flight
	sign  *sign           // nil until another connection is about to take over
}

// noteUnit notes that a unit was written. alone says that no packet of a session was.
func (t *tried) noteUnit(u trialUnit, alone bool) {
	t.held = u.Hold > 0
	t.only = trialUnit{}
	if t.units == 0 {
		t.first, t.began = alone, instant.Now()
		if alone && t.held {
			t.only = u
		}
	}
	t.units++
	t.at = instant.Now()
}

// onlyFirst moves the session on trial to the front of what is sent next. What its client leaves
// the connection open for is then the packet that was tried, or comes behind it.
func (t *tried) onlyFirst(held []item) []item {
	i := slices.IndexFunc(held, func(it item) bool { return t.only.trial != nil && it.cur == t.only.cur })
	if i <= 0 {
		return held
	}
	return slices.Insert(slices.Delete(slices.Clone(held), i, i+1), 0, held[i])
}

// failedLate tells the session on trial that its client has left the connection open, after the
// trials.
func (t *tried) failedLate() {
	if len(t.only.packets) == 1 {
		t.only.cur.FailedLate(t.only.packets[0])
	}
}

// sign is the answer of a connection that another one takes over.
type sign struct {
	asked bool  // the ping was written
	given event // fires when it was answered
}

// asksForSign reports whether to ask the client for a sign before another connection takes
// over.
func (s *sender) asksForSign() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asksForSignLocked()
}

func (s *sender) asksForSignLocked() bool {
	if s.trials == nil || s.conn.state != clientOpen {
		return false
	}
	switch t := &s.trials.tried; {
	case t.units == 0 || t.sign != nil:
		return false
	case s.trials.state == over:
		return s.triedRecentlyLocked()
	}
	return s.trials.state == inFlight || s.trials.state == lingering
}

// triedRecentlyLocked reports whether the client may have left the connection because of a unit,
// and be slow to come back.
func (s *sender) triedRecentlyLocked() bool {
	return s.trials != nil && s.trials.tried.held && instant.Since(s.trials.tried.at) < signAfter
}

// askForSign makes the next fill ping the client if asksForSign holds. It returns what to
// wait for, and how long; or nil if there is nothing to ask.
func (s *sender) askForSign() (given *event, timeout time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asksForSignLocked() {
		return nil, 0
	}
	t := &s.trials.tried
	t.sign = new(sign)
	if s.trials.state == lingering {
		s.trials.lingerLocked() // until then
	}
	return &t.sign.given, min(max(2*t.took, minSignTime), maxSignTime)
}

// wantsSignLocked reports whether a ping is needed. While a unit is in flight, its own pings are.
func (s *sender) wantsSignLocked() bool {
	ts := s.trials
	return ts != nil && ts.tried.sign != nil && !ts.tried.sign.asked && ts.state != inFlight
}

// pingedLocked notes that a ping is written.
func (s *sender) pingedLocked() {
	if s.wantsSignLocked() {
		s.trials.tried.sign.asked = true
	}
}

// pongedLocked notes that the latest ping was answered.
func (s *sender) pongedLocked() {
	if s.trials != nil && s.trials.tried.sign != nil && s.trials.tried.sign.asked && !s.gaveSignLocked() {
		s.trials.tried.sign.given.Fire()
	}
}

// gaveSign reports whether the client has left this connection open, and opened another one.
func (s *sender) gaveSign() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gaveSignLocked()
}

func (s *sender) gaveSignLocked() bool {
	return s.trials != nil && s.trials.tried.sign != nil && s.trials.tried.sign.given.HasFired()
}

// awaitSign waits until a client over whose connection units were sent has given a sign, has
// closed, or has taken too long. It returns immediately if there is nothing to wait for. by is the
// client that takes over. With a key it may be another client, and surely is if it has another
// address. It waits no longer than limit.
func awaitSign(c, by *client, limit time.Duration) {
	if by.keyed != nil && by.address != c.address {
		return
	}
	given, timeout := c.sender.askForSign()
	if given == nil {
		return
	}
	c.sock.Wake()
	timer := time.NewTimer(min(timeout, limit))
	defer timer.Stop()
	select {
	case <-given.Done():
	case <-c.done.Done():
	case <-timer.C:
	}
}

// postponeForSign handles the CONNECT again after awaitSign for the client that has the claimed
// session. It returns false if there is nothing to wait for. Reading is paused meanwhile.
func postponeForSign(r *receiver, claim session.Claim, connect []byte) bool {
	other := clientOf(r.c.deps.registry.Holder(claim, r.c))
	if other == nil || !other.sender.asksForSign() {
		return false
	}
	connect = slices.Clone(connect)
	r.awaitLink(func() { // ends with awaitSign
		awaitSign(other, r.c, maxSignTime)
		r.c.sock.Input(func() {
			waiting := r.takeWaiting()
			if r.c.done.HasFired() { // the session is for the next one
				r.dropAll()
			}
			r.message(connect, false)
			r.replay(waiting)
		})
	})
	return true
}
