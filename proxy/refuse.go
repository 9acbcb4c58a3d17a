package proxy

import (
	"log/slog"
	"net/netip"

	"github.com/holdfast/holdfast/metrics"
)

// refused counts and logs a connection or request that exceeded a limit.
func (s *Server) refused(limit metrics.RefusalLimit, addr netip.Addr) {
	s.metrics.Refused(limit)
	s.limitedLog.Log(slog.LevelWarn, string(limit), "limit reached",
		"limit", string(limit), "key", limit.Key(), "address", addr.String())
}

func (s *Server) outOfDescriptors(err error) {
	s.limitedLog.Log(slog.LevelWarn, "", "out of file descriptors: raise the limit of open files (ulimit -n)", "error", err)
}
