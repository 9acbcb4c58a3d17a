package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/session"
)

// A client leaves a namespace with a DISCONNECT packet, which socket.disconnect() sends. With
// recovery.on_client_disconnect: park, holdfast parks the session and does not tell the server. Most
// clients then close their connection and come back over a new one. A client with other namespaces open
// comes back over the same one.
//
// Coming back over the same connection needs care. After disconnect() the client ignores packets for the
// namespace. After connect() it buffers events and handles them with the reply to CONNECT. If it connects
// again soon, holdfast cannot know whether it ignored or buffered the events in flight. Such a client gets
// a fresh session.

// recentDisconnect is how long a client must stay away after disconnect() if events were in flight. That it
// confirmed them before its CONNECT is not enough: connect() may have run earlier, if the application's
// auth function is slow.
const recentDisconnect = time.Second

// clientDisconnect is a session that the client disconnected from. It lasts until the client connects to
// the namespace again.
type clientDisconnect struct {
	session.ClientDisconnect
	session *session.Session
	time    time.Time
	count   uint64 // the sender's count at that time
}

func (g *clientDisconnect) link() *link { return linkOf(g.session) }

// parkDisconnected parks the session of cur after the client's DISCONNECT. It returns false if the session
// must end instead.
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
	c.markForFlush(g.link()) // a notification may be queued there
	c.receiver.wakeSocket = true
	return true
}

// removeLocked removes a session that the client disconnected from. c.mu must be held.
func (c *client) removeLocked(namespace string) {
	c.sessions.remove(namespace)
	if len(c.disconnects) == 0 || slices.ContainsFunc(c.sessions.all(), (*session.Cursor).Attached) {
		return
	}
	for _, e := range c.disconnects {
		e.value.LastSession()
	}
}

// confirmDisconnectsLocked marks the disconnects before which the client confirmed everything it was sent.
// c.mu must be held.
func (c *client) confirmDisconnectsLocked() {
	for _, e := range c.disconnects {
		if c.sender.confirmed >= e.value.count || len(c.sender.written) == 0 {
			e.value.AllArrived()
		}
	}
}

// disconnectOf returns the client's disconnect from a namespace, or nil.
func (c *client) disconnectOf(namespace string) *clientDisconnect {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.disconnects.get(namespace)
}

// afterDisconnect handles a packet for a namespace that the client disconnected from. It reports whether p
// is one.
func (c *client) afterDisconnect(p *packet) bool {
	g := c.disconnectOf(string(p.h.Namespace))
	switch {
	case g == nil:
		return false
	case !p.h.IsAck():
		c.protocolError("a packet for a namespace that it left")
	case g.session.DisconnectedBy(c): // the server still waits for this acknowledgement
		g.link().conn.Send(p.data, p.attachments)
		c.markForFlush(g.link())
	}
	return true
}

// disconnectedRecently reports whether the client disconnected from a namespace less than recentDisconnect
// ago.
func (c *client) disconnectedRecently(namespace string) bool {
	g := c.disconnectOf(namespace)
	return g != nil && time.Since(g.time) < recentDisconnect
}

// forgetDisconnect ends the parked session of a namespace, because the client connects to it with a fresh
// one.
func (c *client) forgetDisconnect(namespace string) {
	c.mu.Lock()
	g := c.disconnects.get(namespace)
	c.disconnects.remove(namespace)
	c.mu.Unlock()
	if g != nil {
		c.srv.registry.AbortDisconnected(g.session, c)
	}
}
