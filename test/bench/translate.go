//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"time"
)

// translatedName is the target whose server speaks Engine.IO 3.
const translatedName = "translated"

// translateScenarios compare a server of Engine.IO 4 with one of Engine.IO 3, for which holdfast
// translates. The clients are the same.
func translateScenarios(o *options) []*scenario {
	if !o.hasHoldfast() {
		return nil
	}
	cpu, perSecond := metric{proxyCPU, "proxy CPU us", 2, true}, metric{rate, "messages/s", 0, false}
	all := []*scenario{
		{
			name: "eio3-echo-64", metrics: []metric{cpu, {"latency_p50_us", "p50 us", 0, true}, perSecond},
			title: fmt.Sprintf("eio3: round trips to a server of Engine.IO 3, clients: %d, one in flight each", o.clients),
			run:   func(t *trial) (values, error) { return echo(t, o.clients, 1) },
		},
		{
			name: "eio3-pipeline", metrics: []metric{cpu, perSecond}, title: fmt.Sprintf("eio3: the same, %d in flight each", o.inFlight),
			run: func(t *trial) (values, error) { return echo(t, o.clients, o.inFlight) },
		},
		{
			name: "eio3-broadcast", metrics: []metric{cpu, perSecond},
			title: fmt.Sprintf("eio3: broadcast to %d clients, 512-byte payload; figures are per message delivered", o.broadcastClients),
			run:   func(t *trial) (values, error) { return broadcast(t, o.broadcastClients, 512) },
		},
	}
	for _, s := range all {
		s.group, s.baseline = "eio3", holdfastName
		s.targets = []target{
			{name: holdfastName, proxy: startHoldfast, recover: true},
			{name: translatedName, proxy: startTranslating, server: startServer3, recover: true},
		}
	}
	return all
}

func startServer3(ctx context.Context, e *env, _ string, interval time.Duration) (*backend, error) {
	return newBackend(ctx, "server", exec.Command(e.self, serverArg, "-eio3", "-ping-interval", interval.String()))
}

func startTranslating(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
	return startProxy(ctx, e, "holdfast.yaml", dir, upstream, 0, func(path string) *exec.Cmd {
		cmd := exec.Command(e.opts.holdfast, "-config", path)
		cmd.Env = append(holdfastEnviron(), "HOLDFAST_UPSTREAM_PROTOCOL=3")
		return cmd
	})
}
