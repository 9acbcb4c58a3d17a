package proxy

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

// A client whose decoder fails ignores what follows. It answers no more pings, and closes its
// connection when its POST or its upgrade is done. But socket.io-client before 4.8 leaves its
// connection open. It answers pings and polls until it has opened another one. So a pong may confirm
// what the client has not handled. What is confirmed therefore stays in its session's log for a
// while. A client that opens another connection says by its offset what it has handled.

const (
	// lagTime is how long confirmed packets stay in the log. A client that leaves its connection
	// open takes 0.5 to 1.5 seconds to come back over another one, unless it is configured
	// otherwise.
	lagTime = 2 * time.Second
	// pollingLagBytes and webSocketLagBytes are how many bytes of them stay. There are more clients
	// on WebSocket, and they get more. While memory is short, scarceLagBytes applies, which is less
	// than half of the window.
	pollingLagBytes   = 64 << 10
	webSocketLagBytes = 16 << 10
	scarceLagBytes    = 7 << 10
	// lagOverhead is the approximate memory of a packet in addition to its bytes.
	lagOverhead = 64
)

// lag holds back confirmations, which the sessions learn later.
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
		return
	}
	l.s.lag = nil // most clients do not need it again soon
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
