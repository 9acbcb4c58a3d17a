//go:build linux

package main

import "time"

// broadcast makes the server send events to all clients, each as soon as all
// have received the one before.
func broadcast(t *trial, clients, size int) (values, error) {
	g := t.gen
	g.payload = payloadOf(size)
	if err := g.connect(t.ctx, g.add(clients), connectAtOnce); err != nil {
		return nil, err
	}
	if err := broadcastFor(t, t.opts.warmup); err != nil {
		return nil, err
	}
	before := g.received
	begin, err := t.used()
	if err != nil {
		return nil, err
	}
	if err := broadcastFor(t, t.opts.duration); err != nil {
		return nil, err
	}
	u, err := t.since(begin)
	if err != nil {
		return nil, err
	}
	messages := g.received - before
	if err := g.quiet(t.ctx); err != nil {
		return nil, err
	}
	if err := t.verify(stats{connected: uint64(clients)}); err != nil {
		return nil, err
	}
	return t.perMessage(u, begin.at, messages)
}

// broadcastFor broadcasts for a duration, but at least once.
func broadcastFor(t *trial, d time.Duration) error {
	for start := time.Now(); ; {
		if err := t.broadcast(); err != nil {
			return err
		}
		if time.Since(start) >= d {
			return nil
		}
	}
}
