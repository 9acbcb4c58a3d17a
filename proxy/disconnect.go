package proxy

import (
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

// A client leaves a namespace with a DISCONNECT packet, which socket.disconnect() sends. With
// recovery.on_client_disconnect: park, holdfast parks the session and does not tell the server.
// Most clients then close their connection and come back over a new one. A client with other
// namespaces open comes back over the same one.
//
// Coming back over the same connection needs care. After disconnect() the client ignores packets
// for the namespace. After connect() it buffers events and handles them with the reply to CONNECT.
// If it connects again soon, holdfast cannot know whether it ignored or buffered the events in
// flight. Such a client gets a fresh session.

// recentDisconnect is how long a client must stay away after disconnect() if events were in flight.
// That it confirmed them before its CONNECT is not enough: connect() may have run earlier, if the
// application's auth function is slow.
const recentDisconnect = time.Second

// clientDisconnect is a session that the client disconnected from. It lasts until the client
// connects to the namespace again.
type clientDisconnect struct {
	session.ClientDisconnect
	cur   *session.Cursor
	time  instant.Instant
	count uint64 // the sender's count at that time
}

func (d *clientDisconnect) session() *session.Session { return d.cur.Session() }

func (d *clientDisconnect) link() *link { return linkOf(d.session()) }

// disconnects are a client's DISCONNECTs that parked a session. Nil is an empty list that stays
// empty, for clients whose DISCONNECT parks nothing.
type disconnects struct {
	mu   sync.Mutex // guards list; taken with other locks held
	list byNamespace[*clientDisconnect]
}

func (ds *disconnects) add(d *clientDisconnect) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.list.set(d.session().Namespace(), d)
}

// of returns the client's disconnect from a namespace, or nil.
func (ds *disconnects) of(namespace string) *clientDisconnect {
	if ds == nil {
		return nil
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return ds.list.get(namespace)
}

// take removes and returns the client's disconnect from a namespace, or nil.
func (ds *disconnects) take(namespace string) *clientDisconnect {
	if ds == nil {
		return nil
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d := ds.list.get(namespace)
	ds.list.remove(namespace)
	return d
}

// trim forgets disconnects whose sessions have ended, the oldest first.
func (ds *disconnects) trim(most int) {
	if ds == nil {
		return
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.list.trim(most, func(d *clientDisconnect) bool { return d.session().State() == session.Closed })
}

// confirmed marks the disconnects before which the client confirmed everything that it was sent.
// count is what it has confirmed, and all says that this is everything.
func (ds *disconnects) confirmed(count uint64, all bool) {
	ds.each(func(d *clientDisconnect) {
		if all || count >= d.count {
			d.AllArrived()
		}
	})
}

// lastSession says that the client has no other session on its connection.
func (ds *disconnects) lastSession() { ds.each(func(d *clientDisconnect) { d.LastSession() }) }

func (ds *disconnects) each(fn func(d *clientDisconnect)) {
	if ds == nil {
		return
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, e := range ds.list {
		fn(e.value)
	}
}

// parkDisconnected parks the session of cur after the client's DISCONNECT. It returns false if the
// session must end instead.
func (r *receiver) parkDisconnected(cur *session.Cursor) bool {
	c, s := r.c, cur.Session()
	d := c.parkFor(false)
	if c.disconnects == nil || s.PID() == "" || d <= 0 {
		return false
	}
	left := &clientDisconnect{cur: cur, time: instant.Now()}
	c.sender.disconnected(cur, func(count, confirmed uint64, all bool) {
		left.count = count
		c.disconnects.add(left)
		c.disconnects.confirmed(confirmed, all)
	})
	c.removeSession(s)
	c.deps.registry.ParkDisconnected(cur, d, &left.ClientDisconnect)
	r.markForFlush(left.link()) // a notification may be queued there
	r.after = max(r.after, afterWake)
	return true
}

// afterDisconnect handles a packet for a namespace that the client disconnected from. It reports
// whether p is one.
func (r *receiver) afterDisconnect(p *packet) bool {
	d := r.c.disconnects.of(string(p.h.Namespace))
	switch {
	case d == nil:
		return false
	case !p.h.IsAck():
		r.protocolError("a packet for a namespace that it left")
	case d.session().DisconnectedBy(r.c): // the server still waits for this acknowledgement
		d.link().conn.Send(p.data, p.attachments)
		r.markForFlush(d.link())
	}
	return true
}

// disconnectedRecently reports whether the client disconnected from a namespace less than
// recentDisconnect ago.
func (r *receiver) disconnectedRecently(namespace string) bool {
	d := r.c.disconnects.of(namespace)
	return d != nil && instant.Since(d.time) < recentDisconnect
}

// forgetDisconnect ends the parked session of a namespace, because the client connects to it with a
// fresh one.
func (r *receiver) forgetDisconnect(namespace string) {
	if d := r.c.disconnects.take(namespace); d != nil {
		r.c.deps.registry.AbortDisconnected(d.session(), r.c)
	}
}
