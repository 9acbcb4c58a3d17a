package proxy

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// A client's home is the link of its own handshake: fresh namespaces are connected there. It is given up when the client resumes
// instead, and dialled again when it is needed after all.

// connecting reports whether a CONNECT of this client's waits for its reply.
func (c *client) connecting(namespace string) bool {
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	return home != nil && home.connecting(namespace)
}

// repeats handles a CONNECT for a namespace whose former CONNECT has no reply yet: the client called disconnect(), which it
// tells nobody then, and connect() again. It returns false if that is to be connected as well.
func (c *client) repeats(namespace string, connect []byte) bool {
	rest, _, err := socketio.TakeRecovery(connect, session.IsPID, session.IsOffset)
	if err != nil {
		c.drop("second CONNECT for a namespace")
		return true
	}
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	return home != nil && home.repeated(c, namespace, rest)
}

// openNamespaces is how many namespaces the client has sessions in, or awaits a CONNECT reply for.
func (c *client) openNamespaces() (n int) {
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	if home != nil {
		n = home.connectingFor(c)
	}
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		if e.value.Attached() {
			n++
		}
	}
	return n
}

// forgetEndedLocked forgets sessions and goodbyes of namespaces that have ended, the oldest first, once the client has had many
// namespaces. What it still sends for them is then judged by the upstream. c.mu is held.
func (c *client) forgetEndedLocked() {
	most := c.srv.settings().Limits.MaxNamespacesPerConnection
	c.sessions.trim(most, func(cur *session.Cursor) bool { return !cur.Attached() })
	c.goodbyes.trim(most, func(g *goodbye) bool { return g.session.State() == session.Closed })
}

// releaseHome closes the client's home if nothing is on it: the client resumed instead.
func (c *client) releaseHome() {
	c.mu.Lock()
	home := c.home
	if home == nil || !home.unused() {
		c.mu.Unlock()
		return
	}
	c.home = nil
	c.mu.Unlock()
	home.release(c, false)
}

// connectHome connects a fresh namespace on the client's home, which is dialled again if there is none that will do.
func (c *client) connectHome(namespace string, data []byte) {
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	if home != nil && home.connect(c, namespace, data) {
		c.touch(home)
		return
	}
	if !c.in.lazy && !c.srv.settings().handshakeRate.Allow(c.address) { // a lazy one has been counted
		c.srv.refused(metrics.HandshakesPerAddress, c.address)
		c.dropFor(reason.Limit, "too many handshakes")
		return
	}
	data = slices.Clone(data)
	c.homeFor(func(home *link) {
		if !home.connect(c, namespace, data) {
			c.dropFor(reason.TransportClose, "the further connection to the upstream ended")
			return
		}
		c.touch(home)
	})
}

// homeFor calls then, in the client's input, with a further home that is dialled for it. Meanwhile the client is not read, so
// that nothing overtakes what it is for.
func (c *client) homeFor(then func(home *link)) {
	c.in.dialing, c.in.lazy = true, false
	c.pauses.add(c.sock, redialing)
	go c.redial(then) // ends within the handshake timeout, or soon after the client has gone
}

// redial repeats the client's handshake upstream.
func (c *client) redial(then func(home *link)) {
	defer c.contain()
	defer c.pauses.remove(c.sock, redialing)
	home, err := c.dialHome()
	if errors.Is(err, errClientGone) {
		return
	}
	c.sock.Input(func() {
		c.in.dialing = false
		if err != nil {
			c.srv.log.Warn("further upstream handshake failed", "client", c.order, "error", err)
			c.dropFor(reason.TransportClose, "no further connection to the upstream")
			return
		}
		then(home)
		waiting := c.in.waiting
		c.in.waiting, c.in.waitingBytes = nil, 0
		for i, m := range waiting {
			if c.in.dialing { // for one more
				c.in.waiting = append(c.in.waiting, waiting[i:]...)
				return
			}
			c.Message(m.data, m.binary)
		}
	})
}

// beginDial returns the context of a dial, which ends with the client too.
func (c *client) beginDial() (ctx context.Context, cancel context.CancelFunc, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClientGone
	}
	ctx, cancel = context.WithTimeout(context.Background(), c.srv.settings().Upstream.HandshakeTimeout)
	c.stopDial = cancel
	return ctx, cancel, nil
}

// endDial takes the dialled link in place of the home there is, unless the client has gone.
func (c *client) endDial() (old *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopDial = nil
	if c.closed {
		return nil, errClientGone
	}
	old = c.home
	c.home = nil
	return old, nil
}

func (c *client) dialHome() (*link, error) {
	req, err := c.request.restore(c.byWebSocket)
	if err != nil {
		return nil, err
	}
	ctx, cancel, err := c.beginDial()
	if err != nil {
		return nil, err
	}
	defer cancel()
	conn, err := c.srv.upstream.Dial(ctx, req)
	old, gone := c.endDial()
	switch {
	case err != nil:
		return nil, cmp.Or(gone, err) // the dial ends with the client
	case gone != nil:
		conn.Close()
		return nil, gone
	case old != nil:
		old.release(c, false)
	}
	l := newLink(c.srv, conn, c)
	if !c.takeHome(l) {
		l.abandon()
		return nil, errClientGone
	}
	l.start()
	return l, nil
}

// packetHome sends a packet that belongs to no session to the client's home.
func (c *client) packetHome(p *packet) {
	c.toHome(p.data, false)
	for _, a := range p.attachments {
		c.toHome(a, true)
	}
}

// toHome relays a message to the client's home; the upstream judges it. A client without a home is judged here.
func (c *client) toHome(data []byte, binary bool) {
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	if home == nil {
		if c.in.lazy || c.in.dialing {
			c.relayLazily(data, binary)
		} else {
			c.drop("a packet that belongs to no session")
		}
		return
	}
	if binary {
		home.conn.SendBinary(data)
	} else {
		home.conn.Send(data, nil)
	}
	c.touch(home)
}
