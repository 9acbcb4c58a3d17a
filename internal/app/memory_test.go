package app

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsReleasedWhenIdle(t *testing.T) {
	const mb = 1 << 20
	stormed := heap{cycles: 7, objects: 90 * mb, live: 10 * mb}
	tests := []struct {
		name    string
		samples []heap
		want    []bool
	}{
		{"garbage of a storm", []heap{stormed, stormed}, []bool{false, true}},
		{"still allocating", []heap{stormed, {cycles: 7, objects: 91 * mb, live: 10 * mb}}, []bool{false, false}},
		{"collected in between", []heap{stormed, {cycles: 8, objects: 90 * mb, live: 10 * mb}}, []bool{false, false}},
		{"little garbage", []heap{{objects: 10*mb + 1, live: 10 * mb}, {objects: 10*mb + 1, live: 10 * mb}}, []bool{false, false}},
		{
			"little garbage for its size",
			[]heap{{objects: 165 * mb, live: 160 * mb}, {objects: 165 * mb, live: 160 * mb}},
			[]bool{false, false},
		},
		{
			"free memory, once per collection",
			[]heap{
				{cycles: 3, objects: mb, live: mb, free: 5 * mb},
				{cycles: 3, objects: mb, live: mb, free: 5 * mb}, // released, by collection 4
				{cycles: 4, objects: mb, live: mb, free: 2 * mb},
				{cycles: 4, objects: mb, live: mb, free: 2 * mb},
				{cycles: 5, objects: mb, live: mb, free: 2 * mb},
				{cycles: 5, objects: mb, live: mb, free: 2 * mb},
			},
			[]bool{false, true, false, false, false, true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var w heapWatcher
			for i, s := range tt.samples {
				if got := w.due(s); got != tt.want[i] {
					t.Errorf("sample %d, %+v: due = %v, want %v", i, s, got, tt.want[i])
				}
			}
		})
	}
}

func TestWatchHeapReleasesUntilItIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := heap{objects: 64 << 20, live: 1 << 20}
		releases := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchHeap(ctx, func() heap { return h }, func() { releases++; h.cycles++; h.objects = h.live })
		}()
		time.Sleep(10*releaseInterval + time.Nanosecond)
		synctest.Wait()
		if releases != 1 {
			t.Errorf("%d releases, want 1", releases)
		}
		cancel()
		<-done
	})
}

func TestReadHeap(t *testing.T) {
	if h := readHeap(); h.objects == 0 {
		t.Errorf("readHeap = %+v; want the bytes of some objects", h)
	}
}
