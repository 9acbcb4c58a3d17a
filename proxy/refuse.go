package proxy

import (
	"errors"
	"log/slog"
	"net/netip"
	"syscall"

	"github.com/holdfast/holdfast/metrics"
)

// refused tells of what a limit turned away: it is counted each time, and logged now and then.
func (s *Server) refused(limit metrics.RefusalLimit, addr netip.Addr) {
	s.metrics.Refused(limit)
	s.limitedLog.Log(slog.LevelWarn, string(limit), "limit reached", "limit", string(limit), "address", addr.String())
}

// isOutOfDescriptors reports whether an error says that this process, or the system, has no file descriptor left.
func isOutOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func (s *Server) outOfDescriptors(err error) {
	s.limitedLog.Log(slog.LevelWarn, "", "out of file descriptors: raise the limit of open files (ulimit -n)", "error", err)
}
