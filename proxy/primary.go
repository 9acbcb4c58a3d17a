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

// A client's primary link is the link of its own handshake. Fresh namespaces are connected there.
// If the client resumes instead, it releases an unused primary link, and dials another if it needs
// one later.

// connecting reports whether a CONNECT for the namespace awaits its reply on the primary link.
func (c *client) connecting(namespace string) bool {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	return primary != nil && primary.connecting(namespace)
}

// repeats handles a CONNECT for a namespace whose previous CONNECT has no reply yet. The client
// called disconnect(), which sends no packet before the reply, and then connect() again. repeats
// returns false if the new CONNECT must go to the server too.
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

// openNamespaces returns how many namespaces the client has sessions in, or awaits a CONNECT reply
// for.
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

// forgetEndedLocked forgets sessions and DISCONNECTs of namespaces that have ended, the oldest
// first. It does so only once the client has had more namespaces than it may have at a time. If the
// client still sends packets for them, the upstream decides what to do with them. c.mu is held.
func (c *client) forgetEndedLocked() {
	most := c.srv.settings().Limits.MaxNamespacesPerConnection
	c.sessions.trim(most, func(cur *session.Cursor) bool { return !cur.Attached() })
	c.disconnects.trim(most, func(g *clientDisconnect) bool { return g.session.State() == session.Closed })
}

// releasePrimary releases the client's primary link if nothing is on it, because the client resumed
// instead.
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

// connectPrimary connects a fresh namespace on the client's primary link. It dials a new one if
// there is none, or if the namespace cannot be connected there.
func (c *client) connectPrimary(namespace string, data []byte) {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	if primary != nil && primary.connect(c, namespace, data) {
		c.markForFlush(primary)
		return
	}
	if !c.receiver.lazy && !c.srv.settings().handshakeRate.Allow(c.address) { // a lazy one was counted
		c.srv.refused(metrics.HandshakesPerAddress, c.address)
		c.abortFor(reason.Limit, "too many handshakes")
		return
	}
	data = slices.Clone(data)
	c.redialPrimary(func(primary *link) {
		if !primary.connect(c, namespace, data) {
			c.abortFor(reason.TransportClose, "the new connection to the upstream ended")
			return
		}
		c.markForFlush(primary)
	})
}

// redialPrimary dials a new primary link and calls then with the Socket's input lock held.
// Meanwhile it pauses reading, so that no later message overtakes the one that needs the link.
func (c *client) redialPrimary(then func(primary *link)) {
	c.receiver.dialing, c.receiver.lazy = true, false
	c.pauses.add(c.sock, redialing)
	go c.runRedial(then) // ends within the handshake timeout, or soon after the client has gone
}

// runRedial repeats the client's handshake to the upstream.
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
			c.abortFor(reason.TransportClose, "no new connection to the upstream")
			return
		}
		then(primary)
		waiting := c.receiver.waiting
		c.receiver.waiting, c.receiver.waitingBytes = nil, 0
		for i, m := range waiting {
			if c.receiver.dialing { // that message needed yet another link
				c.receiver.waiting = append(c.receiver.waiting, waiting[i:]...)
				return
			}
			c.Message(m.data, m.binary)
		}
	})
}

// beginDial returns the context of a dial. Closing the client cancels it.
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

// endDial ends what beginDial began. It takes the old primary link off the client and returns it.
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
		return nil, cmp.Or(gone, err) // closing the client cancels the dial, and then gone is the cause
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

// sendPrimary relays a message to the client's primary link, and the upstream decides what to do
// with it. Without a primary link, a lazy client gets one now. For others the message is a protocol
// error.
func (c *client) sendPrimary(data []byte, binary bool) {
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	if primary == nil {
		if c.receiver.lazy || c.receiver.dialing {
			c.relayLazily(data, binary)
		} else {
			c.protocolError("packet belongs to no session")
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
