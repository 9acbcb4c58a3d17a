package proxy

import "sync"

// pauseReason says why a client's input is paused.
type pauseReason uint8

const (
	// redialing means that the client's further primary link is dialled: nothing may overtake what it is for.
	redialing pauseReason = iota
	// congested means that a link takes no more. It counts once for each such link.
	congested
	pauseReasons
)

// pauses counts the reasons for which a client's input is paused. The input goes on when the last is gone:
//
//	reading -> paused   the first reason is added
//	paused  -> reading  the last is removed
//
// It is safe for concurrent use.
type pauses struct {
	mu      sync.Mutex // guards counts, and is held while the input is told, so that it is told in order; taken before a Socket's
	counts  [pauseReasons]int
	reasons int // their sum
}

// pausable is an input that can be paused.
type pausable interface {
	Pause()
	Resume()
}

// add pauses the input for one more reason.
func (p *pauses) add(input pausable, why pauseReason) { p.change(input, why, 1) }

// remove takes one of the reasons back, and resumes the input if it was the last.
func (p *pauses) remove(input pausable, why pauseReason) { p.change(input, why, -1) }

// change is the only place that pauses and resumes a client's input.
func (p *pauses) change(input pausable, why pauseReason, by int) {
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
