//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"time"
)

// relayedName is the target whose clients are all at a foreign replica.
const relayedName = "relayed"

// benchSecret is known to the replicas of one trial only.
const benchSecret = "a secret for replicas that live for one trial"

// relayScenarios compare clients that recover at the replica with their session with clients that
// recover at another one.
func relayScenarios(o *options, skipped *notes) []*scenario {
	targets := []target{
		{name: holdfastName, proxy: startHoldfast, recover: true},
		{name: relayedName, proxy: startReplicas, recover: true},
	}
	if !o.hasHoldfast() {
		return nil
	}
	echoes := []metric{
		{proxyCPU, "proxies' CPU us", 2, true},
		{"latency_p50_us", "p50 us", 0, true},
		{"latency_p99_us", "p99 us", 0, true},
		{rate, "round trips/s", 0, false},
	}
	all := []*scenario{
		{
			name: "relay-1", metrics: echoes, title: "relay: round trips after the return, one client, one in flight",
			run: func(t *trial) (values, error) {
				return returned(t, 1, func() (values, error) { return echoMore(t, 1) })
			},
		},
		{
			name: "relay-64", metrics: echoes, title: fmt.Sprintf("relay: the same with %d clients", o.clients),
			run: func(t *trial) (values, error) {
				return returned(t, o.clients, func() (values, error) { return echoMore(t, 1) })
			},
		},
		{
			name: "relay-pipeline", metrics: []metric{echoes[0], echoes[3]},
			title: fmt.Sprintf("relay: the same with %d clients, %d in flight each", o.clients, o.inFlight),
			run: func(t *trial) (values, error) {
				return returned(t, o.clients, func() (values, error) { return echoMore(t, o.inFlight) })
			},
		},
		{
			name: "relay-idle", maxRounds: o.slowRounds, pingInterval: idlePing,
			title: fmt.Sprintf("relay: memory of %d idle clients after their return; relayed: of both replicas together", o.idleClients),
			metrics: []metric{
				{"rss_per_client_kb", "KB/client", 2, true},
				{"rss_mb", "RSS MB", 1, false},
				{"rss_empty_mb", "without clients MB", 1, false},
			},
			run: relayIdle,
		},
		{
			name: "relay-storm", maxRounds: o.slowRounds,
			title: fmt.Sprintf("relay: storm of %d clients that return to the same or another replica", o.stormClients),
			metrics: []metric{
				{"recovered", "recovered", 0, false},
				{"storm_s", "time s", 2, true},
				{"proxy_cpu_s", "proxies' CPU s", 2, true},
			},
			run: func(t *trial) (values, error) {
				if t.proxy.edge.IsValid() {
					t.gen.returnTo = t.proxy.edge
				}
				return storm(t)
			},
		},
	}
	for _, s := range all {
		s.targets = targets
	}
	all = append(all, pollingScenario(o, skipped))
	for _, s := range all {
		s.group, s.baseline = "relay", holdfastName
	}
	return all
}

// startReplicas starts two holdfasts that know each other. Clients begin at the first and return to
// the second.
func startReplicas(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
	var peers [2]netip.AddrPort
	for i := range peers {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		peers[i] = addr
	}
	start := func(i int) (*proxy, error) {
		return startProxy(ctx, e, "holdfast.yaml", dir, upstream, 0, func(path string) *exec.Cmd {
			cmd := exec.Command(e.opts.holdfast, "-config", path)
			cmd.Env = append(holdfastEnviron(), "HOLDFAST_CLUSTER_LISTEN="+peers[i].String(),
				"HOLDFAST_CLUSTER_PEERS="+peers[1-i].String(), "HOLDFAST_CLUSTER_SECRET="+benchSecret)
			if e.opts.profile != "" {
				cmd.Env = append(cmd.Env, "HOLDFAST_ADMIN_PROFILING=true", fmt.Sprintf("HOLDFAST_ADMIN_LISTEN=unix://%s%d", adminSocket(dir), i))
			}
			return cmd
		})
	}
	owner, err := start(0)
	if err != nil {
		return nil, err
	}
	edge, err := start(1)
	if err != nil {
		owner.stop()
		return nil, err
	}
	owner.edge, owner.more = edge.addr, edge
	owner.pids = append(owner.pids, edge.pids...)
	time.Sleep(300 * time.Millisecond) // they find each other
	return owner, nil
}

// returned connects clients, lets them return, at the other replica if there is one, and calls fn.
func returned(t *trial, clients int, fn func() (values, error)) (values, error) {
	g := t.gen
	g.payload = payloadOf(t.opts.payload)
	if err := g.connect(t.ctx, g.add(clients), connectAtOnce); err != nil {
		return nil, err
	}
	if err := t.broadcast(); err != nil {
		return nil, err
	}
	g.cut(g.clients)
	if t.proxy.edge.IsValid() {
		g.returnTo = t.proxy.edge
	}
	if err := g.connect(t.ctx, g.clients, connectAtOnce); err != nil {
		return nil, err
	}
	if g.recovered != clients {
		return nil, fmt.Errorf("%w: %d of %d clients were recovered", errTrial, g.recovered, clients)
	}
	return fn()
}

// echoMore is echo with clients that are connected.
func echoMore(t *trial, inFlight int) (values, error) {
	g := t.gen
	g.event, g.received, g.expected = echoEvent, 0, 0
	for _, c := range g.clients {
		c.next = 1
	}
	return echoing(t, len(g.clients), inFlight)
}

// relayIdle measures the memory of clients that have returned.
func relayIdle(t *trial) (values, error) {
	empty, err := emptyMemory(t)
	if err != nil {
		return nil, err
	}
	return returned(t, t.opts.idleClients, func() (values, error) {
		if err := t.pause(t.opts.settle); err != nil {
			return nil, err
		}
		return memory(t, empty)
	})
}
