package demo

import (
	"context"
	"fmt"
	"time"
)

// restart tells the story of a client whose holdfast is restarted. It returns an error that wraps
// ErrNotRecovered if anything is lost.
func (t trial) restart(ctx context.Context) error {
	var o outcome
	c, numbers := t.newClient()
	if err := t.connect(ctx, c); err != nil {
		return err
	}
	defer c.Close()
	o.firstID = c.ID()
	t.n.say("client", "connected, id %s", o.firstID)
	for n := 1; n <= before; n++ {
		if err := t.deliver(ctx, &o, numbers, n); err != nil {
			return err
		}
	}
	took, err := t.sendWhileRestarting(ctx)
	if err != nil {
		return err
	}
	if err := t.connect(ctx, c); err != nil {
		return err
	}
	o.secondID, o.recovered = c.ID(), c.Recovered()
	t.n.say("client", "reconnected, id %s, recovered: %v", o.secondID, o.recovered)
	t.collect(ctx, &o, numbers, before+missed)
	t.srv.message(t.visitor, before+missed+1)
	t.collect(ctx, &o, numbers, before+missed+1)
	o.visits = t.srv.visits(t.visitor)
	t.n.say("server", "its connection handler ran %s; it saw %s",
		times(o.visits.connections), count(o.visits.disconnects, "disconnect"))
	t.n.restarted(took, o.check() == nil)
	return o.check()
}

// sendWhileRestarting restarts holdfast, and lets the server send meanwhile.
func (t trial) sendWhileRestarting(ctx context.Context) (took time.Duration, err error) {
	t.n.say("network", "holdfast is restarted: its program is replaced, and the client's connection is closed")
	begin := time.Now()
	done := make(chan error, 1) // one: the goroutine ends without a receiver
	go func() { done <- t.opts.Restart(ctx) }()
	for n := before + 1; n <= before+missed; n++ {
		t.n.say("server", "sends message %d", n)
		t.srv.message(t.visitor, n)
		if err := sleep(ctx, t.opts.Pause/4); err != nil {
			return 0, err
		}
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("restarting holdfast: %w", err)
	}
	return time.Since(begin), nil
}

func (n *narrator) restarting() {
	n.printf("\n%s\n\n", n.paint("title", "Now holdfast itself is restarted, as for an upgrade."))
	n.start = time.Now()
}

func (n *narrator) restarted(took time.Duration, ok bool) {
	verdict := n.paint("good", fmt.Sprintf("Restarted in %.2f s: the same session, every message once and in order.", took.Seconds()))
	if !ok {
		verdict = n.paint("bad", "The session did not survive the restart.")
	}
	n.printf("\n  %s\n", verdict)
}
