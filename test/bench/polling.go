//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pollingScenario compares polling clients whose requests reach the replica with their connection
// with clients whose requests all reach another one.
func pollingScenario(o *options, skipped *notes) *scenario {
	s := &scenario{
		name: "relay-polling", title: fmt.Sprintf("relay: polling, %d clients; figures are per round trip: a POST and a poll", pollers),
		note: "relayed: all requests but the handshake reach the replica that does not know the sid.",
		metrics: []metric{
			{proxyCPU, "proxies' CPU us", 1, true},
			{rate, "round trips/s", 0, false},
		},
		run: polling,
	}
	n, ok := findSocketIO(o.nodeModules, "4.5.")
	if !ok || o.node == "" {
		if slices.Contains(o.scenarios, "relay") || slices.Contains(o.scenarios, s.name) {
			skipped.add("relay-polling: no server, because Node.js or socket.io 4.5 is missing in %s", o.nodeModules)
		}
		return s
	}
	s.targets = []target{
		{name: holdfastName, proxy: startHoldfast, server: n.start(false), recover: true},
		{name: relayedName, proxy: startReplicas, server: n.start(false), recover: true},
	}
	return s
}

// pollers is how many clients poll.
const pollers = 16

// polling measures round trips of polling clients. Each has a goroutine and one of net/http's
// connections for its POSTs, and the same for its polls.
func polling(t *trial) (values, error) {
	ctx, stop := context.WithCancelCause(t.ctx)
	defer stop(nil)
	tr := &http.Transport{MaxIdleConnsPerHost: 2 * pollers}
	defer tr.CloseIdleConnections()
	p := &pollingLoad{client: &http.Client{Transport: tr}, payload: payloadOf(t.opts.payload), stop: stop}
	for range pollers {
		c, err := p.open(ctx, t.proxy)
		if err != nil {
			return nil, err
		}
		p.tasks.Go(func() { c.until(ctx, c.poll) })
		p.tasks.Go(func() { c.until(ctx, c.ask) })
	}
	measure := func() (v values, err error) {
		if err := sleep(ctx, t.opts.warmup); err != nil {
			return nil, err
		}
		before := p.answered.Load()
		begin, err := t.used()
		if err != nil {
			return nil, err
		}
		if err := sleep(ctx, t.opts.duration); err != nil {
			return nil, err
		}
		u, err := t.since(begin)
		if err != nil {
			return nil, err
		}
		return t.perMessage(u, begin.at, p.answered.Load()-before)
	}
	v, err := measure()
	stop(nil)
	p.tasks.Wait()
	return v, err
}

// sleep waits for d, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pollingLoad are the polling clients of one trial.
type pollingLoad struct {
	client   *http.Client
	payload  []byte
	stop     context.CancelCauseFunc
	tasks    sync.WaitGroup
	answered atomic.Uint64 // round trips
}

// poller is a polling client.
type poller struct {
	load    *pollingLoad
	url     string
	posting sync.Mutex  // a client makes one POST at a time
	sent    uint64      // owned by ask
	got     chan uint64 // 1: the number of an event that came back
	number  int         // of polls; owned by poll
}

// open makes a handshake, and connects to the main namespace. Further requests go to the other
// replica, if there is one.
func (p *pollingLoad) open(ctx context.Context, to *proxy) (*poller, error) {
	c := &poller{load: p, url: pollingURL(to.addr), got: make(chan uint64, 1)}
	text, err := c.request(ctx, http.MethodGet, "", nil)
	if err != nil {
		return nil, err
	}
	var handshake struct{ SID string }
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("0")), &handshake); err != nil {
		return nil, fmt.Errorf("handshake %.80q: %w", text, err)
	}
	if to.edge.IsValid() {
		c.url = pollingURL(to.edge)
	}
	c.url += "&sid=" + handshake.SID
	if err := c.post(ctx, []byte("40")); err != nil {
		return nil, err
	}
	for {
		text, err := c.request(ctx, http.MethodGet, "", nil)
		switch {
		case err != nil:
			return nil, err
		case bytes.Contains(text, []byte(`40{"sid":`)) && bytes.Contains(text, []byte(`"pid":"hf`)):
			return c, nil
		}
	}
}

func pollingURL(addr netip.AddrPort) string {
	return "http://" + addr.String() + "/socket.io/?EIO=4&transport=polling"
}

// until calls fn until ctx ends. The first error ends the trial.
func (c *poller) until(ctx context.Context, fn func(ctx context.Context) error) {
	for ctx.Err() == nil {
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			c.load.stop(fmt.Errorf("%w: %w", errTrial, err))
		}
	}
}

// ask sends an event and waits until it has come back.
func (c *poller) ask(ctx context.Context) error {
	c.sent++
	event := appendEvent(nil, echoEvent, c.sent, c.load.payload)
	if err := c.post(ctx, event); err != nil {
		return err
	}
	select {
	case number := <-c.got:
		if number != c.sent {
			return fmt.Errorf("event %d came back, not %d", number, c.sent)
		}
		c.load.answered.Add(1)
		return nil
	case <-ctx.Done():
		return nil
	}
}

// poll makes one poll, and answers pings.
func (c *poller) poll(ctx context.Context) error {
	c.number++
	text, err := c.request(ctx, http.MethodGet, fmt.Sprintf("&t=p%d", c.number), nil)
	if err != nil {
		return err
	}
	for packet := range strings.SplitSeq(string(text), "\x1e") {
		if packet == "2" {
			if err := c.post(ctx, []byte("3")); err != nil {
				return err
			}
		}
		event, ok := strings.CutPrefix(packet, "42")
		if !ok {
			continue
		}
		number, _, err := parseEvent([]byte(event), echoEvent, c.load.payload)
		if err != nil {
			return err
		}
		c.got <- number
	}
	return nil
}

func (c *poller) post(ctx context.Context, body []byte) error {
	c.posting.Lock()
	defer c.posting.Unlock()
	_, err := c.request(ctx, http.MethodPost, "", body)
	return err
}

var errStatus = errors.New("a request was refused")

func (c *poller) request(ctx context.Context, method, query string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+query, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := c.load.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%w: %s: %.80q", errStatus, res.Status, text)
	}
	return text, err
}
