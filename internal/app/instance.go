package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/tlscert"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/proxy"
)

// instance is a running holdfast: the proxy and what surrounds it. Its fields are immutable.
type instance struct {
	version  string
	cfg      config.Config  // as it was at the start; proxy.Config includes reloads
	sources  config.Sources // where cfg's values came from, for errors
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics.Metrics
	proxy    *proxy.Server
	sockets  *sockets
	manager  *courier.Manager // nil unless a service manager wants to be notified
	handover *handoverer      // nil for the demo
	clients  net.Listener     // counts and limits; below TLS
	node     *cluster.Node    // nil without other replicas; set before clients are served
}

// setUpEventLoop chooses how connections are served, before there are any.
func setUpEventLoop(on bool, log *slog.Logger) {
	if err := netpoll.Setup(on); err != nil {
		log.Warn("the event loop is incomplete: goroutines serve the connections that it cannot", "error", err)
	}
	if !on {
		log.Info("the event loop is off: goroutines serve all connections")
	}
}

// newInstance makes an instance that does not listen yet.
func newInstance(version string, cfg config.Config, sources config.Sources, log *slog.Logger) (*instance, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := metrics.New(registry)
	setUpEventLoop(cfg.EventLoop, log)
	p, err := proxy.New(cfg, log, m)
	if err != nil {
		return nil, err
	}
	return &instance{
		version: version, cfg: cfg, sources: sources, log: log, registry: registry, metrics: m, proxy: p,
		sockets: new(sockets),
	}, nil
}

// run serves clients and the admin listener until ctx is done, and then drains. Meanwhile it
// reloads the configuration for each signal on hangups. t is what another process has handed over,
// or nil. Until run commits that, an error leaves everything as it was.
func (in *instance) run(ctx context.Context, reload *reloader, hangups <-chan os.Signal, t *takeover) error {
	background, stop := context.WithCancel(context.Background()) // draining needs certificates, too
	defer stop()
	start, leave, err := in.joinCluster(t)
	if err != nil {
		return err
	}
	defer leave()
	plain, files, err := in.listen()
	if err != nil {
		return err
	}
	defer plain.Close()
	admin, err := in.listenAdmin()
	if err != nil {
		return err
	}
	in.sockets.settle()
	if t != nil {
		in.handover.restoreCounts(t.summary.Process.Results)
		in.handover.record(t.commit(in.proxy, in.log))
	}
	ln := in.accept(background, plain, files)
	defer ln.Close()
	start() // only now: others may ask for sessions
	reload.node = in.node
	reload.report(nil)
	go reload.run(background, hangups) // ends with background
	if admin != nil {
		defer in.serveAdmin(admin)()
	}
	return in.serveClients(ctx, ln)
}

// listen opens the clients' listener, and reads the certificate's files if there are any.
func (in *instance) listen() (ln net.Listener, files *tlscert.Files, err error) {
	if ln, err = in.sockets.listen(clientSocket, in.cfg.Listen); err != nil {
		return nil, nil, in.sources.Invalid("listen", err.Error(), "a free address of this machine")
	}
	if in.cfg.TLS.CertFile == "" {
		return ln, nil, nil
	}
	if files, err = tlscert.Load(in.cfg.TLS.CertFile, in.cfg.TLS.KeyFile, in.log, in.metrics); err != nil {
		ln.Close()
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	return ln, files, nil
}

// accept begins to accept clients. With files it speaks TLS, and watches them until ctx is done.
func (in *instance) accept(ctx context.Context, plain net.Listener, files *tlscert.Files) net.Listener {
	in.clients = in.proxy.Listener(plain, files != nil)
	if files == nil {
		return in.clients
	}
	go files.Watch(ctx) // ends with ctx
	return tls.NewListener(in.clients, &tls.Config{
		GetCertificate: files.Get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
}

// serveClients serves the proxy on ln until ctx is done, and then drains.
func (in *instance) serveClients(ctx context.Context, ln net.Listener) error {
	limits := in.cfg.Limits
	srv := &http.Server{
		Handler:                      in.proxy,
		DisableGeneralOptionsHandler: true, // the upstream answers OPTIONS *
		ReadHeaderTimeout:            limits.ReadHeaderTimeout,
		IdleTimeout:                  limits.IdleTimeout,
		MaxHeaderBytes:               limits.HeaderBytes.Int(),
		ErrorLog:                     slog.NewLogLogger(in.log.Handler(), slog.LevelDebug),
	}
	releasing, stopReleasing := context.WithCancel(context.Background())
	defer stopReleasing()
	go releaseIdleMemory(releasing) // ends with releasing
	failed := make(chan error, 1)   // Serve returns once
	go func() { failed <- srv.Serve(ln) }()
	stopHandovers, endHandovers := in.handover.begin(serving{srv, in.clients})
	defer endHandovers()
	in.log.Info("holdfast is ready", "listen", ln.Addr().String(), "upstream", in.cfg.Upstream.URL.String(), "version", in.version)
	in.notifyReady()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopHandovers()
	if in.handover.keep(serving{srv, in.clients}) {
		return nil
	}
	in.drain(srv)
	return nil
}

// notifyReady tells the service manager that this process serves, and what to keep for the next
// one.
func (in *instance) notifyReady() {
	if in.manager == nil {
		return
	}
	err := in.manager.Ready()
	if in.cfg.Handover.Mode == config.HandoverSystemd {
		err = errors.Join(err, in.manager.ForgetHandover(), in.sockets.keep(in.manager))
	}
	if err != nil {
		in.log.Warn("the service manager was not notified", "error", err)
	}
}

// drain gives clients the configured time, and closes what is left.
func (in *instance) drain(srv *http.Server) {
	timeout := in.proxy.Config().Shutdown.DrainTimeout // a reload may have changed it
	in.log.Info("draining", "timeout", timeout, "hint", "a second signal stops immediately")
	draining, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	in.proxy.Shutdown(draining)
	closing, cancelClosing := context.WithTimeout(context.Background(), time.Second)
	defer cancelClosing()
	if srv.Shutdown(closing) != nil {
		_ = srv.Close() // its only error is the listener's, which does not matter now
	}
	in.log.Info("stopped")
}
