package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
)

var errDown = errors.New("down")

// gated is an upstream behind a gate, in a bubble.
type gated struct {
	*gate
	up       atomic.Bool
	attempts atomic.Int64 // that failed
}

// handshake passes the gate and tries to connect, which takes a millisecond.
func (g *gated) handshake(ctx context.Context) error {
	leave, err := g.pass(ctx)
	if err != nil {
		return err
	}
	defer leave()
	time.Sleep(time.Millisecond)
	if !g.up.Load() {
		g.attempts.Add(1)
		g.unreachable(errDown)
		return errDown
	}
	g.connected()
	return nil
}

func TestGateLetsASingleClientTryAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gated{gate: newGate()}
		for i := range int64(10) {
			if err := g.handshake(t.Context()); !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			if got := g.attempts.Load(); got != i+1 {
				t.Fatalf("%d attempts after %d handshakes", got, i+1)
			}
			time.Sleep(mostTrialPause)
		}
		g.up.Store(true)
		start := time.Now()
		if err := g.handshake(t.Context()); err != nil || time.Since(start) != time.Millisecond {
			t.Errorf("got %v after %v, want success at once", err, time.Since(start))
		}
	})
}

func TestGateBoundsAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gated{gate: newGate()}
		_ = g.handshake(t.Context()) // the first finds that it is down
		// 2,000 clients, each of which tries again after 100 ms, for 5 s.
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
						t.Error("refused, and no attempt has failed since it came")
					}
					if took := int64(time.Since(start)); took > slowest.Load() {
						slowest.Store(took)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if got := g.attempts.Load(); got > 5*int64(time.Second/leastTrialPause)+3 {
			t.Errorf("%d attempts in 5 s", got)
		}
		if took := time.Duration(slowest.Load()); took > 2*mostTrialPause {
			t.Errorf("a handshake waited %v", took)
		}

		// Back up, everybody is let in with the first trial.
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
		if took := time.Since(start); took > mostTrialPause+10*time.Millisecond {
			t.Errorf("it took %v until all were in", took)
		}
	})
}

func TestGatePassesATrialOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gated{gate: newGate()}
		_ = g.handshake(t.Context())
		_ = g.handshake(t.Context()) // from now on there is a pause
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- g.handshake(ctx) }()
		synctest.Wait()
		go func() { second <- g.handshake(t.Context()) }()
		synctest.Wait()
		cancel() // who was to try has gone
		g.up.Store(true)
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first got %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the second got %v", err)
		}
	})
}

// Thousands of clients come back while the upstream is down, and it comes back too.
func TestStormWhileTheUpstreamIsDown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	var up atomic.Pointer[httptest.Server]
	app := sioserver.New(sioserver.Options{})
	app.OnConnect("/", func(*sioserver.Socket) error { return nil })
	listen := func() {
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Error(err)
			return
		}
		s := httptest.NewUnstartedServer(app)
		s.Listener = ln
		s.Start()
		up.Store(s)
	}
	t.Cleanup(func() {
		app.Close()
		up.Load().Close()
	})
	r := newRig(t, func(c *config.Config) {
		c.Upstream.URL = "unix://" + socket
		c.Upstream.HandshakeTimeout = time.Minute // on a busy machine all handshakes at once take their time
	})
	const clients = 300
	var refused, in atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				w := httptest.NewRecorder()
				r.proxy.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/socket.io/?EIO=4&transport=polling", nil))
				if w.Code == http.StatusOK {
					in.Add(1)
					return
				}
				if w.Code != http.StatusBadGateway || w.Header().Get("Retry-After") == "" {
					t.Errorf("refused with %d, %v", w.Code, w.Header())
					return
				}
				refused.Add(1)
				time.Sleep(20 * time.Millisecond) // a client's back-off, and a short one
			}
		})
	}
	start := time.Now()
	r.await("many refusals", func() bool { return refused.Load() > 10*clients })
	took := time.Since(start)
	attempts := testutil.ToFloat64(r.metrics.Dials.Error)
	t.Logf("%d handshakes refused in %v, for %v attempts to connect", refused.Load(), took, attempts)
	// Those under way when the first one failed, and then one at a time.
	if most := float64(cap(r.proxy.dials)) + took.Seconds()/leastTrialPause.Seconds() + 2; attempts > most {
		t.Errorf("%v attempts to connect in %v, want %v at most", attempts, took, most)
	}
	listen()
	wg.Wait()
	if in.Load() != clients {
		t.Errorf("%d of %d are in", in.Load(), clients)
	}
	if lines := strings.Count(r.logs.String(), "upstream handshake failed"); lines > 1+int(time.Since(start)/logSpacing) {
		t.Errorf("%d lines in the log about it", lines)
	}
}

// A server that takes connections and says nothing, as a stopped process does: its kernel takes them.
func TestStormWhileTheUpstreamIsStopped(t *testing.T) {
	const dials, clients = 8, 200
	app := sioserver.New(sioserver.Options{})
	app.OnConnect("/", func(*sioserver.Socket) error { return nil })
	t.Cleanup(app.Close)
	resumed := make(chan struct{})
	var stopped atomic.Bool
	var now, most atomic.Int64
	stopped.Store(true)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stopped.Load() {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			select {
			case <-resumed:
			case <-r.Context().Done():
				return
			}
		}
		app.ServeHTTP(w, r)
	}))
	t.Cleanup(up.Close)
	r := newRig(t, func(c *config.Config) {
		c.Upstream.URL = up.URL
		c.Upstream.MaxConcurrentDials = dials
		c.Upstream.HandshakeTimeout = 500 * time.Millisecond
	})
	var refused, in atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				w := httptest.NewRecorder()
				r.proxy.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/socket.io/?EIO=4&transport=polling", nil))
				switch w.Code {
				case http.StatusOK:
					in.Add(1)
					return
				case http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("refused with %d", w.Code)
					return
				}
			}
		})
	}
	r.await("refusals", func() bool { return refused.Load() > 2*clients })
	// The server learns a little later that one was given up: it may see more than are under way.
	if got := most.Load(); got == 0 || got > 2*dials {
		t.Errorf("%d handshakes were seen at a time, want %d at most", got, dials)
	}
	stopped.Store(false)
	close(resumed)
	wg.Wait()
	if in.Load() != clients {
		t.Errorf("%d of %d are in", in.Load(), clients)
	}
}
