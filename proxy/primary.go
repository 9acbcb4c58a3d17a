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

// A client's primary link is the link of its own handshake: fresh namespaces are connected there. It is given up when the client resumes
// instead, and dialled again when it is needed after all.

// connecting reports whether a CONNECT of this client's waits for its reply.
func (c *client) connecting(namespace string) bool {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	return primary != nil && primary.connecting(namespace)
}

// repeats handles a CONNECT for a namespace whose former CONNECT has no reply yet: the client called disconnect(), which it
// tells nobody then, and connect() again. It returns false if that is to be connected as well.
func (c *client) repeats(namespace string, connect []byte) bool {
	rest, _, err := socketio.TakeRecovery(connect, session.IsPID, session.IsOffset)
	if err != nil {
		c.protocolError("second CONNECT for a namespace")
		return true
	}
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	return primary != nil && primary.repeated(c, namespace, rest)
}

// openNamespaces is how many namespaces the client has sessions in, or awaits a CONNECT reply for.
func (c *client) openNamespaces() (n int) {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	if primary != nil {
		n = primary.connectingFor(c)
	}
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		if e.value.Attached() {
			n++
		}
	}
	return n
}

// forgetEndedLocked forgets sessions and disconnects of namespaces that have ended, the oldest first, once the client has had many
// namespaces. What it still sends for them is then judged by the upstream. c.mu is held.
func (c *client) forgetEndedLocked() {
	most := c.srv.settings().Limits.MaxNamespacesPerConnection
	c.sessions.trim(most, func(cur *session.Cursor) bool { return !cur.Attached() })
	c.disconnects.trim(most, func(g *clientDisconnect) bool { return g.session.State() == session.Closed })
}

// releasePrimary closes the client's primary link if nothing is on it: the client resumed instead.
func (c *client) releasePrimary() {
	c.mu.Lock()
	primary := c.primary
	if primary == nil || !primary.unused() {
		c.mu.Unlock()
		return
	}
	c.primary = nil
	c.mu.Unlock()
	primary.release(c, false)
}

// connectPrimary connects a fresh namespace on the client's primary link, which is dialled again if there is none that will do.
func (c *client) connectPrimary(namespace string, data []byte) {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	if primary != nil && primary.connect(c, namespace, data) {
		c.markForFlush(primary)
		return
	}
	if !c.receiver.lazy && !c.srv.settings().handshakeRate.Allow(c.address) { // a lazy one has been counted
		c.srv.refused(metrics.HandshakesPerAddress, c.address)
		c.abortFor(reason.Limit, "too many handshakes")
		return
	}
	data = slices.Clone(data)
	c.redialPrimary(func(primary *link) {
		if !primary.connect(c, namespace, data) {
			c.abortFor(reason.TransportClose, "the further connection to the upstream ended")
			return
		}
		c.markForFlush(primary)
	})
}

// redialPrimary calls then, in the client's input, with a further primary link that is dialled for it. Meanwhile the client is not read, so
// that nothing overtakes what it is for.
func (c *client) redialPrimary(then func(primary *link)) {
	c.receiver.dialing, c.receiver.lazy = true, false
	c.pauses.add(c.sock, redialing)
	go c.runRedial(then) // ends within the handshake timeout, or soon after the client has gone
}

// redial repeats the client's handshake upstream.
func (c *client) runRedial(then func(primary *link)) {
	defer c.recoverPanic()
	defer c.pauses.remove(c.sock, redialing)
	primary, err := c.dialPrimary()
	if errors.Is(err, errClientGone) {
		return
	}
	c.sock.Input(func() {
		c.receiver.dialing = false
		if err != nil {
			c.srv.log.Warn("further upstream handshake failed", "client", c.seq, "error", err)
			c.abortFor(reason.TransportClose, "no further connection to the upstream")
			return
		}
		then(primary)
		waiting := c.receiver.waiting
		c.receiver.waiting, c.receiver.waitingBytes = nil, 0
		for i, m := range waiting {
			if c.receiver.dialing { // for one more
				c.receiver.waiting = append(c.receiver.waiting, waiting[i:]...)
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

// endDial takes the dialled link in place of the primary link there is, unless the client has gone.
func (c *client) endDial() (old *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopDial = nil
	if c.closed {
		return nil, errClientGone
	}
	old = c.primary
	c.primary = nil
	return old, nil
}

func (c *client) dialPrimary() (*link, error) {
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
	if !c.setPrimary(l) {
		l.abandon()
		return nil, errClientGone
	}
	l.start()
	return l, nil
}

// sendPrimaryPacket sends a packet that belongs to no session to the client's primary link.
func (c *client) sendPrimaryPacket(p *packet) {
	c.sendPrimary(p.data, false)
	for _, a := range p.attachments {
		c.sendPrimary(a, true)
	}
}

// sendPrimary relays a message to the client's primary link; the upstream judges it. A client without a primary link is judged here.
func (c *client) sendPrimary(data []byte, binary bool) {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	if primary == nil {
		if c.receiver.lazy || c.receiver.dialing {
			c.relayLazily(data, binary)
		} else {
			c.protocolError("a packet that belongs to no session")
		}
		return
	}
	if binary {
		primary.conn.SendBinary(data)
	} else {
		primary.conn.Send(data, nil)
	}
	c.markForFlush(primary)
}
