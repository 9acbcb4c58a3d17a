package app

import (
	"context"
	"log/slog"
	"os"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/logging"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/proxy"
)

// loader reads the configuration from where the command line says.
type loader func() (config.Config, config.Sources, error)

// reloader applies a changed configuration, as far as that is possible without a restart.
type reloader struct {
	load    loader
	log     *slog.Logger
	level   *slog.LevelVar // log's
	proxy   *proxy.Server
	metrics *metrics.Metrics
	node    *cluster.Node // nil without other replicas
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

// report logs a failed load, and sets the metrics for either outcome.
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
	if r.node != nil {
		keys, err := clusterKeys(merged.Cluster) // the file may have another secret now
		if err != nil {
			return err
		}
		r.node.SetKeys(keys)
	}
	// So that raising the level does not hide the next line.
	r.level.Set(min(level, r.level.Level()))
	r.log.Info("configuration reloaded", "changed", live)
	r.level.Set(level)
	if len(restart) > 0 {
		r.log.Warn("some configuration changes need a restart: the old values stay in force", "keys", restart)
	}
	return nil
}
