package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/clientjs"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/limit"
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
	// Immutable.
	log          *slog.Logger
	metrics      *metrics.Metrics
	upstream     *upstream.Upstream
	registry     *session.Registry
	budget       *buffer.Budget
	recorder     *status.Recorder
	binder       *binder
	cache        *handshakeCache // nil unless handshakes are lazy
	protocol     *upstreamProtocol
	reverseProxy *httputil.ReverseProxy
	passedBySID  *httputil.ReverseProxy // uses a new upstream connection for each request
	drained      context.Context        // its end cuts what still passes through
	cut          context.CancelFunc     // ends drained
	notify       *notifier
	bundle       *clientjs.Bundle // nil if the upstream serves its own

	current    atomic.Pointer[settings] // changed by Reload
	incomplete incomplete
	limitedLog *limit.Logger

	handshakes           atomic.Uint64 // numbers the clients
	draining             atomic.Bool
	leaving              atomic.Bool  // a handover to another process is under way
	leftLate             atomic.Int64 // clients that did not end their side in the time of Leave
	passedWebSockets     atomic.Int64 // that pass through now
	rawLogged            sync.Once
	unableLogged         sync.Map  // names of client libraries, see canResume
	upstreamRecoversOnce sync.Once // logs that the server recovers connections itself

	mu       sync.Mutex // guards the fields below
	clients  map[string]*client
	links    map[*link]struct{}
	openings int           // WebSocket handshakes that net/http does not know, and so does not wait for
	passing  int           // requests and WebSockets that pass through, and downloads of the bundle
	idle     chan struct{} // set by Shutdown; closed when no link, opening or passing is left
}

// New returns a Server for a valid configuration.
func New(cfg config.Config, log *slog.Logger, m *metrics.Metrics) (*Server, error) {
	s := &Server{
		log: log, limitedLog: limit.NewLogger(log), metrics: m, recorder: status.NewRecorder(),
		binder: newBinder(cfg.Recovery.Bind), protocol: newUpstreamProtocol(cfg.Upstream.Protocol),
		clients: make(map[string]*client), links: make(map[*link]struct{}),
	}
	if cfg.Upstream.Handshake == config.Lazy {
		s.cache = newHandshakeCache()
	}
	set, err := newSettings(cfg, nil)
	if err != nil {
		return nil, err
	}
	s.current.Store(set)
	if s.upstream, err = upstream.New(cfg.Upstream, upstream.Options{
		Log: log, Observe: s.dialled, FailedOver: m.UpstreamFailovers.Inc, LookupFailed: m.UpstreamLookupFailures.Inc,
		Left: s.cache.forget, EngineIOPath: cfg.EngineIO.Paths[0], Incomplete: s.incomplete.take, UpgradeFailed: s.upgradeFailed,
	}); err != nil {
		return nil, err
	}
	s.reverseProxy = s.newPassthrough(s.upstream.RoundTripper())
	s.passedBySID = s.newPassthrough(s.upstream.UnsharedRoundTripper())
	s.drained, s.cut = context.WithCancel(context.Background())
	s.notify = newNotifier(cfg.Notify, cfg.Upstream.Protocol != config.ProtocolV4)
	if dir := cfg.ClientBundle.Dir; dir != "" {
		if s.bundle, err = clientjs.Open(dir); err != nil {
			return nil, fmt.Errorf("proxy: client bundle %s: %w", dir, err)
		}
		log.Info("serving the client bundle instead of the upstream's", "version", s.bundle.Version(), "dir", dir)
	}
	total, why := cfg.Recovery.Buffer.Budget()
	s.budget = buffer.NewBudget(int64(total))
	s.incomplete.limit = int64(total) / incompleteShare
	m.BufferBudget.Set(float64(total))
	m.ParkedLimit.Set(float64(cfg.Recovery.MaxParkedSessions))
	log.Debug("buffer budget", "bytes", int64(total), "from", why)
	limits := set.sessionLimits()
	limits.Retention = newRetention(cfg.Events)
	s.registry = session.NewRegistry(limits, cfg.Recovery.MaxParkedSessions, s.budget, (*observer)(s))
	s.upstream.Start()
	return s, nil
}

// Ready returns nil, or the reason why the Server accepts no new clients.
func (s *Server) Ready() error {
	switch {
	case s.draining.Load():
		return ErrDraining
	case s.leaving.Load():
		return ErrHandover
	}
	return s.upstream.Ready()
}

// stopping reports whether newcomers should go to another process.
func (s *Server) stopping() bool { return s.draining.Load() || s.leaving.Load() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.recoverRequest()
	if doubtfulEnd(r) {
		w.Header().Set("Connection", "close")
	}
	switch {
	case r.Method == http.MethodConnect:
		w.Header().Set("Connection", "close")
		writeError(w, http.StatusMethodNotAllowed, "CONNECT is not supported: holdfast is a reverse proxy")
		return
	case isUpgrade(r) && r.ContentLength != 0:
		// Servers disagree on whether this is a body, or the first bytes of the upgraded protocol.
		w.Header().Set("Connection", "close")
		writeError(w, http.StatusBadRequest, "a WebSocket handshake must not have a body")
		return
	case !s.isEngineIO(r):
		if !s.serveBundle(w, r) {
			s.passThrough(w, watchBody(w, r, 0))
		}
		return
	}
	s.serveEngineIO(w, watchBody(w, r, s.settings().Limits.BodyTimeout), r.URL.Query())
}

// serveEngineIO handles an Engine.IO request; q is its query.
func (s *Server) serveEngineIO(w http.ResponseWriter, r *http.Request, q url.Values) {
	if sid := q.Get("sid"); sid != "" {
		c := s.client(sid)
		switch {
		case c == nil:
			s.passThrough(w, r) // the upstream knows it, or refuses it as unknown
		case r.Method == http.MethodOptions && s.protocol.isV3():
			answerPreflight(w, r)
		case !handles(r, q):
			s.passThrough(w, c.knownBySID(r, q.Get("transport")))
		default:
			s.serveClient(w, r, c, q)
		}
		return
	}
	transport, upgrade := q.Get("transport"), isUpgrade(r)
	websocket := transport == "websocket" && upgrade
	switch {
	case r.Method == http.MethodGet && !s.settings().handshakeRate.Allow(s.clientAddress(r)):
		s.refused(metrics.HandshakesPerAddress, s.clientAddress(r))
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusTooManyRequests, "too many handshakes from this address")
	case r.Method != http.MethodGet, q.Get("EIO") != "4", q.Has("j"), !websocket && (transport != "polling" || upgrade):
		// What holdfast does not speak (EIO=3, JSONP), preflights, and what the upstream will
		// refuse.
		s.passThrough(w, r)
	case s.stopping():
		refuseDraining(w)
	default:
		s.handshake(w, r, q, websocket)
	}
}

// isEngineIO reports whether a request is Engine.IO traffic. A request for the client bundle, which
// is below the same path, is not.
func (s *Server) isEngineIO(r *http.Request) bool {
	_, ok := s.settings().belowPaths(r.URL.Path)
	return ok && (hasKey(r.URL.RawQuery, "EIO") || hasKey(r.URL.RawQuery, "transport"))
}

// serveBundle serves files of the client bundle below the Engine.IO paths. It returns false if it
// does not have the file.
func (s *Server) serveBundle(w http.ResponseWriter, r *http.Request) bool {
	name, ok := s.settings().belowPaths(r.URL.Path)
	if !ok {
		return false
	}
	s.addPassing(1)
	defer s.addPassing(-1)
	return s.bundle.Serve(w, r, name)
}

func hasKey(query, key string) bool {
	for pair := range strings.SplitSeq(query, "&") {
		k, _, _ := strings.Cut(pair, "=")
		if k == key {
			return true
		}
		if strings.Contains(k, "%") { // the server would decode it
			if k, err := url.QueryUnescape(k); err == nil && k == key {
				return true
			}
		}
	}
	return false
}

func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && hasToken(r.Header, "Connection", "upgrade")
}

func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

func (s *Server) client(sid string) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[sid]
}

func (s *Server) addClient(c *client) {
	s.mu.Lock()
	s.clients[c.sock.SID()] = c
	s.mu.Unlock()
	s.metrics.ClientsOpened.Inc()
}

func (s *Server) removeClient(c *client) {
	s.mu.Lock()
	delete(s.clients, c.sock.SID())
	s.mu.Unlock()
}

func (s *Server) addLink(l *link) {
	s.mu.Lock()
	s.links[l] = struct{}{}
	s.mu.Unlock()
}

func (s *Server) removeLink(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
	s.idleLocked()
}

// idleLocked wakes Shutdown if there is nothing left to wait for.
func (s *Server) idleLocked() {
	if len(s.links) == 0 && s.openings == 0 && s.passing == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// addPassing counts what passes through, so that Shutdown can wait for it.
func (s *Server) addPassing(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passing += n
	s.idleLocked()
}

// Shutdown refuses new handshakes. It waits until the upstream has closed all links and everything
// that passes through has ended, or until ctx ends. Then it closes what is left.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	s.draining.Store(true)
	idle := make(chan struct{})
	s.idle = idle
	s.idleLocked()
	s.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	s.closeAll()
}

// closeTimeout bounds how long closeAll waits for clients to receive what is queued for them.
const closeTimeout = 2 * time.Second

// closeAll ends what passes through, then all clients, then all links. Clients see a broken
// connection, so they reconnect to whatever listens then.
func (s *Server) closeAll() {
	s.upstream.Close()
	s.cut()
	s.mu.Lock()
	clients := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	s.mu.Unlock()
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
	s.mu.Lock()
	links := make([]*link, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
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

func writeError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"code":%d,"message":%s}`, status, jsonString(message)) // the client may have gone
}
