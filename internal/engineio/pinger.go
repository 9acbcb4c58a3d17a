package engineio

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// timerSlack is how late a timer may fire, on both sides.
const timerSlack = 5 * time.Millisecond

// pingState is where the current ping of a Socket is:
//
//	idle   -> queued       a ping is due; over polling it waits for the next answer
//	idle   -> sent         a ping follows a batch that asked for confirmation
//	queued -> sent         the transport took it
//	sent   -> extraQueued  polling only: an extra ping waits for the next answer
//	extraQueued -> sent    an answer took that ping, or the client upgraded
//	sent, extraQueued -> idle  the pong came
type pingState uint8

const (
	pingIdle pingState = iota
	pingQueued
	pingSent
	pingExtraQueued
)

var pingStateNames = [...]string{"idle", "queued", "sent", "extraQueued"}

// String implements fmt.Stringer.
func (p pingState) String() string { return nameOf(pingStateNames[:], p) }

// nextPingStates has a bit for each state that may follow.
var nextPingStates = [...]uint8{
	pingIdle:        1<<pingQueued | 1<<pingSent,
	pingQueued:      1 << pingSent,
	pingSent:        1<<pingExtraQueued | 1<<pingIdle,
	pingExtraQueued: 1<<pingSent | 1<<pingIdle,
}

// pinger is the state of a Socket's heartbeat. It does no I/O: heartbeat.go sends what it decides.
// The Socket's mu guards it. Every message touches its first fields.
type pinger struct {
	state pingState
	// ponged says that a PONG of version 3 was sent since the current ping. The client's next PING
	// then shows that it has received the PONG and everything before it, even if nothing answers
	// RFC 6455 pings.
	ponged    bool
	sent      uint32          // pings in all
	lastSign  instant.Instant // last sign of life: input, or the kernel took everything that waited
	lastInput instant.Instant // when anything but a poll last arrived

	// Pongs have no number, but come in the order of their pings. Only the pong of the current ping
	// confirms. Others answer pings in the middle of a batch (Encoder.Ping), or extra pings. The
	// client gets extra pings while a pong may be stuck behind unread input, because its own timer
	// expects a ping per interval.
	current  uint32 // the number of the current ping
	answered uint32 // how many pings, from the first, have been answered
	mark     uint64 // what the pong of the current ping will confirm

	nextAt instant.Instant // when the next ping is due
	sentAt instant.Instant // when the current ping was sent or queued
	lastAt instant.Instant // when the last ping of any kind was sent

	// Positions in the WebSocket's output, in bytes.
	bytesAhead int64 // what was written up to the current ping
	delivered  int64 // what the client's kernel has taken; or unknown

	// The timer fires at nextAt or earlier. Pings ahead of the interval do not move it.
	timer   *time.Timer
	timerAt instant.Instant // when the timer fires
	checkAt instant.Instant // when to call Handler.Unconfirmed; zero if not at all
}

// unknown is a number of delivered bytes that was not observed yet.
const unknown = -1

// moveLocked is the only place where a ping's state changes. It reports whether the transition
// exists.
func (p *pinger) moveLocked(to pingState) bool {
	ok := nextPingStates[p.state]>>to&1 != 0
	if ok {
		p.state = to
	}
	return ok
}

// inFlight reports whether a ping has not been answered yet. It may still be queued.
func (p *pinger) inFlight() bool { return p.state != pingIdle }

// waitsForPoll reports whether a ping waits for the next answer to a poll.
func (p *pinger) waitsForPoll() bool { return p.state == pingQueued || p.state == pingExtraQueued }

// queueLocked makes a ping due now.
func (p *pinger) queueLocked(now instant.Instant) {
	p.moveLocked(pingQueued)
	p.sentAt = now
}

// inputLocked notes that something other than a poll has arrived.
func (p *pinger) inputLocked(now instant.Instant) { p.lastSign, p.lastInput = now, now }

// sentLocked notes n pings of a batch. The last one is the current one. Its pong will confirm mark.
func (p *pinger) sentLocked(n uint32, mark uint64, now instant.Instant) {
	if !p.inFlight() {
		p.sentAt = now
	}
	p.moveLocked(pingSent)
	p.lastAt = now
	p.sent += n
	p.current, p.mark = p.sent, mark
}

// behindLocked notes what the WebSocket has written up to the current ping.
func (p *pinger) behindLocked(written int64) { p.bytesAhead, p.delivered = written, unknown }

// transportChangedLocked notes that the client upgraded: nothing is ahead of a ping there, and an
// extra ping is not sent.
func (p *pinger) transportChangedLocked() {
	p.bytesAhead = 0
	if p.state == pingExtraQueued {
		p.moveLocked(pingSent)
	}
}

// pongLocked handles a pong. It reports whether the pong answers the current ping, after which the
// next one is due in an interval. Pongs of earlier pings, and those that are not due, mean nothing
// more.
func (p *pinger) pongLocked(interval time.Duration) (current bool) {
	if p.answered == p.sent {
		return false
	}
	p.answered++
	if p.answered != p.current {
		return false
	}
	p.moveLocked(pingIdle) // a queued extra ping, whose pong would be due next, is dropped
	p.nextAt = instant.Now().Add(interval)
	return true
}

// lastSignAfter returns the time of the last sign of life, or t if that is later.
func (p *pinger) lastSignAfter(t instant.Instant) instant.Instant {
	if p.lastSign.After(t) {
		return p.lastSign
	}
	return t
}

// silentLocked returns how long the client has given no sign of life since the current ping.
func (p *pinger) silentLocked(now instant.Instant) time.Duration {
	return now.Sub(p.lastSignAfter(p.sentAt))
}

// observeLocked notes how much the client's kernel has taken: a client that takes the bytes ahead
// of the ping slowly is alive. It reports whether the ping is still behind other bytes.
func (p *pinger) observeLocked(delivered int64, now instant.Instant) (behind bool) {
	before := p.delivered
	p.delivered = delivered
	behind = delivered < p.bytesAhead
	if before < p.bytesAhead && delivered > before && (behind || before != unknown) {
		p.lastSign = now
	}
	return behind
}

// overdueLocked reports whether the client has given no sign of life for longer than allowed, even
// if the timer is late.
func (p *pinger) overdueLocked(allowed time.Duration) bool {
	if p.nextAt.IsZero() {
		return false
	}
	last := p.nextAt
	if p.inFlight() {
		last = p.sentAt
	}
	return instant.Since(p.lastSignAfter(last)) > allowed-timerSlack
}

// askState says whether a client that was asked for a sign of life has given one:
//
//	any     -> waits     Ask, over polling while no poll waits
//	any     -> asked     Ask: a WebSocket ping was sent, or a poll was answered
//	waits   -> asked     a poll came, and was answered, or a WebSocket became the transport
//	asked   -> answered  the pong came, or the next poll
type askState uint8

const (
	askNone askState = iota
	askWaits
	askAsked
	askAnswered
)

var askStateNames = [...]string{"none", "waits", "asked", "answered"}

// String implements fmt.Stringer.
func (a askState) String() string { return nameOf(askStateNames[:], a) }

// moveLocked is the only place where an askState changes. It reports whether the transition exists.
func (a *askState) moveLocked(to askState) bool {
	if to == askNone || to == askAnswered && *a != askAsked {
		return false
	}
	*a = to
	return true
}

// askPayload is the payload of the WebSocket ping that asks. Those of an Encoder.Watch are numbers.
const askPayload = "?"
