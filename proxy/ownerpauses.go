package proxy

import (
	"maps"
	"sync"
	"time"
)

const (
	// askTimeout limits how long an owner may take to answer, with the time to reach it.
	askTimeout = 2 * time.Second
	// keyAskTimeout limits how long the replica that has a key may take to answer. python-socketio
	// waits one second for the reply to its CONNECT.
	keyAskTimeout = 700 * time.Millisecond
	// pauseForgotten is how long it is remembered that a replica did not answer.
	pauseForgotten = 10 * time.Second
)

// ownerPauses are the replicas that do not answer. For the first two seconds their clients are sent
// away to ask again, because a CONNECT cannot wait that long. Then they get fresh sessions. The
// zero value is empty.
type ownerPauses struct {
	mu   sync.Mutex // guards list
	list map[string]ownerPause
}

type ownerPause struct{ began, latest time.Time }

// begins notes that a replica has not answered. It reports whether that began a moment ago.
func (p *ownerPauses) begins(owner string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == nil {
		p.list = make(map[string]ownerPause)
	}
	maps.DeleteFunc(p.list, func(_ string, o ownerPause) bool { return now.Sub(o.latest) > pauseForgotten })
	o, ok := p.list[owner]
	if !ok {
		o.began = now.Add(-keyAskTimeout)
	}
	o.latest = now
	p.list[owner] = o
	return now.Sub(o.began) < askTimeout
}

// over notes that a replica has answered.
func (p *ownerPauses) over(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.list, owner)
}
