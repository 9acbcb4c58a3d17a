package app

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast/holdfast/internal/admin"
	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/courier"
)

// adminWriteTimeout limits a response of the admin listener, so that a client that does not read
// cannot hold one forever.
const adminWriteTimeout = 30 * time.Second

// listenAdmin opens the admin listener. It returns nil if none is configured.
func (in *instance) listenAdmin() (net.Listener, error) {
	if in.cfg.Admin.Listen == "" {
		return nil, nil //nolint:nilnil // see above
	}
	ln, err := in.sockets.listen(adminSocket, in.cfg.Admin.Listen)
	if err != nil {
		return nil, in.sources.Invalid("admin.listen", err.Error(), "a free address of this machine, or \"\" for none")
	}
	return ln, nil
}

// serveAdmin serves the admin listener until stop is called.
func (in *instance) serveAdmin(ln net.Listener) (stop func()) {
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
		MaxHeaderBytes: in.cfg.Limits.HeaderBytes.Int(),
		ErrorLog:       slog.NewLogLogger(in.log.Handler(), slog.LevelDebug),
	}
	go serveHTTP(srv, ln, in.log) // ends when stop closes the server
	in.log.Info("admin listener is ready", "listen", ln.Addr().String())
	return func() { _ = srv.Close() }
}

// serveHTTP serves ln until srv is closed. It logs any other reason for its end, because nothing
// else shows it.
func serveHTTP(srv *http.Server, ln net.Listener, log *slog.Logger) {
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the admin listener failed", "listen", ln.Addr().String(), "error", err)
	}
}

func (in *instance) status() status.Report {
	r := in.proxy.Status()
	r.Holdfast.Version = in.version
	r.Holdfast.PID, r.Holdfast.PIDNamespace = os.Getpid(), courier.PIDNamespace()
	if in.handover != nil {
		r.Handover = in.handover.status()
	}
	return r
}
