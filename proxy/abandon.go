package proxy

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// lostOwners is what to do about owners that could not be asked. They keep sessions whose clients
// get fresh ones here, and are told so as soon as possible: otherwise the client would be in the
// application's rooms twice until the session expires.
type lostOwners struct {
	// Immutable.
	r        *replicas
	tell     func(a *abandonment) bool // tells the owner, if it is connected
	knows    func(owner string) bool   // reports whether an owner exists
	lifetime func() time.Duration      // of a parked session

	mu      sync.Mutex                 // guards the fields below; a leaf
	notes   map[string][]*abandonment  // for owners, by id
	clients map[*client]lostOwner      // that did not get a session
	pending map[*client][]*abandonment // of clients that may not have the replies to their CONNECTs yet
	looking map[*client]bool           // look will be called for these
	// doubtful are notes about clients that have gone, by the pid of the fresh session that they
	// may not know of. claims are the same by the pid that they asked for.
	doubtful, claims map[string]*abandonment
	elsewhere        map[string]remoteDoubt // doubtful of other replicas, by the pid that the client asked for
	told             map[string][]toldNote  // notes that were told lately, by owner
	missed           map[string]missedClaim // the latest claims that got no session, by pid
}

func newLostOwners(r *replicas) lostOwners {
	return lostOwners{
		r: r, tell: r.tellAbandoned, knows: func(id string) bool { return r.node.Knows(id) },
		lifetime: func() time.Duration { return r.settings().Recovery.MaxDisconnectionDuration },
		notes:    make(map[string][]*abandonment), clients: make(map[*client]lostOwner), pending: make(map[*client][]*abandonment),
		looking:  make(map[*client]bool),
		doubtful: make(map[string]*abandonment), claims: make(map[string]*abandonment), elsewhere: make(map[string]remoteDoubt),
		told: make(map[string][]toldNote), missed: make(map[string]missedClaim),
	}
}

// remoteDoubt says that a client of another replica may not know its fresh session.
type remoteDoubt struct {
	from string
	at   uint64 // when its handshake was, as clients are numbered here
}

// toldNote is a note that may be lost with its connection: a connection that is dead looks alive for
// some seconds.
type toldNote struct {
	*abandonment
	at time.Time
}

// missedClaim is a client that asked for a session of another replica and did not get it.
type missedClaim struct {
	seq    uint64
	opened instant.Instant
	expiry *time.Timer // one for all claims of a pid
}

// lostOwner is a replica that did not answer a client, and why. Its id is empty if there is none.
type lostOwner struct {
	id  string
	why reason.Reason
}

// abandonment says that the client of a move got a fresh session here.
type abandonment struct {
	owner  string
	ask    *peerwire.MoveRequest
	opened instant.Instant // when its handshake was

	// The fields below are set by clientGone and doubt.
	fresh *session.Session
	pid   string // of the session that the client asked for
}

const (
	// maxNotes limits the notes for an owner and the doubtful ones, and maxNoted the owners. Few
	// replicas stay away for long.
	maxNotes = 4096
	maxNoted = 64
	// maxNote limits a note that is kept. Only an unusually large CONNECT makes a larger one.
	maxNote = 64 << 10
	// maxPending limits the notes of one client. It may ask for sessions in ever more namespaces.
	maxPending = 256
	// noteTime is how long notes for an owner are kept after it was declared gone. One that was
	// stopped for long has its sessions still when it comes back.
	noteTime = 10 * time.Minute
	// toldTime is how long a note that was told is kept. A connection without an answer ends sooner.
	toldTime = 30 * time.Second
	// goneTime is the time between two looks whether a client has its fresh session. A client that
	// has gone may take so long to show it: while its owner was asked, it was not read.
	goneTime = time.Second
)

// of returns the owner that did not answer a client.
func (l *lostOwners) of(c *client) lostOwner {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients[c]
}

// add notes that an owner did not answer a client, which calls forget when it has gone.
func (l *lostOwners) add(c *client, lost lostOwner) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.done.HasFired() {
		l.clients[c] = lost
	}
}

func (l *lostOwners) forget(c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.clients, c)
	delete(l.pending, c)
	delete(l.looking, c)
}

// abandon has the owner end the session that a client did not get, as soon as the client is known
// to have its fresh one. Until then the client may still recover the other one.
func (l *lostOwners) abandon(c *client, owner string, ask *peerwire.MoveRequest, why reason.Reason) {
	ask.Why = why
	l.mu.Lock()
	if len(l.pending[c]) < maxPending {
		l.pending[c] = append(l.pending[c], &abandonment{owner: owner, ask: ask, opened: c.opened})
	}
	looking := l.looking[c]
	l.looking[c] = true
	l.mu.Unlock()
	switch {
	case c.done.HasFired():
		l.forget(c)
	case !looking:
		c.sock.AfterFunc(goneTime, func() { l.look(c) })
	}
}

// miss notes that a client asked for a session of another replica and did not get it.
func (l *lostOwners) miss(c *client, ask *peerwire.MoveRequest) {
	pid, lifetime := claimedPID(ask.Connect), l.lifetime()
	l.presented(pid, c) // a doubt may have come meanwhile
	l.mu.Lock()
	defer l.mu.Unlock()
	claim, ok := l.missed[pid]
	if !ok && len(l.missed) >= maxNotes || claim.seq > c.seq {
		return
	}
	claim.seq, claim.opened = c.seq, c.opened
	if ok && claim.expiry.Stop() {
		claim.expiry.Reset(lifetime)
	} else { // one that has fired may wait for the lock
		claim.expiry = l.missedTimerLocked(pid, lifetime)
	}
	l.missed[pid] = claim
}

// missedTimerLocked returns a timer that removes the claim that has it.
func (l *lostOwners) missedTimerLocked(pid string, lifetime time.Duration) (expiry *time.Timer) {
	expiry = time.AfterFunc(lifetime, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.missed[pid].expiry == expiry {
			delete(l.missed, pid)
		}
	})
	return expiry
}

// look tells owners of the sessions that a client does not need any more, and looks again later if
// there are others.
func (l *lostOwners) look(c *client) {
	l.mu.Lock()
	pending := slices.Clone(l.pending[c])
	l.mu.Unlock()
	for _, a := range pending {
		if cur := c.sessions.get(a.ask.Namespace); cur != nil && !c.sender.mayLack(cur) && l.take(c, a) {
			l.note(a)
		}
	}
	l.mu.Lock()
	more := len(l.pending[c]) > 0
	if !more {
		delete(l.looking, c)
	}
	l.mu.Unlock()
	if more {
		c.sock.AfterFunc(goneTime, func() { l.look(c) })
	}
}

// take takes a note from those of a client, unless another goroutine has.
func (l *lostOwners) take(c *client, a *abandonment) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.pending[c], a); i >= 0 {
		l.pending[c] = slices.Delete(l.pending[c], i, i+1)
		ok = true
	}
	if len(l.pending[c]) == 0 {
		delete(l.pending, c)
	}
	return ok
}

// clientGone decides what becomes of a client's notes when it has gone, and its sessions are
// parked.
func (l *lostOwners) clientGone(c *client, from *detachedClient) {
	l.mu.Lock()
	pending := l.pending[c]
	delete(l.pending, c)
	l.mu.Unlock()
	for _, a := range pending {
		i := slices.IndexFunc(from.cursors, func(cur *session.Cursor) bool { return cur.Session().Namespace() == a.ask.Namespace })
		switch {
		case i < 0: // it has no fresh session
		case !from.fresh.mayLack(c, from.cursors[i]):
			l.note(a)
		default:
			a.fresh = from.cursors[i].Session()
			l.doubt(a)
		}
	}
}

// doubt keeps a note until the client has shown which of its two sessions it knows, or the fresh
// one has surely ended. If it asks for the other one again, anywhere, it does not know the fresh
// one, which would be in the application's rooms for nothing. Other replicas learn of that, too.
func (l *lostOwners) doubt(a *abandonment) {
	if a.fresh.State() == session.Closed {
		return
	}
	a.pid = claimedPID(a.ask.Connect)
	l.mu.Lock()
	if len(l.doubtful) < maxNotes {
		l.doubtful[a.fresh.PID()], l.claims[a.pid] = a, a
	}
	again := a.opened.Before(l.missed[a.pid].opened)
	l.mu.Unlock()
	if again { // it has asked before its first connection was known to be dead
		l.endUnknown(a)
		return
	}
	if a.fresh.State() == session.Live {
		l.resumed(a.fresh.PID(), nil) // before it was in the map
		return
	}
	time.AfterFunc(l.lifetime(), func() { l.settle(a) })
	for _, p := range l.r.node.Peers() {
		l.share(a, p.ID)
	}
}

// share tells another replica of a doubt. One that is not connected learns of it in returned.
func (l *lostOwners) share(a *abandonment, with string) {
	d := peerwire.Doubt{PID: a.pid, Age: instant.Since(a.opened).Milliseconds()}
	if now, ok := l.r.node.ClockOf(with); ok {
		d.At = now - instant.Since(a.opened).Microseconds()
	}
	l.r.node.Note(with, peerwire.NoteDoubt, d.Encode())
}

// settle removes a doubtful note, and reports whether it was there.
func (l *lostOwners) settle(a *abandonment) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok = l.doubtful[a.fresh.PID()] == a; ok {
		delete(l.doubtful, a.fresh.PID())
	}
	if l.claims[a.pid] == a {
		delete(l.claims, a.pid)
	}
	return ok
}

// resumed notes that a client has come back to its session. c is nil if that is not known.
func (l *lostOwners) resumed(pid string, c *client) {
	l.mu.Lock()
	a := l.doubtful[pid]
	l.mu.Unlock()
	if a != nil && l.settle(a) {
		l.note(a)
	}
	if c != nil {
		l.presented(pid, c)
	}
}

// presented notes that a client asks for a session of another replica, or got one of this.
func (l *lostOwners) presented(pid string, c *client) {
	l.mu.Lock()
	a, other := l.claims[pid], l.elsewhere[pid]
	if other.at >= c.seq {
		other = remoteDoubt{}
	}
	if other.from != "" {
		delete(l.elsewhere, pid)
	}
	l.mu.Unlock()
	if a != nil && a.opened.Before(c.opened) {
		l.endUnknown(a)
	}
	if other.from != "" {
		l.r.node.Note(other.from, peerwire.NoteReturned, []byte(pid))
	}
}

// endUnknown ends a fresh session whose client does not know it.
func (l *lostOwners) endUnknown(a *abandonment) {
	if l.settle(a) {
		l.r.log.Debug("session closed: its client asked for the previous one again", "namespace", a.fresh.Namespace())
		l.r.registry.AbortParked(a.fresh.PID(), a.fresh.Namespace(), reason.ClientDisconnect)
	}
}

// notedDoubt takes another replica's doubt.
func (l *lostOwners) notedDoubt(from string, about []byte) {
	var d peerwire.Doubt
	if json.Unmarshal(about, &d) != nil || d.PID == "" {
		return
	}
	at := uint64(l.r.clock() - max(d.Age, 0)*time.Millisecond.Microseconds())
	if d.At > 0 {
		at = min(at, uint64(d.At))
	}
	l.mu.Lock()
	missed := l.missed[d.PID].seq
	l.mu.Unlock()
	if max(missed, l.r.registry.LastHandshake(d.PID)) > at {
		l.r.node.Note(from, peerwire.NoteReturned, []byte(d.PID))
		return
	}
	doubt := remoteDoubt{from, at}
	l.mu.Lock()
	if len(l.elsewhere) < maxNotes {
		l.elsewhere[d.PID] = doubt
	}
	l.mu.Unlock()
	time.AfterFunc(l.lifetime(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.elsewhere[d.PID] == doubt {
			delete(l.elsewhere, d.PID)
		}
	})
}

// notedReturned takes another replica's answer to a doubt.
func (l *lostOwners) notedReturned(pid string) {
	l.mu.Lock()
	a := l.claims[pid]
	l.mu.Unlock()
	if a != nil {
		l.endUnknown(a)
	}
}

// note tells an owner, or keeps the note for it.
func (l *lostOwners) note(a *abandonment) {
	owner, told := a.owner, l.tell(a)
	if len(a.ask.Encode()) > maxNote {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if told {
		l.keepToldLocked(a)
		return
	}
	if len(l.notes[owner]) < maxNotes {
		l.notes[owner] = append(l.notes[owner], a)
	}
	for len(l.notes) > maxNoted {
		for id := range l.notes { // any
			delete(l.notes, id)
			break
		}
	}
}

// keepToldLocked keeps a note that was told until it has surely arrived.
func (l *lostOwners) keepToldLocked(a *abandonment) {
	owner := a.owner
	if len(l.told[owner]) >= maxNotes {
		return
	}
	l.told[owner] = append(l.told[owner], toldNote{a, time.Now()})
	time.AfterFunc(toldTime, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.told[owner] = slices.DeleteFunc(l.told[owner], func(t toldNote) bool { return time.Since(t.at) >= toldTime })
		if len(l.told[owner]) == 0 {
			delete(l.told, owner)
		}
	})
}

// gone forgets the notes for an owner some time after it is gone, unless it has come back.
func (l *lostOwners) gone(owner string) {
	time.AfterFunc(noteTime, func() {
		if !l.knows(owner) {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.notes, owner)
		}
	})
}

// returned tells an owner that can be reached again what it has missed, and what may be lost with
// the connection before. To hear a note twice changes nothing.
func (l *lostOwners) returned(owner string) {
	l.mu.Lock()
	notes := l.notes[owner]
	for _, t := range l.told[owner] {
		notes = append(notes, t.abandonment)
	}
	delete(l.notes, owner)
	delete(l.told, owner)
	doubtful := slices.Collect(maps.Values(l.doubtful))
	l.mu.Unlock()
	for _, a := range notes {
		l.note(a)
	}
	for _, a := range doubtful {
		l.share(a, owner)
	}
}
