//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// stormPayload is the size of the events that are missed, in bytes.
const stormPayload = 512

// stormScenario runs a storm against holdfast in front of the synthetic and of a
// real server, and against servers alone.
func stormScenario(o *options, skipped *notes) *scenario {
	s := &scenario{
		group: "storm", name: "storm", maxRounds: o.slowRounds, run: storm,
		title: fmt.Sprintf("storm: %d clients are cut together, miss %d events of %d bytes, and return together", o.stormClients, o.stormMissed, stormPayload),
		metrics: []metric{
			{"recovered", "recovered", 0, false},
			{"storm_s", "time s", 2, true},
			{"proxy_cpu_s", "proxy CPU s", 2, false},
			{"server_cpu_s", "server CPU s", 2, true},
			{"missed_proxy_cpu_s", "missed: proxy CPU s", 2, false},
			{"missed_server_cpu_s", "server CPU s", 2, false},
			{"missed_rss_mb", "proxy RSS +MB", 1, false},
		},
		note: "Time and CPU: from the first client's return until all clients have received all missed events. " +
			"\"missed\": the cost of keeping the events meanwhile.",
	}
	if !slices.Contains(o.scenarios, s.group) {
		return s
	}
	holdfast := o.hasHoldfast()
	if holdfast {
		s.targets = append(s.targets, target{name: "holdfast, synthetic server", proxy: startHoldfast, recover: true})
	}
	if n, ok := findSocketIO(o.nodeModules, "4.5."); !ok || o.node == "" {
		skipped.add("storm: no real legacy server, because Node.js or socket.io 4.5 is missing in %s", o.nodeModules)
	} else {
		if holdfast {
			s.targets = append(s.targets, target{
				name: "holdfast, socket.io " + n.version, proxy: startHoldfast, server: n.start(false), recover: true,
			})
		}
		s.targets = append(s.targets, target{name: "socket.io " + n.version + " alone: all lost", server: n.start(false)})
	}
	if n, ok := findSocketIO(o.nodeModules, "4.8."); !ok || o.node == "" {
		skipped.add("storm: no comparison with Socket.IO's own recovery, because Node.js or socket.io 4.8 is missing in %s", o.nodeModules)
	} else {
		s.baseline = "socket.io " + n.version + ", its own recovery"
		s.targets = append(s.targets, target{name: s.baseline, server: n.start(true), recover: true})
	}
	return s
}

// storm cuts all clients, lets them miss events, and reconnects them all.
func storm(t *trial) (values, error) {
	g, n, missed := t.gen, t.opts.stormClients, t.opts.stormMissed
	g.payload = payloadOf(stormPayload)
	if err := g.connect(t.ctx, g.add(n), connectAtOnce); err != nil {
		return nil, err
	}
	// Socket.IO's own recovery only works for clients that have received an event.
	if err := t.broadcast(); err != nil {
		return nil, err
	}
	v := make(values)
	if err := miss(t, v, missed); err != nil {
		return nil, err
	}

	if t.target.recover {
		g.expected += uint64(n * missed)
	} else {
		for _, c := range g.clients {
			c.next += uint64(missed)
		}
	}
	begin, err := t.used()
	if err != nil {
		return nil, err
	}
	g.begin(g.clients, stormAtOnce)
	if err := g.wait(t.ctx, connectTimeout, "coming back", func() bool {
		return g.connected == n && g.received >= g.expected
	}); err != nil {
		return nil, err
	}
	v["storm_s"] = time.Since(begin.at).Seconds()
	if err := t.settled(); err != nil {
		return nil, err
	}
	u, err := t.since(begin)
	if err != nil {
		return nil, err
	}
	v["server_cpu_s"] = u.server.Seconds()
	if t.proxy != nil {
		v["proxy_cpu_s"] = u.proxy.Seconds()
	}
	v["recovered"] = float64(g.recovered)
	return v, afterStorm(t)
}

// stormAtOnce is how many clients may connect concurrently in a storm. More than
// the kernel's usual accept queue (net.core.somaxconn) would measure TCP's
// retransmission timeout.
const stormAtOnce = 4000

// miss cuts all clients, and broadcasts events for them to miss.
func miss(t *trial, v values, missed int) error {
	t.gen.cut(t.gen.clients)
	if err := t.settled(); err != nil {
		return err
	}
	begin, err := t.used()
	if err != nil {
		return err
	}
	var before, after int64
	if t.proxy != nil {
		if before, err = residentBytes(t.proxy.pids); err != nil {
			return err
		}
	}
	if err := t.server.broadcast(t.ctx, missed, stormPayload); err != nil {
		return err
	}
	if err := t.settled(); err != nil {
		return err
	}
	u, err := t.since(begin)
	if err != nil {
		return err
	}
	v["missed_server_cpu_s"] = u.server.Seconds()
	if t.proxy == nil {
		return nil
	}
	if after, err = residentBytes(t.proxy.pids); err != nil {
		return err
	}
	v["missed_proxy_cpu_s"] = u.proxy.Seconds()
	v["missed_rss_mb"] = float64(after-before) / (1 << 20)
	return nil
}

// afterStorm checks the clients and the server after a storm.
func afterStorm(t *trial) error {
	g := t.gen
	n := len(g.clients)
	if t.target.recover && g.recovered != n || !t.target.recover && g.recovered != 0 {
		return fmt.Errorf("%w: %d of %d clients were recovered", errTrial, g.recovered, n)
	}
	if err := t.broadcast(); err != nil {
		return err
	}
	if err := g.quiet(t.ctx); err != nil {
		return err
	}
	want := stats{connected: uint64(n)}
	if t.proxy == nil { // the server has noticed the disconnects
		want.ended = uint64(n)
		if !t.target.recover {
			want.connected *= 2
		}
	}
	return t.verify(want)
}
