package proxy

import (
	"log/slog"
	"net/netip"

	"github.com/holdfast/holdfast/metrics"
)

// refused counts and logs a connection or request that exceeded a limit.
func (r *reporter) refused(limit metrics.RefusalLimit, addr netip.Addr) {
	r.metrics.Refused(limit)
	r.limitedLog.Log(slog.LevelWarn, string(limit), "limit reached",
		"limit", string(limit), "key", limit.Key(), "address", addr.String())
}

func (r *reporter) outOfDescriptors(err error) {
	r.limitedLog.Log(slog.LevelWarn, "", "out of file descriptors: raise the limit of open files (ulimit -n)", "error", err)
}
