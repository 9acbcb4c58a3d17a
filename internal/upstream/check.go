package upstream

import (
	"context"
	"net/netip"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

// CheckResult says how a server answered Check.
type CheckResult struct {
	URL  string
	Took time.Duration
	Err  error // nil if it is reachable, answers Engine.IO requests and is healthy
}

// Check asks each server of a valid configuration once: for an Engine.IO session that does not
// exist, and for its health if that is configured. It asks nothing, and returns nil, for a single
// URL without discovery and health checks. The error says why the servers are unknown.
func Check(ctx context.Context, cfg config.Config) ([]CheckResult, error) {
	u, err := New(cfg.Upstream, Options{EngineIOPath: cfg.EngineIO.Paths[0]})
	if err != nil {
		return nil, err
	}
	defer u.Close()
	return checkAll(ctx, u)
}

func checkAll(ctx context.Context, u *Upstream) ([]CheckResult, error) {
	var lookErr error
	if u.discovers {
		lookErr = u.lookUp(make(map[string][]netip.Addr))
	}
	u.mu.Lock()
	list, managed := u.list, u.managedLocked()
	u.mu.Unlock()
	if !managed {
		return nil, nil
	}
	results := make([]CheckResult, len(list))
	for i, s := range list {
		u.work.Go(func() { // ends within the timeouts
			start := time.Now()
			err := u.probe(ctx, s)
			if err == nil && u.health.Path != "" {
				err = u.check(ctx, s)
			}
			results[i] = CheckResult{s.String(), time.Since(start), err}
		})
	}
	u.work.Wait()
	return results, lookErr
}
