package proxy

import (
	"slices"

	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// A client connects all its namespaces together. Those that cannot be recovered may come first, and would tie the
// client to this replica. So a CONNECT without a pid waits for the end of its batch if the client has nothing here
// yet: a CONNECT for a session of another replica goes first.
//
// By polling, the first CONNECT comes in a POST of its own, and the others follow when that is answered. A WebSocket may
// have been read between two of them. So a CONNECT waits longer if it is clear that it cannot resume anything: its
// namespace is without recovery, or its session is gone.

// postpone reports whether a CONNECT has to wait.
func (r mover) postpone(namespace string, p *packet) bool {
	if slices.Contains(r.namespaces, namespace) || !r.movable() || r.c.keyed != nil {
		return false
	}
	_, rec, err := socketio.TakeRecovery(p.data, session.IsPID, session.IsOffset)
	if err != nil || rec.PID != "" {
		return false
	}
	r.namespaces = append(r.namespaces, namespace)
	r.redial = &redial{postponed: true}
	r.wait(p.data, false)
	if r.c.recoverable && !r.c.deps.settings().recoverable(namespace) {
		r.waitForForeign()
	}
	return true
}

// waitForForeign makes what is postponed wait until the client's next packets may have arrived.
func (r mover) waitForForeign() {
	c, waits := r.c, r.redial
	waits.patient = true
	c.sock.AfterFunc(c.replyTime(), func() {
		c.sock.Input(func() {
			if r.redial == waits && !c.done.HasFired() {
				waits.patient = false // Flush follows
			}
		})
	})
}

// endPostponement handles what had to wait, at the end of a batch.
func (r mover) endPostponement() {
	if r.redial.patient && r.firstForeign(r.redial.waiting) < 0 {
		return
	}
	waiting := r.takeWaiting()
	r.packets-- // it is counted again
	if i := r.firstForeign(waiting); i > 0 {
		foreign := waiting[i]
		waiting = slices.Insert(slices.Delete(waiting, i, i+1), 0, foreign)
	}
	r.replay(waiting)
}

// firstForeign returns the place of the first CONNECT for a session of another replica, or -1.
func (r mover) firstForeign(waiting []message) int {
	return slices.IndexFunc(waiting, func(m message) bool { return !m.binary && r.isForeign(m.data) })
}

// isForeign reports whether a message is a CONNECT for a session of another replica that may answer.
func (r mover) isForeign(data []byte) bool {
	h, err := socketio.ParseHeader(data)
	if err != nil || h.Type != socketio.Connect {
		return false
	}
	_, rec, err := socketio.TakeRecovery(data, session.IsPID, session.IsOffset)
	if err != nil || rec.PID == "" {
		return false
	}
	owner := r.c.deps.replicas.ownerOf(rec.PID)
	return owner != "" && r.c.deps.replicas.lost.of(r.c).id != owner
}

// connectInstead connects a fresh namespace for a session that the client did not get. If another of its sessions is
// at another replica, that one goes first: with anything fresh here the client could not move any more.
func (r mover) connectInstead(namespace string, rest []byte, waiting []message) {
	if r.parser == parserClosed {
		return
	}
	r.takeHeldAcks(namespace)
	r.forgetDisconnect(namespace)
	if r.c.deps.replicas.lost.of(r.c).id != "" || !r.movable() { // the others are most likely there, too
		r.connectPrimary(namespace, rest)
		r.replay(waiting)
		return
	}
	r.redial = &redial{postponed: true}
	for _, m := range waiting {
		r.keep(m)
	}
	r.wait(rest, false)
	r.waitForForeign()
}

// mover is the receiver of a client that may move to another replica.
type mover struct{ *receiver }

// movable reports whether the client has nothing here that would be left behind. A client has one Socket,
// which can be at one replica only.
func (r mover) movable() bool {
	return r.parser == parserSocketIO && !r.c.deps.replicas.hasTaken(r.c) && r.openNamespaces() == 0
}
