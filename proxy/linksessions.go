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
	l.pauseMu.Lock()
	defer l.pauseMu.Unlock()
	if paused {
		if l.pauses++; l.pauses == 1 {
			l.deps.metrics.LinkPauses.Inc()
			l.conn.Pause()
		}
		return
	}
	if l.pauses--; l.pauses == 0 {
		l.conn.Resume()
	}
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
