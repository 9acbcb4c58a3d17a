package proxy

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/session"
)

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
	waiting map[session.Owner][]chan struct{}
}

// expect returns a channel that answered closes. The caller must call stop.
func (a *askedClients) expect(c session.Owner) (alive <-chan struct{}, stop func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = make(map[session.Owner][]chan struct{})
	}
	ch := make(chan struct{})
	a.waiting[c] = append(a.waiting[c], ch)
	return ch, func() { a.forget(c, ch) }
}

// answered tells all who have asked c.
func (a *askedClients) answered(c session.Owner) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ch := range a.waiting[c] {
		close(ch)
	}
	delete(a.waiting, c)
}

func (a *askedClients) forget(c session.Owner, ch chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := slices.DeleteFunc(a.waiting[c], func(other chan struct{}) bool { return other == ch })
	if a.waiting[c] = rest; len(rest) == 0 {
		delete(a.waiting, c)
	}
}
