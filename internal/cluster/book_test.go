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
		set(answer, errors.New("no such host"))
		time.Sleep(lookupInterval)
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
