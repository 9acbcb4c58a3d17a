package proxy

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

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

	state    linkState                  // read without a lock; written with mu held
	sessions snapshot[*session.Session] // the same

	mu        sync.Mutex // guards the fields below
	client    *client    // whose primary link this is, or nil
	spaces    linkSpaces
	congested []*client // clients paused until the upstream takes more
	// queuedCounted is how many bytes of what waits for the upstream deps.incomplete counts.
	queuedCounted int
	gone          bool // its client is gone, and the link no longer waits for CONNECT replies

	pauseMu sync.Mutex // guards pauses; taken with other locks held
	pauses  int        // sessions and senders over their window, and whether it waits for memory

	arriving atomic.Int64 // bytes that deps.incomplete counts of what has arrived in part
}

// linkState is what a link has been used for. It is safe for concurrent use:
//
//	unused -> used    a namespace is connected on it
//	unused -> raw     everything is relayed unchanged
//	any    -> ended   the connection has ended; terminal
type linkState struct{ v atomic.Uint32 }

const (
	linkUnused uint32 = iota
	linkUsed
	linkRaw
	linkEnded
)

// moveLocked is the only place where a link's state changes.
func (s *linkState) moveLocked(to uint32) {
	switch from := s.v.Load(); {
	case from == linkEnded, from == linkRaw && to == linkUsed: // it stays
	default:
		s.v.Store(to)
	}
}

// is reports whether the state is v.
func (s *linkState) is(v uint32) bool { return s.v.Load() == v }

// arrivals counts consecutive packets for one cursor. Its client is told about them together.
type arrivals struct {
	cur *session.Cursor
	n   int
}

// newLink returns a link. query is what the handshake said about the client's auth, to a server
// that speaks Engine.IO 3.
func newLink(d *deps, conn *engineio.Conn, c *client, query string) *link {
	l := &link{
		deps: d, conn: conn, client: c,
	}
	if conn.Protocol() == engineio.V3 {
		l.translator = newTranslator(l, query)
	}
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

// relayRaw makes the link relay everything unchanged.
func (l *link) relayRaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.moveLocked(linkRaw)
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
	if l.state.is(linkEnded) || l.conn.Flush() == 0 { // it may have drained before noteCongested
		l.Drained()
	}
}

// largeQueueBytes is how much may wait for the upstream on one link without being counted. Clients
// are paused from congestedBytes on, so a longer queue contains large messages. These were counted
// while they arrived, and must be counted until they are sent.
const largeQueueBytes = 2 * congestedBytes

// countQueuedLocked counts what waits for the upstream beyond largeQueueBytes, until drainedLocked.
func (l *link) countQueuedLocked(queued int) {
	if large := max(queued-largeQueueBytes, 0); large > l.queuedCounted {
		l.deps.incomplete.bytes.Add(int64(large - l.queuedCounted))
		l.queuedCounted = large
	}
}

// drainedLocked releases what countQueuedLocked counted.
func (l *link) drainedLocked() {
	l.deps.incomplete.bytes.Add(int64(-l.queuedCounted))
	l.queuedCounted = 0
}

// noteCongested adds a client that Drained will resume. It returns false if the client is already
// there, or the link has ended.
func (l *link) noteCongested(c *client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.is(linkEnded) || slices.Contains(l.congested, c) {
		return false
	}
	l.congested = append(l.congested, c)
	return true
}

// Drained implements engineio.ConnHandler.
func (l *link) Drained() {
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
	case l.state.is(linkRaw):
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
	whole, ok := l.assembler.add(data, l)
	switch {
	case !ok:
		p := l.assembler.partial
		l.deps.limitedLog.Log(slog.LevelWarn, "", "link closed: no memory for an incomplete binary packet from the server",
			"attachments", len(p.attachments), "announced", p.need, "bytes", p.bytes, "key", "recovery.buffer.total_bytes")
		l.assembler.drop(l)
		l.conn.Close()
	case whole != nil:
		l.dispatch(whole)
	}
}

// Flush implements engineio.ConnHandler. It wakes the clients that a batch of messages was for.
func (l *link) Flush() {
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

func (l *link) append(s *session.Session, p *packet) {
	if l.deps.joins != nil && p.h.IsAck() {
		l.deps.joins.answered(s, p)
	}
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

// linkOf returns the link that a session belongs to.
func linkOf(s *session.Session) *link { return s.Upstream().(*link) }

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
		l.spaces.ended(s.Namespace())
	}
}
