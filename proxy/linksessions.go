package proxy

import (
	"fmt"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// SessionsClosed implements session.Upstream.
func (l *link) SessionsClosed(ended []*session.Session, _ reason.Reason) {
	for _, s := range ended {
		l.remove(s)
	}
	if l.closeIfUnused() {
		return
	}
	for _, s := range ended {
		l.disconnect(s.Namespace())
	}
}

// SetReadPaused implements session.Upstream. The link is not read while any session or sender is
// over its window.
func (l *link) SetReadPaused(paused bool) {
	if !l.pauseReading(paused) || !paused {
		return
	}
	l.deps.metrics.LinkPauses.Inc()
	if l.deps.incomplete.short.Load() {
		go l.deps.incomplete.passOn(l) // in a goroutine: the caller may hold a session's lock
	}
}

// pauseReading adds or removes a reason not to read the link. It reports whether that changed
// whether the link is read.
func (l *link) pauseReading(paused bool) (changed bool) {
	l.pauseMu.Lock()
	defer l.pauseMu.Unlock()
	if paused {
		if l.pauses++; l.pauses == 1 {
			l.conn.Pause()
		}
		return l.pauses == 1
	}
	if l.pauses--; l.pauses == 0 {
		l.conn.Resume()
	}
	return l.pauses == 0
}

// readPaused reports whether there is a reason not to read the link.
func (l *link) readPaused() bool {
	l.pauseMu.Lock()
	defer l.pauseMu.Unlock()
	return l.pauses > 0
}

// Incomplete implements engineio.MemoryHandler.
func (l *link) Incomplete(bytes int) bool { return l.take(bytes) }

// take counts n more bytes that have arrived on the link. A negative n releases bytes. If there is
// no memory for them the link waits. take returns false if even waiting links take too much.
func (l *link) take(n int) bool {
	i := &l.deps.incomplete
	arriving := l.arriving.Add(int64(n))
	switch {
	case n <= 0:
		if arriving <= oneRead && i.short.Load() { // a message is complete; the next may have begun
			i.passOn(l)
		}
		return i.take(n)
	case i.take(n) || i.takeBeyond(l, n):
		return true
	}
	l.arriving.Add(int64(-n))
	return false
}

// SessionParked implements session.Upstream.
func (l *link) SessionParked(s *session.Session, why reason.Reason, d time.Duration) {
	if n := l.deps.notify; n != nil && n.parked != nil {
		l.conn.Send(notification(s.Namespace(), n.parked, fmt.Sprintf(`{"reason":%s,"expires_in":%s}`, jsonString(string(why)), seconds(d))), nil)
	}
}

// SessionResumed implements session.Upstream.
func (l *link) SessionResumed(s *session.Session, away time.Duration, missed int) {
	if n := l.deps.notify; n != nil && n.resumed != nil {
		l.conn.Send(notification(s.Namespace(), n.resumed, fmt.Sprintf(`{"away":%s,"missed":%d}`, seconds(away), missed)), nil)
	}
}
