package upstream

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/neterr"
)

// State says whether a server gets new links:
//
//	Up               -> Down       connections to it fail, or handshakes get no answer
//	Up, Down         -> Unhealthy  its health checks fail
//	Down, Unhealthy  -> Up         it answers again
//	Unhealthy        -> Down       its health checks succeed, but it does not answer handshakes
//	any              -> Leaving    it is no longer in the list
//	Leaving          -> any        it is in the list again
//	Leaving          -> Gone       its last link has ended
//
// Links that exist stay in every state.
type State uint8

// The states of a Server.
const (
	Up        State = iota // gets new links
	Down                   // gets none while another server is up
	Unhealthy              // gets none
	Leaving                // gets none, and goes with its last link
	Gone                   // is forgotten
)

// String returns the state in lower case.
func (s State) String() string {
	return [...]string{"up", "down", "unhealthy", "leaving", "gone"}[s]
}

const (
	// maxUnansweredUp is how many handshakes in a row a server may leave unanswered while it is up.
	// A single one may be the fault of its client.
	maxUnansweredUp = 3
	// maxFailedChecks is how many health checks in a row may fail while a server is up: one may be
	// lost.
	maxFailedChecks = 2
)

// membership is a Server's place in the pool. Upstream.mu guards it.
type membership struct {
	state        State
	since        time.Time // when the state began
	links        int       // that exist or are being dialled
	listed       bool      // the configuration or DNS names the server
	failing      int       // unanswered handshakes in a row; a failed connection counts as all
	failedChecks int       // in a row
	lastErr      error     // the reason for either
	probing      bool      // a goroutine asks whether the server is back
	watch        context.Context
	unwatch      context.CancelFunc // ends watch when the server leaves the list; may be nil
}

// nextState returns the state that follows from the other fields.
func (m *membership) nextState() State {
	switch {
	case !m.listed && m.links == 0:
		return Gone
	case !m.listed:
		return Leaving
	case m.failedChecks >= maxFailedChecks:
		return Unhealthy
	case m.failing >= maxUnansweredUp:
		return Down
	}
	return Up
}

// updateLocked is the only place where a server's state changes. u.mu must be held.
func (u *Upstream) updateLocked(s *Server) {
	to := s.nextState()
	if to == s.state {
		u.probeLocked(s)
		return
	}
	from := s.state
	s.state, s.since = to, time.Now()
	if to == Gone {
		delete(u.servers, s.target)
	}
	if u.managedLocked() || from == Leaving || to == Leaving {
		u.logMove(s, from, to)
	}
	u.probeLocked(s)
}

func (u *Upstream) logMove(s *Server, from, to State) {
	attrs := []any{"server", s.String(), "state", to.String(), "was", from.String(), "links", s.links}
	level := slog.LevelInfo
	if to == Down || to == Unhealthy {
		level = slog.LevelWarn
		attrs = append(attrs, "error", s.lastErr)
	}
	u.log.Log(context.Background(), level, "server of the upstream: "+to.String(), attrs...)
}

// noteHandshake records how a handshake with a server ended.
func (u *Upstream) noteHandshake(s *Server, err error) {
	answered, _ := outcome(err)
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case answered:
		s.failing = 0
	case errors.Is(err, context.Canceled), neterr.IsTooManyFiles(err):
		// The client is gone, or this process is at its limit.
		return
	default:
		s.failing, s.lastErr = s.failing+1, err
	}
	u.updateLocked(s)
}

// noteUnreachable records that a connection to a server failed.
func (u *Upstream) noteUnreachable(s *Server, err error) {
	if neterr.IsTooManyFiles(err) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	s.failing, s.lastErr = maxUnansweredUp, err
	u.updateLocked(s)
}

// noteReachable records that a server that was down has answered a probe.
func (u *Upstream) noteReachable(s *Server) {
	s.breaker.Success()
	s.throttle.Done(nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	s.failing = 0
	u.updateLocked(s)
}

// noteCheck records how a health check ended.
func (u *Upstream) noteCheck(s *Server, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		s.failedChecks = 0
	} else {
		s.failedChecks, s.lastErr = s.failedChecks+1, err
	}
	u.updateLocked(s)
}

// SetURLs changes the configured servers, which must be valid. Servers that are no longer among
// them get no new links, and go when their last link has ended.
func (u *Upstream) SetURLs(urls []string) {
	u.mu.Lock()
	same := slices.Equal(u.urls, urls)
	u.urls = slices.Clone(urls)
	u.mu.Unlock()
	switch {
	case same:
	case u.discovers:
		select {
		case u.relook <- struct{}{}:
		default: // a lookup of the new names is due already
		}
	default:
		u.setTargets(targetsOf(urls))
	}
}

// setTargets replaces the list of servers.
func (u *Upstream) setTargets(targets []target) {
	for _, s := range u.replaceList(targets) {
		if u.opts.Left != nil {
			u.opts.Left(s)
		}
	}
}

// replaceList replaces the list of servers, and returns those that left it.
func (u *Upstream) replaceList(targets []target) (left []*Server) {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := u.list
	u.list = make([]*Server, 0, len(targets))
	for _, t := range targets {
		s := u.servers[t]
		if s == nil {
			s = newServer(u, t)
			s.since = time.Now()
			u.servers[t] = s
			if old != nil {
				u.log.Info("server of the upstream: added", "server", s.String())
			}
		}
		if slices.Contains(u.list, s) {
			continue
		}
		if !s.listed { // failures from before it left do not count
			s.failing, s.failedChecks = 0, 0
		}
		s.listed = true
		u.list = append(u.list, s)
	}
	for _, s := range old {
		if slices.Contains(u.list, s) {
			continue
		}
		s.listed = false
		if s.unwatch != nil {
			s.unwatch()
			s.unwatch = nil
		}
		left = append(left, s)
		u.updateLocked(s)
	}
	for _, s := range u.list {
		u.updateLocked(s)
		u.watchLocked(s)
	}
	return left
}
