package proxy

import (
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

const (
	// maxAttachments and maxPartialPayloads bound an incomplete binary packet.
	maxAttachments     = 1024
	maxPartialPayloads = 16
	// maxNamespaceBytes bounds the name of a namespace, which is kept until the client is gone.
	maxNamespaceBytes = 4 << 10
)

// parserState says which parser a client uses:
//
//	undecided -> socketio  the first message is a CONNECT, or an acknowledgement that the client
//	                       owed from before it reconnected
//	undecided -> raw       it is anything else
//	any       -> closed    the client is closed; terminal
type parserState uint8

const (
	parserUndecided parserState = iota
	parserSocketIO              // the default parser
	parserRaw                   // any other: everything is relayed unchanged
	parserClosed                // everything is ignored
)

// move is the only place where a parserState changes.
func (p *parserState) move(to parserState) {
	if *p == parserUndecided || to == parserClosed {
		*p = to
	}
}

// parserOf returns the parser of a client whose first message this is.
func parserOf(data []byte, binary bool) parserState {
	if !binary {
		if h, err := socketio.ParseHeader(data); err == nil && (h.Type == socketio.Connect || h.IsAck()) {
			return parserSocketIO
		}
	}
	return parserRaw
}

// afterBatch is what flush must do at the end of a batch. What is greater includes the others.
type afterBatch uint8

const (
	afterNothing afterBatch = iota
	afterWake               // wake the Socket
	afterDetach             // and detach the primary link if it is unused: the client resumed
)

// receiver handles what arrives from a client. The Socket's input lock guards it.
type receiver struct {
	c *client // immutable

	parser     parserState
	after      afterBatch
	packets    int32   // received since the last flush
	toFlush    []*link // links with something to send
	assembler  assembler
	maxPayload int64     // the client's
	redial     *redial   // not nil while another primary link is dialled
	heldAcks   *heldAcks // nil if there are none
	namespaces []string  // the latest ones that a CONNECT arrived for
}

// partialLimit returns how many bytes the attachments of an incomplete binary packet may have. The
// values of a handshake are too small for the product to overflow.
func partialLimit(maxPayload int64) int64 { return maxPayload * maxPartialPayloads }

func (r *receiver) init(c *client, maxPayload int64) {
	r.c, r.maxPayload = c, maxPayload
}

// message handles one Engine.IO message.
func (r *receiver) message(data []byte, binary bool) {
	switch {
	case r.parser == parserClosed:
		r.dropped("holdfast closes its connection", "")
		return
	case r.redial != nil: // reading is paused, but this had already been read
		r.wait(data, binary)
		return
	}
	r.packets++
	if r.parser == parserUndecided {
		r.decideParser(data, binary)
	}
	switch {
	case r.parser == parserRaw && !binary && r.c.deps.notify.suspect(data):
		r.refuseForged()
		r.protocolError("possibly forged event")
	case r.parser == parserRaw:
		r.sendPrimary(data, binary)
	case binary:
		r.attachment(data)
	case r.assembler.busy():
		// Discard the binary packet and close the client, as the server would.
		r.protocolError("text in the middle of a binary packet")
	default:
		r.text(data)
	}
}

func (r *receiver) decideParser(data []byte, binary bool) {
	r.parser.move(parserOf(data, binary))
	if r.parser != parserRaw {
		return
	}
	if l := r.c.primary.get(); l != nil {
		l.relayRaw()
	}
	s := r.c.deps
	s.metrics.RawRelays.Inc()
	s.rawLogged.Do(func() {
		s.log.Info("relaying a client without recovery: it does not use Socket.IO's default parser (logged once)",
			"client", r.c.seq)
	})
}

// flush sends what a batch of messages produced.
func (r *receiver) flush() {
	if r.redial != nil && r.redial.until != anotherLink {
		mover{r}.endPostponement()
	}
	if r.packets > 0 {
		r.c.deps.metrics.Packets.In.Add(float64(r.packets))
		r.packets = 0
	}
	for i, l := range r.toFlush {
		r.toFlush[i] = nil
		l.flush(r.c)
	}
	r.toFlush = r.toFlush[:0]
	after := r.after
	r.after = afterNothing
	if after >= afterWake {
		r.c.sock.Wake()
	}
	if after >= afterDetach { // only now: the same batch may connect another namespace there
		r.detachUnused()
	}
}

func (r *receiver) text(data []byte) {
	p := packet{data: data}
	err := p.h.Parse(data)
	switch {
	case err != nil && r.c.deps.notify.suspect(data):
		r.refuseForged()
		r.protocolError("possibly forged event")
	case err != nil:
		r.sendPrimary(data, false) // the upstream decides what to do with it
	case p.h.IsBinary() && p.h.Attachments > maxAttachments:
		r.protocolError("too many attachments")
	case p.h.IsBinary() && p.h.Attachments > 0:
		r.assembler.begin(&p)
	default:
		r.dispatch(&p)
	}
}

func (r *receiver) attachment(data []byte) {
	if !r.assembler.busy() {
		r.sendPrimary(data, true) // no packet announced it: the upstream decides
		return
	}
	if int64(r.assembler.partial.bytes)+int64(len(data)) > partialLimit(r.maxPayload) {
		r.protocolError("attachments too large (engineio.max_payload)")
		return
	}
	whole, ok := r.assembler.add(data, &r.c.deps.incomplete)
	if r.c.done.HasFired() { // then detach may already have released what is counted
		r.assembler.release(&r.c.deps.incomplete)
	}
	switch {
	case !ok:
		r.noMemory("no memory for incomplete messages")
	case whole != nil:
		r.dispatch(whole)
	}
}

// dispatch handles a complete packet.
func (r *receiver) dispatch(p *packet) {
	if p.h.Type == socketio.Connect {
		if r.c.isV3() {
			connectV3(r, p)
		} else {
			r.connect(p)
		}
		return
	}
	if p.h.IsEvent() && r.c.deps.notify.forged(p.data[p.h.Data:]) {
		r.refuseForged()
		return
	}
	cur := r.c.sessions.find(p.h.Namespace)
	if r.c.deps.joins != nil && p.h.IsEvent() && cur != nil && cur.Attached() && r.repeatsJoin(cur, p) {
		return
	}
	if p.h.IsEvent() && cur != nil && r.send(cur, p) {
		return
	}
	if cur == nil || !cur.Attached() {
		r.dispatchDetached(p)
		return
	}
	r.forward(cur, p)
}

// repeatsJoin drops an event that the session has sent before (events.join), and answers it. It
// returns false if the event must be passed on.
func (r *receiver) repeatsJoin(cur *session.Cursor, p *packet) bool {
	repeated, answer := r.c.deps.joins.handle(r.c.seq, cur, p)
	if repeated {
		r.c.deps.metrics.EventsDropped.Rejoined.Inc()
		r.answer(answer...)
	}
	return repeated
}

// answer sends the client messages of holdfast's own.
func (r *receiver) answer(all ...message) {
	for _, m := range all {
		r.c.sender.relay(m.data, m.binary, noSource{})
		r.after = max(r.after, afterWake)
	}
}

// dispatchDetached handles a packet of a namespace in which the client has no session.
func (r *receiver) dispatchDetached(p *packet) {
	switch {
	case r.afterDisconnect(p):
	case r.hadSession(string(p.h.Namespace)):
		r.dropped("its session has ended, or another client has it", string(p.h.Namespace))
	case p.h.IsAck() && !slices.Contains(r.namespaces, string(p.h.Namespace)):
		r.holdAck(p)
	default:
		r.sendPrimaryPacket(p)
	}
}

// send sends a packet to the link of its session. It returns false if another client has the
// session.
func (r *receiver) send(cur *session.Cursor, p *packet) bool {
	l := linkOf(cur.Session())
	data := p.data
	if r.c.keyed != nil && p.h.IsEvent() && p.h.HasAck() && cur.Session().Keyed() {
		var ok bool
		if data, ok = upstreamEvent(cur, p); !ok {
			r.protocolError("acknowledgement id too large")
			return true
		}
	}
	if !cur.Forward(func() { l.conn.Send(data, p.attachments) }) {
		return false
	}
	r.markForFlush(l)
	return true
}

// forward sends a packet of any kind, and applies what it means for the session.
func (r *receiver) forward(cur *session.Cursor, p *packet) {
	if p.h.IsAck() {
		cur.Acknowledged(p.h.AckID)
	}
	if p.h.Type == socketio.Disconnect && r.parkDisconnected(cur) {
		return
	}
	if !r.send(cur, p) {
		r.dropped("another client has just taken its session", string(p.h.Namespace))
		return
	}
	if p.h.Type == socketio.Disconnect {
		l := linkOf(cur.Session())
		r.c.deps.registry.Close(cur.Session(), reason.ClientDisconnect)
		r.c.removeSession(cur.Session())
		l.conn.Flush()
		l.disconnected(cur.Session())
	}
}

// dropped logs that a packet from the client goes nowhere, for whoever looks for an event that did
// not arrive.
func (r *receiver) dropped(why, namespace string) {
	r.c.deps.log.Debug("a client's packet was dropped", "client", r.c.seq, "namespace", namespace, "why", why)
}

// hadSession reports whether the client had a session in the namespace. It may not know yet that
// the session has ended. Its packets are dropped then: the server would close the link because of
// them, with the sockets of other namespaces.
func (r *receiver) hadSession(namespace string) bool {
	return r.c.sessions.get(namespace) != nil
}

// markForFlush makes flush send what the link has queued.
func (r *receiver) markForFlush(l *link) {
	if !slices.Contains(r.toFlush, l) {
		r.toFlush = append(r.toFlush, l)
	}
}

// holdAck keeps an acknowledgement until its namespace is connected.
func (r *receiver) holdAck(p *packet) {
	if r.heldAcks == nil {
		r.heldAcks = new(heldAcks)
	}
	if !r.heldAcks.add(p) {
		r.protocolError("too many acknowledgements before CONNECT")
	}
}

// takeHeldAcks removes and returns the acknowledgements held for a namespace.
func (r *receiver) takeHeldAcks(namespace string) []packet {
	if r.heldAcks == nil {
		return nil
	}
	taken := r.heldAcks.take(namespace)
	if len(r.heldAcks.packets) == 0 {
		r.heldAcks = nil
	}
	return taken
}

// refuseForged counts and logs a client's event that was dropped because it may be forged.
func (r *receiver) refuseForged() {
	r.c.deps.metrics.EventsDropped.Forged.Inc()
	const what = "an event with a reserved name, or none that can be read, was dropped"
	r.c.deps.limitedLog.Log(slog.LevelInfo, what, what, "client", r.c.seq)
}

// protocolError closes a client that violated the protocol.
func (r *receiver) protocolError(text string) { r.abortFor(reason.ParseError, text) }

// noMemory closes a client because other clients use the memory that incomplete messages share.
func (r *receiver) noMemory(text string) {
	r.c.deps.refused(metrics.IncompleteBytes, r.c.address)
	r.c.sock.ShowBroken() // so that it reconnects
	r.abortFor(reason.Limit, text)
}

// abortFor closes a client, and parks its sessions for this reason.
func (r *receiver) abortFor(why reason.Reason, text string) {
	r.dropAll()
	r.c.deps.limitedLog.Log(slog.LevelInfo, text, "client closed by holdfast", "client", r.c.seq, "why", text)
	r.c.abort(why)
}

// dropAll ignores what the client sends from now on.
func (r *receiver) dropAll() {
	r.parser.move(parserClosed)
	r.assembler.drop(&r.c.deps.incomplete)
}

// refusalDelay is how long a client that reconnects too often stays connected. Its own back-off
// starts again with each handshake, so closing it immediately would not slow it down.
const refusalDelay = 3 * time.Second

// abortLater ignores what the client sends from now on, and closes it after refusalDelay.
func (r *receiver) abortLater(why string) {
	r.dropAll()
	r.c.deps.limitedLog.Log(slog.LevelInfo, why, "client refused, closing after a delay", "client", r.c.seq, "why", why)
	r.detachUnused()
	r.c.closeAfter(refusalDelay, func() {
		r.c.sock.ShowBroken()
		r.c.sock.Abort()
	})
}
