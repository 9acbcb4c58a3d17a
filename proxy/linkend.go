package proxy

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/session"
)

// lateReply is how long a link whose client is gone waits for CONNECT replies. If the connection
// ends while a socket is being connected, socket.io never removes that socket.
const lateReply = 5 * time.Second

// adopt makes c the client whose primary link this is. It returns false if the link has ended, or
// is another client's.
func (l *link) adopt(c *client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.is(linkEnded) || l.client != nil {
		return false
	}
	l.client, l.gone = c, false
	return true
}

// detach says that the link is no longer c's primary link.
func (l *link) detach(c *client) {
	l.mu.Lock()
	l.detachLocked(c)
	l.mu.Unlock()
	l.closeIfUnused()
}

func (l *link) detachLocked(c *client) {
	if l.client == c {
		l.client = nil
	}
}

// clientGone is detach for a client that is closed. The link stops waiting for CONNECT replies
// after lateReply.
func (l *link) clientGone(c *client) {
	l.mu.Lock()
	l.detachLocked(c)
	if l.spaces.asked > 0 && !l.gone && !l.state.is(linkEnded) {
		l.conn.AfterFunc(lateReply, l.stopWaiting)
	} else {
		l.gone = true
	}
	l.mu.Unlock()
	l.closeIfUnused()
}

// stopWaiting gives up on CONNECT replies.
func (l *link) stopWaiting() {
	l.mu.Lock()
	l.gone = true
	l.mu.Unlock()
	l.closeIfUnused()
}

// closeIfUnused closes the link if it is no client's primary link and has no sessions. It reports
// whether the link is closed.
func (l *link) closeIfUnused() bool {
	l.mu.Lock()
	unused := l.client == nil && l.sessions.empty() && (l.spaces.asked == 0 || l.gone)
	l.mu.Unlock()
	closed := l.state.is(linkEnded)
	switch {
	case !unused || closed:
	case !l.state.is(linkUnused):
		l.conn.Close()
	default: // its client resumed. After an outage there are many, so leave in the cheap way.
		l.conn.Abort()
	}
	return unused || closed
}

// Closed implements engineio.ConnHandler. The link's sessions end. Their clients first get what the
// server sent before, and then see their transports close.
func (l *link) Closed(err error) {
	defer l.done.Fire()
	defer l.deps.conns.removeLink(l)
	l.assembler.drop(l)
	l.deps.incomplete.leave(l)
	l.Flush() // a batch may have panicked before its Flush
	left := l.detachAll()
	l.Drained()

	if !errors.Is(err, engineio.ErrClosed) {
		l.deps.cache.forget(upstream.ServerOf(l.conn)) // another server may be behind the address now
		l.deps.protocol.forget()
	}
	level := slog.LevelDebug
	if errors.Is(err, engineio.ErrSilent) {
		level = slog.LevelWarn
		l.deps.metrics.HeartbeatTimeouts.Upstream.Inc()
		upstream.ServerOf(l.conn).CloseIdleConnections() // they may be dead as well: keep handshakes off them
	}
	args := []any{"error", err, "sessions", len(left.sessions)}
	if errors.Is(err, engineio.ErrNoMemory) {
		level = slog.LevelWarn
		args = append(args, "key", "recovery.buffer.total_bytes")
	}
	l.deps.log.Log(context.Background(), level, "link closed", args...)
	why := reason.UpstreamLost
	if errors.Is(err, engineio.ErrClosed) && l.deps.phase.is(phaseDraining) { // by closeAll
		why = reason.Draining
	}
	orderly := errors.Is(err, engineio.ErrServerClosed)
	if errors.Is(err, engineio.ErrTooBig) {
		left.showTooBig()
	}
	for _, s := range left.sessions {
		l.deps.safely(func() { l.abortSession(s, why, orderly) })
	}
	for _, w := range left.waiting { // their CONNECTs get no reply
		if w.client != nil {
			w.client.end(orderly)
		}
	}
	if left.primary != nil {
		left.primary.onPrimaryLost(l, left.needed || len(left.sessions) > 0, orderly)
	}
}

// detachedLink is what was on a link when it ended.
type detachedLink struct {
	primary  *client // the client whose primary link it was, or nil
	needed   bool    // the primary client needs the link, even without a session
	sessions []*session.Session
	waiting  []*connecting // CONNECTs without a reply
}

// showTooBig makes the clients see that the server rejected a message because of its size.
func (r *detachedLink) showTooBig() {
	if r.primary != nil {
		r.primary.sock.ShowTooBig()
	}
	for _, s := range r.sessions {
		if c := clientOf(s.Attached()); c != nil {
			c.sock.ShowTooBig()
		}
	}
}

// detachAll marks the link as ended, and takes everything off it.
func (l *link) detachAll() detachedLink {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := detachedLink{
		primary: l.client, needed: l.spaces.asked > 0 || l.state.is(linkRaw),
		sessions: l.sessions.all(),
	}
	r.waiting, _ = l.spaces.allWaiting()
	l.state.moveLocked(linkEnded)
	l.sessions.clear()
	return r
}

// abortSession ends a session whose link has ended, and its client.
func (l *link) abortSession(s *session.Session, why reason.Reason, orderly bool) {
	l.deps.registry.Close(s, why)
	// Look for the client only now: after Close no other client can resume the session.
	if c := clientOf(s.Attached()); c != nil {
		c.end(orderly)
	}
}

// unused reports whether the link carries nothing but its client's handshake.
func (l *link) unused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions.empty() && l.spaces.asked == 0 && !l.state.is(linkRaw)
}

// Panicked implements engineio.ConnHandler.
func (l *link) Panicked(v any) {
	l.deps.reportPanic(v)
	go l.Abort() // in a goroutine: the caller may hold l.mu
}

// Abort ends the link with its sessions.
func (l *link) Abort() { l.deps.safely(l.conn.Close) }
