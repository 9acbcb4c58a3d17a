//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// Metrics that several scenarios share.
const (
	proxyCPU  = "proxy_cpu_us"  // of one message, round trip or connection
	serverCPU = "server_cpu_us" // likewise
	rate      = "per_second"
)

// metric is a column of a scenario's table.
type metric struct {
	name   string // in the machine-readable results; ends with its unit
	title  string
	digits int  // after the decimal point
	ratio  bool // a column with the ratio to the baseline follows
}

// scenario is something to measure.
type scenario struct {
	group, name  string // a group can have several scenarios
	title        string
	note         string // under the table; may be empty
	metrics      []metric
	baseline     string // the target that others are compared with
	targets      []target
	maxRounds    int // 0: no limit
	pingInterval time.Duration
	run          func(t *trial) (values, error)
}

// scenarios returns the selected scenarios with their targets.
func scenarios(o *options, skipped *notes) []*scenario {
	perRoundTrip := []metric{
		{proxyCPU, "proxy CPU us", 2, true},
		{serverCPU, "server CPU us", 2, false},
		{"latency_p50_us", "p50 us", 0, true},
		{"latency_p99_us", "p99 us", 0, true},
		{rate, "round trips/s", 0, false},
	}
	perMessage := []metric{
		{proxyCPU, "proxy CPU us", 2, true},
		{serverCPU, "server CPU us", 2, false},
		{rate, "messages/s", 0, false},
	}
	var all []*scenario
	for _, clients := range slices.Compact([]int{1, o.clients}) {
		all = append(all, &scenario{
			group: "echo", name: fmt.Sprintf("echo-%d", clients), metrics: perRoundTrip,
			title: fmt.Sprintf("echo: round trips, clients: %d, one in flight each, %d-byte payload", clients, o.payload),
			run:   func(t *trial) (values, error) { return echo(t, clients, 1) },
		})
	}
	all = append(all, &scenario{
		group: "pipeline", name: "pipeline",
		title:   fmt.Sprintf("pipeline: round trips, clients: %d, %d in flight each, %d-byte payload", o.clients, o.inFlight, o.payload),
		metrics: []metric{perRoundTrip[0], perRoundTrip[1], perRoundTrip[4]},
		run:     func(t *trial) (values, error) { return echo(t, o.clients, o.inFlight) },
	})
	for _, size := range o.broadcastPayloads {
		all = append(all, &scenario{
			group: "broadcast", name: fmt.Sprintf("broadcast-%d", size), metrics: perMessage,
			title: fmt.Sprintf("broadcast: to %d clients, %d-byte payload; figures are per message delivered", o.broadcastClients, size),
			run:   func(t *trial) (values, error) { return broadcast(t, o.broadcastClients, size) },
		})
	}
	all = append(all, memoryScenarios(o)...)
	all = append(all, &scenario{
		group: "connect", name: "connect",
		title: fmt.Sprintf("connect: %d connections opened, %d at a time: handshake and CONNECT", o.connectClients, o.connectAtOnce),
		metrics: []metric{
			{proxyCPU, "proxy CPU us", 1, true},
			{serverCPU, "server CPU us", 1, false},
			{rate, "connections/s", 0, false},
		},
		run: connect,
	})
	for _, s := range all {
		s.baseline = haproxyName
		if s.targets == nil {
			s.targets = proxyTargets(o)
		}
	}
	all = append(all, stormScenario(o, skipped), handoverScenario(o))
	all = append(all, relayScenarios(o, skipped)...)
	all = append(all, translateScenarios(o)...)
	all = append(all, serversScenarios(o)...)
	return slices.DeleteFunc(all, func(s *scenario) bool {
		asked := slices.Contains(o.scenarios, s.group) || slices.Contains(o.scenarios, s.name)
		if asked && len(s.targets) == 0 {
			skipped.add("%s is skipped: none of the targets supports it", s.name)
		}
		return !asked || len(s.targets) == 0
	})
}

// groups are the values of -scenarios.
var groups = []string{"echo", "pipeline", "broadcast", "idle", "connect", "storm", "handover", "relay", "eio3", "servers"}

// proxyTargets returns the selected proxies in front of the synthetic server.
func proxyTargets(o *options) []target {
	var targets []target
	for _, name := range o.targets {
		targets = append(targets, target{name: name, proxy: proxies[name], recover: name == holdfastName})
	}
	return targets
}
