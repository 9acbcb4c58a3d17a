//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// trial is one run of a scenario against a target, with its own processes.
type trial struct {
	ctx    context.Context
	opts   *options
	target target
	server *backend
	proxy  *proxy // nil: none
	gen    *generator
}

// runTrial starts a trial's processes, runs it, and stops them. An error means that
// the trial has no figures.
func runTrial(ctx context.Context, e *env, s *scenario, tg target) (v values, err error) {
	dir, err := os.MkdirTemp(e.tmp, "trial")
	if err != nil {
		return nil, err
	}
	startBackend := tg.server
	if startBackend == nil {
		startBackend = startServer
	}
	interval := s.pingInterval
	if interval == 0 {
		interval = 25 * time.Second // socket.io's default
	}
	server, err := startBackend(ctx, e, dir, interval)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	t := &trial{ctx: ctx, opts: e.opts, target: tg, server: server}
	addr := server.addr
	if tg.proxy != nil {
		if t.proxy, err = tg.proxy(ctx, e, dir, server.addr); err != nil {
			return nil, err
		}
		defer t.proxy.stop()
		addr = t.proxy.addr
	}
	if t.gen, err = newGenerator(addr, tg.recover); err != nil {
		return nil, err
	}
	defer t.gen.close()
	if e.opts.profile != "" && tg.name == holdfastName {
		written := profile(ctx, e.opts, s.name, dir)
		defer func() { err = errors.Join(err, written()) }() // before the proxy stops
	}
	v, err = s.run(t)
	switch {
	case err == nil:
		err = t.check()
	case t.proxy != nil:
		err = fmt.Errorf("%w%s", err, t.proxy.stderr) // says why it refused a client
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// check reports a process that exited unexpectedly.
func (t *trial) check() error {
	if err := t.server.alive(); err != nil {
		return err
	}
	if t.proxy != nil {
		return t.proxy.alive()
	}
	return nil
}

// used is the CPU time of proxy and server since their start, or between two
// points in time.
type used struct {
	at            time.Time
	proxy, server time.Duration
}

func (t *trial) used() (u used, err error) {
	u.at = time.Now()
	if u.server, err = cpuTime([]int{t.server.pid()}); err != nil {
		return used{}, err
	}
	if t.proxy != nil {
		u.proxy, err = cpuTime(t.proxy.pids)
	}
	return u, err
}

// since returns the CPU time used since begin.
func (t *trial) since(begin used) (used, error) {
	u, err := t.used()
	u.proxy -= begin.proxy
	u.server -= begin.server
	return u, err
}

// perMessage returns the figures of a scenario that counts messages.
func (t *trial) perMessage(u used, begin time.Time, messages uint64) (values, error) {
	if messages == 0 {
		return nil, fmt.Errorf("%w: no message in %v", errTrial, u.at.Sub(begin))
	}
	n := float64(messages)
	v := values{
		rate:      n / u.at.Sub(begin).Seconds(),
		serverCPU: microseconds(u.server) / n,
	}
	if t.proxy != nil {
		v[proxyCPU] = microseconds(u.proxy) / n
	}
	return v, nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// settled waits until proxy and server are idle. Meanwhile clients keep responding.
func (t *trial) settled() error {
	const (
		step  = 50 * time.Millisecond
		idle  = time.Millisecond // CPU time within a step
		limit = 30 * time.Second
	)
	for start := time.Now(); time.Since(start) < limit; {
		begin, err := t.used()
		if err != nil {
			return err
		}
		if err := t.pause(step); err != nil {
			return err
		}
		u, err := t.since(begin)
		if err != nil {
			return err
		}
		if u.proxy < idle && u.server < idle {
			return nil
		}
	}
	return fmt.Errorf("%w: proxy and server do not become idle", errTrial)
}

// pause lets the trial run for a while.
func (t *trial) pause(d time.Duration) error { return t.gen.pause(t.ctx, d) }

// verify compares the server's counts with the expected ones.
func (t *trial) verify(want stats) error {
	got, err := t.server.stats(t.ctx)
	if err == nil && got != want {
		err = fmt.Errorf("%w: the server counted: %v, want: %v", errTrial, got, want)
	}
	return err
}

// broadcast sends an event to all clients, and waits until they have received it.
func (t *trial) broadcast() error {
	t.gen.expected += uint64(t.gen.connected)
	if err := t.server.broadcast(t.ctx, 1, len(t.gen.payload)); err != nil {
		return err
	}
	return t.gen.receive(t.ctx)
}
