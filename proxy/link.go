package proxy

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"maps"
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

// congestedBytes is how much may wait for the upstream before its clients are not read any more.
const congestedBytes = 256 << 10

// link is one Engine.IO connection to the upstream. It implements engineio.ConnHandler and
// session.Upstream.
type link struct {
	// Immutable.
	srv  *Server
	conn *engineio.Conn

	done event // of the link

	// Owned by the Conn's input.
	partial        *partial
	partialBytes   int       // of partial
	partialCounted int       // of them, in Server.incomplete
	toWake         []*client // to be woken after this batch
	arrived        arrivals

	raw      atomic.Bool                // everything passes between client and upstream as it is
	sessions snapshot[*session.Session] // changed with mu held

	mu             sync.Mutex            // guards the fields below
	client         *client               // whose primary link this is, or nil
	used           bool                  // a namespace was connected on it, or everything passes
	pending        map[string]connecting // by the namespaces whose CONNECT reply is awaited
	disconnectedNS map[string]struct{}   // namespaces that a DISCONNECT was sent for: never connected here again
	endedNS        map[string]struct{}   // namespaces whose session has ended: see late
	congested      []*client             // paused until the upstream takes more
	// queuedCounted is how much of what waits for the upstream is counted in Server.incomplete.
	queuedCounted int
	ended         bool
	gone          bool // its client has gone, and no CONNECT reply is waited for any more

	holdMu sync.Mutex // guards holds; taken with other locks held
	holds  int        // sessions over their window
}

// arrivals are packets in a row for one cursor, of which its client is to hear.
type arrivals struct {
	cur *session.Cursor
	n   int
}

// connecting is a CONNECT whose reply is awaited.
type connecting struct {
	client   *client         // nil if it has sent another CONNECT since, elsewhere
	binding  session.Binding // of the session that it opens
	sum      uint64          // of the packet
	answered bool            // the reply has come, and the session is not in link.sessions yet
}

var connectSeed = maphash.MakeSeed()

// maxEndedNamespaces bounds how many names of namespaces that have ended a link remembers. Beyond it the client gets another
// link for further ones.
const maxEndedNamespaces = 1000

func newLink(s *Server, conn *engineio.Conn, c *client) *link {
	l := &link{
		srv: s, conn: conn, client: c,
	}
	c.setPrimary(l)
	return l
}

// start begins to read.
func (l *link) start() {
	l.srv.addLink(l)
	l.conn.Start(l)
}

// abandon closes a link that was not started.
func (l *link) abandon() {
	l.done.Fire()
	l.conn.Close()
}

// connect sends a CONNECT for a fresh namespace. It returns false if another link has to be used.
func (l *link) connect(c *client, namespace string, data []byte) bool {
	binding := l.srv.binder.session(c.bindingDigest, data)
	l.mu.Lock()
	_, disconnectedNS := l.disconnectedNS[namespace]
	_, waits := l.pending[namespace]
	open := l.sessions.get(namespace) != nil
	worn := max(len(l.disconnectedNS), len(l.endedNS)) >= maxEndedNamespaces
	if l.ended || disconnectedNS || waits || open || worn {
		l.mu.Unlock()
		return false
	}
	if l.pending == nil {
		l.pending = make(map[string]connecting)
	}
	l.pending[namespace] = connecting{client: c, binding: binding, sum: maphash.Bytes(connectSeed, data)}
	l.used = true
	l.mu.Unlock()
	l.conn.Send(data, nil)
	return true
}

func (l *link) connecting(namespace string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[namespace]
	return ok
}

// connectingFor is how many replies the client awaits here.
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

// repeated takes a CONNECT for a namespace whose former one has no reply yet. If they are alike the reply is for both, and it
// returns true. Else the socket that the former one opens is disconnected when the reply comes: the latest counts.
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

// unused reports whether nothing is on the link but its client's handshake.
func (l *link) unused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions.empty() && len(l.pending) == 0 && !l.raw.Load()
}

// relayRaw makes the link pass everything as it is.
func (l *link) relayRaw() {
	l.mu.Lock()
	l.used = true
	l.raw.Store(true)
	l.mu.Unlock()
}

// flush sends what a client's batch added, and pauses the client while the upstream takes no more.
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
	if ended || l.conn.Flush() == 0 { // it may have drained before the client was noted
		l.Drained()
	}
}

// noteCongested notes a client that Drained is to resume. It returns false if it is noted already, or the link has ended.
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
		l.partial = &partial{data: slices.Clone(data), need: p.h.Attachments}
	default:
		l.dispatch(&p)
	}
}

func (l *link) attachment(data []byte) {
	p := l.partial
	if p == nil {
		l.relay(data, true)
		return
	}
	last := len(p.attachments)+1 == p.need
	if !last && !l.countPartial(len(data)+attachmentOverhead) {
		l.srv.limitedLog.Log(slog.LevelWarn, "", "link closed: no memory for a binary packet of the server's that is not complete",
			"attachments", len(p.attachments), "announced", p.need, "bytes", p.bytes)
		l.freePartial()
		l.conn.Close()
		return
	}
	if !p.add(data) {
		return
	}
	l.freePartial()
	whole := packet{data: p.data, attachments: p.attachments}
	if err := whole.h.Parse(p.data); err == nil {
		l.dispatch(&whole)
	}
}

// Flush implements engineio.ConnHandler: it wakes the clients that a batch of messages was for.
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

// deliver tells a client of what has arrived for it. It comes ahead of whatever else the link has for a client.
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

// dispatch handles a whole packet from the server.
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
		l.srv.registry.Close(s, reason.ServerDisconnect)
		l.closeIfUnused()
	}
}

// refused passes on the refusal of a CONNECT, and reports whether p is one: a CONNECT_ERROR can also end an open socket.
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

// late reports whether a packet without a session is of one that has ended: the server sent it before it knew, or a client
// that has left and connects again would take it for the new session's. An event would bear no offset there, and spoil the
// one that the client has; a DISCONNECT would end it for good. The answer to what the client asked is for who asked.
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
		l.srv.registry.Close(s, reason.BufferFull)
	}
	if l.srv.budget.Exceeded() {
		l.srv.registry.EvictForMemory()
	}
}

// kindOf says how a packet is to be written.
func kindOf(p *packet, s *session.Session) buffer.Kind {
	switch {
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

// answeredLocked takes a CONNECT off those that wait.
func (l *link) answeredLocked(namespace string) (asked connecting, ok bool) {
	asked, ok = l.pending[namespace]
	delete(l.pending, namespace)
	if len(l.pending) == 0 {
		l.pending = nil // most links never see another
	}
	return asked, ok
}

// connected handles a CONNECT reply.
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
		l.srv.upstreamRecoversOnce.Do(func() {
			l.srv.log.Info("the upstream recovers connections itself: its sessions pass as they are (logged once)")
		})
	}
	l.deliver()
	c := asked.client
	attached := false
	if c != nil {
		resumable := plain && c.recoverable && l.srv.settings().recoverable(namespace)
		attached = c.connected(l, namespace, connectReply{slices.Clone(p.data), place}, asked.binding, resumable)
	}
	l.mu.Lock()
	l.answeredLocked(namespace)
	l.mu.Unlock()
	if attached {
		l.markForWake(c)
		return
	}
	if !l.closeIfUnused() { // nobody is there to have it
		l.disconnect(namespace)
	}
}

// connectReply is a server's CONNECT reply, and where a pid can be put into it.
type connectReply struct {
	data  []byte
	place int
}

// withPID is the reply with the session's pid, which later clients get too.
func (r connectReply) withPID(s *session.Session) []byte {
	if s.PID() == "" {
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
	addTo(&l.endedNS, namespace) // without a client that is to have more of it
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

// forget takes a session off the link.
func (l *link) remove(s *session.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions.get(s.Namespace()) == s {
		l.sessions.remove(s.Namespace())
	}
	if s.PID() != "" { // else the client has no offset to be spoilt, and gets all as it is
		addTo(&l.endedNS, s.Namespace())
	}
}

// note adds to a set that most links never need.
func addTo(set *map[string]struct{}, namespace string) {
	if *set == nil {
		*set = make(map[string]struct{})
	}
	(*set)[namespace] = struct{}{}
}

// left takes a session off the link for which the client has sent a DISCONNECT.
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

// SetReadPaused implements session.Upstream: the link is not read while any session is over its window.
func (l *link) SetReadPaused(paused bool) {
	defer l.recoverPanic()
	l.holdMu.Lock()
	defer l.holdMu.Unlock()
	if paused {
		if l.holds++; l.holds == 1 {
			l.srv.metrics.LinkPauses.Inc()
			l.conn.Pause()
		}
		return
	}
	if l.holds--; l.holds == 0 {
		l.conn.Resume()
	}
}

// lateReply is how long a link whose client has gone waits for CONNECT replies. socket.io leaves a socket behind for good if its
// connection ends while it is being connected.
const lateReply = 5 * time.Second

// release says that the link is its client's primary link no longer. If the client is gone, nobody wants the CONNECT replies that
// are still to come.
func (l *link) release(c *client, gone bool) {
	l.mu.Lock()
	if l.client == c {
		l.client = nil
	}
	if gone && len(l.pending) > 0 && !l.gone && !l.ended {
		time.AfterFunc(lateReply, l.giveUpReplies)
	} else {
		l.gone = l.gone || gone
	}
	l.mu.Unlock()
	l.closeIfUnused()
}

func (l *link) giveUpReplies() {
	defer l.recoverPanic()
	l.mu.Lock()
	l.gone = true
	l.mu.Unlock()
	l.closeIfUnused()
}

// closeIfUnused closes a link that is no client's primary link and has no sessions. It reports whether the link is closed.
func (l *link) closeIfUnused() bool {
	l.mu.Lock()
	unused := l.client == nil && l.sessions.empty() && (len(l.pending) == 0 || l.gone)
	closed, used := l.ended, l.used
	l.mu.Unlock()
	switch {
	case !unused || closed:
	case used:
		l.conn.Close()
	default: // its client resumed: there are many of these at once in a storm
		l.conn.Leave()
	}
	return unused || closed
}

// Closed implements engineio.ConnHandler: the link's sessions end, and their clients are told by the
// end of their transports, after what the server had sent before.
func (l *link) Closed(err error) {
	defer l.done.Fire()
	defer l.srv.removeLink(l)
	defer l.recoverPanic()
	l.freePartial()
	l.Flush() // where a batch panicked
	left := l.detachAll()
	l.Drained()

	if !errors.Is(err, engineio.ErrClosed) {
		l.srv.cache.forget() // the upstream may be another one now
	}
	level := slog.LevelDebug
	if errors.Is(err, engineio.ErrSilent) {
		level = slog.LevelWarn
		l.srv.metrics.HeartbeatTimeouts.Upstream.Inc()
		l.srv.upstream.CloseIdleConnections() // they may lead to nowhere as well: no handshake is to try that
	}
	if errors.Is(err, engineio.ErrNoMemory) {
		level = slog.LevelWarn
	}
	l.srv.log.Log(context.Background(), level, "link closed", "error", err, "sessions", len(left.sessions))
	why := reason.UpstreamLost
	if errors.Is(err, engineio.ErrClosed) && l.srv.draining.Load() { // by closeAll
		why = reason.Draining
	}
	orderly := errors.Is(err, engineio.ErrServerClosed)
	if errors.Is(err, engineio.ErrTooBig) {
		left.showTooBig()
	}
	for _, s := range left.sessions {
		l.srv.safely(func() { l.abortSession(s, why, orderly) })
	}
	for _, w := range left.waiting { // nobody answers their CONNECT
		if w.client != nil {
			w.client.end(orderly)
		}
	}
	if left.primary != nil {
		left.primary.onPrimaryLost(l, left.needed || len(left.sessions) > 0, orderly)
	}
}

// remains is what was on a link when it ended.
type detachedLink struct {
	primary  *client // the client whose primary link it was, or nil
	needed   bool    // by that client, even without a session
	sessions []*session.Session
	waiting  []connecting // for the reply to a CONNECT
}

// showTooBig lets the clients see that the server found a message too big.
func (r *detachedLink) showTooBig() {
	if r.primary != nil {
		r.primary.sock.ShowTooBig()
	}
	for _, s := range r.sessions {
		if c := clientOf(s.Attached()); c != nil {
			c.sock.ShowTooBig()
		}
	}
}

// detachAll takes everything off the link, which has ended.
func (l *link) detachAll() detachedLink {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	r := detachedLink{
		primary: l.client, needed: len(l.pending) > 0 || l.raw.Load(),
		sessions: l.sessions.all(), waiting: slices.Collect(maps.Values(l.pending)),
	}
	l.sessions.clear()
	return r
}

// lose ends a session whose link has ended, and its client.
func (l *link) abortSession(s *session.Session, why reason.Reason, orderly bool) {
	l.srv.registry.Close(s, why)
	// After Close: who resumes it before is told, and after it nobody can.
	if c := clientOf(s.Attached()); c != nil {
		c.end(orderly)
	}
}
