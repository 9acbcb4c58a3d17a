package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent is lower than Go's default: most of our memory is long-lived and little is allocated per message, so
	// collecting earlier costs next to nothing and keeps the process small.
	gcPercent = 50
	// tidyEvery is how often idleness is looked for, and tidyBytes the garbage that makes it worth while.
	tidyEvery = 5 * time.Second
	tidyBytes = 4 << 20
)

// tuneMemory sets how eagerly garbage is collected, unless GOGC says so.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// tidyMemory gives memory back to the system after a storm: an idle process allocates nothing, so nothing would make
// the runtime collect what the storm left. It returns when ctx is done.
func tidyMemory(ctx context.Context) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for cycles := uint64(math.MaxUint64); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		live, objects, now := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
		idle := now == cycles // no collection since the last look
		cycles = now
		if idle && objects > live+max(live/4, tidyBytes) {
			debug.FreeOSMemory()
		}
	}
}
