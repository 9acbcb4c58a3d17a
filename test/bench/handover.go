//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"time"
)

const (
	// handoverMissed is how many events of handoverPayload bytes the clients that are away miss.
	handoverMissed  = 20
	handoverPayload = 512
	// handoverAtOnce is how many clients return concurrently.
	handoverAtOnce = 1000
)

// handoverScenario restarts holdfast by a handover.
func handoverScenario(o *options) *scenario {
	s := &scenario{
		group: "handover", name: "handover", maxRounds: o.slowRounds, run: handover,
		title: fmt.Sprintf("handover: %d sessions, of which every second one is parked and has missed %d events of %d bytes",
			o.handoverClients, handoverMissed, handoverPayload),
		metrics: []metric{
			{"recovered", "recovered", 0, false},
			{"leave_ms", "leave ms", 1, false},
			{"freeze_ms", "freeze ms", 1, false},
			{"pass_ms", "pass on ms", 1, false},
			{"restore_ms", "restore ms", 1, false},
			{"total_ms", "total ms", 0, false},
			{"away_ms", "longest away ms", 0, false},
		},
		note: "leave: all clients are closed. pass on: the snapshot is written, read by a child, and read by the new program. " +
			"total: with the checks before. longest away: from the signal until the last client that was connected is back.",
	}
	if o.hasHoldfast() {
		s.targets = []target{{name: holdfastName, proxy: startReporting, recover: true}}
		s.baseline = holdfastName
	}
	return s
}

// handover parks every second client, hands over, and lets all return.
func handover(t *trial) (values, error) {
	g, n := t.gen, t.opts.handoverClients
	g.payload = payloadOf(handoverPayload)
	if err := g.connect(t.ctx, g.add(n), connectAtOnce); err != nil {
		return nil, err
	}
	if err := t.broadcast(); err != nil {
		return nil, err
	}
	var live, away []*client
	for i, c := range g.clients {
		if i%2 == 0 {
			live = append(live, c)
		} else {
			away = append(away, c)
		}
	}
	g.cut(away)
	if err := t.settled(); err != nil {
		return nil, err
	}
	g.expected += uint64(n * handoverMissed)
	if err := t.server.broadcast(t.ctx, handoverMissed, handoverPayload); err != nil {
		return nil, err
	}
	if err := t.settled(); err != nil {
		return nil, err
	}
	v, err := handOver(t, live)
	if err != nil {
		return nil, err
	}
	g.begin(away, handoverAtOnce)
	if err := g.wait(t.ctx, connectTimeout, "coming back", func() bool { return g.connected == n && g.received >= g.expected }); err != nil {
		return nil, err
	}
	if g.recovered != n {
		return nil, fmt.Errorf("%w: %d of %d clients were recovered", errTrial, g.recovered, n)
	}
	v["recovered"] = float64(g.recovered)
	if err := t.broadcast(); err != nil {
		return nil, err
	}
	if err := g.quiet(t.ctx); err != nil {
		return nil, err
	}
	return v, t.verify(stats{connected: uint64(n)})
}

// handOver sends the signal, and waits until the connected clients are back.
func handOver(t *trial, live []*client) (values, error) {
	g := t.gen
	begin := time.Now()
	g.leaving = true
	t.proxy.signal(syscall.SIGUSR2)
	if err := g.wait(t.ctx, connectTimeout, "being closed", func() bool { return g.connected == 0 }); err != nil {
		return nil, err
	}
	g.leaving = false
	back := len(live)
	g.begin(live, handoverAtOnce)
	if err := g.wait(t.ctx, connectTimeout, "coming back", func() bool { return g.connected == back }); err != nil {
		return nil, err
	}
	away := time.Since(begin)
	h, err := t.proxy.lastHandover(t.ctx)
	if err != nil {
		return nil, err
	}
	if h.Result != "ok" || h.Sessions != len(g.clients) || h.Lost != 0 {
		return nil, fmt.Errorf("%w: the handover ended with %+v", errTrial, h)
	}
	return values{
		"leave_ms": 1000 * h.Leave, "freeze_ms": 1000 * h.Freeze, "pass_ms": 1000 * h.Pass, "restore_ms": 1000 * h.Restore,
		"total_ms": 1000 * h.Duration, "away_ms": float64(away.Milliseconds()),
	}, nil
}

// lastHandover is a part of holdfast's status report.
type lastHandover struct {
	Result   string  `json:"result"`
	Sessions int     `json:"sessions"`
	Lost     int     `json:"lost_sessions"`
	Duration float64 `json:"duration_seconds"`
	Leave    float64 `json:"leave_seconds"`
	Freeze   float64 `json:"freeze_seconds"`
	Pass     float64 `json:"pass_seconds"`
	Restore  float64 `json:"restore_seconds"`
}

func (p *proxy) lastHandover(ctx context.Context) (lastHandover, error) {
	client := adminClient(p.dir)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://holdfast/api/status", nil)
	if err != nil {
		return lastHandover{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return lastHandover{}, err
	}
	defer resp.Body.Close()
	var report struct{ Handover lastHandover }
	return report.Handover, json.NewDecoder(resp.Body).Decode(&report)
}
