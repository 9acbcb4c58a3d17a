package proxy

import (
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
)

// A replica does not answer while it hands over to its next process, which may take longer than
// askTimeout. So it tells the others before. While they know that, a client that they cannot move
// to it gets no fresh session: it is closed, and asks again when it returns.

// announceHandover tells the other replicas for how long this one may not answer. A
// nil node has none.
func announceHandover(node *cluster.Node, d time.Duration) {
	if node != nil {
		node.NoteAll(peerwire.NoteHandover, peerwire.EncodeHandover(d))
	}
}

// handovers are the other replicas that hand over. It is safe for concurrent use.
type handovers struct {
	mu    sync.Mutex           // guards until; a leaf
	until map[string]time.Time // how long each is waited for, by id
}

// noted takes a peerwire.NoteHandover of another replica.
func (h *handovers) noted(from string, about []byte) {
	d, ok := peerwire.ParseHandover(about)
	switch {
	case !ok:
		return
	case d == 0:
		h.served(from)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for id, until := range h.until {
		if now.After(until) {
			delete(h.until, id)
		}
	}
	if h.until == nil {
		h.until = make(map[string]time.Time)
	}
	h.until[from] = now.Add(d)
}

// served notes that another replica can be reached again.
func (h *handovers) served(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.until, id)
}

// refusal returns why an owner has refused a client, or could not be asked. An owner that hands
// over will be there again.
func (h *handovers) refusal(owner string, why reason.Reason) reason.Reason {
	if why != reason.OwnerUnreachable {
		return why
	}
	if h.expects(owner) {
		return reason.Handover
	}
	return why
}

// expects reports whether another replica hands over.
func (h *handovers) expects(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.until[id])
}
