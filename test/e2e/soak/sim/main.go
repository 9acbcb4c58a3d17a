package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"
)

func main() {
	url := flag.String("url", "", "URL of holdfast")
	name := flag.String("name", "sim", "prefix of the clients' names")
	count := flag.Int("clients", 10, "number of clients")
	seed := flag.Uint64("seed", 1, "seed of all that is random")
	namespaces := flag.String("namespaces", "/", "comma-separated namespaces of each client")
	apart := flag.Bool("apart", false, "replicas may not reach each other, so that an older connection gets a fresh session")
	flag.Parse()
	r := &runner{counts: map[string]int{}, apart: *apart}
	for i := range *count {
		random := rand.New(rand.NewPCG(*seed, uint64(i))) //nolint:gosec // it must be reproducible
		r.clients = append(r.clients, newClient(fmt.Sprintf("%s~%d", *name, i), *url, strings.Split(*namespaces, ","), random))
	}
	if err := r.serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

// runner runs all clients.
type runner struct {
	clients []*client // immutable, like apart
	apart   bool
	wg      sync.WaitGroup

	mu        sync.Mutex         // guards the fields below
	streaming bool               // clients send
	faulty    bool               // faults are injected
	faults    context.Context    // ends with the faults
	calm      context.CancelFunc // ends it
	counts    map[string]int     // of faults
	breaches  []string
}

// serve starts the clients and answers calls until in ends.
func (r *runner) serve(in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	r.streaming = true
	r.faults, r.calm = context.WithCancel(ctx)
	for _, c := range r.clients {
		r.wg.Go(func() { r.run(ctx, c) })
	}
	defer r.wg.Wait()
	defer cancel()
	calls := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	for calls.Scan() {
		var call struct {
			ID   int    `json:"id"`
			Name string `json:"name"`
		}
		if err := json.Unmarshal(calls.Bytes(), &call); err != nil {
			return err
		}
		answer := map[string]any{"id": call.ID}
		if value, err := r.call(call.Name, cancel); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["value"] = value
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return calls.Err()
}

func (r *runner) call(name string, cancel context.CancelFunc) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch name {
	case "ready":
		return true, nil
	case "connected":
		for _, c := range r.clients {
			if !c.connected() {
				return false, nil
			}
		}
		return true, nil
	case "faults":
		r.faulty = true
		return true, nil
	case "calm": // ends the faults, and returns their counts
		r.faulty = false
		r.calm()
		return r.counts, nil
	case "finish":
		r.streaming = false
		return true, nil
	case "ledger":
		return r.clients, nil
	case "breaches":
		return append([]string{}, r.breaches...), nil
	case "close":
		cancel()
		r.mu.Unlock() // clients may need the lock
		r.wg.Wait()
		r.mu.Lock()
		return true, nil
	}
	return nil, fmt.Errorf("no call %q", name)
}

// run runs one client until ctx is done, and closes it.
func (r *runner) run(ctx context.Context, c *client) {
	defer c.sio.Close()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !c.connected() {
			_ = c.reconnect(ctx)
		}
		r.mu.Lock()
		streaming, faulty, faults := r.streaming, r.faulty, r.faults
		r.mu.Unlock()
		for _, n := range c.namespaces {
			if streaming && c.random.Float64() < perTick {
				c.emit(n)
			}
		}
		c.mu.Lock()
		nc := c.conn
		c.mu.Unlock()
		switch {
		case nc == nil:
		case faulty && c.random.IntN(40) == 0: // every 4 seconds
			f := pick(c.random)
			r.mu.Lock()
			r.counts[f.name]++
			r.mu.Unlock()
			f.run(faults, r, c, nc)
		case !faulty:
			nc.trickle.Store(false)
			nc.delay.Store(0)
			nc.stalled.Store(0)
		}
	}
}

func pick(random *rand.Rand) fault {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	x := random.IntN(sum)
	for _, f := range faults {
		if x -= f.weight; x < 0 {
			return f
		}
	}
	panic("unreachable: the weights add up")
}

// broken records a broken guarantee.
func (r *runner) broken(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.breaches = append(r.breaches, what)
}
