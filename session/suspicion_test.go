package session

import "testing"

func TestBufferState(t *testing.T) {
	const empty, uncertain, filled, flushed = bufferEmpty, bufferUncertain, bufferFilled, bufferFlushed
	tests := []struct {
		from, to, want bufferState
	}{
		{empty, uncertain, uncertain},
		{empty, filled, filled},
		{empty, flushed, empty}, // no events were buffered
		{uncertain, filled, filled},
		{uncertain, flushed, flushed},
		{uncertain, empty, empty},
		{filled, uncertain, filled}, // more is known
		{filled, flushed, flushed},
		{filled, empty, empty},
		{flushed, uncertain, flushed},
		{flushed, filled, filled},
		{flushed, empty, empty},
	}
	for _, tt := range tests {
		q := suspicions{buffered: tt.from}
		if q.moveBuffered(tt.to); q.buffered != tt.want {
			t.Errorf("%d moves to %d for %d, want %d", tt.from, q.buffered, tt.to, tt.want)
		}
	}
}
