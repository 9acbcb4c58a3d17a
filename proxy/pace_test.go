package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
)

// paced is an upstream behind a pace, in a bubble, that answers what it is told to.
type paced struct {
	pace

	attempts atomic.Int64
}

// handshake takes its turn and a millisecond, and has the given outcome.
func (p *paced) handshake(ctx context.Context, outcome error) error {
	if _, err := p.pass(ctx); err != nil {
		return err
	}
	p.attempts.Add(1)
	time.Sleep(time.Millisecond)
	p.done(outcome)
	return outcome
}

func TestPaceBoundsAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paced{}
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
		// Those that had no answer first, the 20 that were under way then, and one in each pause: for a second longer, as some wait.
		least, most := int64(length/turnPause)/2, int64((length+time.Second)/turnPause)+mostUnanswered+20
		if got := p.attempts.Load(); got < least || got > most {
			t.Errorf("%d attempts in %v, want %d to %d", got, length, least, most)
		}

		// The first that is answered lets all others in.
		start := time.Now()
		for range clients {
			wg.Go(func() {
				if err := p.handshake(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 2*turnPause {
			t.Errorf("it took %v until all were in", took)
		}
	})
}

func TestPaceLeavesASingleClientAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paced{}
		for range 10 * mostUnanswered {
			start := time.Now()
			if err := p.handshake(t.Context(), io.EOF); !errors.Is(err, io.EOF) || time.Since(start) != time.Millisecond {
				t.Fatalf("got %v after %v, want it to be tried at once", err, time.Since(start))
			}
			time.Sleep(turnPause)
		}
	})
}

// A client that never gets an answer, by its own doing, comes again and again; others come now and then.
func TestPaceDoesNotFailOneClientForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paced{}
		end := time.Now().Add(10 * time.Second)
		var wg sync.WaitGroup
		for range 5 { // connections at a time
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
			if took := time.Since(start); took > 10*turnPause {
				t.Errorf("another client waited %v", took)
			}
		}
		wg.Wait()
	})
}

func TestPaceForgetsWhoHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paced{}
		for range mostUnanswered + 1 {
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
		if err := p.handshake(t.Context(), nil); err != nil || time.Since(start) > 2*turnPause {
			t.Errorf("who comes next got %v after %v", err, time.Since(start))
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

// Thousands of clients come back while a balancer takes connections for a server that is down, and it comes back too.
func TestStormWhileABalancerAnswersForTheUpstream(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve http.HandlerFunc
		want  int // status
	}{
		{"by ending connections", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, http.StatusBadGateway},
		{"with 503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, http.StatusServiceUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := sioserver.New(sioserver.Options{})
			app.OnConnect("/", func(*sioserver.Socket) error { return nil })
			t.Cleanup(app.Close)
			var up atomic.Bool
			var seen atomic.Int64
			balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if up.Load() {
					app.ServeHTTP(w, r)
					return
				}
				seen.Add(1)
				tt.serve(w, r)
			}))
			t.Cleanup(balancer.Close)
			const dials, clients = 8, 200
			r := newRig(t, func(c *config.Config) {
				c.Upstream.URL = balancer.URL
				c.Upstream.MaxConcurrentDials = dials
			})
			var refused, in atomic.Int64
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the client's own patience
						w := httptest.NewRecorder()
						req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/socket.io/?EIO=4&transport=polling", nil)
						r.proxy.ServeHTTP(w, req)
						gone := ctx.Err() != nil
						cancel()
						switch {
						case gone:
						case w.Code == http.StatusOK:
							in.Add(1)
							return
						case w.Code == tt.want:
							refused.Add(1)
						default:
							t.Errorf("refused with %d", w.Code)
							return
						}
					}
				})
			}
			start := time.Now()
			time.Sleep(2 * time.Second) // how long the outage is
			took := time.Since(start)
			t.Logf("%d handshakes refused, the balancer saw %d", refused.Load(), seen.Load())
			if most := mostUnanswered + 2*dials + int64(took/turnPause) + 1; seen.Load() > most {
				t.Errorf("the balancer saw %d handshakes in %v, want %d at most", seen.Load(), took, most)
			}
			up.Store(true)
			wg.Wait()
			if in.Load() != clients {
				t.Errorf("%d of %d are in", in.Load(), clients)
			}
		})
	}
}
