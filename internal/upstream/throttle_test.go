package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
)

// throttled is an upstream behind a throttle, in a synctest bubble. The test chooses how handshakes
// end.
type throttled struct {
	throttle

	attempts atomic.Int64
}

// handshake waits for the throttle, takes a millisecond, and has the given outcome.
func (p *throttled) handshake(ctx context.Context, outcome error) error {
	if _, err := p.Wait(ctx); err != nil {
		return err
	}
	p.attempts.Add(1)
	time.Sleep(time.Millisecond)
	p.Done(outcome)
	return outcome
}

func TestThrottleBoundsAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &throttled{}
		var wg sync.WaitGroup
		const clients, length = 2000, 10 * time.Second
		end := time.Now().Add(length)
		for i := range clients {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 50 * time.Microsecond)
				for time.Now().Before(end) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					err := p.handshake(ctx, io.EOF)
					cancel()
					if !errors.Is(err, io.EOF) && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v", err)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		// The first unanswered ones, the 20 in progress by then, and one per interval. Callers in
		// the queue add a second.
		least, most := int64(length/ticketInterval)/2, int64((length+time.Second)/ticketInterval)+maxUnanswered+20
		if got := p.attempts.Load(); got < least || got > most {
			t.Errorf("%d attempts in %v, want %d to %d", got, length, least, most)
		}

		// The first answer lets all other callers in.
		start := time.Now()
		for range clients {
			wg.Go(func() {
				if err := p.handshake(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 2*ticketInterval {
			t.Errorf("it took %v until all were in", took)
		}
	})
}

func TestThrottleNeverDelaysASingleClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &throttled{}
		for range 10 * maxUnanswered {
			start := time.Now()
			if err := p.handshake(t.Context(), io.EOF); !errors.Is(err, io.EOF) || time.Since(start) != time.Millisecond {
				t.Fatalf("got %v after %v, want it without a pause", err, time.Since(start))
			}
			time.Sleep(ticketInterval)
		}
	})
}

// One client keeps asking for something that never gets an answer; others ask now and then.
func TestThrottleNeverFailsOneClientForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &throttled{}
		end := time.Now().Add(10 * time.Second)
		var wg sync.WaitGroup
		for range 5 { // concurrent connections
			wg.Go(func() {
				for time.Now().Before(end) {
					_ = p.handshake(t.Context(), io.EOF)
				}
			})
		}
		for time.Now().Before(end) {
			time.Sleep(500 * time.Millisecond)
			start := time.Now()
			if err := p.handshake(t.Context(), nil); err != nil {
				t.Errorf("another client got %v", err)
			}
			if took := time.Since(start); took > 10*ticketInterval {
				t.Errorf("another client waited %v", took)
			}
		}
		wg.Wait()
	})
}

func TestThrottleForgetsCallersThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &throttled{}
		for range maxUnanswered + 1 {
			_ = p.handshake(t.Context(), io.EOF)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- p.handshake(ctx, nil) }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		start := time.Now()
		if err := p.handshake(t.Context(), nil); err != nil || time.Since(start) > 2*ticketInterval {
			t.Errorf("the next caller got %v after %v", err, time.Since(start))
		}
	})
}

func TestOutcome(t *testing.T) {
	for _, tt := range []struct {
		name              string
		err               error
		answered, telling bool
	}{
		{"open", nil, true, true},
		{"refused", &engineio.RejectedError{Status: http.StatusForbidden}, true, true},
		{"a balancer's 502", &engineio.RejectedError{Status: http.StatusBadGateway}, false, true},
		{"a balancer's 503", &engineio.RejectedError{Status: http.StatusServiceUnavailable}, false, true},
		{"a balancer's 504", &engineio.RejectedError{Status: http.StatusGatewayTimeout}, false, true},
		{"ended", io.EOF, false, true},
		{"reset", &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, false, true},
		{"no connection", &net.OpError{Op: "dial", Err: errors.New("connection refused")}, false, false},
		{"the client has gone", context.Canceled, false, false},
		{"too slow", context.DeadlineExceeded, false, false},
	} {
		if answered, telling := outcome(tt.err); answered != tt.answered || telling != tt.telling {
			t.Errorf("%s: %v, %v, want %v, %v", tt.name, answered, telling, tt.answered, tt.telling)
		}
	}
}
