package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

// timeout is how long a trial waits for something that should happen immediately.
const timeout = 5 * time.Second

// trial is the story of one client that loses its connection.
type trial struct {
	srv     *backend
	url     string // where the client connects
	visitor string // what the server calls the client
	opts    Options
	n       *narrator // nil for none
}

// outcome is the result of a trial.
type outcome struct {
	firstID, secondID string
	recovered         bool
	received          []int // numbers of the messages, in the order of arrival
	visits            visits
}

// run returns an error only if the trial could not be completed.
func (t trial) run(ctx context.Context) (outcome, error) {
	var o outcome
	c, numbers := t.newClient()
	if err := t.connect(ctx, c); err != nil {
		return o, err
	}
	defer c.Close()
	o.firstID = c.ID()
	t.n.say("client", "connected, id %s", o.firstID)
	t.sayWhere()
	for n := 1; n <= before; n++ {
		t.n.say("server", "sends message %d", n)
		if err := t.deliver(ctx, &o, numbers, n); err != nil {
			return o, err
		}
		if err := sleep(ctx, t.opts.Pause); err != nil {
			return o, err
		}
	}
	if err := t.cut(ctx, c); err != nil {
		return o, err
	}
	return o, t.recover(ctx, c, &o, numbers)
}

// newClient returns a client that is not connected yet, and the numbers of the messages that it gets.
func (t trial) newClient() (*sioclient.Client, chan int) {
	numbers := make(chan int, 4*(before+missed)) // room for duplicates
	c := sioclient.New(sioclient.Options{URL: t.url + "?visitor=" + t.visitor})
	c.On("message", func(args []json.RawMessage, _ func(...any)) {
		var n int
		if len(args) > 0 && json.Unmarshal(args[0], &n) == nil {
			select {
			case numbers <- n:
			default: // too many duplicates: the check fails anyway
			}
		}
	})
	return c, numbers
}

// cut cuts the client's connection, and sends messages while the client is away.
func (t trial) cut(ctx context.Context, c *sioclient.Client) error {
	t.n.say("network", "the client's TCP connection is cut")
	c.Cut()
	away := time.Now()
	for n := before + 1; n <= before+missed; n++ {
		if err := sleep(ctx, t.opts.Away/(missed+1)); err != nil {
			return err
		}
		t.n.say("server", "sends message %d, while the client is away", n)
		t.srv.message(t.visitor, n)
	}
	return sleep(ctx, t.opts.Away-time.Since(away))
}

// recover reconnects, and collects what the client missed and one more message.
func (t trial) recover(ctx context.Context, c *sioclient.Client, o *outcome, numbers chan int) error {
	if err := t.connect(ctx, c); err != nil {
		return err
	}
	o.secondID, o.recovered = c.ID(), c.Recovered()
	same := "a new one"
	if o.secondID == o.firstID {
		same = "the same"
	}
	t.n.say("client", "reconnected, id %s (%s), recovered: %v", o.secondID, same, o.recovered)
	t.sayWhere()
	if o.recovered {
		t.collect(ctx, o, numbers, before+missed)
	}
	const last = before + missed + 1
	t.n.say("server", "sends message %d", last)
	if err := t.deliver(ctx, o, numbers, last); err != nil {
		return err
	}
	// Order is kept, so any duplicate arrives before this reply.
	echoed, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := c.EmitAck(echoed, "echo", "done"); err != nil {
		return fmt.Errorf("waiting for an echo: %w", err)
	}
	for len(numbers) > 0 {
		t.receive(o, <-numbers)
	}
	o.visits = t.srv.visits(t.visitor)
	t.n.say("server", "its connection handler ran %s; it saw %s",
		times(o.visits.connections), count(o.visits.disconnects, "disconnect"))
	return nil
}

// sayWhere tells which of several replicas the client has reached.
func (t trial) sayWhere() {
	if t.n != nil && t.opts.Where != nil {
		t.n.say("network", "the balancer has sent it to %s", t.opts.Where())
	}
}

func (t trial) connect(ctx context.Context, c *sioclient.Client) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return fmt.Errorf("connecting to %s: %w", t.url, err)
	}
	return nil
}

// deliver sends a message and waits for it.
func (t trial) deliver(ctx context.Context, o *outcome, numbers <-chan int, n int) error {
	t.srv.message(t.visitor, n)
	if !t.collect(ctx, o, numbers, n) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("message %d did not arrive", n)
	}
	return nil
}

// collect records messages up to the one numbered last. It reports whether that
// one arrived.
func (t trial) collect(ctx context.Context, o *outcome, numbers <-chan int, last int) bool {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		select {
		case n := <-numbers:
			t.receive(o, n)
			if n == last {
				return true
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (t trial) receive(o *outcome, n int) {
	remark := ""
	switch {
	case slices.Contains(o.received, n):
		remark = ", again"
	case isMissed(n):
		remark = ", which it had missed"
	}
	o.received = append(o.received, n)
	t.n.say("client", "receives message %d%s", n, remark)
}

func isMissed(n int) bool { return n > before && n <= before+missed }

// lateCount returns how many of the missed messages arrived.
func (o outcome) lateCount() int {
	late := 0
	for n := before + 1; n <= before+missed; n++ {
		if slices.Contains(o.received, n) {
			late++
		}
	}
	return late
}

// check returns an error that wraps ErrNotRecovered and says why, or nil.
func (o outcome) check() error {
	var faults []string
	if !o.recovered {
		faults = append(faults, "the client got a new session")
	}
	if o.firstID != o.secondID {
		faults = append(faults, "its id changed")
	}
	want := make([]int, before+missed+1)
	for i := range want {
		want[i] = i + 1
	}
	if !slices.Equal(o.received, want) {
		faults = append(faults, fmt.Sprintf("it received messages %v, not %v", o.received, want))
	}
	if o.visits.connections != 1 || o.visits.disconnects != 0 {
		faults = append(faults, fmt.Sprintf("the server saw %s and %s",
			count(o.visits.connections, "connection"), count(o.visits.disconnects, "disconnect")))
	}
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrNotRecovered, strings.Join(faults, "; "))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
