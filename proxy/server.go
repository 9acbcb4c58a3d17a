package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/binding"
	"github.com/holdfast/holdfast/internal/clientjs"
	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// ErrDraining is returned by Ready during Shutdown.
var ErrDraining = errors.New("proxy: shutting down")

// ErrHandover is returned by Ready while another process takes over.
var ErrHandover = errors.New("proxy: handing over to another process")

// Server is the proxy. It is an http.Handler and safe for concurrent use.
type Server struct {
	*deps       // immutable, like the rest
	handshaker  *handshaker
	passthrough *passthrough
	bundle      *clientjs.Bundle // nil if the upstream serves its own
}

// New returns a Server for a valid configuration.
func New(cfg config.Config, log *slog.Logger, m *metrics.Metrics) (*Server, error) {
	d := &deps{
		reporter: &reporter{log: log, limitedLog: limit.NewLogger(log), metrics: m, recorder: status.NewRecorder()},
		binder:   binding.New(cfg.Recovery.Bind), protocol: newUpstreamProtocol(cfg.Upstream.Protocol),
		notify: newNotifier(cfg.Notify, cfg.Upstream.Protocol != config.ProtocolV4), joins: newJoins(cfg.Events.Join),
	}
	if cfg.Upstream.Handshake == config.Lazy {
		d.cache = newHandshakeCache()
	}
	set, err := newSettings(cfg, nil)
	if err != nil {
		return nil, err
	}
	d.current.Store(set)
	if d.upstream, err = newUpstream(cfg, d); err != nil {
		return nil, err
	}
	s := &Server{deps: d, handshaker: &handshaker{deps: d}, passthrough: newPassthrough(d)}
	if dir := cfg.ClientBundle.Dir; dir != "" {
		if s.bundle, err = clientjs.Open(dir); err != nil {
			return nil, fmt.Errorf("proxy: client bundle %s: %w", dir, err)
		}
		log.Info("serving the client bundle instead of the upstream's", "version", s.bundle.Version(), "dir", dir)
	}
	total, why := cfg.Recovery.Buffer.Budget()
	d.budget = buffer.NewBudget(int64(total))
	d.incomplete.limit, d.incomplete.patience = int64(total)/incompleteShare, turnTime
	m.BufferBudget.Set(float64(total))
	m.ParkedLimit.Set(float64(cfg.Recovery.MaxParkedSessions))
	log.Debug("buffer budget", "bytes", int64(total), "from", why)
	limits := set.sessionLimits()
	limits.Retention = newRetention(cfg.Events)
	d.registry = session.NewRegistry(limits, cfg.Recovery.MaxParkedSessions, d.budget, observer{d.reporter, &d.keyring, d.joins})
	d.upstream.Start()
	return s, nil
}

func newUpstream(cfg config.Config, d *deps) (*upstream.Upstream, error) {
	return upstream.New(cfg.Upstream, upstream.Options{
		Log: d.log,
		Observe: func(from *upstream.Server, err error, took time.Duration) {
			d.cache.dialled(from, err)
			d.dialled(err, took)
		},
		FailedOver: d.metrics.UpstreamFailovers.Inc, LookupFailed: d.metrics.UpstreamLookupFailures.Inc,
		Left: d.cache.forget, Listen: cfg.Listen, EngineIOPath: cfg.EngineIO.Paths[0], Incomplete: d.incomplete.take, UpgradeFailed: d.upgradeFailed,
	})
}

// Config returns the configuration in force.
func (s *Server) Config() config.Config { return s.settings().Config }

// Reload applies the settings of cfg that can change while the Server runs (see
// config.Config.Reload). It ends no connection and no session. Calls must not overlap.
func (s *Server) Reload(cfg config.Config) error {
	set, err := newSettings(cfg, s.settings())
	if err != nil {
		return err
	}
	s.current.Store(set)
	s.upstream.SetURLs(cfg.Upstream.URL)
	s.registry.SetLimits(set.sessionLimits(), cfg.Recovery.MaxParkedSessions)
	s.metrics.ParkedLimit.Set(float64(cfg.Recovery.MaxParkedSessions))
	return nil
}

// JoinCluster makes the Server one of several replicas. Call it before the Server serves its first
// client. opts needs no Serve, Noted, Observer and Log.
func (s *Server) JoinCluster(opts cluster.Options) *cluster.Node {
	s.replicas = newReplicas(s.deps, opts)
	return s.replicas.node
}

// Ready returns nil, or the reason why the Server accepts no new clients.
func (s *Server) Ready() error {
	switch {
	case s.phase.is(phaseDraining):
		return ErrDraining
	case s.phase.is(phaseLeaving):
		return ErrHandover
	}
	if !s.replicas.ready() {
		return errLooking
	}
	return s.upstream.Ready()
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.recoverRequest()
	if httpmsg.DoubtfulEnd(r) {
		w.Header().Set("Connection", "close")
	}
	switch {
	case r.Method == http.MethodConnect:
		w.Header().Set("Connection", "close")
		httpmsg.WriteError(w, http.StatusMethodNotAllowed, "CONNECT is not supported: holdfast is a reverse proxy")
		return
	case httpmsg.IsUpgrade(r) && r.ContentLength != 0:
		// Servers disagree on whether this is a body, or the first bytes of the upgraded protocol.
		w.Header().Set("Connection", "close")
		httpmsg.WriteError(w, http.StatusBadRequest, "a WebSocket handshake must not have a body")
		return
	case !s.settings().isEngineIO(r):
		if !s.serveBundle(w, r) {
			s.passthrough.serve(w, httpmsg.WatchBody(w, r, 0))
		}
		return
	}
	s.serveEngineIO(w, httpmsg.WatchBody(w, r, s.settings().Limits.BodyTimeout), r.URL.Query())
}

// serveEngineIO handles an Engine.IO request; q is its query.
func (s *Server) serveEngineIO(w http.ResponseWriter, r *http.Request, q url.Values) {
	if sid := q.Get("sid"); sid != "" {
		c := s.conns.client(sid)
		switch {
		case c == nil && s.conns.hasSID(sid): // its client is away, and others must not take its place
			writeAnswer(s.log, w, r, engineio.ErrorAnswer(engineio.CodeUnknownSID))
		case c == nil && s.replicas != nil && r.Method == http.MethodOptions && s.settings().handlesV3(q):
			httpmsg.AnswerPreflight(w, r)
		case c == nil && s.replicas != nil && s.replicas.forwardForeign(w, r, q):
		case c == nil && s.replicas != nil && handles(r, q) && s.settings().handlesV3(q):
			keyedReplicas{s.replicas}.forwardByKey(w, r, q)
		case c == nil:
			s.passthrough.serve(w, r) // the upstream knows it, or refuses it as unknown
		case r.Method == http.MethodOptions && (c.isV3() || s.protocol.isV3()):
			httpmsg.AnswerPreflight(w, r)
		case !handles(r, q) && c.isV3(): // the upstream has a session with this sid, too
			c.answer(w, r, engineio.ErrorAnswer(engineio.CodeBadRequest))
		case !handles(r, q):
			s.passthrough.serve(w, c.knownBySID(r, q.Get("transport")))
		default:
			c.serve(w, r, q)
		}
		return
	}
	transport, upgrade := q.Get("transport"), httpmsg.IsUpgrade(r)
	websocket := transport == "websocket" && upgrade
	switch {
	case r.Method == http.MethodGet && !s.settings().handshakeRate.Allow(s.settings().trusted.ClientAddress(r)):
		s.refused(metrics.HandshakesPerAddress, s.settings().trusted.ClientAddress(r))
		w.Header().Set("Retry-After", "1")
		httpmsg.WriteError(w, http.StatusTooManyRequests, "too many handshakes from this address")
	case r.Method != http.MethodGet, q.Get("EIO") != "4" && !s.settings().handlesV3(q), q.Has("j"), !websocket && (transport != "polling" || upgrade):
		// What holdfast does not handle (EIO=3 without a key, JSONP), preflights, and what the
		// upstream will refuse.
		s.passthrough.serve(w, r)
	case s.phase.stopping():
		httpmsg.RefuseDraining(w)
	case q.Get("EIO") != "4":
		handshakerV3{s.handshaker}.serveV3(w, r, q, websocket)
	default:
		s.handshaker.serve(w, r, q, websocket)
	}
}

// serveBundle serves files of the client bundle below the Engine.IO paths. It returns false if it
// does not have the file.
func (s *Server) serveBundle(w http.ResponseWriter, r *http.Request) bool {
	name, ok := s.settings().belowPaths(r.URL.Path)
	if !ok {
		return false
	}
	s.conns.addPassing(1)
	defer s.conns.addPassing(-1)
	return s.bundle.Serve(w, r, name)
}

// Shutdown refuses new handshakes. It waits until the upstream has closed all links and everything
// that passes through has ended, or until ctx ends. Then it closes what is left.
func (s *Server) Shutdown(ctx context.Context) {
	s.phase.move(phaseDraining)
	s.conns.phaseChanged()
	s.conns.awaitIdle(ctx)
	s.closeAll()
}

// closeTimeout bounds how long closeAll waits for clients to receive what is queued for them.
const closeTimeout = 2 * time.Second

// closeAll ends what passes through, then all clients, then all links. Clients see a broken
// connection, so they reconnect to whatever listens then.
func (s *Server) closeAll() {
	s.upstream.Close()
	s.passthrough.cut()
	s.replicas.closeAll()
	clients := s.conns.allClients()
	for _, c := range clients {
		c.end(false)
	}
	deadline := time.Now().Add(closeTimeout)
	for _, c := range clients {
		select {
		case <-c.done.Done():
		case <-time.After(time.Until(deadline)):
			c.sock.Abort() // end has made this look like a broken connection
		}
	}
	links := s.conns.allLinks()
	for _, l := range links {
		l.conn.Close()
	}
	deadline = time.Now().Add(closeTimeout)
	for _, l := range links {
		select {
		case <-l.done.Done():
		case <-time.After(time.Until(deadline)):
		}
	}
}

// observer is the session.Observer: a reporter that also ends the links of a panic.
type observer struct {
	*reporter
	keyring *keys.Ring
	joins   *joins
}

// Closed implements session.Observer.
func (o observer) Closed(s *session.Session, why reason.Reason, was session.State, buffered int) {
	o.keyring.Closed(s, why)
	o.joins.forget(s)
	o.reporter.Closed(s, why, was, buffered)
}

// Panicked implements session.Observer.
func (o observer) Panicked(v any, sessions []*session.Session) {
	o.reportPanic(v)
	for _, s := range sessions {
		linkOf(s).Abort()
	}
}
