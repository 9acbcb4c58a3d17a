package app

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// tidyEvery is how often idleness is looked for, and tidyBytes what makes it worth while: garbage, or memory that is free
	// and still the process's.
	tidyEvery = time.Second
	tidyBytes = 1 << 20
	// idleBytes is what an idle process may allocate between two looks.
	idleBytes = 256 << 10
)

// tidyMemory gives memory back to the system after a storm: an idle process allocates nothing, so nothing would make
// the runtime collect what the storm left. It returns when ctx is done.
func tidyMemory(ctx context.Context) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	tidied := uint64(math.MaxUint64) // in which cycle
	for cycles, before := uint64(math.MaxUint64), uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		live, objects, now := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
		idle := now == cycles && objects < before+idleBytes
		cycles, before = now, objects
		garbage := objects > live+max(live/16, tidyBytes)
		free := samples[3].Value.Uint64() > tidyBytes && now != tidied
		if idle && (garbage || free) {
			debug.FreeOSMemory() // which is a cycle
			tidied = now + 1
		}
	}
}
