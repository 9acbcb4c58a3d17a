package proxy

import (
	"bytes"
	"errors"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// congestedBytes is how much may wait for the upstream before the clients of the link are paused.
const congestedBytes = 256 << 10

// link is one Engine.IO connection to the upstream. It implements engineio.ConnHandler and
// session.Upstream.
type link struct {
	// Immutable.
	deps       *deps
	conn       *engineio.Conn
	translator *translator // nil unless the server speaks Engine.IO 3

	done event // fires when the link has ended

	// Guarded by the Conn's input lock.
	assembler assembler
	toWake    []*client // clients that Flush wakes
	arrived   arrivals

	raw      atomic.Bool                // everything is relayed unchanged
	sessions snapshot[*session.Session] // read without a lock; written with mu held

	mu             sync.Mutex            // guards the fields below
	client         *client               // whose primary link this is, or nil
	pending        map[string]connecting // CONNECTs that await their reply, by namespace
	disconnectedNS map[string]struct{}   // namespaces with a DISCONNECT: never connected here again
	endedNS        map[string]struct{}   // namespaces whose session has ended: see isLatePacket
	congested      []*client             // clients paused until the upstream takes more
	// queuedCounted is how many bytes of what waits for the upstream deps.incomplete counts.
	queuedCounted int
	used          bool // a namespace was connected on it, or it is raw
	ended         bool
	gone          bool // its client is gone, and the link no longer waits for CONNECT replies

	holdMu sync.Mutex // guards holds; taken with other locks held
	holds  int        // sessions and senders over their window
}

// arrivals counts consecutive packets for one cursor. Its client is told about them together.
type arrivals struct {
	cur *session.Cursor
	n   int
}

// connecting is a CONNECT that awaits its reply.
type connecting struct {
	client   *client         // nil if it has sent another CONNECT since, on another link
	binding  session.Binding // of the session that it will open
	sum      uint64          // hash of the packet
	answered bool            // the reply has arrived, but the session is not in link.sessions yet
}

var connectSeed = maphash.MakeSeed()

// maxEndedNamespaces bounds how many ended namespaces a link remembers. After that, the client gets
// another link for new ones.
const maxEndedNamespaces = 1000

// newLink returns a link. query is what the handshake said about the client's auth, to a server that
// speaks Engine.IO 3.
func newLink(d *deps, conn *engineio.Conn, c *client, query string) *link {
	l := &link{
		deps: d, conn: conn, client: c,
	}
	if conn.Protocol() == engineio.V3 {
		l.translator = newTranslator(l, query)
	}
	l.assembler.total = &d.incomplete
	return l
}

// start registers the link and begins to read.
func (l *link) start() {
	l.deps.conns.addLink(l)
	l.conn.Start(l.handler())
}

// handler returns what handles the server's packets.
func (l *link) handler() engineio.ConnHandler {
	if l.translator != nil {
		return l.translator
	}
	return l
}

// closeUnstarted closes a link that was not started.
func (l *link) closeUnstarted() {
	l.done.Fire()
	l.conn.Close()
}

// connect sends a CONNECT for a fresh namespace. It returns false if the client needs another link
// for it.
func (l *link) connect(c *client, namespace string, data []byte) bool {
	binding := l.deps.binder.session(c.bindingDigest(), data)
	l.mu.Lock()
	_, disconnectedNS := l.disconnectedNS[namespace]
	_, waits := l.pending[namespace]
	open := l.sessions.get(namespace) != nil
	worn := max(len(l.disconnectedNS), len(l.endedNS)) >= maxEndedNamespaces
	accepted := l.translator == nil || l.translator.acceptsLocked(namespace, data)
	if l.ended || disconnectedNS || waits || open || worn || !accepted {
		l.mu.Unlock()
		return false
	}
	if l.pending == nil {
		l.pending = make(map[string]connecting)
	}
	l.pending[namespace] = connecting{client: c, binding: binding, sum: maphash.Bytes(connectSeed, data)}
	l.used = true
	l.mu.Unlock()
	if l.translator != nil {
		l.translator.request(namespace, data)
	} else {
		l.conn.Send(data, nil)
	}
	return true
}

func (l *link) connecting(namespace string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[namespace]
	return ok
}

// connectingFor returns how many CONNECT replies the client awaits on this link.
func (l *link) connectingFor(c *client) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, asked := range l.pending {
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
	asked, ok := l.pending[namespace]
	switch {
	case !ok || asked.client != c:
		return false
	case asked.answered || asked.sum == maphash.Bytes(connectSeed, connect):
		return true
	}
	asked.client = nil
	l.pending[namespace] = asked
	return false
}

// unused reports whether the link carries nothing but its client's handshake.
func (l *link) unused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions.empty() && len(l.pending) == 0 && !l.raw.Load()
}

// relayRaw makes the link relay everything unchanged.
func (l *link) relayRaw() {
	l.mu.Lock()
	l.used = true
	l.raw.Store(true)
	l.mu.Unlock()
}

// flush sends what a client's batch queued. It pauses the client while too much waits for the
// upstream.
func (l *link) flush(c *client) {
	queued := l.conn.Flush()
	if queued < congestedBytes {
		return
	}
	if queued > largeQueueBytes {
		l.mu.Lock()
		l.countQueuedLocked(queued)
		l.mu.Unlock()
	}
	c.pauses.add(c.sock, congested)
	if !l.noteCongested(c) {
		c.pauses.remove(c.sock, congested)
	}
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	if ended || l.conn.Flush() == 0 { // it may have drained before noteCongested
		l.Drained()
	}
}

// noteCongested adds a client that Drained will resume. It returns false if the client is already
// there, or the link has ended.
func (l *link) noteCongested(c *client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || slices.Contains(l.congested, c) {
		return false
	}
	l.congested = append(l.congested, c)
	return true
}

// Drained implements engineio.ConnHandler.
func (l *link) Drained() {
	defer l.recoverPanic()
	l.mu.Lock()
	clients := l.congested
	l.congested = nil
	l.drainedLocked()
	l.mu.Unlock()
	for _, c := range clients {
		c.pauses.remove(c.sock, congested)
	}
}

// Message implements engineio.ConnHandler.
func (l *link) Message(data []byte, binary bool) {
	if binary {
		l.attachment(data)
		return
	}
	p := packet{data: data}
	if err := p.h.Parse(data); err != nil {
		l.relay(data, false)
		return
	}
	switch {
	case l.raw.Load():
		l.relay(data, false)
	case p.h.IsBinary() && p.h.Attachments > 0:
		l.assembler.begin(&p)
	default:
		l.dispatch(&p)
	}
}

func (l *link) attachment(data []byte) {
	if !l.assembler.busy() {
		l.relay(data, true)
		return
	}
	whole, ok := l.assembler.add(data)
	switch {
	case !ok:
		p := l.assembler.partial
		l.deps.limitedLog.Log(slog.LevelWarn, "", "link closed: no memory for an incomplete binary packet from the server",
			"attachments", len(p.attachments), "announced", p.need, "bytes", p.bytes)
		l.assembler.drop()
		l.conn.Close()
	case whole != nil:
		l.dispatch(whole)
	}
}

// Flush implements engineio.ConnHandler. It wakes the clients that a batch of messages was for.
func (l *link) Flush() {
	defer l.recoverPanic()
	l.deliver()
	for i, c := range l.toWake {
		l.toWake[i] = nil
		c.sock.Wake()
	}
	l.toWake = l.toWake[:0]
}

func (l *link) markForWake(c *client) {
	if !slices.Contains(l.toWake, c) {
		l.toWake = append(l.toWake, c)
	}
}

// deliver tells a client about packets that have arrived for it. The link calls it before it queues
// anything else for a client, to keep the order.
func (l *link) deliver() {
	a := l.arrived
	if a.cur == nil {
		return
	}
	l.arrived = arrivals{}
	c := clientOf(a.cur.Owner())
	c.deliver(a.cur, a.n)
	l.markForWake(c)
}

// dispatch handles a complete packet from the server.
func (l *link) dispatch(p *packet) {
	switch {
	case p.h.Type == socketio.Connect:
		l.connected(p)
		return
	case p.h.Type == socketio.ConnectError && l.refused(p):
		return
	}
	s := l.sessions.find(p.h.Namespace)
	switch {
	case s != nil:
	case l.isLatePacket(p):
		return
	default:
		l.relay(p.data, false)
		for _, a := range p.attachments {
			l.relay(a, true)
		}
		return
	}
	l.append(s, p)
	if p.h.EndsSocket() {
		l.deliver()
		l.remove(s)
		l.deps.registry.Close(s, reason.ServerDisconnect)
		l.closeIfUnused()
	}
}

// refused relays the refusal of a CONNECT. It returns false if p is none: a CONNECT_ERROR can also
// end an open socket.
func (l *link) refused(p *packet) bool {
	l.mu.Lock()
	asked, ok := l.answeredLocked(string(p.h.Namespace))
	l.mu.Unlock()
	if ok {
		l.relayTo(asked.client, p.data, false)
		l.closeIfUnused()
	}
	return ok
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
	_, ok := l.endedNS[string(p.h.Namespace)]
	return ok
}

func (l *link) append(s *session.Session, p *packet) {
	cur, err := s.Append(&buffer.Packet{
		Data: p.data, Attachments: p.attachments, AckID: p.h.AckID, Kind: kindOf(p, s),
	})
	switch {
	case cur != nil:
		if l.arrived.cur != cur {
			l.deliver()
			l.arrived.cur = cur
		}
		l.arrived.n++
	case errors.Is(err, session.ErrFull):
		l.deps.registry.Close(s, reason.BufferFull)
	}
	if l.deps.budget.Exceeded() {
		l.deps.registry.EvictForMemory()
	}
}

// kindOf returns how the sender writes a packet of this session.
func kindOf(p *packet, s *session.Session) buffer.Kind {
	switch {
	case p.h.IsAck() && s.Keyed():
		return buffer.Answer
	case !p.h.IsEvent() || s.PID() == "":
		return buffer.NoOffset
	case p.h.HasAck():
		return buffer.AckRequested
	}
	if _, _, ok := socketio.SplitArray(p.data); !ok {
		return buffer.NoOffset
	}
	return buffer.WithOffset
}

// answeredLocked removes and returns the CONNECT that a reply answers.
func (l *link) answeredLocked(namespace string) (asked connecting, ok bool) {
	asked, ok = l.pending[namespace]
	delete(l.pending, namespace)
	if len(l.pending) == 0 {
		l.pending = nil // free the map: most links connect no other namespace
	}
	return asked, ok
}

// connected handles a CONNECT reply. It opens a session if the client still wants one.
func (l *link) connected(p *packet) {
	namespace := string(p.h.Namespace)
	l.mu.Lock()
	asked, ok := l.pending[namespace]
	if ok {
		asked.answered = true
		l.pending[namespace] = asked
	}
	l.mu.Unlock()
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
	l.mu.Lock()
	l.answeredLocked(namespace)
	l.mu.Unlock()
	if attached {
		l.markForWake(c)
		return
	}
	if !l.closeIfUnused() { // no client takes the socket
		l.disconnect(namespace)
	}
}

// connectReply is a server's CONNECT reply. A pid can be inserted at place.
type connectReply struct {
	data  []byte
	place int
}

// withPID returns the reply with the session's pid. The session keeps it for clients that resume
// it.
func (r connectReply) withPID(s *session.Session) []byte {
	switch {
	case s.PID() == "":
		return r.data
	case s.Keyed(): // its client finds it by the key
		s.SetReply(r.data)
		return r.data
	}
	reply := socketio.AddPID(r.data, r.place, s.PID())
	s.SetReply(reply)
	return reply
}

// disconnect tells the server that a namespace's socket is gone.
func (l *link) disconnect(namespace string) {
	l.mu.Lock()
	addTo(&l.disconnectedNS, namespace)
	addTo(&l.endedNS, namespace) // no client should get more packets of it
	l.mu.Unlock()
	l.conn.Send(socketio.AppendDisconnect(nil, namespace), nil)
	l.conn.Flush()
}

// relay passes a message that belongs to no session to the client whose primary link this is.
func (l *link) relay(data []byte, binary bool) {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	l.relayTo(c, data, binary)
}

func (l *link) relayTo(c *client, data []byte, binary bool) {
	if c == nil {
		return
	}
	l.deliver()
	c.relay(data, binary, l)
	l.markForWake(c)
}

// add puts a session on the link.
func (l *link) add(s *session.Session) {
	l.mu.Lock()
	l.sessions.set(s.Namespace(), s)
	l.mu.Unlock()
}

// remove takes a session off the link.
func (l *link) remove(s *session.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions.get(s.Namespace()) == s {
		l.sessions.remove(s.Namespace())
	}
	if s.PID() != "" { // otherwise the client has no offset, and late packets may pass
		addTo(&l.endedNS, s.Namespace())
	}
}

// addTo adds to a set. It allocates the set on first use, because most links never need it.
func addTo(set *map[string]struct{}, namespace string) {
	if *set == nil {
		*set = make(map[string]struct{})
	}
	(*set)[namespace] = struct{}{}
}

// disconnected takes a session off the link after its client sent a DISCONNECT.
func (l *link) disconnected(s *session.Session) {
	l.remove(s)
	l.mu.Lock()
	addTo(&l.disconnectedNS, s.Namespace())
	l.mu.Unlock()
	l.closeIfUnused()
}

// SessionsClosed implements session.Upstream.
func (l *link) SessionsClosed(ended []*session.Session, _ reason.Reason) {
	defer l.recoverPanic()
	for _, s := range ended {
		l.remove(s)
	}
	if l.closeIfUnused() {
		return
	}
	for _, s := range ended {
		l.disconnect(s.Namespace())
	}
}

// SetReadPaused implements session.Upstream. The link is not read while any session or sender is
// over its window.
func (l *link) SetReadPaused(paused bool) {
	defer l.recoverPanic()
	l.holdMu.Lock()
	defer l.holdMu.Unlock()
	if paused {
		if l.holds++; l.holds == 1 {
			l.deps.metrics.LinkPauses.Inc()
			l.conn.Pause()
		}
		return
	}
	if l.holds--; l.holds == 0 {
		l.conn.Resume()
	}
}

// lateReply is how long a link whose client is gone waits for CONNECT replies. If the connection
// ends while a socket is being connected, socket.io never removes that socket.
const lateReply = 5 * time.Second
