package proxy

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// While nobody can connect to the upstream, one handshake tries to at a time, this long after the last that could not.
	leastTrialPause = 100 * time.Millisecond
	mostTrialPause  = 250 * time.Millisecond
)

// gate keeps a storm of handshakes from an upstream that nobody can connect to. It is open as long as connections to the
// upstream come about. After one that did not, it lets one handshake through at a time, and the others wait for what
// comes of it: if it cannot connect either, they fail as well, for each of them was there before that; as soon as
// anybody can connect, all go on. So none is refused without an attempt that failed after it came, none waits for longer than a trial and the pause before
// it, and no pause is made after a first failure: a single client never notices the gate.
//
// Only the connection counts, not what the server then says or does not say: that may be one client's own doing. That is for pace.
//
// It is safe for concurrent use.
type gate struct {
	mu       sync.Mutex // guards the fields below
	failures int        // to connect, in a row; 0 is open
	failed   uint64     // failures ever
	err      error      // the last failure's
	next     time.Time  // when the next trial may be made
	trying   bool       // a trial is under way
	changed  chan struct{}
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

// pass returns when a handshake may be made; leave is to be called after it. Errors are those of connections that
// others tried meanwhile, and ctx's.
func (g *gate) pass(ctx context.Context) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	came := g.failed
	for g.failures > 0 {
		switch {
		case g.failed > came:
			return nil, g.err
		case !g.trying:
			return g.tryLocked(ctx)
		}
		if err := wait(ctx, &g.mu, g.changed); err != nil {
			return nil, err
		}
	}
	return func() {}, nil
}

// tryLocked makes the caller the one that tries, when it is time.
func (g *gate) tryLocked(ctx context.Context) (leave func(), err error) {
	g.trying = true
	pause := time.NewTimer(time.Until(g.next))
	defer pause.Stop()
	if err := wait(ctx, &g.mu, pause.C); err != nil {
		g.triedLocked()
		return nil, err
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.triedLocked()
	}, nil
}

// triedLocked ends a trial; if nothing came of it, another begins.
func (g *gate) triedLocked() {
	g.trying = false
	g.changeLocked()
}

func (g *gate) changeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// connected notes that a connection to the upstream came about, or that one is of use.
func (g *gate) connected() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures > 0 {
		g.failures = 0
		g.changeLocked()
	}
}

// unreachable notes that no connection to the upstream came about.
func (g *gate) unreachable(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures++
	g.failed++
	g.err = err
	g.next = time.Now()
	if g.failures > 1 {
		g.next = g.next.Add(leastTrialPause + rand.N(mostTrialPause-leastTrialPause))
	}
	g.changeLocked()
}

// wait waits for the channel, or ctx. It gives the lock up meanwhile.
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
