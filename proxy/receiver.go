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
	// maxAttachments and maxPartialPayloads bound a binary packet that is not complete yet.
	maxAttachments     = 1024
	maxPartialPayloads = 16
	// maxHeldAcks and maxHeldAckBytes bound the acknowledgements held for namespaces whose CONNECT is still to come.
	maxHeldAcks     = 256
	maxHeldAckBytes = 1 << 20
	// maxNamespaceBytes bounds the name of a namespace: it is kept for as long as the client is there.
	maxNamespaceBytes = 4 << 10
	// maxWaiting bounds the messages that were read already when the client was paused for a further primary link.
	maxWaiting = 16384
)

var errClientGone = errors.New("proxy: the client has gone")

// incoming is a client's state towards the upstream; owned by the Socket's input.
type receiver struct {
	lazy       bool // the client's handshake was not repeated upstream yet
	raw        bool // the client does not speak the default parser: everything passes as it is
	decided    bool // raw is
	wakeSocket bool // the Socket is to be woken
	resumed    bool // the primary link may be needed no more
	dropped    bool // the client was closed: what follows is not handled
	dialing    bool
	packets    int     // handled since the last Flush
	toFlush    []*link // to be flushed
	partial    *partial
	limits     limits
	heldAcks   []packet
	// heldAckBytes counts early's.
	heldAckBytes int
	waiting      []message // what came while a further primary link was dialled
	waitingBytes int
	namespaces   []string // that a CONNECT came for, the latest of them
}

type limits struct {
	partialBytes int64 // of a binary packet without all its attachments
	waitingBytes int64 // of messages that wait for a further primary link
}

// receiverLimits has limits for a client's messages; configured is engineio.max_payload. An Engine.IO handshake's numbers are far
// from overflowing.
func receiverLimits(maxPayload, configured int64) limits {
	waiting := min(maxPayload, max(configured, int64(config.DefaultMaxPayload)))
	return limits{maxPayload * maxPartialPayloads, waiting * maxPartialPayloads}
}

// packet is a whole Socket.IO packet from the client.
type packet struct {
	h           socketio.Header
	data        []byte
	attachments [][]byte
}

// size is how many bytes the packet has.
func (p *packet) size() int {
	n := len(p.data)
	for _, a := range p.attachments {
		n += len(a)
	}
	return n
}

// partial is a binary packet whose attachments have not all come.
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

// add takes one attachment, copied. It returns true when the packet is complete.
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
	case in.dialing: // reading is paused: this is the rest of what was read already
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
		c.protocolError("what may be a forged event")
	case in.raw:
		c.sendPrimary(data, binary)
	case binary:
		c.attachment(data)
	case in.partial != nil:
		// Text inside a binary packet: what came of it is discarded, and the client closed, as the server would.
		c.protocolError("text in the middle of a binary packet")
	default:
		c.text(data)
	}
}

// wait keeps a message until the primary link is there that is being dialled.
func (c *client) wait(data []byte, binary bool) {
	in := &c.receiver
	in.waiting = append(in.waiting, message{slices.Clone(data), binary})
	if in.waitingBytes += len(data); len(in.waiting) > maxWaiting || int64(in.waitingBytes) > in.limits.waitingBytes {
		c.protocolError("too much while a connection to the upstream is opened")
	}
}

// decideParser looks at a client's first message: the default parser's is a CONNECT, or an acknowledgement
// that the client owed from before a reconnection.
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
		c.srv.log.Info("a client does not use Socket.IO's default parser: relayed as it is, without recovery (logged once)",
			"client", c.seq)
	})
}

// Flush implements engineio.Handler: it sends what a batch of messages brought.
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
	if in.resumed { // not before: a namespace that is not recovered may be connected in the same batch
		in.resumed = false
		c.releasePrimary()
	}
}

func (c *client) text(data []byte) {
	p := packet{data: data}
	err := p.h.Parse(data)
	if err != nil && c.srv.notify.suspect(data) {
		c.refuseForged()
		c.protocolError("what may be a forged event")
		return
	}
	if err != nil {
		c.sendPrimary(data, false) // the upstream judges it
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
		c.sendPrimary(data, true) // nobody announced it; the upstream judges it
		return
	}
	if int64(p.bytes)+int64(len(data)) > c.receiver.limits.partialBytes {
		c.protocolError("attachments too large (engineio.max_payload)")
		return
	}
	if p.bytes+len(data) > freeIncompleteBytes && !c.countPartial(len(data)) {
		c.sock.ShowBroken() // it may come back: others take the memory
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

// dispatch handles a whole packet.
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

// send sends a packet to the link of its session. It returns false if that is not the client's any more.
func (c *client) send(cur *session.Cursor, p *packet) bool {
	l := linkOf(cur.Session())
	if !cur.Forward(func() { l.conn.Send(p.data, p.attachments) }) {
		return false
	}
	c.markForFlush(l)
	return true
}

// forward is send for all kinds of packets, with what they mean for the session.
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

// hadSession reports whether the client's session of a namespace has ended, which it need not know yet. What it sends for it
// is for nobody then: the server, which ended it, would close the link for that, and other namespaces' sockets with it.
func (c *client) hadSession(namespace string) bool {
	return c.sessions.get(namespace) != nil
}

// touch notes that a link is to be flushed after this batch.
func (c *client) markForFlush(l *link) {
	if !slices.Contains(c.receiver.toFlush, l) {
		c.receiver.toFlush = append(c.receiver.toFlush, l)
	}
}

// hold keeps an acknowledgement for a namespace that the client has yet to connect to: socket.io-client
// sends those that became due while its engine opened ahead of the CONNECT.
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

// takeHeldAcks removes and returns what is held for a namespace.
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

// drop closes a client that broke the protocol.
func (c *client) protocolError(text string) { c.abortFor(reason.ParseError, text) }

// abortFor closes a client, and parks its sessions for that reason.
func (c *client) abortFor(why reason.Reason, text string) {
	c.receiver.dropped = true
	c.receiver.partial = nil
	c.srv.limitedLog.Log(slog.LevelInfo, text, "client closed for what it sent", "client", c.seq, "why", text)
	c.abort(why)
}

// refusalDelay is for a client that came too often: its own back-off begins anew with each handshake.
const refusalDelay = 3 * time.Second

// abortLater handles nothing more of the client's and, after a while, closes it.
func (c *client) abortLater(why string) {
	c.receiver.dropped = true
	c.receiver.partial = nil
	c.srv.limitedLog.Log(slog.LevelInfo, why, "client refused, and closed after a while", "client", c.seq, "why", why)
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
