package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A name that cannot be looked up keeps its last addresses, and a question asks again soon.
func TestHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer, fails := []string{"10.0.0.2", "10.0.0.1", "10.0.0.1"}, error(nil)
		lookups := 0
		var mu sync.Mutex // guards what follows and precedes
		set := func(hosts []string, err error) {
			mu.Lock()
			defer mu.Unlock()
			answer, fails = hosts, err
		}
		b := Hosts{Addrs: []string{"peers:7400", "10.1.0.1:7401", "[::1]:7402"}, Lookup: func(_ context.Context, host string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			lookups++
			if host != "peers" {
				t.Errorf("looked up %q", host)
			}
			return answer, fails
		}}
		var got []string
		var problem error
		ctx, cancel := context.WithCancel(t.Context())
		now := make(chan struct{}, 1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Watch(ctx, Entry{}, now, func(entries []Entry, err error) {
				got, problem = nil, err
				for _, e := range entries {
					got = append(got, e.Addr)
				}
			})
		}()
		synctest.Wait()
		want := []string{"10.0.0.1:7400", "10.0.0.2:7400", "10.1.0.1:7401", "[::1]:7402"}
		if !slices.Equal(got, want) || problem != nil {
			t.Errorf("got %v, %v", got, problem)
		}
		time.Sleep(lookupInterval - time.Nanosecond)
		synctest.Wait()
		if lookups != 1 {
			t.Errorf("%d look-ups ahead of time", lookups)
		}
		set(answer, errors.New("no such host"))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !slices.Equal(got, want) || problem == nil {
			t.Errorf("after a failure: %v, %v", got, problem)
		}
		set([]string{"10.0.0.3"}, nil)
		now <- struct{}{}
		time.Sleep(soonest)
		synctest.Wait()
		if want := []string{"10.0.0.3:7400", "10.1.0.1:7401", "[::1]:7402"}; !slices.Equal(got, want) || lookups != 3 {
			t.Errorf("after a question: %v, %d look-ups", got, lookups)
		}
		cancel()
		<-done
	})
}

// A replica that starts while Redis is down, hangs or is emptied is connected within five seconds
// after Redis is back, whenever the others asked the last time.
func TestFoundAfterRedisReturns(t *testing.T) {
	const promise = 5 * time.Second
	for name, fail := range map[string]func(b *registry) (heal func()){
		"down": func(b *registry) func() {
			b.change(true, nil)
			return func() { b.change(false, nil) }
		},
		"hangs": func(b *registry) func() {
			hangs := make(chan struct{})
			b.change(false, hangs)
			return func() {
				b.change(false, nil)
				close(hangs)
			}
		},
		"emptied": func(b *registry) func() { return func() { b.change(false, nil) } },
	} {
		for phase := time.Duration(0); phase < 10*time.Second; phase += 700 * time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				b := &registry{fields: make(map[string]string)}
				n := newNetwork()
				old := n.startWith(t, idA, "a:1", secretA, b)
				time.Sleep(300 * time.Millisecond)
				heal := fail(b)
				time.Sleep(phase)
				fresh := n.startWith(t, idB, "b:1", secretA, b)
				time.Sleep(phase / 3)
				heal()
				time.Sleep(promise)
				synctest.Wait()
				if got := []string{old.state(idB), fresh.state(idA)}; !slices.Equal(got, []string{"up", "up"}) {
					t.Errorf("%s for %v: the states are %v", name, phase, got)
				}
				stop(old, fresh)
			})
		}
	}
}
