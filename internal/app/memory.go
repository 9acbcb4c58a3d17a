package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// releaseInterval is how often releaseIdleMemory looks at the heap.
	releaseInterval = time.Second
	// releaseBytes is how much garbage or free memory is worth a collection.
	releaseBytes = 1 << 20
	// idleBytes is how much an idle process may allocate within an interval.
	idleBytes = 256 << 10
)

// releaseIdleMemory collects garbage and returns free memory to the system once the process is
// idle. Without it a storm's memory stays: an idle process allocates too little to start a
// collection, and the runtime forces one only every two minutes. It returns when ctx is done.
func releaseIdleMemory(ctx context.Context) {
	watchHeap(ctx, readHeap, debug.FreeOSMemory)
}

// watchHeap calls release, which runs a collection, whenever a heapWatcher says that it is due.
func watchHeap(ctx context.Context, read func() heap, release func()) {
	ticker := time.NewTicker(releaseInterval)
	defer ticker.Stop()
	var w heapWatcher
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if w.due(read()) {
				release()
			}
		}
	}
}

// heap is a sample of the runtime's memory.
type heap struct {
	cycles  uint64 // completed collections
	objects uint64 // bytes of objects, live or not collected yet
	live    uint64 // bytes that the last collection found live
	free    uint64 // bytes that hold no object and could return to the system
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	return heap{
		cycles:  samples[0].Value.Uint64(),
		objects: samples[1].Value.Uint64(),
		live:    samples[2].Value.Uint64(),
		free:    samples[3].Value.Uint64(),
	}
}

// heapWatcher decides from samples, one per interval, when memory should be released.
type heapWatcher struct {
	previous heap
	started  bool   // previous is a sample
	released bool   // a release was due before
	cycle    uint64 // the collection of that release
}

// due reports whether the process was idle since the last sample and has memory worth releasing.
// Free memory alone is released once per collection: what remains then is the runtime's to keep.
func (w *heapWatcher) due(now heap) bool {
	idle := w.started && now.cycles == w.previous.cycles && now.objects < w.previous.objects+idleBytes
	w.previous, w.started = now, true
	garbage := now.objects > now.live+max(now.live/16, releaseBytes)
	free := now.free > releaseBytes && (!w.released || now.cycles != w.cycle)
	if !idle || !garbage && !free {
		return false
	}
	w.released, w.cycle = true, now.cycles+1
	return true
}
