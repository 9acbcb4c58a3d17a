package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// A client whose decoder fails ignores what follows. It answers no more pings, and closes its
// connection when its POST or its upgrade is done. But socket.io-client before 4.8 leaves its
// connection open. It answers pings and polls until it has opened another one. So a pong may
// confirm what the client has not handled. What is confirmed therefore stays in its session's log
// for a while. A client that opens another connection says by its offset what it has handled.

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
	// A client that was sent packets which it may be unable to decode gets more: it may be slow to
	// come back, or have no network meanwhile. socket.io-client waits five seconds between its
	// attempts, and 20 for each, unless it is configured. suspectBytes is at most a quarter of the
	// window.
	suspectTime  = 30 * time.Second
	suspectBytes = 256 << 10
	// lagOverhead is the approximate memory of a packet in addition to its bytes.
	lagOverhead = 64
)

// lag holds back confirmations, which the sessions learn later. sender.mu guards it.
type lag struct {
	list     []lagged // oldest first
	bytes    int
	suspects int // how many of the list are
	timer    *time.Timer
}

type lagged struct {
	cur     *session.Cursor
	last    uint64
	size    int
	time    instant.Instant
	verdict verdict
}

// verdict says whether the client may have been unable to decode some of the packets:
//
//	unjudged -> suspect, harmless   their time is over, and dueLocked looks at the texts
//
// Packets whose binaries are suspicious are suspect from the beginning. Those of a client with a
// key are harmless: they lag only while its session is suspicious, whatever their texts are.
type verdict uint8

const (
	lagUnjudged verdict = iota
	lagHarmless
	lagSuspect
)

// left returns how long the packets stay.
func (c *lagged) left() time.Duration {
	if c.verdict == lagSuspect {
		return suspectTime - instant.Since(c.time)
	}
	return lagTime - instant.Since(c.time)
}

// suspectsLocked reports whether packets of a session that were confirmed just now, up to last, may
// have been more than the client can decode. It looks at binary packets only, because judging every
// text would cost the live path too much. dueLocked looks at the texts that are still there after
// lagTime. l may be nil.
func (l *lag) suspectsLocked(cur *session.Cursor, last uint64) bool {
	if l != nil {
		for _, c := range slices.Backward(l.list) {
			if c.cur == cur {
				return cur.SuspiciousBinary(c.last, last)
			}
		}
	}
	return cur.SuspiciousBinary(0, last)
}

// addLocked holds back a confirmation.
func (l *lag) addLocked(c lagged) {
	if c.verdict == lagSuspect {
		l.suspects++
	}
	l.list = append(l.list, c)
	l.bytes += c.size
	if len(l.list) == 1 {
		l.timer.Reset(max(c.left(), time.Millisecond))
	}
}

// nextLocked sets the timer for what lags the longest. It returns false if nothing lags any more.
func (l *lag) nextLocked() bool {
	if len(l.list) == 0 {
		return false
	}
	l.timer.Reset(max(l.list[0].left(), time.Millisecond))
	return true
}

// dueLocked reports whether a confirmation has stayed long enough. If the client may be unable to
// decode one of its text packets, it stays on.
func (l *lag) dueLocked(c *lagged) bool {
	if c.left() > 0 {
		return false
	}
	if c.verdict == lagUnjudged {
		c.verdict = lagHarmless
		if c.cur.SuspiciousText(c.last, socketio.LooksOdd) {
			c.verdict = lagSuspect
			l.suspects++
		}
	}
	return c.left() <= 0
}

// releaseLocked confirms what has stayed long enough, or exceeds limit bytes.
func (l *lag) releaseLocked(limit int) {
	n := 0
	for n < len(l.list) && (limit == 0 || l.bytes > limit || l.dueLocked(&l.list[n])) {
		c := &l.list[n]
		c.cur.Confirm(c.last)
		l.bytes -= c.size
		if c.verdict == lagSuspect {
			l.suspects--
		}
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
