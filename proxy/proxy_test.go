package proxy

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/siotest/outputtest"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
	"github.com/holdfast/holdfast/internal/steady"
	"github.com/holdfast/holdfast/metrics"
)

// loopIsOff runs the tests with the event loop switched off. "make network" runs them both ways.
var loopIsOff = os.Getenv("TEST_EVENT_LOOP") == "off"

func TestMain(m *testing.M) {
	if err := netpoll.Setup(!loopIsOff); err != nil {
		panic(err)
	}
	// The coverage of FuzzProxy differs from run to run, so inputs cannot be minimized. go would
	// try each of them for a minute. The command line comes after this.
	if err := flag.Set("test.fuzzminimizetime", "1x"); err != nil {
		panic(err)
	}
	steady.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"), // lives as long as the process
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"),                            // idle connections of http.DefaultClient
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"), // lasts half a second after a refusal
	)
}

// rig is a legacy server with a proxy in front of it. It records what both observe.
type rig struct {
	t       *testing.T
	server  *sioserver.Server
	proxy   *Server
	metrics *metrics.Metrics
	series  *prometheus.Registry // collects metrics
	url     string
	logs    *outputtest.Buffer

	mu          sync.Mutex
	connections []*sioserver.Socket
	disconnects []string
}

func newRig(t *testing.T, change func(*config.Config)) *rig {
	t.Helper()
	r := &rig{t: t, server: sioserver.New(sioserver.Options{}), logs: &outputtest.Buffer{}}
	r.server.OnConnect("/", func(s *sioserver.Socket) error {
		r.mu.Lock()
		r.connections = append(r.connections, s)
		r.mu.Unlock()
		s.OnDisconnect(func(reason string) {
			r.mu.Lock()
			r.disconnects = append(r.disconnects, reason)
			r.mu.Unlock()
		})
		s.On("echo", func(args []json.RawMessage, ack func(...any)) { ack(args[0]) })
		return nil
	})
	r.server.OnConnect("/admin", func(*sioserver.Socket) error { return nil })
	up := httptest.NewServer(r.server)
	cfg := config.Default()
	cfg.Upstream.URL = config.URLs{up.URL}
	cfg.Log.Level = "debug"
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	r.series = prometheus.NewRegistry()
	r.metrics = metrics.New(r.series)
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.proxy, err = New(cfg, log, r.metrics); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r.proxy, ReadHeaderTimeout: time.Minute, DisableGeneralOptionsHandler: true}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(r.proxy.Listener(ln, false)) // returns after Close
	}()
	r.url = "http://" + ln.Addr().String()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.proxy.Shutdown(ctx)
		_ = server.Close() // stops it whatever it returns
		<-served
		r.server.Close()
		up.Close()
		if t.Failed() {
			t.Log(r.logs.String())
		}
	})
	return r
}

func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(time.Millisecond) // polls a condition that other goroutines make true
	}
}

func (r *rig) socket(i int) *sioserver.Socket {
	r.t.Helper()
	r.await("a connection", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.connections) > i
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections[i]
}

func (r *rig) disconnected() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.disconnects)
}

// counter is a client that records the numbers it receives.
type counter struct {
	*sioclient.Client

	mu  sync.Mutex
	got []int
}

func (r *rig) client() *counter {
	r.t.Helper()
	c := &counter{Client: sioclient.New(sioclient.Options{URL: r.url})}
	c.On("n", func(args []json.RawMessage, _ func(...any)) {
		var n int
		if err := json.Unmarshal(args[0], &n); err != nil {
			r.t.Error(err)
		}
		c.mu.Lock()
		c.got = append(c.got, n)
		c.mu.Unlock()
	})
	if err := c.Connect(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

func (c *counter) numbers() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i + 1
	}
	return all
}

func TestCutClientRecovers(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	s := r.socket(0)
	id := c.ID()
	n := 0
	emit := func(count int) {
		for range count {
			n++
			s.Emit("n", n)
		}
	}
	for round := range 3 {
		emit(10)
		r.await("events", func() bool { return len(c.numbers()) == n })
		c.Cut()
		r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
		emit(1000)
		if err := c.Reconnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !c.Recovered() || c.ID() != id {
			t.Fatalf("round %d: recovered %v, id %q, want true, %q", round, c.Recovered(), c.ID(), id)
		}
	}
	emit(10)
	r.await("all events", func() bool { return len(c.numbers()) >= n })
	if got := c.numbers(); !slices.Equal(got, upTo(n)) {
		t.Errorf("got %d events, not 1 to %d in order", len(got), n)
	}
	if got := r.disconnected(); len(got) > 0 {
		t.Errorf("the server saw %v", got)
	}
	for _, secret := range []string{c.PID(), c.Offset()} {
		if strings.Contains(r.logs.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

func TestExpiryEndsTheServersConnection(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Recovery.MaxDisconnectionDuration = 50 * time.Millisecond })
	c := r.client()
	r.socket(0)
	c.Cut()
	r.await("the server's disconnect", func() bool { return len(r.disconnected()) == 1 })
	if got := r.disconnected()[0]; !strings.HasPrefix(got, "transport") {
		t.Errorf("the server saw %q, want the transport's end", got)
	}
	if err := c.Reconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Recovered() {
		t.Error("recovered after the session expired")
	}
	if got := testutil.ToFloat64(r.metrics.Expirations); got != 1 {
		t.Errorf("expirations = %v, want 1", got)
	}
}

func TestParkedSessionsGiveWayToTheBudget(t *testing.T) {
	r := newRig(t, func(c *config.Config) {
		c.Recovery.Buffer.TotalBytes = 256 * config.KiB
		c.Recovery.Buffer.Window = 64 * config.KiB
		c.Recovery.Buffer.MaxBytes = 1 * config.MiB
	})
	first, second := r.client(), r.client()
	r.socket(1)
	first.Cut()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
	second.Cut()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 2 })
	text := strings.Repeat("x", 1000)
	evicted := func() bool { return testutil.ToFloat64(r.metrics.Evictions) > 0 }
	for i := 1; !evicted(); i++ {
		if i > 2000 {
			t.Fatal("the budget was never enforced")
		}
		r.server.Emit("n", i, text)
		r.await("the event in both logs", func() bool { return r.proxy.budget.Packets() >= int64(2*i) || evicted() })
	}
	if got := r.proxy.budget.Bytes(); got > 300<<10 {
		t.Errorf("%d bytes are buffered, which exceeds the budget", got)
	}
	if err := first.Reconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.Recovered() {
		t.Error("the session parked first was not the one evicted")
	}
}

func TestHandshakeRateIsLimitedPerAddress(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Limits.HandshakesPerSecondPerAddress = 1 })
	var statuses []int
	for range limit.BurstSeconds + 1 {
		resp, err := http.Get(r.url + "/socket.io/?EIO=4&transport=polling")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		statuses = append(statuses, resp.StatusCode)
	}
	want := append(slices.Repeat([]int{200}, limit.BurstSeconds), http.StatusTooManyRequests)
	if !slices.Equal(statuses, want) {
		t.Errorf("statuses %v, want %v", statuses, want)
	}
}

func TestConnectionsAreLimitedPerAddress(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Limits.MaxConnectionsPerAddress = 2 })
	a := r.client()
	r.client()
	over := sioclient.New(sioclient.Options{URL: r.url})
	if err := over.Connect(t.Context()); err == nil {
		t.Error("a third connection was admitted")
	}
	a.Cut()
	r.await("room", func() bool { return over.Connect(t.Context()) == nil })
	over.Close()
}

func TestSeveralNamespacesOfOneClient(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	admin := c.Of("/admin", nil)
	if err := admin.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, other := c.ID(), admin.ID()
	c.Cut()
	if err := c.Reconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("both", func() bool { return admin.Connected() })
	if c.ID() != root || admin.ID() != other || !c.Recovered() || !admin.Recovered() {
		t.Errorf("ids %q, %q, recovered %v, %v; want %q, %q, both", c.ID(), admin.ID(), c.Recovered(), admin.Recovered(), root, other)
	}
}

func TestShutdownRefusesHandshakesAndWaitsForTheUpstream(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	s := r.socket(0)
	stopped := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		defer close(stopped)
		r.proxy.Shutdown(ctx)
	}()
	r.await("draining", func() bool { return r.proxy.Ready() != nil })
	resp, err := http.Get(r.url + "/socket.io/?EIO=4&transport=polling")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a handshake got %d, want 503", resp.StatusCode)
	}
	for i := 1; i <= 100; i++ {
		s.Emit("n", i)
	}
	s.Disconnect(true)
	<-stopped
	r.await("the events sent before the end", func() bool { return len(c.numbers()) == 100 })
	if ctx.Err() != nil {
		t.Error("Shutdown waited until its context ended")
	}
}
