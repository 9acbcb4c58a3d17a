//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"
)

const (
	stormTestClients = 5000
	// A broadcast to that many takes server, holdfast and clients together a good part of this.
	stormBroadcastEvery = time.Second
)

// TestStormDuringBroadcasts cuts all 5,000 clients of a real socket.io 4.5 server together,
// twice, during broadcasts. They return immediately. All must be recovered,
// each must get every broadcast once and in order, and the application's
// connection handlers must not run again.
func TestStormDuringBroadcasts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	// These clients do not try again as real ones would, and a slow machine may
	// need longer for all handshakes than the default allows each.
	t.Setenv("HOLDFAST_UPSTREAM_HANDSHAKE_TIMEOUT", "4m")
	o, err := parseOptions(tiny("-scenarios=storm", "-targets=holdfast", fmt.Sprintf("-storm-clients=%d", stormTestClients),
		"-node-modules="+filepath.Join("..", "e2e", "node_modules")), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	legacy, ok := findSocketIO(o.nodeModules, "4.5.")
	if !ok {
		t.Skip("no socket.io 4.5 (run npm ci in test/e2e)")
	}
	e, err := newEnv(t.Context(), o, printer{io.Discard}, printer{io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	if o.node == "" {
		t.Skip("no Node.js")
	}
	for _, note := range e.notes {
		t.Log("NOT THE WHOLE TEST: ", note)
	}
	tg := target{name: "holdfast", proxy: startHoldfast, server: legacy.start(false), recover: true}
	v, err := runTrial(t.Context(), e, &scenario{run: stormDuringBroadcasts}, tg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clients; both storms: %.0f recovered, the slower took %.1f s; %.0f broadcasts",
		o.stormClients, v["recovered"], v["storm_s"], v["broadcasts"])
}

func stormDuringBroadcasts(t *trial) (values, error) {
	g, n := t.gen, t.opts.stormClients
	if err := g.connect(t.ctx, g.add(n), connectAtOnce); err != nil {
		return nil, err
	}
	g.payload = payloadOf(stormPayload)
	v := make(values)
	b := startBroadcasts(t.ctx, t.server)
	defer b.cancel()
	for storms := 1; storms <= 2; storms++ {
		if err := t.pause(stormBroadcastEvery); err != nil {
			return nil, err
		}
		begin := time.Now()
		g.cut(g.clients)
		if storms == 2 { // the second time they miss some
			if err := t.pause(2 * stormBroadcastEvery); err != nil {
				return nil, err
			}
			begin = time.Now()
		}
		g.begin(g.clients, stormAtOnce)
		if err := g.wait(t.ctx, 4*connectTimeout, "coming back", func() bool { return g.connected == n }); err != nil {
			return nil, err
		}
		v["storm_s"] = max(v["storm_s"], time.Since(begin).Seconds())
		if g.recovered != storms*n {
			return nil, fmt.Errorf("%w: %d of %d clients were recovered", errTrial, g.recovered-(storms-1)*n, n)
		}
	}
	if err := t.pause(stormBroadcastEvery); err != nil {
		return nil, err
	}
	sent, err := b.stop()
	if err != nil {
		return nil, err
	}
	g.expected = uint64(n) * uint64(sent)
	if err := g.receive(t.ctx); err != nil {
		return nil, err
	}
	if err := g.quiet(t.ctx); err != nil {
		return nil, err
	}
	v["recovered"], v["broadcasts"] = float64(g.recovered), float64(sent)
	return v, t.verify(stats{connected: uint64(n)})
}

// broadcasts runs until it is stopped. Meanwhile no other caller may ask the
// server for anything.
type broadcasts struct {
	cancel context.CancelFunc
	done   chan struct{}
	sent   int   // written before done is closed
	err    error // likewise
}

func startBroadcasts(ctx context.Context, server *backend) *broadcasts {
	ctx, cancel := context.WithCancel(ctx)
	b := &broadcasts{cancel: cancel, done: make(chan struct{})}
	go b.run(ctx, server) // ends with stop
	return b
}

func (b *broadcasts) run(ctx context.Context, server *backend) {
	defer close(b.done)
	tick := time.NewTicker(stormBroadcastEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		// Not with ctx: a request that was sent must be counted.
		if b.err = server.broadcast(context.WithoutCancel(ctx), 1, stormPayload); b.err != nil {
			return
		}
		b.sent++
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// stop returns how many there were.
func (b *broadcasts) stop() (int, error) {
	b.cancel()
	<-b.done
	return b.sent, b.err
}
