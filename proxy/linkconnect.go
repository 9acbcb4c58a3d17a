package proxy

import (
	"bytes"
	"hash/maphash"
	"slices"

	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

var connectSeed = maphash.MakeSeed()

// connect sends a CONNECT for a fresh namespace. It returns false if the client needs another link
// for it.
func (l *link) connect(c *client, namespace string, data []byte) bool {
	if !l.reserve(c, namespace, data) {
		return false
	}
	if l.translator != nil {
		l.translator.request(namespace, data)
	} else {
		l.conn.Send(data, nil)
	}
	return true
}

// reserve notes that a CONNECT for a namespace is sent. It returns false if the client needs
// another link for it.
func (l *link) reserve(c *client, namespace string, data []byte) bool {
	binding := l.deps.binder.Session(c.bindingDigest(), data)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.translator != nil && l.translator.forV3 {
		l.spaces.reconnect(namespace)
	}
	accepted := l.translator == nil || l.translator.acceptsLocked(namespace, data)
	if l.state.is(linkEnded) || l.sessions.get(namespace) != nil || !l.spaces.connectable(namespace) || !accepted {
		return false
	}
	l.spaces.connect(namespace, &connecting{client: c, binding: binding, sum: maphash.Bytes(connectSeed, data)})
	l.state.moveLocked(linkUsed)
	return true
}

func (l *link) connecting(namespace string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spaces.waiting(namespace) != nil
}

// connectingFor returns how many CONNECT replies the client awaits on this link.
func (l *link) connectingFor(c *client) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, _ := l.spaces.allWaiting()
	for _, asked := range all {
		if asked.client == c {
			n++
		}
	}
	return n
}

// repeated handles a CONNECT for a namespace whose previous CONNECT has no reply yet. If both are
// equal, the reply answers both, and repeated returns true. Otherwise the latest counts: when the
// reply to the previous one arrives, the link disconnects the socket that it opened.
func (l *link) repeated(c *client, namespace string, connect []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.spaces.waiting(namespace)
	switch {
	case asked == nil || asked.client != c:
		return false
	case asked.answered || asked.sum == maphash.Bytes(connectSeed, connect):
		return true
	}
	asked.client = nil
	return false
}

// refused relays the refusal of a CONNECT. It returns false if p is none: a CONNECT_ERROR can also
// end an open socket.
func (l *link) refused(p *packet) bool {
	asked := l.answered(string(p.h.Namespace), spaceNew)
	if asked == nil {
		return false
	}
	l.relayTo(asked.client, p.data, false)
	l.closeIfUnused()
	return true
}

// isLatePacket reports whether p belongs to a session that already ended: the server sent it before
// it saw the DISCONNECT. Such packets are dropped, because a client that reconnects immediately
// would attribute them to its new session. An event without an offset would spoil the offset it
// remembers. A DISCONNECT would end the new session. Acknowledgements pass: they answer what the
// client asked.
func (l *link) isLatePacket(p *packet) bool {
	if !p.h.IsEvent() && !p.h.EndsSocket() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spaces.isLate(p.h.Namespace)
}

// answered removes and returns the CONNECT that a reply answers, or returns nil. The namespace
// moves to the given state.
func (l *link) answered(namespace string, to spaceState) *connecting {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.spaces.waiting(namespace)
	if asked != nil {
		l.spaces.move(namespace, to)
	}
	return asked
}

// connected handles a CONNECT reply. It opens a session if the client still wants one.
func (l *link) connected(p *packet) {
	namespace := string(p.h.Namespace)
	asked, ok := l.noteReply(namespace)
	if !ok {
		l.relay(p.data, false)
		return
	}
	place, plain := socketio.PIDPlace(p.data)
	if !plain && bytes.Contains(p.data, []byte(`"pid"`)) {
		l.deps.upstreamRecoversOnce.Do(func() {
			l.deps.log.Info("the upstream recovers connections itself: its sessions pass unchanged (logged once)")
		})
	}
	l.deliver()
	c := asked.client
	attached := false
	if c != nil {
		resumable := plain && c.resumable(namespace)
		attached = c.connected(l, namespace, connectReply{slices.Clone(p.data), place}, asked.binding, resumable)
	}
	if attached {
		l.answered(namespace, spaceOpen)
		l.markForWake(c)
		return
	}
	l.answered(namespace, spaceNew)
	if !l.closeIfUnused() { // no client takes the socket
		l.disconnect(namespace)
	}
}

// noteReply notes that the reply to a CONNECT has arrived, and returns the CONNECT. ok is false if
// none awaits a reply.
func (l *link) noteReply(namespace string) (asked connecting, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.spaces.waiting(namespace)
	if waiting == nil {
		return connecting{}, false
	}
	waiting.answered = true
	return *waiting, true
}

// disconnect tells the server that a namespace's socket is gone.
func (l *link) disconnect(namespace string) {
	l.mu.Lock()
	l.spaces.move(namespace, spaceDisconnected).dropLate = true // no client should get more packets of it
	l.mu.Unlock()
	l.conn.Send(socketio.AppendDisconnect(nil, namespace), nil)
	l.conn.Flush()
}

// disconnected takes a session off the link after its client sent a DISCONNECT.
func (l *link) disconnected(s *session.Session) {
	l.remove(s)
	l.mu.Lock()
	l.spaces.move(s.Namespace(), spaceDisconnected)
	l.mu.Unlock()
	l.closeIfUnused()
}
