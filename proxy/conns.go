package proxy

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfast/holdfast/internal/admin/status"
)

// conns are the clients and links that are open, and what else a shutdown waits for. It is safe for
// concurrent use.
type conns struct {
	mu      sync.Mutex         // guards the fields below, except overdue
	clients map[string]*client // by sid
	// arriving are clients that another replica hands over. Until it has done that it serves them.
	arriving map[*client]struct{}
	links    map[*link]struct{}
	sids     map[string]int // of links for clients of Engine.IO 3: how many links have each
	changed  chan struct{}  // closed when something ends that await may wait for; nil if nothing waits

	openings   int // WebSocket handshakes that net/http does not know, and so does not wait for
	redials    int // clients that are not read because of receiver.awaitLink
	passing    int // requests that pass through, downloads of the bundle, and relays to other replicas
	webSockets int // that pass through

	overdue atomic.Int64 // clients that did not end their side in the time that Leave gave them
}

// sidLen is the length of what newSID returns.
const sidLen = 20

// newSID returns a random Engine.IO session id, as long as those of engine.io.
func newSID() string {
	var b [15]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on supported platforms
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
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
	t.addClientLocked(c)
}

func (t *conns) addClientLocked(c *client) {
	if t.clients == nil {
		t.clients = make(map[string]*client)
	}
	t.clients[c.sock.SID()] = c
}

// addArriving adds a client that another replica hands over. Requests do not find it until
// addClient.
func (t *conns) addArriving(c *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.arriving == nil {
		t.arriving = make(map[*client]struct{})
	}
	t.arriving[c] = struct{}{}
}

// arrived is addClient for an arriving client, unless that has ended meanwhile.
func (t *conns) arrived(c *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.arriving[c]; ok {
		delete(t.arriving, c)
		t.addClientLocked(c)
	}
}

func (t *conns) removeClient(c *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.arriving, c)
	if t.clients[c.sock.SID()] == c { // a client of Engine.IO 3 may have the same sid as an earlier one
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
	return slices.AppendSeq(slices.Collect(maps.Values(t.clients)), maps.Keys(t.arriving))
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
	t.changedLocked()
}

func (t *conns) allLinks() []*link {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.links))
}

// opening records that a handshake is in progress. A shutdown waits until end is called.
func (t *conns) opening() (end func()) {
	t.add(&t.openings, 1)
	return func() { t.add(&t.openings, -1) }
}

// addRedials counts clients that are not read because of receiver.awaitLink.
func (t *conns) addRedials(n int) { t.add(&t.redials, n) }

// addWebSockets counts WebSockets that pass through.
func (t *conns) addWebSockets(n int) { t.add(&t.webSockets, n) }

// addPassing counts what else passes through.
func (t *conns) addPassing(n int) { t.add(&t.passing, n) }

// add changes one of the counts.
func (t *conns) add(count *int, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*count += n
	if n < 0 {
		t.changedLocked()
	}
}

// phaseChanged wakes await after a change of phase.
func (t *conns) phaseChanged() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changedLocked()
}

// changedLocked wakes await.
func (t *conns) changedLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// await waits until done returns true, or until ctx ends. It calls done with mu held, each time
// something ends.
func (t *conns) await(ctx context.Context, done func() bool) {
	for {
		changed := t.unlessDone(done)
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// unlessDone returns a channel that closes when it is time to ask done again, or nil if done
// returns true.
func (t *conns) unlessDone(done func() bool) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if done() {
		return nil
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// awaitIdle waits until no link is left and nothing passes through, or until ctx ends.
func (t *conns) awaitIdle(ctx context.Context) {
	t.await(ctx, func() bool { return len(t.links) == 0 && t.openings == 0 && t.passing == 0 && t.webSockets == 0 })
}

// transports counts clients and links by their transport.
func (t *conns) transports() (clients, links status.Transports) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.clients {
		count(&clients, c.transport.isWebSocket())
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
