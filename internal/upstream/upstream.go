package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/neterr"
)

// maxAttempts is how many servers one handshake or request is tried at.
const maxAttempts = 3

// Upstream is the Socket.IO server behind holdfast, or several of them. It is safe for concurrent
// use.
type Upstream struct {
	// Immutable.
	opts             Options
	log              *slog.Logger
	tls              *tls.Config // for https servers
	dialTimeout      time.Duration
	handshakeTimeout time.Duration
	maxDials         int
	health           config.UpstreamHealth
	discovers        bool          // DNS says which servers there are
	looked           chan struct{} // closed when the servers are known, or a first lookup failed
	relook           chan struct{} // has an element if the names have changed
	background       context.Context
	stop             context.CancelFunc // ends background
	work             sync.WaitGroup     // goroutines that end with background

	mu      sync.Mutex // guards the fields below and each Server's membership; a leaf
	urls    []string
	servers map[target]*Server // listed and leaving ones
	list    []*Server          // the listed ones, in the order of the configuration
	lookErr error              // of the last lookup
	started bool
}

// Options are the parts of an Upstream that its user supplies. Each may be nil, or empty.
type Options struct {
	Log *slog.Logger
	// Observe is told how each handshake ended and how long it took. Handshakes that the breaker or
	// the context ended before they began are not reported.
	Observe func(s *Server, err error, took time.Duration)
	// FailedOver is called when a handshake or a request is tried at another server.
	FailedOver func()
	// LookupFailed is called when DNS did not say which servers there are.
	LookupFailed func()
	// Left is called with a server that is no longer in the list.
	Left func(s *Server)
	// Listen is holdfast's own address, as in config.Config.Listen. Connections to it are refused.
	Listen string
	// EngineIOPath is where the servers serve Engine.IO.
	EngineIOPath string
	// Incomplete and UpgradeFailed are engineio.Dialer's.
	Incomplete    func(bytes int) bool
	UpgradeFailed func(err error)
	// Connect replaces connecting, and LookUp replaces asking DNS, for tests.
	Connect func(ctx context.Context, network, address string) (net.Conn, error)
	LookUp  func(ctx context.Context, host string) ([]netip.Addr, error)
}

// New returns the servers that a valid cfg names. It does not connect: that begins with Start.
// Errors say which file of upstream.tls cannot be used.
func New(cfg config.Upstream, opts Options) (*Upstream, error) {
	u := &Upstream{
		opts: opts, log: opts.Log, dialTimeout: cfg.DialTimeout, handshakeTimeout: cfg.HandshakeTimeout, maxDials: cfg.MaxConcurrentDials,
		health: cfg.Health, discovers: cfg.Discover == config.DNSDiscovery,
		looked: make(chan struct{}), relook: make(chan struct{}, 1), servers: make(map[target]*Server),
	}
	u.background, u.stop = context.WithCancel(context.Background())
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	if u.opts.Observe == nil {
		u.opts.Observe = func(*Server, error, time.Duration) {}
	}
	if u.opts.LookUp == nil {
		u.opts.LookUp = lookUpAt(cfg.DNSServer)
	}
	var err error
	if u.tls, err = clientTLS(cfg.TLS); err != nil {
		return nil, err
	}
	if u.urls = cfg.URL; !u.discovers {
		u.setTargets(targetsOf(u.urls))
		close(u.looked)
	}
	return u, nil
}

func clientTLS(cfg config.UpstreamTLS) (*tls.Config, error) {
	c := &tls.Config{
		ServerName: cfg.ServerName, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: cfg.InsecureSkipVerify, //nolint:gosec // the user's choice, off by default
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstream.tls.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("upstream.tls.ca_file: no certificate in %s", cfg.CAFile)
		}
	}
	return c, nil
}

// Start begins what runs in the background: lookups, health checks, probes of servers that are
// down. With one server and none of these it starts nothing. The caller must call Close in the end.
func (u *Upstream) Start() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.started = true
	for _, s := range u.list {
		u.watchLocked(s)
	}
	if u.discovers {
		u.work.Go(u.discover) // ends with background
	}
}

// Close ends what runs in the background. Connections stay.
func (u *Upstream) Close() {
	u.mu.Lock()
	u.stop()
	u.mu.Unlock()
	u.work.Wait()
}

// Dial makes an Engine.IO handshake with the server that is up and has the fewest links. If that
// server cannot be reached, or says that it cannot serve now, the next one is tried. An
// *engineio.RejectedError is a server's refusal. Other errors say why no server could be asked:
// ctx's error, or that of a connection that another caller tried meanwhile.
func (u *Upstream) Dial(ctx context.Context, req engineio.Request) (*engineio.Conn, error) {
	var tried [maxAttempts]*Server
	var failed error
	for n := range maxAttempts {
		s, urgent, err := u.reserve(ctx, tried[:n])
		if err != nil {
			return nil, cmp.Or(failed, err)
		}
		if n > 0 {
			u.failedOver()
		}
		conn, err := s.handshake(ctx, req, urgent)
		if err == nil {
			return conn, nil // its Dialer calls release
		}
		s.release()
		if isOver(ctx) || !triesNext(err) {
			return nil, err
		}
		tried[n], failed = s, err
	}
	return nil, failed
}

func (u *Upstream) failedOver() {
	if u.opts.FailedOver != nil {
		u.opts.FailedOver()
	}
}

// triesNext reports whether another server may do better after a handshake that ended with err. The
// refusal of a server is final, unless its status says that it cannot serve now.
func triesNext(err error) bool {
	if _, ok := errors.AsType[*engineio.RejectedError](err); ok {
		answered, _ := outcome(err)
		return !answered
	}
	return !neterr.IsTooManyFiles(err) // the others would not get a descriptor either
}

// reserve picks the server for a new link and counts the link. urgent says that there is another
// server to try soon.
func (u *Upstream) reserve(ctx context.Context, tried []*Server) (s *Server, urgent bool, err error) {
	if err := u.awaitLookup(ctx); err != nil {
		return nil, false, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	s, others := u.leastLinksLocked(tried, Up)
	if s == nil && len(tried) == 0 {
		// None is up. Clients are better off with a server that may be back than with no attempt.
		s, _ = u.leastLinksLocked(nil, Down)
		others = 0
	}
	if s == nil {
		return nil, false, u.noServerLocked()
	}
	s.links++
	return s, others > 0, nil
}

// awaitLookup waits until it is known which servers there are.
func (u *Upstream) awaitLookup(ctx context.Context) error {
	select {
	case <-u.looked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leastLinksLocked returns the untried server in a state that has the fewest links. Ties are
// decided at random. others is how many more there are in that state. u.mu must be held.
func (u *Upstream) leastLinksLocked(tried []*Server, state State) (best *Server, others int) {
	ties := 0
	n := 0
	for _, s := range u.list {
		if s.state != state || slices.Contains(tried, s) {
			continue
		}
		n++
		switch {
		case best == nil || s.links < best.links:
			best, ties = s, 1
		case s.links == best.links:
			if ties++; rand.IntN(ties) == 0 {
				best = s
			}
		}
	}
	return best, n - 1
}

// noServerLocked says why there is no server for a new link. u.mu must be held.
func (u *Upstream) noServerLocked() error {
	switch {
	case len(u.list) == 0 && u.lookErr != nil:
		return fmt.Errorf("upstream: no server is known: %w", u.lookErr)
	case len(u.list) == 0:
		return errors.New("upstream: no server is known")
	}
	return fmt.Errorf("upstream: none of %d servers is up", len(u.list))
}

// release says that a link has ended, or could not be made.
func (s *Server) release() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.links--
	s.pool.updateLocked(s)
}

// managedLocked reports whether more than a single URL was configured. Otherwise a server is asked
// only when a client needs it. u.mu must be held.
func (u *Upstream) managedLocked() bool {
	return len(u.list) != 1 || u.discovers || u.health.Path != ""
}

// Ready returns nil, or the reason why no client can be served. A single server without health
// checks is always ready: only clients find out.
func (u *Upstream) Ready() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.managedLocked() || slices.ContainsFunc(u.list, func(s *Server) bool { return s.state == Up }) {
		return nil
	}
	return u.noServerLocked()
}

// ServerReport describes one server.
type ServerReport struct {
	URL   string
	State State
	Since time.Time // when the state began
	Links int
	Error string // the last failure, if the server is Down or Unhealthy
}

// Servers reports on all servers: the listed ones, in the order of the configuration, then those
// that leave.
func (u *Upstream) Servers() []ServerReport {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := slices.Clone(u.list)
	for _, s := range u.servers {
		if !s.listed {
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all[len(u.list):], func(a, b *Server) int { return cmp.Compare(a.String(), b.String()) })
	reports := make([]ServerReport, 0, len(all))
	for _, s := range all {
		r := ServerReport{URL: s.String(), State: s.state, Since: s.since, Links: s.links}
		if s.lastErr != nil && (s.state == Down || s.state == Unhealthy) {
			r.Error = s.lastErr.Error()
		}
		reports = append(reports, r)
	}
	return reports
}

// RoundTripper makes HTTP requests to a server that is up. Requests whose context is WithClient go
// to one that depends on the client's address only, as long as it is up.
func (u *Upstream) RoundTripper() http.RoundTripper { return &roundTripper{u, false} }

// UnsharedRoundTripper is like RoundTripper, and makes each request over a new connection.
// Balancers such as @socket.io/sticky look only at the first request of a connection. This way they
// see every sid.
func (u *Upstream) UnsharedRoundTripper() http.RoundTripper { return &roundTripper{u, true} }

// Restore makes a connection of what another process has handed over, some time ago. Its server may
// have left the list. It is then forgotten with its last link.
func (u *Upstream) Restore(l *handover.Link, elapsed time.Duration) (*engineio.Conn, error) {
	s := u.adopt(l.Server)
	c, err := s.dialer.Restore(l, elapsed)
	if err != nil {
		s.release()
		return nil, err
	}
	return c, nil // its Dialer calls release
}

// adopt returns the server with this URL, and counts a link.
func (u *Upstream) adopt(url string) *Server {
	t := targetOf(url)
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.servers[t]
	if s == nil {
		s = newServer(u, t)
		s.since = time.Now()
		u.servers[t] = s
	}
	s.links++
	u.updateLocked(s)
	return s
}
