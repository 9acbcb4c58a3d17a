package proxy

import (
	"math"
	"time"
)

// keyInUseText is what the log says about key_in_use.
const keyInUseText = "a key is used by two clients at a time: the later one is served without recovery"

// aliveTimeout is how long a client has to show that it is alive. python-socketio waits one
// second for the reply to its CONNECT. Tests shorten it.
var aliveTimeout = 300 * time.Millisecond

const askInterval = 5 * time.Millisecond

// mayHaveChoked reports whether a client was sent packets that it may be unable to decode, and has
// not confirmed them. It has probably left its connection then, which still answers: socket.io-client
// before 4.8 leaves it open.
func mayHaveChoked(c *client) bool {
	c.sender.mu.Lock()
	tried := c.sender.trials != nil
	c.sender.mu.Unlock()
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		tried = tried || e.value.Suspicious(math.MaxUint64)
	}
	return tried
}

// answersWithin reports whether a client shows a sign of life within d. It polls, because clients are
// rarely asked: a channel for the answer would take memory in every Socket.
func answersWithin(c *client, d time.Duration) bool {
	c.sock.Ask()
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	answered := false
	for late := time.After(d); ; {
		select {
		case <-c.done.Done():
			return false
		case <-late:
			return answered
		case <-tick.C:
			if answered {
				return true
			}
			answered = c.sock.Answered() // the end of its connection may come right behind
		}
	}
}
