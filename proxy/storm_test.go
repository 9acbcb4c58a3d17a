package proxy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
)

// The promises of package upstream for its breaker and throttle.
const (
	minProbePause  = 100 * time.Millisecond
	ticketInterval = 50 * time.Millisecond
	maxUnanswered  = 16
)

// Many clients reconnect while the upstream is down, and all get in once it is up again.
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
		c.Upstream.URL = config.URLs{"unix://" + socket}
		c.Upstream.HandshakeTimeout = time.Minute // on a busy machine many concurrent handshakes are slow
	})
	const clients = 300
	var refused, in atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
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
				time.Sleep(20 * time.Millisecond) // a client's back-off, shortened
			}
		})
	}
	r.await("many refusals", func() bool { return refused.Load() > 10*clients })
	attempts := testutil.ToFloat64(r.metrics.Dials.Error)
	took := time.Since(start)
	t.Logf("%d handshakes refused in %v, for %v attempts to connect", refused.Load(), took, attempts)
	// Dials in progress when the first one failed, and then one probe per pause of the breaker.
	if most := float64(config.Default().Upstream.MaxConcurrentDials) + took.Seconds()/minProbePause.Seconds() + 2; attempts > most {
		t.Errorf("%v attempts to connect in %v, want at most %v", attempts, took, most)
	}
	listen()
	wg.Wait()
	if in.Load() != clients {
		t.Errorf("%d of %d are in", in.Load(), clients)
	}
	if lines := strings.Count(r.logs.String(), "upstream handshake failed"); lines > 1+int(time.Since(start)/limit.LogInterval) {
		t.Errorf("%d lines in the log about it", lines)
	}
}

// A stopped process accepts connections, because its kernel does, and never answers.
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
		c.Upstream.URL = config.URLs{up.URL}
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
	// The server notices aborted handshakes with a delay, so it may count more than are in
	// progress.
	if got := most.Load(); got == 0 || got > 2*dials {
		t.Errorf("%d handshakes were seen at a time, want at most %d", got, dials)
	}
	stopped.Store(false)
	close(resumed)
	wg.Wait()
	if in.Load() != clients {
		t.Errorf("%d of %d are in", in.Load(), clients)
	}
}

// Many clients reconnect while a balancer accepts connections for a server that is down. All get in
// once it is up again.
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
				c.Upstream.URL = config.URLs{balancer.URL}
				c.Upstream.MaxConcurrentDials = dials
			})
			var refused, in atomic.Int64
			var wg sync.WaitGroup
			start := time.Now()
			for range clients {
				wg.Go(func() {
					for {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the client gives up after a second
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
			time.Sleep(2 * time.Second) // length of the outage
			n := seen.Load()
			took := time.Since(start)
			t.Logf("%d handshakes refused, the balancer saw %d", refused.Load(), n)
			if most := maxUnanswered + 2*dials + int64(took/ticketInterval) + 1; n > most {
				t.Errorf("the balancer saw %d handshakes in %v, want at most %d", n, took, most)
			}
			up.Store(true)
			wg.Wait()
			if in.Load() != clients {
				t.Errorf("%d of %d are in", in.Load(), clients)
			}
		})
	}
}
