package proxy

import (
	"math"
	"slices"
	"sync"
	"time"
)

// keyInUseText is what the log says about key_in_use.
const keyInUseText = "a key is used by two clients at a time: the later one is served without recovery"

const (
	// aliveTimeout is how long a client has to show that it is alive. python-socketio waits one
	// second for the reply to its CONNECT.
	aliveTimeout = 300 * time.Millisecond
	// endDelay is how far the end of a connection may be behind its last sign of life.
	endDelay = 5 * time.Millisecond
)

// askedClients are the clients that are asked for a sign of life. Few are at a time, so a channel
// in each client would take memory for nothing. It is safe for concurrent use.
type askedClients struct {
	mu      sync.Mutex // guards waiting; a leaf
	waiting map[*client][]chan struct{}
}

// expect returns a channel that answered closes. The caller must call stop.
func (a *askedClients) expect(c *client) (alive <-chan struct{}, stop func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = make(map[*client][]chan struct{})
	}
	ch := make(chan struct{})
	a.waiting[c] = append(a.waiting[c], ch)
	return ch, func() { a.forget(c, ch) }
}

// answered tells all who have asked c.
func (a *askedClients) answered(c *client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ch := range a.waiting[c] {
		close(ch)
	}
	delete(a.waiting, c)
}

func (a *askedClients) forget(c *client, ch chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := slices.DeleteFunc(a.waiting[c], func(other chan struct{}) bool { return other == ch })
	if a.waiting[c] = rest; len(rest) == 0 {
		delete(a.waiting, c)
	}
}

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
