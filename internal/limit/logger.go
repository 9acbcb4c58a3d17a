package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// LogInterval is the least time between two lines of one kind.
const LogInterval = 10 * time.Second

// Logger logs events whose frequency others decide: at most one line of a kind in LogInterval. It
// is safe for concurrent use.
type Logger struct {
	log *slog.Logger

	mu    sync.Mutex // guards kinds
	kinds map[string]*kind
}

// kind is what a Logger knows about one kind of line. There are few kinds, so none is forgotten.
type kind struct {
	last  time.Time
	times int // since last
}

// NewLogger returns a Logger that writes to log.
func NewLogger(log *slog.Logger) *Logger { return &Logger{log: log, kinds: make(map[string]*kind)} }

// Log logs a line unless one of the same message and kind was logged within LogInterval. A line
// that stands for several events has their number in its attribute "times".
func (l *Logger) Log(level slog.Level, kind, message string, attrs ...any) {
	times, ok := l.due(message + kind)
	if !ok {
		return
	}
	if times > 1 {
		attrs = append(attrs, "times", times)
	}
	l.log.Log(context.Background(), level, message, attrs...)
}

// due counts one event. If a line is due it returns how many events the line stands for.
func (l *Logger) due(name string) (times int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[name]
	if k == nil {
		k = &kind{}
		l.kinds[name] = k
	}
	k.times++
	now := time.Now()
	if !k.last.IsZero() && now.Sub(k.last) < LogInterval {
		return 0, false
	}
	times = k.times
	k.last, k.times = now, 0
	return times, true
}
