package proxy

import (
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/reason"
)

// lostOwners is what to do about owners that could not be asked. They keep sessions whose clients get fresh ones here,
// and are told so as soon as possible: otherwise the client would be in the application's rooms twice until the
// session expires.
type lostOwners struct {
	r *replicas

	mu      sync.Mutex                // guards the fields below; a leaf
	notes   map[string][]*abandonment // for owners, by id
	clients map[*client]lostOwner     // that did not get a session
}

// lostOwner is a replica that did not answer a client, and why. Its id is empty if there is none.
type lostOwner struct {
	id  string
	why reason.Reason
}

// abandonment says that the client of a move got a fresh session here.
type abandonment struct {
	ask    *moveRequest
	opened instant.Instant // when its handshake was
}

const (
	// maxNotes limits the notes for an owner, and maxNoted the owners. Few replicas stay away for long.
	maxNotes = 4096
	maxNoted = 64
	// maxNote limits a note that is kept. Only an unusually large CONNECT makes a larger one.
	maxNote = 64 << 10
	// goneTime is how long a client that has gone may take to show it. While its owner was asked, it was not read.
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

// abandon has the owner end the session that a client did not get. A client that has gone meanwhile does not know of
// its fresh session, and may still recover the other one.
func (l *lostOwners) abandon(c *client, owner string, ask *moveRequest) {
	time.AfterFunc(goneTime, func() {
		if !c.done.HasFired() {
			l.note(owner, &abandonment{ask, c.opened})
		}
	})
}

// note tells an owner, or keeps the note for it.
func (l *lostOwners) note(owner string, a *abandonment) {
	if l.tell(owner, a) || len(a.ask.encode()) > maxNote {
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

// tell tells an owner, if it is connected. The client may have returned to the owner itself since, with a later
// handshake, so the note says when the one here was.
func (l *lostOwners) tell(owner string, a *abandonment) bool {
	ask := *a.ask
	l.r.date(&ask, a.opened, owner)
	return l.r.node.Note(owner, noteAbandoned, ask.encode())
}

// returned tells an owner that can be reached again what it has missed.
func (l *lostOwners) returned(owner string) {
	l.mu.Lock()
	notes := l.notes[owner]
	delete(l.notes, owner)
	l.mu.Unlock()
	for _, a := range notes {
		l.tell(owner, a)
	}
}
