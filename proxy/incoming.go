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
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

const (
	// maxAttachments and maxPartialPayloads bound a binary packet that is not complete yet.
	maxAttachments     = 1024
	maxPartialPayloads = 16
	// maxEarly and maxEarlyBytes bound the acknowledgements held for namespaces whose CONNECT is still to come.
	maxEarly      = 256
	maxEarlyBytes = 1 << 20
	// maxNamespaceBytes bounds the name of a namespace: it is kept for as long as the client is there.
	maxNamespaceBytes = 4 << 10
	// maxWaiting bounds the messages that were read already when the client was paused for a further home.
	maxWaiting = 16384
)

var errClientGone = errors.New("proxy: the client has gone")

// incoming is a client's state towards the upstream; owned by the Socket's input.
type incoming struct {
	lazy    bool // the client's handshake was not repeated upstream yet
	raw     bool // the client does not speak the default parser: everything passes as it is
	decided bool // raw is
	wake    bool // the Socket is to be woken
	resumed bool // the home may be needed no more
	dropped bool // the client was closed: what follows is not handled
	dialing bool
	packets int     // handled since the last Flush
	dirty   []*link // to be flushed
	partial *partial
	limits  limits
	early   []packet
	// earlyBytes counts early's.
	earlyBytes   int
	waiting      []message // what came while a further home was dialled
	waitingBytes int
	namespaces   []string // that a CONNECT came for, the latest of them
}

type limits struct {
	partialBytes int64 // of a binary packet without all its attachments
	waitingBytes int64 // of messages that wait for a further home
}

// incomingLimits has limits for a client's messages; configured is engineio.max_payload. An Engine.IO handshake's numbers are far
// from overflowing.
func incomingLimits(maxPayload, configured int64) limits {
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
	in := &c.in
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
		c.drop("what may be a forged event")
	case in.raw:
		c.toHome(data, binary)
	case binary:
		c.attachment(data)
	case in.partial != nil:
		// Text inside a binary packet: what came of it is discarded, and the client closed, as the server would.
		c.drop("text in the middle of a binary packet")
	default:
		c.text(data)
	}
}

// wait keeps a message until the home is there that is being dialled.
func (c *client) wait(data []byte, binary bool) {
	in := &c.in
	in.waiting = append(in.waiting, message{slices.Clone(data), binary})
	if in.waitingBytes += len(data); len(in.waiting) > maxWaiting || int64(in.waitingBytes) > in.limits.waitingBytes {
		c.drop("too much while a connection to the upstream is opened")
	}
}

// decideParser looks at a client's first message: the default parser's is a CONNECT, or an acknowledgement
// that the client owed from before a reconnection.
func (c *client) decideParser(data []byte, binary bool) {
	c.in.decided = true
	if !binary {
		if h, err := socketio.ParseHeader(data); err == nil && (h.Type == socketio.Connect || h.IsAck()) {
			return
		}
	}
	c.in.raw = true
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	if home != nil {
		home.relayRaw()
	}
	c.srv.metrics.RawRelays.Inc()
	c.srv.rawLogged.Do(func() {
		c.srv.log.Info("a client does not use Socket.IO's default parser: relayed as it is, without recovery (logged once)",
			"client", c.order)
	})
}

// Flush implements engineio.Handler: it sends what a batch of messages brought.
func (c *client) Flush() {
	defer c.contain()
	in := &c.in
	if in.packets > 0 {
		c.srv.metrics.Packets.In.Add(float64(in.packets))
		in.packets = 0
	}
	for i, l := range in.dirty {
		in.dirty[i] = nil
		l.flush(c)
	}
	in.dirty = in.dirty[:0]
	if in.wake {
		in.wake = false
		c.sock.Wake()
	}
	if in.resumed { // not before: a namespace that is not recovered may be connected in the same batch
		in.resumed = false
		c.releaseHome()
	}
}

func (c *client) text(data []byte) {
	p := packet{data: data}
	err := p.h.Parse(data)
	if err != nil && c.srv.notify.suspect(data) {
		c.refuseForged()
		c.drop("what may be a forged event")
		return
	}
	if err != nil {
		c.toHome(data, false) // the upstream judges it
		return
	}
	if p.h.IsBinary() && p.h.Attachments > 0 {
		if p.h.Attachments > maxAttachments {
			c.drop("too many attachments")
			return
		}
		c.in.partial = &partial{data: slices.Clone(data), need: p.h.Attachments}
		return
	}
	c.dispatch(&p)
}

func (c *client) attachment(data []byte) {
	p := c.in.partial
	if p == nil {
		c.toHome(data, true) // nobody announced it; the upstream judges it
		return
	}
	if int64(p.bytes)+int64(len(data)) > c.in.limits.partialBytes {
		c.drop("attachments too large (engineio.max_payload)")
		return
	}
	if p.bytes+len(data) > freeIncompleteBytes && !c.countPartial(len(data)) {
		c.sock.ShowBroken() // it may come back: others take the memory
		c.dropFor(reason.Limit, "no memory for incomplete messages")
		return
	}
	if !p.add(data) {
		return
	}
	c.in.partial = nil
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
		if c.afterGoodbye(p) || c.hadSession(string(p.h.Namespace)) {
			return
		}
		if p.h.IsAck() && !slices.Contains(c.in.namespaces, string(p.h.Namespace)) {
			c.hold(p)
			return
		}
		c.packetHome(p)
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
	c.touch(l)
	return true
}

// forward is send for all kinds of packets, with what they mean for the session.
func (c *client) forward(cur *session.Cursor, p *packet) {
	if p.h.IsAck() {
		cur.Acknowledged(p.h.AckID)
	}
	if p.h.Type == socketio.Disconnect && c.leave(cur) {
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
		l.left(cur.Session())
	}
}

// hadSession reports whether the client's session of a namespace has ended, which it need not know yet. What it sends for it
// is for nobody then: the server, which ended it, would close the link for that, and other namespaces' sockets with it.
func (c *client) hadSession(namespace string) bool {
	return c.sessions.get(namespace) != nil
}

// touch notes that a link is to be flushed after this batch.
func (c *client) touch(l *link) {
	if !slices.Contains(c.in.dirty, l) {
		c.in.dirty = append(c.in.dirty, l)
	}
}

// hold keeps an acknowledgement for a namespace that the client has yet to connect to: socket.io-client
// sends those that became due while its engine opened ahead of the CONNECT.
func (c *client) hold(p *packet) {
	in := &c.in
	in.earlyBytes += p.size()
	if len(in.early) >= maxEarly || in.earlyBytes > maxEarlyBytes {
		c.drop("too many acknowledgements before CONNECT")
		return
	}
	kept := packet{data: slices.Clone(p.data), attachments: p.attachments}
	if err := kept.h.Parse(kept.data); err != nil {
		return // it parsed before
	}
	in.early = append(in.early, kept)
}

// takeEarly removes and returns what is held for a namespace.
func (c *client) takeEarly(namespace string) []packet {
	var taken []packet
	c.in.early = slices.DeleteFunc(c.in.early, func(p packet) bool {
		if string(p.h.Namespace) != namespace {
			return false
		}
		taken = append(taken, p)
		c.in.earlyBytes -= p.size()
		return true
	})
	return taken
}

// drop closes a client that broke the protocol.
func (c *client) drop(text string) { c.dropFor(reason.ParseError, text) }

// dropFor closes a client, and parks its sessions for that reason.
func (c *client) dropFor(why reason.Reason, text string) {
	c.in.dropped = true
	c.in.partial = nil
	c.srv.limitedLog.Log(slog.LevelInfo, text, "client closed for what it sent", "client", c.order, "why", text)
	c.giveUp(why)
}

// refusalDelay is for a client that came too often: its own back-off begins anew with each handshake.
const refusalDelay = 3 * time.Second

// dropLater handles nothing more of the client's and, after a while, closes it.
func (c *client) dropLater(why string) {
	c.in.dropped = true
	c.in.partial = nil
	c.srv.limitedLog.Log(slog.LevelInfo, why, "client refused, and closed after a while", "client", c.order, "why", why)
	c.releaseHome()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closeAfterLocked(refusalDelay, func() {
			c.sock.ShowBroken()
			c.sock.Abort()
		})
	}
}

// connect handles a CONNECT: the client resumes its session, or connects a fresh one on its home.
func (c *client) connect(p *packet) {
	start := time.Now()
	c.connectDelay.CompareAndSwap(0, int64(start.Sub(c.opened)))
	in := &c.in
	namespace := string(p.h.Namespace)
	if cur := c.attached(namespace); cur != nil {
		// It disconnected before the reply to the first one, which it tells nobody, and ignored what came since.
		c.srv.registry.Abort(cur, reason.ClientDisconnect)
		c.drop("second CONNECT for a namespace")
		return
	}
	if len(namespace) > maxNamespaceBytes {
		c.drop("namespace's name too long")
		return
	}
	if c.connecting(namespace) && c.repeats(namespace, p.data) {
		return
	}
	most := c.srv.settings().Limits.MaxNamespacesPerConnection
	if !slices.Contains(in.namespaces, namespace) {
		if surplus := len(in.namespaces) + 1 - most; surplus > 0 {
			in.namespaces = slices.Delete(in.namespaces, 0, surplus)
		}
		in.namespaces = append(in.namespaces, namespace)
	}
	if c.openNamespaces() >= most {
		c.srv.refused(metrics.Namespaces, c.address)
		c.dropFor(reason.Limit, "too many namespaces")
		return
	}
	rest, rec, err := socketio.TakeRecovery(p.data, session.IsPID, session.IsOffset)
	if err != nil {
		c.toHome(p.data, false) // the upstream judges it
		return
	}
	if rec.PID != "" {
		if c.mayResume(namespace) && c.resume(c.claim(namespace, rest, rec), start) || c.in.dropped {
			return
		}
	}
	c.takeEarly(namespace) // they were for the session that could not be resumed
	c.forgetGoodbye(namespace)
	c.connectHome(namespace, rest)
}

// mayResume reports whether the client's pid is to be looked up at all.
func (c *client) mayResume(namespace string) bool {
	switch {
	case !c.recoverable, !c.srv.settings().recoverable(namespace):
		c.srv.notRecovered(c, namespace, reason.Excluded)
		return false
	case c.srv.settings().failedResumeRate.Exhausted(c.address):
		c.srv.notRecovered(c, namespace, reason.Limit)
		return false
	}
	return true
}

// claim is what the client presents with its CONNECT, of which the library's own keys are cut out.
func (c *client) claim(namespace string, connect []byte, rec socketio.Recovery) session.Claim {
	return session.Claim{
		PID: rec.PID, Namespace: namespace, Offset: rec.Offset, ForeignOffset: rec.ForeignOffset,
		Binding: c.srv.binder.session(c.bound, connect), DisconnectedRecently: c.leftSoon(namespace),
	}
}

// resume attaches the client to the session it asks for. It returns false if there is none to be had.
func (c *client) resume(claim session.Claim, start time.Time) bool {
	s, namespace := c.srv, claim.Namespace
	how := reason.Resumed
	for {
		r, closed := c.reattach(claim, start)
		switch {
		case closed:
			c.in.dropped = true
			return false
		case r.Takeover != nil:
			how = reason.Takeover
			clientOf(r.Takeover).giveUp(reason.Takeover)
			continue
		case r.Cursor == nil:
			s.notRecovered(c, namespace, r.Refused)
			switch r.Refused { //nolint:exhaustive // the others need nothing more
			case reason.Stale:
				c.dropFor(reason.TransportClose, "a later connection has the session")
			case reason.Limit:
				s.refused(metrics.TakeoversPerSession, c.address)
				c.dropLater("its session was taken over too often")
			case reason.UnknownPID, reason.WrongNamespace, reason.Binding: // somebody may be guessing
				s.settings().failedResumeRate.Allow(c.address)
			case reason.BadOffset, reason.ClientDisconnect:
				s.registry.AbortParked(claim.PID, namespace, r.Refused)
			}
			return false
		}
		s.recovered(c, namespace, how, r)
		c.in.wake = true
		c.touch(linkOf(r.Cursor.Session())) // it may have been told
		for _, p := range c.takeEarly(namespace) {
			c.forward(r.Cursor, &p)
		}
		c.in.resumed = true
		return true
	}
}

// reattach asks for the session, and takes what there is to be had of it. closed says that the client has gone.
func (c *client) reattach(claim session.Claim, start time.Time) (r session.Resumption, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return r, true
	}
	r = c.srv.registry.Resume(claim, c)
	if r.Cursor == nil {
		return r, false
	}
	c.sessions.set(claim.Namespace, r.Cursor)
	c.forgetEndedLocked()
	c.goodbyes.remove(claim.Namespace)
	c.out.pushRaw(r.Reply, false, linkOf(r.Cursor.Session()))
	if r.Trial != nil {
		c.startTrial(r.Cursor, r.Trial)
	}
	if r.ToRead > 0 {
		c.out.push(r.Cursor, r.ToRead)
		c.out.resumed(r.Cursor, start)
	} else {
		c.srv.metrics.RecoveryDuration.Observe(time.Since(start).Seconds())
	}
	return r, false
}

var _ engineio.Handler = (*client)(nil)
