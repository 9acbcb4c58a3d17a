package proxy

import (
	"sync/atomic"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/metrics"
)

const (
	// incompleteShare is which part of the memory budget the incomplete messages of all clients may take together.
	incompleteShare = 4
	// freeIncompleteBytes is what a packet may have without being counted, so that a lack of memory stops no small ones.
	freeIncompleteBytes = 16 << 10
)

// incomplete counts the bytes of what has come in part: messages, POST bodies, binary packets without all their
// attachments. Each is bounded, but there may be one for every connection.
type incomplete struct {
	limit int64 // 0 is none
	bytes atomic.Int64
}

// take counts n bytes more, or less where n is negative. It returns false, and counts nothing, if that is too much.
func (i *incomplete) take(n int) bool {
	if total := i.bytes.Add(int64(n)); n <= 0 || i.limit == 0 || total <= i.limit {
		return true
	}
	i.bytes.Add(int64(-n))
	return false
}

// largest is how large a single message can be.
func (i *incomplete) largest() int64 {
	if i.limit == 0 {
		return int64(config.MaxMaxPayload)
	}
	return max(i.limit, int64(config.DefaultMaxPayload))
}

// largeQueueBytes is what may wait for the upstream on one link without being counted. Clients are not read from congestedBytes on,
// so more than this is there because of large messages, which were counted while they came.
const largeQueueBytes = 2 * congestedBytes

// countQueued counts what waits for the upstream beyond largeQueueBytes, until the link is drained. l.mu is held.
func (l *link) countQueuedLocked(queued int) {
	if large := max(queued-largeQueueBytes, 0); large > l.queuedCounted {
		l.srv.incomplete.bytes.Add(int64(large - l.queuedCounted))
		l.queuedCounted = large
	}
}

// drainedLocked counts it no longer; l.mu is held.
func (l *link) drainedLocked() {
	l.srv.incomplete.bytes.Add(int64(-l.queuedCounted))
	l.queuedCounted = 0
}

// takeIncomplete is the client's share in it; see engineio.Options.Incomplete.
func (c *client) takeIncomplete(n int) bool {
	if c.srv.incomplete.take(n) {
		return true
	}
	c.srv.refused(metrics.IncompleteBytes, c.address)
	return false
}

// countPartial counts n bytes of the client's partial packet, or returns false.
func (c *client) countPartial(n int) bool {
	if !c.takeIncomplete(n) {
		return false
	}
	c.partialBytes.Add(int64(n))
	if c.done.HasFired() { // detach may have been here before
		c.freePartial()
	}
	return true
}

// freePartial counts the client's partial packet no longer.
func (c *client) freePartial() { c.srv.incomplete.take(int(-c.partialBytes.Swap(0))) }

// attachmentOverhead is about what an attachment takes beside its bytes: a server may announce any number of them.
const attachmentOverhead = 32

// countPartial counts n bytes of the server's partial packet, or returns false.
func (l *link) countPartial(n int) bool {
	l.partialBytes += n
	if l.partialBytes <= freeIncompleteBytes {
		return true
	}
	if !l.srv.incomplete.take(n) {
		return false
	}
	l.partialCounted += n
	return true
}

// freePartial forgets the server's partial packet.
func (l *link) freePartial() {
	l.srv.incomplete.take(-l.partialCounted)
	l.partial, l.partialBytes, l.partialCounted = nil, 0, 0
}
