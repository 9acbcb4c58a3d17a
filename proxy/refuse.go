package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/metrics"
)

// logSpacing is the least time between two lines of the log of one kind, where it is others who decide how often it happens.
const logSpacing = 10 * time.Second

// refused tells of what a limit turned away: it is counted each time, and logged now and then.
func (s *Server) refused(limit metrics.RefusalLimit, addr netip.Addr) {
	s.metrics.Refused(limit)
	s.logSpaced(slog.LevelWarn, string(limit), "limit reached", "limit", string(limit), "address", addr.String())
}

// logSpaced logs a line, unless one of the same message and kind was logged just before. The next one says how many it
// stands for.
func (s *Server) logSpaced(level slog.Level, kind, message string, attrs ...any) {
	times, ok := s.spaced.due(message + kind)
	if !ok {
		return
	}
	if times > 1 {
		attrs = append(attrs, "times", times)
	}
	s.log.Log(context.Background(), level, message, attrs...)
}

// spacing says when a line of some kind is due again. There are few kinds, and none is forgotten.
type spacing struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]*spaced
}

type spaced struct {
	last  time.Time
	times int // since then
}

// due counts one of a kind. It returns how many there were since the last that was due, with this one.
func (s *spacing) due(kind string) (times int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[kind]
	if k == nil {
		if s.kinds == nil {
			s.kinds = make(map[string]*spaced)
		}
		k = &spaced{}
		s.kinds[kind] = k
	}
	k.times++
	now := time.Now()
	if !k.last.IsZero() && now.Sub(k.last) < logSpacing {
		return 0, false
	}
	times = k.times
	k.last, k.times = now, 0
	return times, true
}

// isOutOfDescriptors reports whether an error says that this process, or the system, has no file descriptor left.
func isOutOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func (s *Server) outOfDescriptors(err error) {
	s.logSpaced(slog.LevelWarn, "", "out of file descriptors: raise the limit of open files (ulimit -n)", "error", err)
}
