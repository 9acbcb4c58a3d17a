package proxy

import (
	"slices"

	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// A client connects all its namespaces together. Those that cannot be recovered may come first, and
// would tie the client to this replica. So a CONNECT without a pid waits for the end of its batch
// if the client has nothing here yet: a CONNECT for a session of another replica goes first.
//
// By polling, the first CONNECT comes in its own POST, and the others follow when that is
// answered. A WebSocket may have been read between two of them. So a CONNECT waits longer if it is
// clear that it cannot resume anything: its namespace is without recovery, or its session is gone.

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
	r.redial = &redial{until: endOfBatch}
	r.wait(p.data, false)
	if r.c.recoverable && !r.c.deps.settings().recoverable(namespace) {
		r.waitForForeign()
	}
	return true
}

// waitForForeign makes what is postponed wait until the client's next packets may have arrived.
func (r mover) waitForForeign() {
	c, waits := r.c, r.redial
	waits.until = laterPackets
	c.sock.AfterFunc(c.replyTime(), func() {
		c.sock.Input(func() {
			if r.redial == waits && !c.done.HasFired() {
				waits.until = endOfBatch // Flush follows
			}
		})
	})
}

// endPostponement handles what had to wait, at the end of a batch.
func (r mover) endPostponement() {
	first := r.firstClaim(r.redial.waiting, r.mayAnswer)
	if r.redial.until == laterPackets && first < 0 {
		// One of this replica decides, too: if it is recovered the client stays here, and otherwise
		// more may follow.
		if first = r.firstClaim(r.redial.waiting, func(owner string) bool { return owner == "" }); first < 0 {
			return
		}
	}
	waiting := r.takeWaiting()
	r.packets-- // it is counted again
	if first > 0 {
		claim := waiting[first]
		waiting = slices.Insert(slices.Delete(waiting, first, first+1), 0, claim)
	}
	r.replay(waiting)
	if r.redial != nil && r.redial.until == endOfBatch {
		// One of them had not been postponed yet, as it waited for the owner's answer. This is the
		// end of its batch, and the next one may be far: the client waits for the reply.
		r.endPostponement()
	}
}

// firstClaim returns the place of the first CONNECT with the pid of a session whose owner is
// wanted, or -1. The owner is "" if it is this replica.
func (r mover) firstClaim(waiting []message, wanted func(owner string) bool) int {
	return slices.IndexFunc(waiting, func(m message) bool {
		pid := ""
		if !m.binary {
			pid = claimedPID(m.data)
		}
		return pid != "" && wanted(r.c.deps.replicas.ownerOf(pid))
	})
}

// mayAnswer reports whether the owner of a session is another replica that is worth asking.
func (r mover) mayAnswer(owner string) bool {
	return owner != "" && r.c.deps.replicas.lost.of(r.c).id != owner
}

// connectInstead connects a fresh namespace for a session that the client did not get, here or at
// its owner. If another of its sessions is at another replica, that one goes first: with anything
// fresh here the client could not move any more.
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
	r.redial = &redial{until: endOfBatch}
	for _, m := range waiting {
		r.keep(m)
	}
	r.wait(rest, false)
	r.waitForForeign()
}

// mover is the receiver of a client that may move to another replica.
type mover struct{ *receiver }

// movable reports whether the client has nothing here that would be left behind. A client has one
// Socket, which can be at one replica only.
func (r mover) movable() bool {
	return r.parser == parserSocketIO && !r.c.deps.replicas.hasTaken(r.c) && r.openNamespaces() == 0
}
