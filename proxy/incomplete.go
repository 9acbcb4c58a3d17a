package proxy

import (
	"sync/atomic"

	"github.com/holdfast/holdfast/internal/config"
)

const (
	// The incomplete messages of all clients together may take the memory budget divided by
	// incompleteShare.
	incompleteShare = 4
	// freeIncompleteBytes is how large a packet may be without being counted, so that small ones
	// pass even when memory is short.
	freeIncompleteBytes = 16 << 10
)

// incomplete counts the bytes of what has arrived only in part: messages, POST bodies, and binary
// packets without all their attachments. It also counts what waits for a connection to the
// upstream. Each is bounded, but every connection may have one.
type incomplete struct {
	limit int64 // 0 means no limit
	bytes atomic.Int64
}

// take counts n more bytes. A negative n releases bytes. If n would exceed the limit, take counts
// nothing and returns false.
func (i *incomplete) take(n int) bool {
	if total := i.bytes.Add(int64(n)); n <= 0 || i.limit == 0 || total <= i.limit {
		return true
	}
	i.bytes.Add(int64(-n))
	return false
}

// largest returns how large a single message can be.
func (i *incomplete) largest() int64 {
	if i.limit == 0 {
		return int64(config.MaxMaxPayload)
	}
	return max(i.limit, int64(config.DefaultMaxPayload))
}
