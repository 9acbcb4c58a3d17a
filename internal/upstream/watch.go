package upstream

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
)

const (
	// probeInterval is the time between two probes of a server that is down.
	probeInterval = time.Second
	// maxCheckBytes is how much of an answer to a probe or a health check is read.
	maxCheckBytes = 64 << 10
)

// watchLocked starts what runs for a listed server: its health checks, if they are configured, and
// its probes when it is down. u.mu must be held.
func (u *Upstream) watchLocked(s *Server) {
	if !u.started || s.unwatch != nil || u.background.Err() != nil {
		return
	}
	s.watch, s.unwatch = context.WithCancel(u.background)
	if u.health.Path != "" {
		watch := s.watch
		u.work.Go(func() { u.checkHealth(watch, s) }) // ends with watch
	}
	u.probeLocked(s)
}

// probeLocked starts to probe a server that is down, so that clients need not find out when it is
// back. With a single server only clients find out. u.mu must be held.
func (u *Upstream) probeLocked(s *Server) {
	if s.state != Down || s.probing || s.unwatch == nil || s.watch.Err() != nil || !u.managedLocked() {
		return
	}
	s.probing = true
	watch := s.watch
	// It ends with watch, or when the server is no longer down.
	u.work.Go(func() { u.probeUntilUp(watch, s) })
}

// probeUntilUp asks a server now and then until it answers.
func (u *Upstream) probeUntilUp(ctx context.Context, s *Server) {
	for {
		// Several holdfasts should not ask at the same moment.
		pause := probeInterval/2 + rand.N(probeInterval)
		if !sleep(ctx, pause) || !u.stillDown(s) {
			break
		}
		if err := u.probe(ctx, s); err == nil {
			u.noteReachable(s)
			break
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	s.probing = false
	u.probeLocked(s) // it may be down again already
}

func (u *Upstream) stillDown(s *Server) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return s.state == Down
}

// probe asks a server for an Engine.IO session that does not exist. Every server refuses that, and
// makes no session for it: a handshake would.
func (u *Upstream) probe(ctx context.Context, s *Server) error {
	path := strings.TrimSuffix(u.opts.EngineIOPath, "/") + "/?EIO=4&transport=polling&sid=holdfast-probe"
	status, err := s.get(ctx, path, u.dialTimeout)
	if err != nil {
		return err
	}
	if answered, _ := outcome(&engineio.RejectedError{Status: status}); !answered {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// checkHealth checks a server's health at intervals until ctx ends.
func (u *Upstream) checkHealth(ctx context.Context, s *Server) {
	for {
		err := u.check(ctx, s)
		if ctx.Err() != nil {
			return
		}
		u.noteCheck(s, err)
		if !sleep(ctx, u.health.Interval) {
			return
		}
	}
}

// check makes one health check.
func (u *Upstream) check(ctx context.Context, s *Server) error {
	status, err := s.get(ctx, u.health.Path, u.health.Timeout)
	switch {
	case err != nil:
		return fmt.Errorf("health check: %w", err)
	case status < 200 || status >= 400:
		return fmt.Errorf("health check: status %d", status)
	}
	return nil
}

// get requests a path over a new connection and returns the status of the answer.
func (s *Server) get(ctx context.Context, path string, timeout time.Duration) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	to := *s.base
	parsed, err := url.ParseRequestURI(path)
	if err != nil {
		return 0, err
	}
	to.Path, to.RawPath, to.RawQuery = parsed.Path, parsed.RawPath, parsed.RawQuery
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return 0, err
	}
	req.Host = s.hostHeader()
	req.Header.Set("User-Agent", "holdfast")
	resp, err := s.unshared.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxCheckBytes))
	return resp.StatusCode, err
}

// hostHeader returns the Host of requests that holdfast makes on its own behalf.
func (s *Server) hostHeader() string {
	if s.target.host == "" {
		return s.base.Host
	}
	return s.target.host
}

// sleep returns false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
