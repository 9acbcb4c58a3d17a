package proxy

import (
	"errors"
	"net/http"
	"slices"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// maxWaiting bounds the messages that wait for a new primary link. Reading is paused meanwhile, but
// some messages have already been read.
const maxWaiting = 16384

var errClientGone = errors.New("proxy: the client has gone")

// waitingFor is what the client's messages wait for:
//
//	anotherLink                 a primary link is dialled, or another replica or client is asked
//	endOfBatch                  nothing is dialled: see mover.postpone
//	endOfBatch -> laterPackets  they wait longer: see mover.waitForForeign
//	laterPackets -> endOfBatch  these may have arrived
type waitingFor uint8

const (
	anotherLink waitingFor = iota
	laterPackets
	endOfBatch
)

// redial is what waits while another primary link is dialled.
type redial struct {
	waiting []message
	bytes   int // of them
	until   waitingFor
}

// message is one Engine.IO message from the client.
type message struct {
	data   []byte
	binary bool
}

// waitingLimit returns how many bytes may wait for a new primary link. configured is
// engineio.max_payload.
func waitingLimit(maxPayload, configured int64) int64 {
	return partialLimit(min(maxPayload, max(configured, int64(config.DefaultMaxPayload))))
}

// wait keeps a copy of a message until the primary link that is being dialled is there.
func (r *receiver) wait(data []byte, binary bool) {
	r.keep(message{slices.Clone(data), binary})
}

func (r *receiver) keep(m message) {
	w := r.redial
	w.waiting = append(w.waiting, m)
	w.bytes += len(m.data)
	switch {
	case len(w.waiting) > maxWaiting || int64(w.bytes) > waitingLimit(r.maxPayload, int64(r.c.deps.settings().EngineIO.MaxPayload)):
		r.protocolError("too much data while connecting to the upstream")
	case !r.countWaiting(w.bytes):
		r.noMemory("no memory for messages that wait for the upstream")
	}
}

// countWaiting counts how many bytes wait, if they are many, in the memory that all clients share.
// It returns false if there is none left. The assembler has the count: it has no packet meanwhile.
func (r *receiver) countWaiting(bytes int) (ok bool) {
	if bytes <= freeIncompleteBytes {
		return true
	}
	ok = r.assembler.count(bytes-int(r.assembler.counted.Load()), &r.c.deps.incomplete)
	if r.c.done.HasFired() { // then detach may already have released what is counted
		r.assembler.release(&r.c.deps.incomplete)
	}
	return ok
}

// takeWaiting ends the redial, and returns the messages that waited for it.
func (r *receiver) takeWaiting() []message {
	waiting := r.redial.waiting
	r.redial = nil
	r.assembler.release(&r.c.deps.incomplete)
	return waiting
}

// connectPrimary connects a fresh namespace on the client's primary link. It dials a new one if
// there is none, or if the namespace cannot be connected there.
func (r *receiver) connectPrimary(namespace string, data []byte) {
	c := r.c
	if l := c.primary.get(); l != nil && l.connect(c, namespace, data) {
		r.markForFlush(l)
		return
	}
	if !c.primary.is(primaryLazy) && !c.deps.settings().handshakeRate.Allow(c.address) { // a lazy one was counted
		c.deps.refused(metrics.HandshakesPerAddress, c.address)
		r.abortFor(reason.Limit, "too many handshakes")
		return
	}
	data = slices.Clone(data)
	r.redialPrimary(data, func(l *link) {
		if !l.connect(c, namespace, data) {
			r.abortFor(reason.TransportClose, "the new connection to the upstream ended")
			return
		}
		r.markForFlush(l)
	})
}

// detachUnused detaches the client from its primary link if nothing is on it, because the client
// resumed instead.
func (r *receiver) detachUnused() {
	if l := r.c.primary.takeUnused(); l != nil {
		l.detach(r.c)
	}
}

// redialPrimary dials a new primary link and calls then with the Socket's input lock held.
// Meanwhile it pauses reading, so that no later message overtakes the one that needs the link.
// connect is the CONNECT for which the link is needed, or nil.
func (r *receiver) redialPrimary(connect []byte, then func(l *link)) {
	if r.c.isV3() { // another connection would have another sid, which the client does not learn
		r.abortFor(reason.TransportClose, "nothing can be connected to the upstream over this connection")
		return
	}
	r.awaitLink(func() { r.runRedial(connect, then) }) // ends within the handshake timeout, or soon after the client has gone
}

// awaitLink runs fn in a goroutine and does not read the client until fn returns. fn ends r.redial.
func (r *receiver) awaitLink(fn func()) {
	c := r.c
	r.redial = new(redial)
	c.pauses.add(c.sock, redialing)
	c.deps.conns.addRedials(1)
	c.sock.Go(func() { // ends with fn
		defer c.deps.conns.addRedials(-1)
		defer c.pauses.remove(c.sock, redialing)
		fn()
	})
}

// runRedial repeats the client's handshake to the upstream.
func (r *receiver) runRedial(connect []byte, then func(l *link)) {
	c := r.c
	l, err := c.dialPrimary(connect)
	if errors.Is(err, errClientGone) {
		return
	}
	if l != nil && l.translator != nil {
		// What the client asks for first is known before the server's CONNECT for "/" is read.
		defer l.start()
	}
	c.sock.Input(func() {
		waiting := r.takeWaiting()
		switch {
		case err == nil:
			then(l)
		case r.refusedConnect(connect, err):
		default:
			c.deps.log.Warn("further upstream handshake failed", "client", c.seq, "error", err)
			r.redialFailed()
			return
		}
		r.replay(waiting)
	})
}

// replay handles messages that had to wait.
func (r *receiver) replay(waiting []message) {
	for i, m := range waiting {
		if r.redial != nil { // that message needed yet another link
			for _, m := range waiting[i:] {
				r.keep(m)
			}
			return
		}
		r.message(m.data, m.binary)
	}
}

// redialFailed closes a client for which no primary link could be dialled.
func (r *receiver) redialFailed() {
	if r.c.deps.protocol.isV3() { // its handshake would succeed again, which resets its back-off
		r.c.deps.protocol.forget()
		r.abortLater("no connection to the upstream")
		return
	}
	r.abortFor(reason.TransportClose, "no new connection to the upstream")
}

// dialPrimary dials another primary link for a CONNECT, which may be nil. It starts the link,
// unless that has a translator.
func (c *client) dialPrimary(connect []byte) (*link, error) {
	req, err := c.request.restore(c.transport.begunByWebSocket())
	if err != nil {
		return nil, err
	}
	query := ""
	if c.deps.protocol.isV3() {
		req, query = translatedRequest(req, connect, c.deps.settings().Upstream.Translate.AuthToQuery)
	}
	ctx, cancel, ok := c.primary.beginDial(c.deps.settings().Upstream.HandshakeTimeout)
	if !ok {
		return nil, errClientGone
	}
	defer cancel()
	conn, err := c.deps.upstream.Dial(ctx, req)
	old, ok := c.primary.endDial()
	switch {
	case !ok: // this also canceled the dial
		if err == nil {
			conn.Close()
		}
		return nil, errClientGone
	case err != nil:
		if old != nil {
			old.detach(c)
		}
		return nil, err
	case old != nil:
		old.detach(c)
	}
	l, ok := c.newPrimary(conn, query)
	if !ok {
		l.closeUnstarted()
		return nil, errClientGone
	}
	if l.translator == nil {
		l.start()
	}
	return l, nil
}

// newPrimary returns a link that is the client's primary link. The caller must start it. ok is
// false if the client is closed. query is newLink's.
func (c *client) newPrimary(conn *engineio.Conn, query string) (l *link, ok bool) {
	l = newLink(c.deps, conn, c, query)
	return l, c.primary.set(l)
}

// sendPrimaryPacket sends a packet that belongs to no session to the client's primary link.
func (r *receiver) sendPrimaryPacket(p *packet) {
	r.sendPrimary(p.data, false)
	for _, a := range p.attachments {
		r.sendPrimary(a, true)
	}
}

// sendPrimary relays a message to the client's primary link, and the upstream decides what to do
// with it. Without a primary link, a lazy client gets one now, and later messages wait for it. For
// others the message is a protocol error.
func (r *receiver) sendPrimary(data []byte, binary bool) {
	l := r.c.primary.get()
	switch {
	case l != nil && binary:
		l.conn.SendBinary(data)
		r.markForFlush(l)
	case l != nil:
		l.conn.Send(data, nil)
		r.markForFlush(l)
	case r.redial != nil:
		r.wait(data, binary)
	case r.c.primary.is(primaryLazy):
		data = slices.Clone(data)
		r.redialPrimary(nil, func(l *link) {
			if r.parser == parserRaw {
				l.relayRaw()
			}
			r.sendPrimary(data, binary)
		})
	default:
		r.protocolError("packet belongs to no session")
	}
}

// refusedConnect tells the client that the server refused the handshake that its CONNECT needed.
// The client's own handshake was answered long before. It returns false if that is not what err
// means.
func (r *receiver) refusedConnect(connect []byte, err error) bool {
	var rejected *engineio.RejectedError
	if !errors.As(err, &rejected) || rejected.Status != http.StatusUnauthorized && rejected.Status != http.StatusForbidden {
		return false
	}
	h, err := socketio.ParseHeader(connect)
	if err != nil {
		return false
	}
	r.answer(message{socketio.Refusal(string(h.Namespace), rejected.Body), false})
	return true
}

// noSource is the source of a message that comes from no link.
type noSource struct{}

func (noSource) SetReadPaused(bool) {}

// claimedPID returns the pid in a message, if that is a CONNECT with one.
func claimedPID(data []byte) string {
	h, err := socketio.ParseHeader(data)
	if err != nil || h.Type != socketio.Connect {
		return ""
	}
	_, rec, err := socketio.TakeRecovery(data, session.IsPID, session.IsOffset)
	if err != nil {
		return ""
	}
	return rec.PID
}
