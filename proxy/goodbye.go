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

// settleTime is how long after its disconnect() a client must have stayed away, if events were on their way then. That it has
// confirmed them before its CONNECT is not enough: connect() may have come sooner, if the application's function for
// the auth takes a while.
const settleTime = time.Second

// goodbye is a session that the client left, until it connects to the namespace again.
type goodbye struct {
	session.ClientDisconnect
	session *session.Session
	time    time.Time
	count   uint64 // outgoing.count then
}

func (g *goodbye) link() *link { return linkOf(g.session) }

// leave parks the session that the client said goodbye to. It returns false if that is to end it.
func (c *client) leave(cur *session.Cursor) bool {
	s, d := cur.Session(), c.parkFor(false)
	if !c.parks || s.PID() == "" || d <= 0 {
		return false
	}
	c.mu.Lock()
	o := &c.out
	o.replays = slices.DeleteFunc(o.replays, func(r replay) bool { return r.cur == cur })
	c.dropTrial(cur)
	g := &goodbye{session: s, time: time.Now(), count: o.count}
	c.goodbyes.set(s.Namespace(), g)
	o.farewell = o.farewell || len(o.written) > 0
	c.settleLocked()
	c.removeLocked(s.Namespace())
	c.mu.Unlock()
	c.srv.registry.ParkDisconnected(cur, d, &g.ClientDisconnect)
	c.touch(g.link()) // it may have been told
	c.in.wake = true
	return true
}

// removeLocked takes a session off the client that has left it; c.mu is held.
func (c *client) removeLocked(namespace string) {
	c.sessions.remove(namespace)
	if len(c.goodbyes) == 0 || slices.ContainsFunc(c.sessions.all(), (*session.Cursor).Attached) {
		return
	}
	for _, e := range c.goodbyes {
		e.value.LastSession()
	}
}

// settleLocked looks which goodbyes are behind what the client has confirmed; c.mu is held.
func (c *client) settleLocked() {
	for _, e := range c.goodbyes {
		if c.out.confirmed >= e.value.count || len(c.out.written) == 0 {
			e.value.AllArrived()
		}
	}
}

// goodbye is the client's to a namespace, or nil.
func (c *client) goodbye(namespace string) *goodbye {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goodbyes.get(namespace)
}

// afterGoodbye handles a packet for a session that the client left, and reports whether it was one.
func (c *client) afterGoodbye(p *packet) bool {
	g := c.goodbye(string(p.h.Namespace))
	switch {
	case g == nil:
		return false
	case !p.h.IsAck():
		c.drop("a packet for a namespace that it left")
	case g.session.DisconnectedBy(c): // the server still waits for the answer
		g.link().conn.Send(p.data, p.attachments)
		c.touch(g.link())
	}
	return true
}

// leftSoon reports whether the client left a namespace a moment ago.
func (c *client) leftSoon(namespace string) bool {
	g := c.goodbye(namespace)
	return g != nil && time.Since(g.time) < settleTime
}

// forgetGoodbye ends the session of a namespace that the client has left, and connects to afresh.
func (c *client) forgetGoodbye(namespace string) {
	c.mu.Lock()
	g := c.goodbyes.get(namespace)
	c.goodbyes.remove(namespace)
	c.mu.Unlock()
	if g != nil {
		c.srv.registry.AbortDisconnected(g.session, c)
	}
}
