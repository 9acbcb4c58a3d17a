package upstream

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A half-open breaker lets the next probe through this long after the previous one failed.
const (
	minProbePause = 100 * time.Millisecond
	maxProbePause = 250 * time.Millisecond
)

// breakerState says which handshakes a breaker lets through:
//
//	closed    -> open       a dial failed
//	open      -> half-open  a caller becomes the probe
//	half-open -> open       the probe ended without a connection
//	any       -> closed     some dial succeeded
type breakerState uint8

const (
	breakerClosed   breakerState = iota // every handshake passes
	breakerOpen                         // nothing passes until a caller becomes the probe
	breakerHalfOpen                     // one handshake, the probe, is in progress
)

func (s breakerState) String() string {
	switch s {
	case breakerClosed:
		return "closed"
	case breakerOpen:
		return "open"
	case breakerHalfOpen:
		return "half-open"
	}
	return "unknown"
}

// breaker is a circuit breaker around dials. After a failed dial it lets one probe through at a
// time, 100 to 250 ms apart. Callers that arrive meanwhile wait for the probe and share its result.
// If the probe cannot connect, they fail with its error. Once any dial succeeds, all of them
// proceed.
//
// Three properties follow. Each refused caller arrived before an attempt that failed. No caller
// waits longer than one probe and the pause before it. A single client never notices the breaker,
// because there is no pause after a first failure.
//
// Only the connection counts, not the server's answer, which one client may have caused. Answers
// are the throttle's concern.
//
// It is safe for concurrent use.
type breaker struct {
	mu       sync.Mutex // guards the fields below
	state    breakerState
	failures int           // failed dials in a row
	total    uint64        // all failed dials
	err      error         // of the last failed dial
	next     time.Time     // earliest start of the next probe
	probes   uint64        // begun so far; a probe may outlast a success
	changed  chan struct{} // closed at every change of state or total
}

func newBreaker() *breaker { return &breaker{changed: make(chan struct{})} }

// moveLocked is the only place where the state changes. b.mu must be held.
func (b *breaker) moveLocked(to breakerState) {
	b.state = to
	close(b.changed)
	b.changed = make(chan struct{})
}

// Allow returns when the caller may dial, and the caller must call done after its dial. The error
// is that of another caller's failed probe, or of ctx.
func (b *breaker) Allow(ctx context.Context) (done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.total
	for b.state != breakerClosed {
		switch {
		case b.total > seen:
			return nil, b.err
		case b.state == breakerOpen:
			return b.probeLocked(ctx)
		}
		if err := wait(ctx, &b.mu, b.changed); err != nil {
			return nil, err
		}
	}
	return func() {}, nil
}

// probeLocked makes the caller the probe, as soon as the pause is over.
func (b *breaker) probeLocked(ctx context.Context) (done func(), err error) {
	b.moveLocked(breakerHalfOpen)
	b.probes++
	probe := b.probes
	pause := time.NewTimer(time.Until(b.next))
	defer pause.Stop()
	if err := wait(ctx, &b.mu, pause.C); err != nil {
		b.probeEndedLocked(probe)
		return nil, err
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.probeEndedLocked(probe)
	}, nil
}

// probeEndedLocked lets another caller become the probe, unless a dial succeeded.
func (b *breaker) probeEndedLocked(probe uint64) {
	if b.state == breakerHalfOpen && b.probes == probe {
		b.moveLocked(breakerOpen)
	}
}

// Failing returns the error of the last failed dial while the breaker is not closed, and otherwise
// nil.
func (b *breaker) Failing() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == breakerClosed {
		return nil
	}
	return b.err
}

// Success records that a dial succeeded, or that an earlier connection turned out to work.
func (b *breaker) Success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != breakerClosed {
		b.failures = 0
		b.moveLocked(breakerClosed)
	}
}

// Failure records a dial that failed with err.
func (b *breaker) Failure(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.total++
	b.err = err
	b.next = time.Now()
	if b.failures > 1 {
		b.next = b.next.Add(minProbePause + rand.N(maxProbePause-minProbePause))
	}
	to := b.state
	if to == breakerClosed {
		to = breakerOpen
	}
	b.moveLocked(to)
}

// wait waits for the channel or for ctx, with mu unlocked meanwhile.
func wait[T any](ctx context.Context, mu *sync.Mutex, c <-chan T) error {
	mu.Unlock()
	defer mu.Lock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
