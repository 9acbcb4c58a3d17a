package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/session"
)

// A client says goodbye to a namespace by a DISCONNECT packet: socket.disconnect(). Where recovery.on_client_disconnect is
// park, its session is parked then, and the server not told. Most clients close their connection at once, and come back
// over a new one. One that has other namespaces open comes back over the same one.
//
// What makes that delicate: from its disconnect() on the client ignores what arrives for the namespace. From its
// connect() on it puts aside the events that arrive, and handles them with the reply to CONNECT. If it connects again
// soon, nobody can know what it did with what was on its way: it gets a fresh session then.

// recentDisconnect is how long after its disconnect() a client must have stayed away, if events were on their way then. That it has
// confirmed them before its CONNECT is not enough: connect() may have come sooner, if the application's function for
// the auth takes a while.
const recentDisconnect = time.Second

// goodbye is a session that the client left, until it connects to the namespace again.
type clientDisconnect struct {
	session.ClientDisconnect
	session *session.Session
	time    time.Time
	count   uint64 // outgoing.count then
}

func (g *clientDisconnect) link() *link { return linkOf(g.session) }

// leave parks the session that the client said goodbye to. It returns false if that is to end it.
func (c *client) parkDisconnected(cur *session.Cursor) bool {
	s, d := cur.Session(), c.parkFor(false)
	if !c.parkOnDisconnect || s.PID() == "" || d <= 0 {
		return false
	}
	c.mu.Lock()
	o := &c.sender
	o.replays = slices.DeleteFunc(o.replays, func(r replay) bool { return r.cur == cur })
	c.dropTrial(cur)
	g := &clientDisconnect{session: s, time: time.Now(), count: o.count}
	c.disconnects.set(s.Namespace(), g)
	o.farewell = o.farewell || len(o.written) > 0
	c.confirmDisconnectsLocked()
	c.removeLocked(s.Namespace())
	c.mu.Unlock()
	c.srv.registry.ParkDisconnected(cur, d, &g.ClientDisconnect)
	c.markForFlush(g.link()) // it may have been told
	c.receiver.wakeSocket = true
	return true
}

// removeLocked takes a session off the client that has left it; c.mu is held.
func (c *client) removeLocked(namespace string) {
	c.sessions.remove(namespace)
	if len(c.disconnects) == 0 || slices.ContainsFunc(c.sessions.all(), (*session.Cursor).Attached) {
		return
	}
	for _, e := range c.disconnects {
		e.value.LastSession()
	}
}

// confirmDisconnectsLocked looks which disconnects are behind what the client has confirmed; c.mu is held.
func (c *client) confirmDisconnectsLocked() {
	for _, e := range c.disconnects {
		if c.sender.confirmed >= e.value.count || len(c.sender.written) == 0 {
			e.value.AllArrived()
		}
	}
}

// goodbye is the client's to a namespace, or nil.
func (c *client) disconnectOf(namespace string) *clientDisconnect {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.disconnects.get(namespace)
}

// afterDisconnect handles a packet for a session that the client left, and reports whether it was one.
func (c *client) afterDisconnect(p *packet) bool {
	g := c.disconnectOf(string(p.h.Namespace))
	switch {
	case g == nil:
		return false
	case !p.h.IsAck():
		c.protocolError("a packet for a namespace that it left")
	case g.session.DisconnectedBy(c): // the server still waits for the answer
		g.link().conn.Send(p.data, p.attachments)
		c.markForFlush(g.link())
	}
	return true
}

// disconnectedRecently reports whether the client left a namespace a moment ago.
func (c *client) disconnectedRecently(namespace string) bool {
	g := c.disconnectOf(namespace)
	return g != nil && time.Since(g.time) < recentDisconnect
}

// forgetDisconnect ends the session of a namespace that the client has left, and connects to afresh.
func (c *client) forgetDisconnect(namespace string) {
	c.mu.Lock()
	g := c.disconnects.get(namespace)
	c.disconnects.remove(namespace)
	c.mu.Unlock()
	if g != nil {
		c.srv.registry.AbortDisconnected(g.session, c)
	}
}
