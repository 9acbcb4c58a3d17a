//go:build linux

package main

// connectAtOnce is how many connections are opened concurrently when that is not
// what is measured.
const connectAtOnce = 64

// connect opens connections.
func connect(t *trial) (values, error) {
	g, n := t.gen, t.opts.connectClients
	// Warm up with the first connections.
	if err := g.connect(t.ctx, g.add(connectAtOnce), connectAtOnce); err != nil {
		return nil, err
	}
	begin, err := t.used()
	if err != nil {
		return nil, err
	}
	if err := g.connect(t.ctx, g.add(n), t.opts.connectAtOnce); err != nil {
		return nil, err
	}
	u, err := t.since(begin)
	if err != nil {
		return nil, err
	}
	if err := t.verify(stats{connected: uint64(len(g.clients))}); err != nil {
		return nil, err
	}
	return t.perMessage(u, begin.at, uint64(n))
}
