package proxy

import (
	"math"
	"time"
)

// keyInUseText is what the log says about key_in_use.
const keyInUseText = "a key is used by two clients at a time: the later one is served without recovery"

// mayHaveChoked reports whether a client was sent packets that it may be unable to decode, and has
// not confirmed them. It has probably left its connection then, which still answers:
// socket.io-client before 4.8 leaves it open.
func mayHaveChoked(c *client) bool {
	c.sender.mu.Lock()
	tried := c.sender.onTrialLocked()
	c.sender.mu.Unlock()
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		tried = tried || e.value.Suspicious(math.MaxUint64)
	}
	return tried
}

// answers asks a client for a sign of life, and reports whether it gives one in time.
func answers(c *client) bool {
	alive, stop := c.deps.asked.expect(c)
	defer stop()
	c.sock.Ask()
	timeout := time.NewTimer(c.deps.settings().aliveTimeout)
	defer timeout.Stop()
	select {
	case <-alive:
	case <-c.done.Done():
		return false
	case <-timeout.C:
		return false
	}
	select {
	case <-c.done.Done(): // it answered, and closed
		return false
	case <-time.After(endDelay):
		return true
	}
}
