package proxy

import "sync"

// pauseReason says why a client's input is paused.
type pauseReason uint8

const (
	// redialing means that a new primary link is being dialled. No later message may overtake the
	// one that needs the link.
	redialing pauseReason = iota
	// congested means that too much waits for the upstream on a link. Each such link counts once.
	congested
	pauseReasons
)

// pauses counts the reasons why a client's input is paused. The input resumes when the last is
// gone:
//
//	reading -> paused   the first reason is added
//	paused  -> reading  the last is removed
//
// It is safe for concurrent use.
type pauses struct {
	// mu guards the fields below. It is held while the input is paused or resumed, to keep these
	// calls in order. So it comes before a Socket's lock.
	mu      sync.Mutex
	counts  [pauseReasons]int32
	reasons int32 // their sum
}

// pausable is an input that can be paused.
type pausable interface {
	Pause()
	Resume()
}

// add adds a reason, and pauses the input if it is the first.
func (p *pauses) add(input pausable, why pauseReason) { p.change(input, why, 1) }

// remove removes a reason, and resumes the input if it was the last.
func (p *pauses) remove(input pausable, why pauseReason) { p.change(input, why, -1) }

// change is the only function that pauses and resumes a client's input.
func (p *pauses) change(input pausable, why pauseReason, by int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.reasons
	p.counts[why] += by
	p.reasons += by
	switch {
	case before == 0 && p.reasons > 0:
		input.Pause()
	case before > 0 && p.reasons == 0:
		input.Resume()
	}
}

// has reports whether the input is paused for this reason.
func (p *pauses) has(why pauseReason) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[why] > 0
}
