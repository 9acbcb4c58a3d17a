// Package app is the holdfast command: it reads the command line and the configuration, wires the packages
// together, handles signals, and runs until it is told to stop.
package app

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast/holdfast/internal/admin"
	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/logging"
	"github.com/holdfast/holdfast/internal/probe"
	"github.com/holdfast/holdfast/internal/tlscert"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/proxy"
)

// version is the version of the release, or "dev". Main sets it before anything else runs.
var version = "dev"

// Main runs the command with the process's arguments, environment and standard streams, and returns its exit
// status: 0 on success, 2 for a usage or configuration error, 1 for any other error. v is the version of the
// release, or "dev".
func Main(v string) int {
	version = v
	signal.Ignore(syscall.SIGPIPE) // a closed log pipe is no reason to end
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process immediately.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	var probed *probe.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &probed): // its report has said why
		return probed.Code
	case errors.Is(err, config.ErrInvalid), errors.Is(err, probe.ErrUsage):
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		return 2
	default:
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		return 1
	}
}

// run serves until ctx is done, then drains and returns nil. Errors that wrap config.ErrInvalid or
// probe.ErrUsage are the user's to mend.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "probe" {
		return probe.Command(ctx, args[1:], stdout)
	}
	line, err := config.ParseArgs(args)
	if errors.Is(err, flag.ErrHelp) {
		config.Usage(stdout)
		return nil
	} else if err != nil {
		return err
	}
	if line.Version {
		_, err := fmt.Fprintln(stdout, "holdfast", buildVersion())
		return err
	}
	cfg, sources, err := config.Load(line, environ)
	if err != nil {
		return err
	}
	if line.Check {
		_, err := stdout.Write(cfg.YAML(sources))
		return err
	}
	if line.Demo {
		return runDemo(ctx, cfg, sources, stdout, stderr)
	}
	level := new(slog.LevelVar)
	least, err := logging.ParseLevel(cfg.Log.Level)
	if err != nil {
		return err
	}
	level.Set(least)
	log, err := logging.New(stderr, level, cfg.Log.Format)
	if err != nil {
		return err
	}
	load := func() (config.Config, config.Sources, error) { return config.Load(line, environ) }
	return serve(ctx, cfg, sources, &reloader{load: load, log: log, level: level})
}

func buildVersion() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return version
}

// serve runs the proxy and the admin listener until ctx is done. reload is for SIGHUP; serve gives it what it lacks.
func serve(ctx context.Context, cfg config.Config, sources config.Sources, reload *reloader) error {
	hangups := make(chan os.Signal, 1) // one more than is being handled is enough
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	log := reload.log
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := metrics.New(reg)
	p, err := proxy.New(cfg, log, m)
	if err != nil {
		return err
	}
	ln, err := listen(cfg.Listen)
	if err != nil {
		return sources.Invalid("listen", err.Error(), "an address of this machine that is free")
	}
	defer ln.Close()
	ln = p.Listener(ln, cfg.TLS.CertFile != "")
	if cfg.TLS.CertFile != "" {
		watching, stopWatching := context.WithCancel(context.Background())
		defer stopWatching()
		if ln, err = withTLS(watching, ln, cfg.TLS, log, m); err != nil {
			return err
		}
	}
	reload.proxy, reload.metrics = p, m
	reload.report(nil)
	reloading, stopReloading := context.WithCancel(context.Background())
	defer stopReloading()
	go reload.run(reloading, hangups)
	if cfg.Admin.Listen != "" {
		stop, err := serveAdmin(cfg, sources, log, reg, p)
		if err != nil {
			return err
		}
		defer stop()
	}
	return serveClients(ctx, log, ln, p)
}

// serveClients serves p on ln until ctx is done, and then drains.
func serveClients(ctx context.Context, log *slog.Logger, ln net.Listener, p *proxy.Server) error {
	cfg := p.Config()
	srv := &http.Server{
		Handler: p,
		// OPTIONS * is the upstream's to answer.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            cfg.Limits.ReadHeaderTimeout,
		IdleTimeout:                  cfg.Limits.IdleTimeout,
		MaxHeaderBytes:               int(cfg.Limits.HeaderBytes),
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	tidying, stopTidying := context.WithCancel(context.Background())
	defer stopTidying()
	go tidyMemory(tidying)        // ends with stopTidying
	failed := make(chan error, 1) // one: the server ends once
	go func() { failed <- srv.Serve(ln) }()
	log.Info("holdfast is ready", "listen", ln.Addr().String(), "upstream", cfg.Upstream.URL, "version", buildVersion())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	timeout := p.Config().Shutdown.DrainTimeout // as it is by now
	log.Info("draining", "timeout", timeout)
	drain, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	p.Shutdown(drain)
	end, cancelEnd := context.WithTimeout(context.Background(), time.Second)
	defer cancelEnd()
	if srv.Shutdown(end) != nil {
		_ = srv.Close() // closes the listener, of which nothing is wanted any more
	}
	log.Info("stopped")
	return nil
}

// adminWriteTimeout is for an answer of the admin listener's: there are few at a time, and who reads none is not to keep one.
const adminWriteTimeout = 30 * time.Second

// serveAdmin serves the operator's listener until stop is called.
func serveAdmin(cfg config.Config, sources config.Sources, log *slog.Logger, reg *prometheus.Registry, p *proxy.Server) (stop func(), err error) {
	ln, err := listen(cfg.Admin.Listen)
	if err != nil {
		return nil, sources.Invalid("admin.listen", err.Error(), "an address of this machine that is free, or \"\" for none")
	}
	gather := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		p.RefreshMetrics()
		return reg.Gather()
	})
	report := func() status.Report {
		r := p.Status()
		r.Holdfast.Version = buildVersion()
		return r
	}
	handler := admin.New(gather, p.Ready, report)
	if cfg.Admin.Profiling {
		handler = admin.WithProfiling(handler)
	}
	srv := &http.Server{
		Handler:        handler,
		ReadTimeout:    cfg.Limits.ReadHeaderTimeout, // nobody sends it a body
		WriteTimeout:   adminWriteTimeout,
		IdleTimeout:    cfg.Limits.IdleTimeout,
		MaxHeaderBytes: int(cfg.Limits.HeaderBytes),
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() { _ = srv.Serve(ln) }() // ends when stop closes the server
	log.Info("admin listener is ready", "listen", ln.Addr().String())
	return func() { _ = srv.Close() }, nil
}

func listen(addr string) (net.Listener, error) {
	network, address := config.SplitListen(addr)
	return net.Listen(network, address)
}

// withTLS serves the certificate in cfg's files, as they are, until ctx is done.
func withTLS(ctx context.Context, ln net.Listener, cfg config.TLS, log *slog.Logger, m *metrics.Metrics) (net.Listener, error) {
	files, err := tlscert.Load(cfg.CertFile, cfg.KeyFile, log, m)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	go files.Watch(ctx)
	return tls.NewListener(ln, &tls.Config{
		GetCertificate: files.Get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}), nil
}
