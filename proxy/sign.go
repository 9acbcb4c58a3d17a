package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/session"
)

// A client before 4.8 that cannot decode a packet leaves its connection open, and opens another
// one. A client whose network has changed opens another one too. The difference is whether the
// first connection still answers: an engine that was given up for good does not. So before a client
// takes a session over from a connection on which a trial lingers, that one is pinged.

// minSignTime and maxSignTime bound how long a connection has to answer: twice as long as it took
// to answer for the unit of the trial, and a little more.
const (
	minSignTime = 300 * time.Millisecond
	maxSignTime = 5 * time.Second
)

// sign is the answer of a connection that another one takes over. sender.mu guards it.
type sign struct {
	asked bool  // the ping was written
	given event // fires when it was answered
}

// lingers reports whether a trial lingers on the client's connection, and a sign was not asked for
// yet.
func (s *sender) lingers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lingeringLocked() != nil
}

// lingeringLocked returns the trial that lingers, unless a sign was asked for already.
func (s *sender) lingeringLocked() *trial {
	if s.trials == nil {
		return nil
	}
	if t := s.trials.currentLocked(); t != nil && t.phase == lingering && t.sign == nil {
		return t
	}
	return nil
}

// askForSign makes the next fill ping the client if a trial lingers on its connection. It returns
// what to wait for, and how long; or nil if there is nothing to ask, or it was asked before.
func (s *sender) askForSign() (given *event, timeout time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.lingeringLocked()
	if t == nil {
		return nil, 0
	}
	t.stopTimer() // until then it lingers
	t.sign = new(sign)
	return &t.sign.given, min(max(2*t.took, minSignTime), maxSignTime)
}

// wantsSignLocked reports whether a ping is needed.
func (ts *trials) wantsSignLocked() bool {
	t := ts.currentLocked()
	return t != nil && t.sign != nil && !t.sign.asked
}

// pingedLocked notes that a ping is written.
func (ts *trials) pingedLocked() {
	if ts.wantsSignLocked() {
		ts.currentLocked().sign.asked = true
	}
}

// pongedLocked notes that the latest ping was answered.
func (ts *trials) pongedLocked() {
	if t := ts.currentLocked(); t != nil && t.sign != nil && t.sign.asked && !t.sign.given.HasFired() {
		t.sign.given.Fire()
	}
}

// awaitSign waits until a client on which a trial lingers has given a sign of life, or too much
// time has passed. It returns immediately if there is nothing to wait for.
func awaitSign(c *client) {
	given, timeout := c.sender.askForSign()
	if given == nil {
		return
	}
	c.sock.Wake()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-given.Done():
	case <-c.done.Done():
	case <-timer.C:
	}
}

// postponeForSign handles the CONNECT again when the client that has the claimed session has given
// a sign of life, or too much time has passed. It returns false if there is nothing to wait for.
// Reading is paused meanwhile.
func postponeForSign(r *receiver, claim session.Claim, connect []byte) bool {
	other := clientOf(r.c.deps.registry.Holder(claim, r.c))
	if other == nil || !other.sender.lingers() {
		return false
	}
	connect = slices.Clone(connect)
	r.awaitLink(func() { // ends with awaitSign
		awaitSign(other)
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
