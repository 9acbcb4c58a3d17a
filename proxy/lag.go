package proxy

import (
	"time"

	"github.com/holdfast/holdfast/session"
)

const (
	// lagTime is how long confirmed packets stay in the log, and lagBytes how many bytes of them. While memory is
	// scarce, scarceLagBytes applies, which is less than half of the window.
	lagTime        = takeoverGrace
	lagBytes       = 64 << 10
	scarceLagBytes = 7 << 10
	// lagOverhead is the approximate memory of a packet in addition to its bytes.
	lagOverhead = 64
)

// A client whose decoder fails gives up its connection. But socket.io-client 4.6 leaves it open and goes on polling, and a
// later one that is about to upgrade polls until it has. So a poll may confirm what the client has not handled. What a poll
// confirms therefore stays in its session's log for lagTime: a client that closes its connection, or opens another one,
// says by its offset what it has handled. The same
// holds for the upgrade. Over WebSocket only pongs confirm, which are rare.

// lagged is a confirmation that the session has not been told of yet.
type lagged struct {
	cur  *session.Cursor
	last uint64
	size int
	time time.Time
}

// confirm tells a session that packets have arrived, at once or later; c.mu is held.
func (c *client) confirm(w *written, packets uint64) {
	o := &c.sender
	size := w.bytes + int(packets)*lagOverhead
	limit := c.lagLimit()
	if c.websocket.Load() && !o.upgraded || c.parkOnDisconnect || !c.recoverable || size > limit {
		o.releaseLagged(0)
		w.cur.Confirm(w.last)
		return
	}
	if len(o.lagged) == 0 {
		c.releaseAfter(lagTime)
	}
	o.lagged = append(o.lagged, lagged{w.cur, w.last, size, time.Now()})
	o.laggedBytes += size
	o.releaseLagged(limit)
}

// lagLimit is how many bytes may lag.
func (c *client) lagLimit() int {
	if c.srv.budget.Exceeded() {
		return scarceLagBytes
	}
	return min(lagBytes, c.sender.window/4)
}

// releaseAfter arms the timer that confirms what lags; c.mu is held.
func (c *client) releaseAfter(d time.Duration) {
	if c.sender.lagTimer == nil {
		c.sender.lagTimer = time.AfterFunc(d, c.onLagTimer) // stopped by markClosed
		return
	}
	c.sender.lagTimer.Reset(d)
}

func (c *client) onLagTimer() {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return // settleLagged decides
	}
	c.sender.releaseLagged(c.lagLimit())
	if left := c.sender.lagged; len(left) > 0 {
		c.releaseAfter(max(lagTime-time.Since(left[0].time), time.Millisecond))
	}
}

// releaseLagged confirms what is older than lagTime, or makes more than limit bytes.
func (o *sender) releaseLagged(limit int) {
	n := 0
	for n < len(o.lagged) && (limit == 0 || o.laggedBytes > limit || time.Since(o.lagged[n].time) >= lagTime) {
		l := &o.lagged[n]
		l.cur.Confirm(l.last)
		o.laggedBytes -= l.size
		n++
	}
	if n == 0 {
		return
	}
	rest := copy(o.lagged, o.lagged[n:])
	clear(o.lagged[rest:])
	o.lagged = o.lagged[:rest]
	if rest == 0 {
		o.lagged = nil
	}
}

// settleLagged confirms all that is lagging when the client is gone, unless it may not have decoded that. (If it has, it may have
// put events aside, and will handle them although its offset lies before them.)
func (c *client) settleLagged(ending session.Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ending != session.Lost {
		for _, l := range c.sender.lagged {
			if l.cur.Suspicious(l.last) {
				return
			}
		}
	}
	c.sender.releaseLagged(0)
}
