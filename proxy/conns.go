package proxy

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
)

// conns are the clients and links that are open, and what else a shutdown waits for. It is safe for
// concurrent use.
type conns struct {
	mu       sync.Mutex         // guards the fields below
	clients  map[string]*client // by sid
	links    map[*link]struct{}
	sids     map[string]int // of links for clients of Engine.IO 3: how many have it
	openings int            // WebSocket handshakes that net/http does not know, and so does not wait for
	passing  int            // requests and WebSockets that pass through, and downloads of the bundle
	idle     chan struct{}  // closed when no link, opening or passing is left; nil unless awaitIdle waits

	late atomic.Int64 // clients that did not end their side in the time of Leave
}

// client returns the client with this sid, or nil.
func (t *conns) client(sid string) *client {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clients[sid]
}

func (t *conns) addClient(c *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients == nil {
		t.clients = make(map[string]*client)
	}
	t.clients[c.sock.SID()] = c
}

func (t *conns) removeClient(c *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients[c.sock.SID()] == c { // a client of Engine.IO 3 may have the sid of a former one
		delete(t.clients, c.sock.SID())
	}
}

// hasSID reports whether a link for clients of Engine.IO 3 has this sid.
func (t *conns) hasSID(sid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sids[sid] > 0
}

// countSIDLocked counts the sids of links for clients of Engine.IO 3.
func (t *conns) countSIDLocked(l *link, n int) {
	if l.translator == nil || !l.translator.forV3 {
		return
	}
	if t.sids == nil {
		t.sids = make(map[string]int)
	}
	sid := l.conn.Handshake().SID
	if t.sids[sid] += n; t.sids[sid] == 0 {
		delete(t.sids, sid)
	}
}

func (t *conns) allClients() []*client {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.clients))
}

func (t *conns) addLink(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.links == nil {
		t.links = make(map[*link]struct{})
	}
	t.links[l] = struct{}{}
	t.countSIDLocked(l, 1)
}

func (t *conns) removeLink(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.links[l]; ok {
		t.countSIDLocked(l, -1)
	}
	delete(t.links, l)
	t.idleLocked()
}

func (t *conns) allLinks() []*link {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.links))
}

// opening records that a handshake is under way. A shutdown waits until end is called.
func (t *conns) opening() (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.openings++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.openings--
		t.idleLocked()
	}
}

// addPassing counts what passes through.
func (t *conns) addPassing(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passing += n
	t.idleLocked()
}

// idleLocked wakes awaitIdle if there is nothing left to wait for.
func (t *conns) idleLocked() {
	if len(t.links) == 0 && t.openings == 0 && t.passing == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// awaitIdle waits until no link is left and nothing passes through, or until ctx ends.
func (t *conns) awaitIdle(ctx context.Context) {
	idle := make(chan struct{})
	t.mu.Lock()
	t.idle = idle
	t.idleLocked()
	t.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// awaitInterval is how often await looks at what it waits for.
const awaitInterval = 2 * time.Millisecond

// await waits until done returns true, with mu held, or until the deadline.
func (t *conns) await(deadline time.Time, done func() bool) {
	for {
		t.mu.Lock()
		ok := done()
		t.mu.Unlock()
		if ok || !time.Now().Before(deadline) {
			return
		}
		time.Sleep(awaitInterval)
	}
}

// transports counts clients and links by their transport.
func (t *conns) transports() (clients, links status.Transports) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.clients {
		count(&clients, c.websocket.Load())
	}
	for l := range t.links {
		count(&links, l.conn.Transport() == "websocket")
	}
	return clients, links
}

func count(t *status.Transports, websocket bool) {
	if websocket {
		t.WebSocket++
	} else {
		t.Polling++
	}
}
