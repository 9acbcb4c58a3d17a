//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// idlePing is the ping interval when memory is measured, so that several
// heartbeats fit into the wait.
const idlePing = time.Second

// parkWave is how many clients connect at a time before they are parked.
const parkWave = 100

// memoryScenarios measure the memory of an idle client.
func memoryScenarios(o *options) []*scenario {
	n := o.idleClients
	metrics := func(ratio bool) []metric {
		return []metric{
			{"rss_per_client_kb", "KB/client", 2, ratio},
			{"rss_mb", "RSS MB", 1, false},
			{"rss_empty_mb", "without clients MB", 1, false},
		}
	}
	withProxy := slices.DeleteFunc(proxyTargets(o), func(t target) bool { return t.proxy == nil })
	recovering := slices.DeleteFunc(slices.Clone(withProxy), func(t target) bool { return !t.recover })
	return []*scenario{
		{
			group: "idle", name: "idle", metrics: metrics(true), targets: withProxy,
			maxRounds: o.slowRounds, pingInterval: idlePing, run: idle,
			title: fmt.Sprintf("idle: the proxy's memory with %d clients, %v after they received one event", n, o.settle),
		},
		{
			group: "idle", name: "parked", metrics: metrics(false), targets: recovering,
			maxRounds: o.slowRounds, pingInterval: idlePing, run: parked,
			title: fmt.Sprintf("parked: holdfast's memory with %d disconnected clients that missed nothing, after %v", n, o.settle),
			note:  fmt.Sprintf("Clients connected and were cut in waves of %d. Afterwards all of them recovered.", parkWave),
		},
	}
}

// idle measures connected clients.
func idle(t *trial) (values, error) {
	g := t.gen
	empty, err := emptyMemory(t)
	if err != nil {
		return nil, err
	}
	g.payload = payloadOf(t.opts.payload)
	if err := g.connect(t.ctx, g.add(t.opts.idleClients), connectAtOnce); err != nil {
		return nil, err
	}
	if err := t.broadcast(); err != nil {
		return nil, err
	}
	if err := t.pause(t.opts.settle); err != nil {
		return nil, err
	}
	v, err := memory(t, empty)
	if err != nil {
		return nil, err
	}
	return v, t.verify(stats{connected: uint64(len(g.clients))})
}

// parked measures clients that were cut.
func parked(t *trial) (values, error) {
	g := t.gen
	empty, err := emptyMemory(t)
	if err != nil {
		return nil, err
	}
	for left := t.opts.idleClients; left > 0; {
		wave := g.add(min(left, parkWave))
		left -= len(wave)
		if err := g.connect(t.ctx, wave, connectAtOnce); err != nil {
			return nil, err
		}
		g.cut(wave)
	}
	if err := t.pause(t.opts.settle); err != nil {
		return nil, err
	}
	v, err := memory(t, empty)
	if err != nil {
		return nil, err
	}
	if err := g.connect(t.ctx, g.clients, connectAtOnce); err != nil {
		return nil, err
	}
	if g.recovered != len(g.clients) {
		return nil, fmt.Errorf("%w: %d of %d clients were recovered", errTrial, g.recovered, len(g.clients))
	}
	return v, t.verify(stats{connected: uint64(len(g.clients))})
}

// emptyMemory returns the memory of an idle proxy after its start.
func emptyMemory(t *trial) (int64, error) {
	if err := t.settled(); err != nil {
		return 0, err
	}
	return residentBytes(t.proxy.pids)
}

func memory(t *trial, empty int64) (values, error) {
	rss, err := residentBytes(t.proxy.pids)
	return values{
		"rss_per_client_kb": float64(rss-empty) / 1024 / float64(len(t.gen.clients)),
		"rss_mb":            float64(rss) / (1 << 20),
		"rss_empty_mb":      float64(empty) / (1 << 20),
	}, err
}
