package upstream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

// guarded is an upstream behind a breaker, in a synctest bubble.
type guarded struct {
	*breaker

	up       atomic.Bool
	attempts atomic.Int64 // failed ones
}

// handshake waits for the breaker and tries to connect, which takes a millisecond.
func (g *guarded) handshake(ctx context.Context) error {
	done, err := g.Allow(ctx)
	if err != nil {
		return err
	}
	defer done()
	time.Sleep(time.Millisecond)
	if !g.up.Load() {
		g.attempts.Add(1)
		g.Failure(errDown)
		return errDown
	}
	g.Success()
	return nil
}

func TestBreakerNeverDelaysASingleClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guarded{breaker: newBreaker()}
		for i := range int64(10) {
			if err := g.handshake(t.Context()); !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			if got := g.attempts.Load(); got != i+1 {
				t.Fatalf("%d attempts after %d handshakes", got, i+1)
			}
			time.Sleep(maxProbePause)
		}
		g.up.Store(true)
		start := time.Now()
		if err := g.handshake(t.Context()); err != nil || time.Since(start) != time.Millisecond {
			t.Errorf("got %v after %v, want success without a pause", err, time.Since(start))
		}
	})
}

func TestBreakerBoundsAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guarded{breaker: newBreaker()}
		_ = g.handshake(t.Context()) // opens the breaker
		// 2,000 clients retry every 100 ms for 5 s.
		var wg sync.WaitGroup
		var slowest atomic.Int64
		end := time.Now().Add(5 * time.Second)
		for i := range 2000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 50 * time.Microsecond)
				for time.Now().Before(end) {
					start, before := time.Now(), g.attempts.Load()
					if err := g.handshake(t.Context()); !errors.Is(err, errDown) {
						t.Errorf("got %v", err)
					}
					if g.attempts.Load() == before {
						t.Error("refused, and no attempt has failed since it arrived")
					}
					if took := int64(time.Since(start)); took > slowest.Load() {
						slowest.Store(took)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if got := g.attempts.Load(); got > 5*int64(time.Second/minProbePause)+3 {
			t.Errorf("%d attempts in 5 s", got)
		}
		if took := time.Duration(slowest.Load()); took > 2*maxProbePause {
			t.Errorf("a handshake waited %v", took)
		}

		// Once the server is up, the first probe lets all clients in.
		g.up.Store(true)
		start := time.Now()
		for range 2000 {
			wg.Go(func() {
				if err := g.handshake(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > maxProbePause+10*time.Millisecond {
			t.Errorf("it took %v until all were in", took)
		}
	})
}

func TestBreakerPassesTheProbeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guarded{breaker: newBreaker()}
		_ = g.handshake(t.Context())
		_ = g.handshake(t.Context()) // from now on there is a pause before each probe
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- g.handshake(ctx) }()
		synctest.Wait()
		go func() { second <- g.handshake(t.Context()) }()
		synctest.Wait()
		cancel() // the client that probes is gone
		g.up.Store(true)
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first got %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the second got %v", err)
		}
	})
}
