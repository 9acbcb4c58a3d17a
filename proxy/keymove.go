package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// A client with a key that reaches a replica without its sessions is moved to the one that has the
// key, with its first CONNECT. That replica gives it the key, or refuses; then the CONNECT is
// handled there like any other.
//
// A client of Engine.IO 3 needs its session at the handshake. So the handshake itself is answered
// by the replica that has the key, and so is each request with that key: its sid is the server's
// and names no replica.

const (
	// keyAskTimeout limits how long the replica that has a key may take to answer. python-socketio
	// waits one second for the reply to its CONNECT.
	keyAskTimeout = 700 * time.Millisecond
	// keyPatience is how long a request of a client of Engine.IO 3 waits until the replica that has
	// answered its handshake has said so.
	keyPatience = 500 * time.Millisecond
	keyInterval = 5 * time.Millisecond
	// pauseForgotten is how long it is remembered that a replica did not answer.
	pauseForgotten = 10 * time.Second
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
func (r keyedReplicas) yield(keys []string) {
	for _, key := range keys {
		r.metrics.KeyConflicts.Inc()
		r.log.Info("sessions of a key are closed: another replica could not reach this one, and has claimed the key")
		sessions, owner := r.keyring.TakeAway(key)
		for owner != nil {
			clientOf(owner).abort(reason.Takeover) // when it returns, the client has the key no more
			sessions, owner = r.keyring.TakeAway(key)
		}
		for _, s := range sessions {
			r.registry.AbortParked(s.PID(), s.Namespace(), reason.OwnerUnreachable)
		}
	}
}

// keysKnown reports whether all replicas that can be reached have told their keys.
func (r keyedReplicas) keysKnown() bool {
	if r.settings().Recovery.Keyed.Query == "" {
		return true
	}
	return r.node.Settled() && !slices.ContainsFunc(r.node.Peers(), func(p cluster.PeerStatus) bool {
		return p.State == "up" && !r.keys.Whole(p.ID)
	})
}

// looking reports whether this replica has just started, and does not know yet which keys the
// others have.
func (r keyedReplicas) looking() bool { return time.Since(r.epoch) < lookingTime && !r.keysKnown() }

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
	case rs.replicas == nil, k.owner, k.looked, k.foreign.Load(), c.deps.keyring.Has(k.key), !m.movable():
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
		waiting := slices.Insert(r.redial.waiting, 0, first)
		r.redial = nil
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
	if holder == "" && rs.looking() || why == reason.OwnerUnreachable && rs.pauses.begins(holder, time.Now()) {
		r.abortFor(reason.TransportClose, "the replica that may have the client's key does not answer yet: it asks again when it is back")
		return
	}
	if holder != "" {
		r.c.deps.metrics.RelayResumed(relayResult(why))
	}
	r.c.keyed.looked = true
	switch why {
	case reason.UnknownPID: // the replica has it no more, or none had it
	case reason.KeyInUse:
		r.c.deps.limitedLog.Log(slog.LevelWarn, "", keyInUseText, "client", r.c.seq)
		r.loseKey(namespace, why)
	case reason.Binding:
		r.loseKey(namespace, why)
	default:
		_, _ = r.c.deps.keyring.Find(r.c.keyed.key, namespace) // one reason is enough
		r.notResumed(namespace, why)
	}
}

// takeMovedKey gives the client its key, and returns why not.
func (c movedClient) takeMovedKey(ask *peerwire.MoveRequest, st *cluster.Stream) (refused reason.Reason) {
	connect, _, err := socketio.TakeRecovery(ask.Connect, session.IsPID, session.IsOffset)
	switch {
	case err != nil, !c.recoverable:
		return reason.Excluded
	case !c.deps.keyring.Has(c.keyed.key):
		if _, why := c.deps.keyring.Find(c.keyed.key, ask.Namespace); why != "" {
			return why
		}
		return reason.UnknownPID
	}
	c.deps.conns.addClient(c.client)
	if refused = c.claimMovedKey(ask.Namespace, connect); refused != "" {
		c.leave()
		return refused
	}
	c.sock.Input(func() {
		for _, m := range ask.HeldAcks {
			c.Message(m.Data, m.Binary)
		}
		c.keyed.owner = true
		keyedReceiver{&c.receiver}.adoptLink(linkOfKey(&c.deps.keyring, c.keyed.key))
	})
	c.deps.replicas.took(c.client, st)
	return ""
}

// claimMovedKey is what connectKeyed does about the key, for a client that may wait here.
func (c movedClient) claimMovedKey(namespace string, connect []byte) (refused reason.Reason) {
	binding := c.deps.binder.Session(c.bindingDigest(), connect)
	for {
		owner, ok := c.deps.keyring.Claim(c.sessionKey(), c.client, namespace, binding)
		other := clientOf(owner)
		switch {
		case !ok:
			return reason.Binding
		case other == nil:
			return ""
		case other.seq > c.seq:
			return reason.Stale
		case !mayHaveChoked(other) && answersWithin(other, aliveTimeout):
			return reason.KeyInUse
		}
		awaitSign(other)
		other.abort(reason.Takeover)
		c.keyed.tookOver = true
	}
}

// forwardHandshake has another replica answer the handshake of a client of Engine.IO 3, if that has
// the client's key. Otherwise it returns why not: "" if no other replica has it.
func (r keyedReplicas) forwardHandshake(w http.ResponseWriter, req *http.Request, key string) (served bool, refused reason.Reason) {
	if r.replicas == nil || r.keyring.Has(key) {
		return false, ""
	}
	ctx, cancel := context.WithTimeout(req.Context(), askTimeout)
	defer cancel()
	holder := r.holderOf(ctx, key)
	if holder == "" {
		return false, ""
	}
	r.conns.addPassing(1)
	defer r.conns.addPassing(-1)
	start := instant.Now()
	st, err := r.ask(ctx, holder, peerwire.StreamHandshake, func() []byte { return r.encodeRequest(req) })
	if req.Context().Err() != nil { // the client has gone
		if st != nil {
			_ = st.Close()
		}
		return true, ""
	}
	r.metrics.RelayAskDuration.Observe(instant.Since(start).Seconds())
	if refused, ok := errors.AsType[*refusedError](err); ok {
		r.metrics.RelayResumed(relayResult(refused.why))
		return false, refused.why
	}
	r.metrics.RelayResumed("resumed")
	if httpmsg.IsUpgrade(req) {
		r.forwardUpgrade(w, st)
		return true, ""
	}
	defer func() { _ = st.Close() }()
	defer context.AfterFunc(req.Context(), func() { _ = st.Close() })()
	r.forwardAnswer(w, req, st)
	return true, ""
}

// serveHandshake answers the handshake of a client of Engine.IO 3 that another replica has passed
// on, if the client's sessions are here. It calls end when the client is known.
func (r keyedReplicas) serveHandshake(st *cluster.Stream, end func()) {
	defer end()
	req, err := peerwire.ParseRequest(st)
	if err != nil {
		r.limitedLog.Log(slog.LevelWarn, "", "another replica's handshake cannot be read", "error", err)
		_ = st.Close()
		return
	}
	q := req.URL.Query()
	h := handshakerV3{&handshaker{deps: r.deps}}
	if !h.settings().handlesV3(q) {
		_ = st.Close() // only a replica with other settings would pass it on
		return
	}
	keyed, upstream := h.keyedV3(q), h.requestV3(req, q.Get("transport") == "websocket")
	l, refused := h.heldLink(keyed, h.binder.Handshake(upstream))
	st.Append(peerwire.Encode(peerwire.MoveReply{Refused: refused}))
	st.Flush()
	if refused != "" {
		_ = st.CloseWrite()
		return
	}
	w := peerwire.NewResponse(st)
	defer w.Finish()
	h.resumeV3(w, req, q, upstream, keyed, l)
}

// heldLink returns the link of the sessions that a client of Engine.IO 3 comes back to, and the key
// with it, or why it does not get them.
func (h handshakerV3) heldLink(keyed *keyedClient, presented string) (l *link, refused reason.Reason) {
	switch {
	case !h.keyring.Has(keyed.key):
		if _, why := h.keyring.Find(keyed.key, socketio.Root); why != "" {
			return nil, why
		}
		return nil, reason.UnknownPID
	case !h.keyring.Accepts(keyed.key, presented):
		return nil, reason.Binding
	case !h.takeKey(keyed):
		return nil, reason.KeyInUse
	}
	if l = h.linkFor(keyed, presented); l == nil { // it had just begun, and is gone
		return nil, reason.UnknownPID
	}
	return l, ""
}

// forwardByKey forwards a request of a client of Engine.IO 3 with a key to the replica that has the
// key. A request that belongs nowhere is refused: its sid is the server's, which would take it for
// one of the link.
func (r keyedReplicas) forwardByKey(w http.ResponseWriter, req *http.Request, q url.Values) {
	key := r.keyring.Digest(r.settings().usableKey(q))
	until := time.Now().Add(keyPatience)
	more := func() bool { return !r.keyring.Has(key) && (time.Now().Before(until) || r.looking()) }
	if holder := r.awaitHolder(req.Context(), key, more); holder != "" {
		r.forward(w, req, holder)
		return
	}
	writeAnswer(r.log, w, req, engineio.ErrorAnswer(engineio.CodeUnknownSID))
}

// ownerPauses are the replicas that do not answer. For the first two seconds their clients are sent
// away to ask again, because a CONNECT cannot wait that long. Then they get fresh sessions. The
// zero value is empty.
type ownerPauses struct {
	mu   sync.Mutex // guards list
	list map[string]ownerPause
}

type ownerPause struct{ began, latest time.Time }

// begins notes that a replica has not answered. It reports whether that began a moment ago.
func (p *ownerPauses) begins(owner string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == nil {
		p.list = make(map[string]ownerPause)
	}
	maps.DeleteFunc(p.list, func(_ string, o ownerPause) bool { return now.Sub(o.latest) > pauseForgotten })
	o, ok := p.list[owner]
	if !ok {
		o.began = now.Add(-keyAskTimeout)
	}
	o.latest = now
	p.list[owner] = o
	return now.Sub(o.began) < askTimeout
}

// over notes that a replica has answered.
func (p *ownerPauses) over(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.list, owner)
}
