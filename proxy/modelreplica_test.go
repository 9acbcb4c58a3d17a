package proxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/metrics"
)

// modelT is what a model needs of a test.
type modelT interface {
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Failed() bool
}

// model is a Server between pages and an application, or several, and the expected state of both
// ends.
type model struct {
	*modelReplica // the only one; nil in a fleet

	t                modelT
	choices          []byte          // for nextChoice
	choose           func(n int) int // makes a choice, less than n
	parkOnDisconnect bool            // recovery.on_client_disconnect is park
	// excuses reports whether a session may be lost now, because replicas do not reach each other.
	// Nil excuses nothing.
	excuses func() bool
	// route chooses the replica of a request. If it is nil, requests go where the handshake went.
	route func(choose func(n int) int) *modelReplica
	// keyed turns keyed recovery on.
	keyed bool
	log   *modelLog // nil drops what is logged
	// latency is how long the network delays something at most.
	latency time.Duration
	jitters atomic.Uint64 // counts them
	// slack is how much later than the owner of its session a page may learn that its connection is
	// gone.
	slack time.Duration

	mu      sync.Mutex // guards the fields below and those of pages and sockets
	pages   map[string]*page
	links   []*upstreamLink
	sockets []*socket
	sids    int
	faults  int             // of the connections between replicas
	fleet   []*modelReplica // all that there were, if there are several
	missed  int             // events that only a packet left out explains
	wires   []*wire

	draining bool // pages come back by themselves
	over     bool // no page comes back
}

// modelReplica is one Server of a model.
type modelReplica struct {
	proxy   *Server
	metrics *metrics.Metrics
	server  *http.Server
	app     *http.Server   // of its links
	port    *modelListener // of server
}

func newModel(t modelT, parkOnDisconnect bool) *model {
	m := &model{t: t, parkOnDisconnect: parkOnDisconnect, pages: make(map[string]*page)}
	m.choose = m.nextChoice
	for _, name := range pageNames {
		p := &page{m: m, name: name, spaces: make(map[string]*space)}
		p.spaces["/"] = &space{page: p, name: "/"}
		p.spaces["/a"] = &space{page: p, name: "/a"}
		m.pages[name] = p
	}
	return m
}

// logger returns what a replica logs to.
func (m *model) logger() *slog.Logger {
	if m.log == nil {
		return slog.New(slog.DiscardHandler)
	}
	h := slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})
	return slog.New(h).With("replica", len(m.fleet))
}

// logf adds what pages and the application do to that log.
func (m *model) logf(format string, args ...any) {
	if m.log != nil {
		_, _ = fmt.Fprintf(m.log, "time="+time.Now().Format("2006-01-02T15:04:05.000")+" "+format+"\n", args...)
	}
}

// modelLog is what happened in a run. It is safe for concurrent use.
type modelLog struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *modelLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

// startReplica starts a Server. join makes it one of several, unless it is nil.
func (m *model) startReplica(join func(*modelReplica)) *modelReplica {
	cfg := config.Default()
	cfg.Recovery.MaxDisconnectionDuration = keptFor
	if m.parkOnDisconnect {
		cfg.Recovery.OnClientDisconnect = config.ParkSession
	}
	if m.keyed {
		cfg.Recovery.Keyed.Query = "hf_key"
	}
	r := &modelReplica{metrics: metrics.New(prometheus.NewRegistry()), port: newModelListener()}
	var err error
	if r.proxy, err = New(cfg, m.logger(), r.metrics); err != nil {
		m.t.Fatal(err)
	}
	app := newModelListener()
	r.app = &http.Server{Handler: &application{m: m, from: r, links: make(map[string]*pollLink)}}
	go r.app.Serve(app) //nolint:errcheck // returns when it is closed
	cfg.Upstream.HandshakeTimeout = time.Second
	if r.proxy.upstream, err = upstream.New(cfg.Upstream, upstream.Options{
		Connect: func(context.Context, string, string) (net.Conn, error) { return app.dial() },
	}); err != nil {
		m.t.Fatal(err)
	}
	if join != nil {
		join(r)
	}
	r.server = &http.Server{Handler: r.proxy}
	go r.server.Serve(r.port) //nolint:errcheck // returns when it is closed
	return r
}
