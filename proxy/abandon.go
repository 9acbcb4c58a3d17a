package proxy

import (
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
	tell     func(a *abandonment) bool // tells the owner, if it is connected
	knows    func(owner string) bool   // reports whether an owner exists
	lifetime func() time.Duration      // of a parked session

	mu      sync.Mutex                // guards the fields below; a leaf
	notes   map[string][]*abandonment // for owners, by id
	clients map[*client]lostOwner     // that did not get a session
	// doubtful are notes about clients that have gone, by the pid of the fresh session that they
	// may not know of.
	doubtful map[string]*abandonment
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
}

const (
	// maxNotes limits the notes for an owner and the doubtful ones, and maxNoted the owners. Few
	// replicas stay away for long.
	maxNotes = 4096
	maxNoted = 64
	// maxNote limits a note that is kept. Only an unusually large CONNECT makes a larger one.
	maxNote = 64 << 10
	// noteTime is how long notes for an owner are kept after it was declared gone. One that was
	// stopped for long has its sessions still when it comes back.
	noteTime = 10 * time.Minute
	// goneTime is how long a client that has gone may take to show it. While its owner was asked,
	// it was not read.
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
}

// abandon has the owner end the session that a client did not get. A client that has gone meanwhile
// may not know of its fresh session, and still recover the other one. If it comes back to the fresh
// one, it knows.
func (l *lostOwners) abandon(c *client, owner string, ask *peerwire.MoveRequest) {
	a := &abandonment{owner, ask, c.opened}
	time.AfterFunc(goneTime, func() {
		if !c.done.HasFired() {
			l.note(a)
		} else if cur := c.sessions.get(ask.Namespace); cur != nil {
			l.doubt(cur.Session(), a)
		}
	})
}

// doubt keeps a note until the client's fresh session is resumed, or has surely ended.
func (l *lostOwners) doubt(fresh *session.Session, a *abandonment) {
	l.mu.Lock()
	if len(l.doubtful) < maxNotes {
		l.doubtful[fresh.PID()] = a
	}
	l.mu.Unlock()
	if fresh.State() == session.Live {
		l.resumed(fresh.PID()) // before it was in the map
		return
	}
	time.AfterFunc(l.lifetime(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.doubtful[fresh.PID()] == a {
			delete(l.doubtful, fresh.PID())
		}
	})
}

// resumed notes that a client has come back to its session.
func (l *lostOwners) resumed(pid string) {
	l.mu.Lock()
	a := l.doubtful[pid]
	delete(l.doubtful, pid)
	l.mu.Unlock()
	if a != nil {
		l.note(a)
	}
}

// note tells an owner, or keeps the note for it.
func (l *lostOwners) note(a *abandonment) {
	owner := a.owner
	if l.tell(a) || len(a.ask.Encode()) > maxNote {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
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

// returned tells an owner that can be reached again what it has missed.
func (l *lostOwners) returned(owner string) {
	l.mu.Lock()
	notes := l.notes[owner]
	delete(l.notes, owner)
	l.mu.Unlock()
	for _, a := range notes {
		l.tell(a)
	}
}
