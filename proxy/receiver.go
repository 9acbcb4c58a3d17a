package proxy

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

const (
	// maxAttachments and maxPartialPayloads bound an incomplete binary packet.
	maxAttachments     = 1024
	maxPartialPayloads = 16
	// maxHeldAcks and maxHeldAckBytes bound the acknowledgements held for namespaces whose CONNECT
	// has not arrived.
	maxHeldAcks     = 256
	maxHeldAckBytes = 1 << 20
	// maxNamespaceBytes bounds the name of a namespace, which is kept until the client is gone.
	maxNamespaceBytes = 4 << 10
	// maxWaiting bounds the messages that wait for a new primary link. Reading is paused meanwhile,
	// but some messages have already been read.
	maxWaiting = 16384
)

var errClientGone = errors.New("proxy: the client has gone")

// receiver is the state of what arrives from a client. The Socket's input lock guards it.
type receiver struct {
	lazy       bool    // the client's handshake has not been repeated to the upstream
	raw        bool    // the client does not use the default parser: everything is relayed unchanged
	decided    bool    // raw is final
	wakeSocket bool    // Flush must wake the Socket
	resumed    bool    // the client resumed: Flush releases the primary link if it is unused
	dropped    bool    // the client is closed: ignore what follows
	dialing    bool    // a new primary link is being dialled
	packets    int     // received since the last Flush
	toFlush    []*link // links with something to send
	partial    *partial
	limits     limits
	heldAcks   []packet
	// heldAckBytes is the size of heldAcks.
	heldAckBytes int
	waiting      []message // arrived while dialing
	waitingBytes int
	namespaces   []string // the latest ones that a CONNECT arrived for
}

type limits struct {
	partialBytes int64 // of an incomplete binary packet
	waitingBytes int64 // of messages that wait for a new primary link
}

// receiverLimits returns the limits for a client with this maxPayload. configured is
// engineio.max_payload. The values of a handshake are too small for the products to overflow.
func receiverLimits(maxPayload, configured int64) limits {
	waiting := min(maxPayload, max(configured, int64(config.DefaultMaxPayload)))
	return limits{maxPayload * maxPartialPayloads, waiting * maxPartialPayloads}
}

// packet is a complete Socket.IO packet, from a client or from the server.
type packet struct {
	h           socketio.Header
	data        []byte
	attachments [][]byte
}

// size returns the length of the packet with its attachments.
func (p *packet) size() int {
	n := len(p.data)
	for _, a := range p.attachments {
		n += len(a)
	}
	return n
}

// partial is a binary packet whose attachments have not all arrived.
type partial struct {
	data        []byte
	need        int
	bytes       int
	attachments [][]byte
}

// message is one Engine.IO message from the client.
type message struct {
	data   []byte
	binary bool
}

// add adds a copy of one attachment. It returns true when the packet is complete.
func (p *partial) add(data []byte) bool {
	p.attachments = append(p.attachments, slices.Clone(data))
	p.bytes += len(data)
	return len(p.attachments) == p.need
}

// Message implements engineio.Handler.
func (c *client) Message(data []byte, binary bool) {
	in := &c.receiver
	switch {
	case in.dropped:
		return
	case in.dialing: // reading is paused, but this had already been read
		c.wait(data, binary)
		return
	}
	in.packets++
	if !in.decided {
		c.decideParser(data, binary)
	}
	switch {
	case in.raw && !binary && c.srv.notify.suspect(data):
		c.refuseForged()
		c.protocolError("possibly forged event")
	case in.raw:
		c.sendPrimary(data, binary)
	case binary:
		c.attachment(data)
	case in.partial != nil:
		// Discard the binary packet and close the client, as the server would.
		c.protocolError("text in the middle of a binary packet")
	default:
		c.text(data)
	}
}

// wait keeps a message until the primary link that is being dialled is there.
func (c *client) wait(data []byte, binary bool) {
	in := &c.receiver
	in.waiting = append(in.waiting, message{slices.Clone(data), binary})
	if in.waitingBytes += len(data); len(in.waiting) > maxWaiting || int64(in.waitingBytes) > in.limits.waitingBytes {
		c.protocolError("too much data while connecting to the upstream")
	}
}

// decideParser decides from a client's first message whether it uses the default parser. If so, the
// message is a CONNECT, or an acknowledgement that the client owed from before it reconnected.
func (c *client) decideParser(data []byte, binary bool) {
	c.receiver.decided = true
	if !binary {
		if h, err := socketio.ParseHeader(data); err == nil && (h.Type == socketio.Connect || h.IsAck()) {
			return
		}
	}
	c.receiver.raw = true
	c.mu.Lock()
	primary := c.primary
	c.mu.Unlock()
	if primary != nil {
		primary.relayRaw()
	}
	c.srv.metrics.RawRelays.Inc()
	c.srv.rawLogged.Do(func() {
		c.srv.log.Info("relaying a client without recovery: it does not use Socket.IO's default parser (logged once)",
			"client", c.seq)
	})
}

// Flush implements engineio.Handler. It sends what a batch of messages produced.
func (c *client) Flush() {
	defer c.recoverPanic()
	in := &c.receiver
	if in.packets > 0 {
		c.srv.metrics.Packets.In.Add(float64(in.packets))
		in.packets = 0
	}
	for i, l := range in.toFlush {
		in.toFlush[i] = nil
		l.flush(c)
	}
	in.toFlush = in.toFlush[:0]
	if in.wakeSocket {
		in.wakeSocket = false
		c.sock.Wake()
	}
	if in.resumed { // only now: the same batch may connect another namespace there
		in.resumed = false
		c.releasePrimary()
	}
}

func (c *client) text(data []byte) {
	p := packet{data: data}
	err := p.h.Parse(data)
	if err != nil && c.srv.notify.suspect(data) {
		c.refuseForged()
		c.protocolError("possibly forged event")
		return
	}
	if err != nil {
		c.sendPrimary(data, false) // the upstream decides what to do with it
		return
	}
	if p.h.IsBinary() && p.h.Attachments > 0 {
		if p.h.Attachments > maxAttachments {
			c.protocolError("too many attachments")
			return
		}
		c.receiver.partial = &partial{data: slices.Clone(data), need: p.h.Attachments}
		return
	}
	c.dispatch(&p)
}

func (c *client) attachment(data []byte) {
	p := c.receiver.partial
	if p == nil {
		c.sendPrimary(data, true) // no packet announced it: the upstream decides
		return
	}
	if int64(p.bytes)+int64(len(data)) > c.receiver.limits.partialBytes {
		c.protocolError("attachments too large (engineio.max_payload)")
		return
	}
	if p.bytes+len(data) > freeIncompleteBytes && !c.countPartial(len(data)) {
		c.sock.ShowBroken() // so that it reconnects: other clients use the memory
		c.abortFor(reason.Limit, "no memory for incomplete messages")
		return
	}
	if !p.add(data) {
		return
	}
	c.receiver.partial = nil
	c.freePartial()
	whole := packet{data: p.data, attachments: p.attachments}
	if err := whole.h.Parse(p.data); err != nil {
		return // it parsed before
	}
	c.dispatch(&whole)
}

// dispatch handles a complete packet.
func (c *client) dispatch(p *packet) {
	if p.h.Type == socketio.Connect {
		c.connect(p)
		return
	}
	if p.h.IsEvent() && c.srv.notify.forged(p.data[p.h.Data:]) {
		c.refuseForged()
		return
	}
	cur := c.sessions.find(p.h.Namespace)
	if p.h.IsEvent() && cur != nil && c.send(cur, p) {
		return
	}
	if cur == nil || !cur.Attached() {
		if c.afterDisconnect(p) || c.hadSession(string(p.h.Namespace)) {
			return
		}
		if p.h.IsAck() && !slices.Contains(c.receiver.namespaces, string(p.h.Namespace)) {
			c.holdAck(p)
			return
		}
		c.sendPrimaryPacket(p)
		return
	}
	c.forward(cur, p)
}

// send sends a packet to the link of its session. It returns false if another client has the
// session.
func (c *client) send(cur *session.Cursor, p *packet) bool {
	l := linkOf(cur.Session())
	if !cur.Forward(func() { l.conn.Send(p.data, p.attachments) }) {
		return false
	}
	c.markForFlush(l)
	return true
}

// forward sends a packet of any kind, and applies what it means for the session.
func (c *client) forward(cur *session.Cursor, p *packet) {
	if p.h.IsAck() {
		cur.Acknowledged(p.h.AckID)
	}
	if p.h.Type == socketio.Disconnect && c.parkDisconnected(cur) {
		return
	}
	if !c.send(cur, p) {
		return
	}
	if p.h.Type == socketio.Disconnect {
		l := linkOf(cur.Session())
		c.srv.registry.Close(cur.Session(), reason.ClientDisconnect)
		c.mu.Lock()
		c.removeLocked(cur.Session().Namespace())
		c.mu.Unlock()
		l.conn.Flush()
		l.disconnected(cur.Session())
	}
}

// hadSession reports whether the client had a session in the namespace. It may not know yet that
// the session has ended. Its packets are dropped then: the server would close the link because of
// them, with the sockets of other namespaces.
func (c *client) hadSession(namespace string) bool {
	return c.sessions.get(namespace) != nil
}

// markForFlush makes Flush send what the link has queued.
func (c *client) markForFlush(l *link) {
	if !slices.Contains(c.receiver.toFlush, l) {
		c.receiver.toFlush = append(c.receiver.toFlush, l)
	}
}

// holdAck keeps an acknowledgement for a namespace that the client has not connected yet.
// socket.io-client sends those that became due while its engine opened before it sends the CONNECT.
func (c *client) holdAck(p *packet) {
	in := &c.receiver
	in.heldAckBytes += p.size()
	if len(in.heldAcks) >= maxHeldAcks || in.heldAckBytes > maxHeldAckBytes {
		c.protocolError("too many acknowledgements before CONNECT")
		return
	}
	kept := packet{data: slices.Clone(p.data), attachments: p.attachments}
	if err := kept.h.Parse(kept.data); err != nil {
		return // it parsed before
	}
	in.heldAcks = append(in.heldAcks, kept)
}

// takeHeldAcks removes and returns the acknowledgements held for a namespace.
func (c *client) takeHeldAcks(namespace string) []packet {
	var taken []packet
	c.receiver.heldAcks = slices.DeleteFunc(c.receiver.heldAcks, func(p packet) bool {
		if string(p.h.Namespace) != namespace {
			return false
		}
		taken = append(taken, p)
		c.receiver.heldAckBytes -= p.size()
		return true
	})
	return taken
}

// protocolError closes a client that violated the protocol.
func (c *client) protocolError(text string) { c.abortFor(reason.ParseError, text) }

// abortFor closes a client, and parks its sessions for this reason.
func (c *client) abortFor(why reason.Reason, text string) {
	c.receiver.dropped = true
	c.receiver.partial = nil
	c.srv.limitedLog.Log(slog.LevelInfo, text, "client closed by holdfast", "client", c.seq, "why", text)
	c.abort(why)
}

// refusalDelay is how long a client that reconnects too often stays connected. Its own back-off
// starts again with each handshake, so closing it immediately would not slow it down.
const refusalDelay = 3 * time.Second

// abortLater ignores what the client sends from now on, and closes it after refusalDelay.
func (c *client) abortLater(why string) {
	c.receiver.dropped = true
	c.receiver.partial = nil
	c.srv.limitedLog.Log(slog.LevelInfo, why, "client refused, closing after a delay", "client", c.seq, "why", why)
	c.releasePrimary()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closeAfterLocked(refusalDelay, func() {
			c.sock.ShowBroken()
			c.sock.Abort()
		})
	}
}

var _ engineio.Handler = (*client)(nil)
