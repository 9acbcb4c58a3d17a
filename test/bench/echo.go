//go:build linux

package main

import "time"

// echo makes clients send events that the server returns, with a constant number
// in flight per client. It measures latency if that number is one.
func echo(t *trial, clients, inFlight int) (values, error) {
	g := t.gen
	g.event, g.payload = echoEvent, payloadOf(t.opts.payload)
	if err := g.connect(t.ctx, g.add(clients), clients); err != nil {
		return nil, err
	}
	return echoing(t, clients, inFlight)
}

// echoing is echo once the clients are connected.
func echoing(t *trial, clients, inFlight int) (values, error) {
	g := t.gen
	var latencies []time.Duration
	measuring, stopping := false, false
	g.onEvent = func(c *client) {
		if measuring && inFlight == 1 {
			latencies = append(latencies, g.now.Sub(c.sentAt))
		}
		if !stopping {
			c.sendEvent()
		}
	}
	for _, c := range g.clients {
		g.kick(c, inFlight)
	}
	if err := t.pause(t.opts.warmup); err != nil {
		return nil, err
	}

	measuring = true
	before := g.received
	begin, err := t.used()
	if err != nil {
		return nil, err
	}
	if err := t.pause(t.opts.duration); err != nil {
		return nil, err
	}
	u, err := t.since(begin)
	if err != nil {
		return nil, err
	}
	messages := g.received - before
	measuring, stopping = false, true

	if err := g.receive(t.ctx); err != nil {
		return nil, err
	}
	if err := g.quiet(t.ctx); err != nil {
		return nil, err
	}
	if err := t.verify(stats{connected: uint64(clients), events: g.expected}); err != nil {
		return nil, err
	}
	v, err := t.perMessage(u, begin.at, messages)
	if err == nil && inFlight == 1 {
		v["latency_p50_us"] = microseconds(quantile(latencies, 0.50))
		v["latency_p99_us"] = microseconds(quantile(latencies, 0.99))
	}
	return v, err
}
