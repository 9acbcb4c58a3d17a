package proxy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestReplicasWithPolling is TestReplicas with pages that also poll, and upgrade from polling to
// WebSocket. Each of their requests may reach another replica, may be cut anywhere, and may then be
// repeated. Some pages have a key. The network takes its time, so requests overtake each other.
//
// The choices are those of a random generator with fixed seeds. A failure prints the seed, the
// steps with their choices, and what happened. SEED=N runs one seed; HOLDFAST_LONG=1 runs many.
func TestReplicasWithPolling(t *testing.T) {
	seeds := foundSeeds
	for seed := range uint64(10) {
		seeds = append(seeds, seed)
	}
	if first, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seeds = []uint64{first}
	}
	if os.Getenv("HOLDFAST_LONG") != "" {
		for range 2000 {
			seeds = append(seeds, seeds[len(seeds)-1]+1)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runSeed(t, seed) })
	}
}

// foundSeeds have found faults.
var foundSeeds = []uint64{2000343, 1001194}

func runSeed(t *testing.T, seed uint64) {
	var steps strings.Builder
	random, last, log := rand.New(rand.NewPCG(seed, 3)), "", &modelLog{}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:%s\n%s", seed, steps.String(), log.all.String())
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		runFleet(t, log, func(what string, n int) int {
			c := random.IntN(n)
			if what != last {
				_, _ = fmt.Fprintf(&steps, "\n%s:", what)
				last = what
			}
			_, _ = fmt.Fprint(&steps, " ", c)
			return c
		})
	})
}

// poll lets pages poll, with or without a key, in a network that takes its time.
func (f *fleet) poll() {
	f.route = func(choose func(n int) int) *modelReplica {
		place := choose(len(f.members))
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.members[place].modelReplica
	}
	for _, name := range pageNames {
		f.pages[name].chooseTransport(f.choose)
	}
	f.keyed = true
	f.latency = []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond}[f.choose(3)]
}
