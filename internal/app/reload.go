package app

import (
	"context"
	"log/slog"
	"os"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/logging"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/proxy"
)

// reloader puts the configuration into force again, as far as that goes without a restart.
type reloader struct {
	load    func() (config.Config, config.Sources, error)
	proxy   *proxy.Server
	log     *slog.Logger
	level   *slog.LevelVar
	metrics *metrics.Metrics
}

// run reloads for each signal until ctx is done.
func (r *reloader) run(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
			r.report(r.reload())
		case <-ctx.Done():
			return
		}
	}
}

// report sets the metrics for a configuration that was loaded, or not.
func (r *reloader) report(err error) {
	if err != nil {
		r.metrics.ConfigReloaded.Set(0)
		r.log.Error("configuration not reloaded: the running one stays in force", "error", err)
		return
	}
	r.metrics.ConfigReloaded.Set(1)
	r.metrics.ConfigReloadTime.SetToCurrentTime()
}

func (r *reloader) reload() error {
	fresh, _, err := r.load()
	if err != nil {
		return err
	}
	merged, live, restart, err := r.proxy.Config().Reload(fresh)
	if err != nil {
		return err
	}
	level, err := logging.ParseLevel(merged.Log.Level)
	if err != nil {
		return err
	}
	if err := r.proxy.Reload(merged); err != nil {
		return err
	}
	r.level.Set(min(level, r.level.Level())) // the next line is for who has just set another level
	r.log.Info("configuration reloaded", "changed", live)
	r.level.Set(level)
	if len(restart) > 0 {
		r.log.Warn("some changes of the configuration need a restart: the former values stay in force", "keys", restart)
	}
	return nil
}
