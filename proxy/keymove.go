package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
)

// A client with a key that reaches a replica without its sessions is moved to the one that has the
// key, with its first CONNECT. That replica gives it the key, or refuses; then the CONNECT is
// handled there like any other.
//
// A client of Engine.IO 3 needs its session at the handshake. So the handshake itself is answered
// by the replica that has the key, and so is each request with that key: its sid is the server's
// and names no replica.

const (
	// keyPatience is how long a request of a client of Engine.IO 3 waits until the replica that has
	// answered its handshake has said so.
	keyPatience = 500 * time.Millisecond
	keyInterval = 5 * time.Millisecond
)

// keyedReplicas is replicas as far as it concerns clients with a key.
type keyedReplicas struct{ *replicas }

// sendKeys sends a note about keys to replicas, or to all if there are none.
func (r keyedReplicas) sendKeys(note []byte, to []string) {
	if len(to) == 0 {
		for _, p := range r.node.Peers() {
			to = append(to, p.ID)
		}
	}
	for _, id := range to { // one that is not connected gets a table later
		r.node.Note(id, peerwire.NoteKeys, note)
	}
}

// notedKeys takes a note about the keys of another replica.
func (r keyedReplicas) notedKeys(from cluster.Sender, about []byte) {
	claims, ok := r.keys.Noted(from, about)
	if !ok {
		r.limitedLog.Log(slog.LevelWarn, "", "another replica's note about keys cannot be read", "peer", from.ID)
		return
	}
	if lost := r.keyring.Beaten(from.ID, r.node.ID(), claims); len(lost) > 0 {
		go r.yield(lost) // ends when the sessions are closed
	}
}

// yield ends the sessions of keys that another replica has claimed without asking this one. Their
// clients have fresh sessions there, and must not be in the application's rooms twice.
func (r keyedReplicas) yield(claims []keys.Claim) {
	for _, lost := range claims {
		r.metrics.KeyConflicts.Inc()
		r.log.Info("sessions of a key are closed: another replica could not reach this one, and has claimed the key")
		sessions, owner := r.keyring.TakeAway(lost)
		for owner != nil {
			clientOf(owner).abort(reason.Takeover) // when it returns, the client no longer has the key
			sessions, owner = r.keyring.TakeAway(lost)
		}
		for _, s := range sessions {
			r.registry.AbortParked(s.PID(), s.Namespace(), reason.OwnerUnreachable)
		}
	}
}

// holderOf returns the other replica that has a key, or "". It waits while more may be known soon.
func (r keyedReplicas) holderOf(ctx context.Context, key string) string {
	return r.awaitHolder(ctx, key, r.looking)
}

// awaitHolder returns the other replica that has a key, or "" if none is known and more returns
// false.
func (r keyedReplicas) awaitHolder(ctx context.Context, key string, more func() bool) string {
	for {
		id := r.keys.Holder(key)
		if id != "" || !more() {
			return id
		}
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(keyInterval):
		}
	}
}

// moveKeyed handles the first CONNECT of a client whose key is not known here, if another replica
// may have it. It returns false if none has. connect is the CONNECT without pid and offset. Reading
// is paused meanwhile.
func (r keyedReceiver) moveKeyed(namespace string, connect []byte) bool {
	c, k, m := r.c, r.c.keyed, mover(r)
	rs := keyedReplicas{c.deps.replicas}
	switch {
	case rs.replicas == nil, k.owner, k.lookedUp, k.foreign.Load(), c.deps.keyring.Has(k.key), !m.movable():
		return false
	case rs.keys.Holder(k.key) == "" && !rs.looking():
		return false
	}
	ask := m.moveRequest(namespace, connect)
	ask.Key, ask.Counts = []byte(k.key), k.counts
	first := message{slices.Clone(connect), false}
	r.awaitLink(func() { r.runMoveKeyed(ask, first) }) // ends within keyAskTimeout, or soon after the client has gone
	return true
}

// runMoveKeyed asks the replica that has the key, and hands the client over or continues here.
func (r keyedReceiver) runMoveKeyed(ask *peerwire.MoveRequest, first message) {
	c, m := r.c, mover(r)
	start, holder := time.Now(), ""
	st, err := m.askOwner(ask, keyAskTimeout, func(ctx context.Context) string {
		holder = keyedReplicas{c.deps.replicas}.holderOf(ctx, c.keyed.key)
		return holder
	})
	if errors.Is(err, errClientGone) {
		return
	}
	if holder != "" {
		c.deps.metrics.RelayAskDuration.Observe(time.Since(start).Seconds())
	}
	c.sock.Input(func() {
		waiting := slices.Insert(r.takeWaiting(), 0, first)
		if refused, ok := errors.AsType[*refusedError](err); ok {
			r.notMoved(ask.Namespace, holder, refused.why)
			r.replay(waiting)
			return
		}
		if !m.handOver(st, holder, waiting) {
			_ = st.Close() // the client has gone
		}
	})
}

// notMoved handles that the client stays here. If it is not refused for good, its key is claimed
// here next. holder is the replica that was asked, or "".
func (r keyedReceiver) notMoved(namespace, holder string, why reason.Reason) {
	rs := keyedReplicas{r.c.deps.replicas}
	why = rs.handovers.refusal(holder, why)
	if holder == "" && rs.looking() || why == reason.OwnerUnreachable && rs.pauses.begins(holder, time.Now()) {
		r.abortFor(reason.TransportClose, "the replica that may have the client's key does not answer yet: it asks again when it is back")
		return
	}
	if holder != "" {
		r.c.deps.metrics.RelayResumed(relayResult(why))
	}
	r.c.keyed.lookedUp = true
	switch why {
	case reason.UnknownPID: // the replica no longer has it, or none had it
	case reason.KeyInUse:
		r.c.deps.limitedLog.Log(slog.LevelWarn, "", keyInUseText, "client", r.c.seq)
		r.loseKey(namespace, why)
	case reason.Binding:
		r.loseKey(namespace, why)
	case reason.Handover:
		r.notResumed(namespace, why) // the client asks again
	default:
		_, _ = r.c.deps.keyring.Find(r.c.keyed.key, namespace) // one reason is enough
		r.notResumed(namespace, why)
	}
}

// reportEnd asks the replica that had a client's key last why the session in a namespace has ended,
// and reports that. The client does not wait for it. Without an answer nothing is reported: the
// client may have had no such session.
func (r keyedReplicas) reportEnd(c *client, holder, namespace string) {
	defer c.recoverPanic()
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	_, err := r.ask(ctx, holder, peerwire.StreamEnded, func() []byte { return append([]byte(c.keyed.key), namespace...) })
	refused, ok := errors.AsType[*refusedError](err)
	if !ok {
		return
	}
	switch refused.why {
	case reason.UnknownPID, reason.OwnerGone, reason.OwnerUnreachable, reason.OwnerIncompatible:
	default:
		c.notRecovered(namespace, refused.why)
	}
}

// serveEnded says why a session that was found by a key has ended.
func (r keyedReplicas) serveEnded(st *cluster.Stream) {
	why := reason.UnknownPID
	if about := st.About(); len(about) > sha256.Size {
		if pid, ended := r.keyring.Find(string(about[:sha256.Size]), string(about[sha256.Size:])); pid == "" && ended != "" {
			why = ended
		}
	}
	st.Append(peerwire.Encode(peerwire.MoveReply{Refused: why}))
	st.Flush()
	_ = st.CloseWrite()
}
