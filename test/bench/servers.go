//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// severalServers is how many servers the scenarios have that compare several with one.
const severalServers = 4

// serversScenarios compare one server behind holdfast with several. The several are one process
// that listens on as many ports, so that all else is equal.
func serversScenarios(o *options) []*scenario {
	if !o.hasHoldfast() {
		return nil
	}
	one := target{name: "1 server", proxy: startHoldfast, recover: true}
	several := behind(severalServers)
	all := []*scenario{
		{
			name: "servers-echo", title: fmt.Sprintf("servers: round trips, %d clients, one in flight each", o.clients),
			metrics: []metric{{proxyCPU, "proxy CPU us", 2, true}, {"latency_p50_us", "p50 us", 0, true}, {rate, "round trips/s", 0, false}},
			run:     func(t *trial) (values, error) { return echo(t, o.clients, 1) },
		},
		{
			name: "servers-connect", title: fmt.Sprintf("servers: %d connections opened, %d at a time", o.connectClients, o.connectAtOnce),
			metrics: []metric{{proxyCPU, "proxy CPU us", 1, true}, {rate, "connections/s", 0, false}},
			run:     connect,
		},
	}
	for _, s := range all {
		s.group, s.baseline, s.targets = "servers", one.name, []target{one, several}
	}
	return all
}

// behind returns a target with n servers behind one holdfast.
func behind(n int) target {
	var ports []string // of the trial that starts its server
	return target{
		name: fmt.Sprintf("%d servers", n), recover: true,
		server: func(ctx context.Context, e *env, _ string, interval time.Duration) (*backend, error) {
			cmd := exec.Command(e.self, serverArg, "-ping-interval", interval.String(), "-ports", fmt.Sprint(n))
			b, more, err := newBackendWithPorts(ctx, "server", cmd)
			ports = more
			return b, err
		},
		proxy: func(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
			urls := make([]string, n)
			for i, port := range ports {
				urls[i] = "http://127.0.0.1:" + port
			}
			return startProxy(ctx, e, "holdfast.yaml", dir, upstream, 0, func(path string) *exec.Cmd {
				cmd := exec.Command(e.opts.holdfast, "-config", path)
				cmd.Env = append(holdfastEnviron(), "HOLDFAST_UPSTREAM_URL="+strings.Join(urls, ","))
				return cmd
			})
		},
	}
}
