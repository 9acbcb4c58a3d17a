package app

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast/holdfast/internal/admin"
	"github.com/holdfast/holdfast/internal/admin/status"
)

// adminWriteTimeout limits a response of the admin listener, so that a client that does not read
// cannot hold one forever.
const adminWriteTimeout = 30 * time.Second

// serveAdmin serves the admin listener until stop is called.
func (in *instance) serveAdmin() (stop func(), err error) {
	ln, err := listen(in.cfg.Admin.Listen)
	if err != nil {
		return nil, in.sources.Invalid("admin.listen", err.Error(), "a free address of this machine, or \"\" for none")
	}
	gather := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		in.proxy.RefreshMetrics()
		return in.registry.Gather()
	})
	handler := admin.New(gather, in.proxy.Ready, in.status)
	if in.cfg.Admin.Profiling {
		handler = admin.WithProfiling(handler)
	}
	srv := &http.Server{
		Handler:        handler,
		ReadTimeout:    in.cfg.Limits.ReadHeaderTimeout, // no request has a body
		WriteTimeout:   adminWriteTimeout,
		IdleTimeout:    in.cfg.Limits.IdleTimeout,
		MaxHeaderBytes: int(in.cfg.Limits.HeaderBytes),
		ErrorLog:       slog.NewLogLogger(in.log.Handler(), slog.LevelDebug),
	}
	go func() { _ = srv.Serve(ln) }() // ends when stop closes the server
	in.log.Info("admin listener is ready", "listen", ln.Addr().String())
	return func() { _ = srv.Close() }, nil
}

func (in *instance) status() status.Report {
	r := in.proxy.Status()
	r.Holdfast.Version = in.version
	return r
}
