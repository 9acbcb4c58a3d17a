package proxy

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

const (
	// lagTime is how long confirmed packets stay in the log, and lagBytes how many bytes of them.
	// While memory is short, scarceLagBytes applies, which is less than half of the window.
	lagTime        = takeoverGrace
	lagBytes       = 64 << 10
	scarceLagBytes = 7 << 10
	// lagOverhead is the approximate memory of a packet in addition to its bytes.
	lagOverhead = 64
)

// A client whose decoder fails closes its connection. But socket.io-client 4.6 leaves it open and
// continues to poll, and a later one that is about to upgrade polls until it has. So a poll may
// confirm what the client has not handled. What a poll confirms therefore stays in its session's
// log for lagTime: a client that closes its connection, or opens another one, says by its offset
// what it has handled. The same holds for the upgrade. Over WebSocket only pongs confirm, which are
// rare.

// lag holds confirmations back that the sessions have not been told of yet. A client on WebSocket
// has none.
type lag struct {
	s *sender // immutable

	// Guarded by s.mu.
	list  []lagged // oldest first
	bytes int
	timer *time.Timer
}

type lagged struct {
	cur  *session.Cursor
	last uint64
	size int
	time instant.Instant
}

func (l *lag) addLocked(c lagged) {
	if len(l.list) == 0 {
		l.timer.Reset(lagTime)
	}
	l.list = append(l.list, c)
	l.bytes += c.size
	l.releaseLocked(l.s.lagLimit())
}

func (l *lag) onTimer() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.conn.state == clientClosed || l.s.lag != l {
		return // settleLag decides, or nothing lags any more
	}
	l.releaseLocked(l.s.lagLimit())
	if len(l.list) > 0 {
		l.timer.Reset(max(lagTime-instant.Since(l.list[0].time), time.Millisecond))
	}
}

// releaseLocked confirms what is older than lagTime, or exceeds limit bytes.
func (l *lag) releaseLocked(limit int) {
	n := 0
	for n < len(l.list) && (limit == 0 || l.bytes > limit || instant.Since(l.list[n].time) >= lagTime) {
		c := &l.list[n]
		c.cur.Confirm(c.last)
		l.bytes -= c.size
		n++
	}
	if n == 0 {
		return
	}
	rest := copy(l.list, l.list[n:])
	clear(l.list[rest:])
	l.list = l.list[:rest]
	if rest == 0 {
		l.list = nil
	}
}
