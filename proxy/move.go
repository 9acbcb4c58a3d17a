package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/relay"
)

// How a client moves from the edge to the owner of its session, on one stream:
//
//	edge   -> owner  peerwire.MoveRequest: the client's handshake, and its CONNECT with pid and offset
//	owner  -> edge   peerwire.MoveReply: why the owner refuses, or that the client has its session now
//	edge   -> owner  peerwire.MoveState: the state of the transport
//	owner  -> edge   one byte, if the client polls: requests with its sid may come
//
// From then on the stream carries the bytes of the client's WebSocket. If the client polls, it
// carries nothing: its end says that the client, or the edge, is gone.

// stateTimeout limits how long the edge may take to send the peerwire.MoveState.
const stateTimeout = 10 * time.Second

// moveTo asks another replica, which owns the session of the CONNECT, to take the client. It
// returns false if the client cannot be moved. Otherwise the client is paused until the owner has
// answered. rest is the CONNECT without pid and offset.
func (r mover) moveTo(owner, namespace string, connect, rest []byte) bool {
	c := r.c
	c.deps.replicas.lost.presented(claimedPID(connect), c)
	if lost := c.deps.replicas.lost.of(c); lost.id == owner { // another wait would tell nothing new
		r.refused(owner, r.moveRequest(namespace, connect), lost.why)
		return false
	}
	if !r.movable() {
		r.refused(owner, r.moveRequest(namespace, connect), reason.OwnerConflict)
		return false
	}
	ask := r.moveRequest(namespace, connect)
	rest = slices.Clone(rest)
	r.awaitLink(func() { r.runMove(owner, ask, rest) }) // ends within askTimeout, or soon after the client has gone
	return true
}

func (r mover) moveRequest(namespace string, connect []byte) *peerwire.MoveRequest {
	c := r.c
	opts := c.sock.Options()
	ask := &peerwire.MoveRequest{
		SID: c.sock.SID(), Head: string(c.request), ByWebSocket: c.transport.begunByWebSocket(),
		ConnectDelay: c.connectDelay.Load(), Ping: [2]int64{opts.PingInterval.Milliseconds(), opts.PingTimeout.Milliseconds()},
		MaxPayload: opts.MaxPayload, Upgrades: opts.Upgrades, HandshakeID: opts.HandshakeID, PollHeaders: c.pollHeaders,
		Watch:     c.sender.watches() + 1, // one may just be on its way
		Namespace: namespace, Connect: slices.Clone(connect),
	}
	if c.address.IsValid() {
		ask.Address = c.address.String()
	}
	if r.heldAcks != nil {
		for _, p := range r.heldAcks.packets {
			ask.HeldAcks = append(ask.HeldAcks, peerwire.Message{Data: p.data})
			for _, a := range p.attachments {
				ask.HeldAcks = append(ask.HeldAcks, peerwire.Message{Data: a, Binary: true})
			}
		}
	}
	return ask
}

// runMove asks the owner, and hands the client over or continues here.
func (r mover) runMove(owner string, ask *peerwire.MoveRequest, rest []byte) {
	c := r.c
	start := time.Now()
	st, err := r.askOwner(ask, askTimeout, func(context.Context) string { return owner })
	if errors.Is(err, errClientGone) {
		return
	}
	c.deps.metrics.RelayAskDuration.Observe(time.Since(start).Seconds())
	c.sock.Input(func() {
		waiting := r.takeWaiting()
		refused, ok := errors.AsType[*refusedError](err)
		if !ok {
			if !r.handOver(st, owner, waiting) {
				_ = st.Close() // the client has gone
			}
			return
		}
		r.refused(owner, ask, refused.why)
		r.connectInstead(ask.Namespace, rest, waiting)
	})
}

// refused notes that the client does not get a session of another replica.
func (r mover) refused(owner string, ask *peerwire.MoveRequest, why reason.Reason) {
	why = r.c.deps.replicas.handovers.refusal(owner, why)
	lost := &r.c.deps.replicas.lost
	switch why { //nolint:exhaustive // the others are the owner's answer
	case reason.OwnerConflict:
		lost.miss(r.c, ask)
		lost.abandon(r.c, owner, ask, why)
	case reason.OwnerUnreachable, reason.OwnerGone, reason.OwnerIncompatible:
		lost.miss(r.c, ask)
		if why == reason.OwnerUnreachable || r.c.deps.replicas.node.MayReturn(owner) {
			lost.abandon(r.c, owner, ask, why)
		}
		lost.add(r.c, lostOwner{owner, why})
	}
	r.c.deps.metrics.RelayResumed(relayResult(why))
	r.notResumed(ask.Namespace, why)
}

// relayResult shortens the reasons for a metric's label: what the owner itself refuses is counted
// elsewhere.
func relayResult(why reason.Reason) string {
	switch why { //nolint:exhaustive // the others are the owner's
	case reason.OwnerGone, reason.OwnerUnreachable, reason.OwnerIncompatible, reason.OwnerConflict:
		return string(why)
	}
	return "refused"
}

// refusedError says why the owner did not take a client.
type refusedError struct{ why reason.Reason }

func (e *refusedError) Error() string { return "proxy: refused by the owner: " + string(e.why) }

// askOwner asks the owner to take the client. find may wait until it knows the owner; without one
// the error says UnknownPID. The error is errClientGone or a *refusedError.
func (r mover) askOwner(ask *peerwire.MoveRequest, timeout time.Duration, find func(ctx context.Context) string) (*cluster.Stream, error) {
	c := r.c
	ctx, cancel, ok := c.primary.beginAsk(timeout)
	if !ok {
		return nil, errClientGone
	}
	defer cancel()
	st, err := (*cluster.Stream)(nil), error(&refusedError{reason.UnknownPID})
	if owner := find(ctx); owner != "" {
		st, err = c.deps.replicas.ask(ctx, owner, peerwire.StreamMove, func() []byte {
			c.deps.replicas.date(ask, c.opened, owner)
			return ask.Encode()
		})
	}
	if !c.primary.endAsk() {
		if st != nil {
			_ = st.Close()
		}
		return nil, errClientGone
	}
	return st, err
}

// ask asks the owner once, or again if the connection to it ended meanwhile, as in a restart. about
// returns what to ask. The error is a *refusedError.
func (r *replicas) ask(ctx context.Context, owner string, kind byte, about func() []byte) (*cluster.Stream, error) {
	deadline, _ := ctx.Deadline()
	for resets := 0; ; {
		if err := r.node.Await(ctx, owner); err != nil {
			return nil, &refusedError{unreachable(err)}
		}
		st, err := r.node.Open(ctx, owner, kind, about())
		if err != nil {
			return nil, &refusedError{unreachable(err)}
		}
		var reply peerwire.MoveReply
		_ = st.SetReadDeadline(deadline)
		unwatch := context.AfterFunc(ctx, func() { _ = st.Close() })
		err = peerwire.Read(st, &reply)
		_ = st.SetReadDeadline(time.Time{})
		switch {
		case !unwatch() || err != nil:
			_ = st.Close()
			if errors.Is(err, cluster.ErrReset) {
				resets++ // a later connection has taken the session over, or something is wrong: the next answer tells
			} else if !errors.Is(err, netpoll.ErrPeerLost) {
				resets = 2 // it hangs
			}
			if resets > 1 || ctx.Err() != nil {
				return nil, &refusedError{reason.OwnerUnreachable}
			}
		case reply.Refused != "":
			r.pauses.over(owner)
			_ = st.Close()
			return nil, &refusedError{reply.Refused}
		default:
			r.pauses.over(owner)
			return st, nil
		}
	}
}

// handOver moves the client to the owner that has accepted it. The Socket's input lock is held. It
// returns false if the client has gone.
func (r mover) handOver(st *cluster.Stream, owner string, waiting []message) bool {
	c := r.c
	rs := c.deps.replicas
	relays := make(map[netpoll.Stream]*relay.Relay, 1)
	sid, m := c.sock.SID(), &movedAway{owner: owner, stream: st, ready: make(chan struct{})}
	rs.mu.Lock()
	rs.moved[sid] = m // requests that find the Socket detached look here
	rs.mu.Unlock()
	d, ok := c.sock.Detach(func(client netpoll.Stream) netpoll.Handler {
		relays[client] = relay.New(rs, client)
		return relays[client].ClientHandler()
	})
	if !ok {
		rs.forgetMoved(sid, m)
		close(m.ready)
		return false
	}
	state := peerwire.MoveState{Transfer: d.Transfer}
	for _, m := range waiting {
		state.Messages = append(state.Messages, peerwire.Message{Data: m.data, Binary: m.binary})
	}
	st.Append(peerwire.Encode(state))
	st.Flush()
	if d.WebSocket {
		rs.forgetMoved(sid, m)
		close(m.ready)
		relays[d.Stream].Start(st)
	} else {
		var probe *relay.Relay
		if d.Probe != nil {
			probe = relays[d.Probe.Stream]
		}
		go rs.watchMoved(sid, m, d.Probe, probe) // ends when the owner serves the client
	}
	c.deps.metrics.RelayResumed("resumed")
	c.deps.log.Debug("client moved to the owner of its session", "client", c.seq, "owner", owner)
	c.leave()
	return true
}

// watchMoved waits until the owner serves a polling client, and then moves the WebSocket that
// probes.
func (r *replicas) watchMoved(sid string, m *movedAway, d *engineio.Probe, probe *relay.Relay) {
	var started [1]byte
	_ = m.stream.SetReadDeadline(time.Now().Add(stateTimeout))
	_, err := io.ReadFull(m.stream, started[:])
	_ = m.stream.SetReadDeadline(time.Time{})
	close(m.ready)
	m.stream.OnEnd(func(error) { r.forgetMoved(sid, m) })
	if err != nil {
		_ = m.stream.Close()
		r.forgetMoved(sid, m)
	}
	if probe == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	about, _ := json.Marshal(peerwire.Probe{SID: sid, Answered: d.Answered, Input: d.Input})
	st, openErr := r.node.Open(ctx, m.owner, peerwire.StreamProbe, about)
	if err != nil || openErr != nil {
		probe.Abort() // the client continues to poll
		return
	}
	probe.Start(st)
}

// forgetMoved forgets a polling client that its owner no longer serves.
func (r *replicas) forgetMoved(sid string, m *movedAway) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.moved[sid] == m {
		delete(r.moved, sid)
	}
}
