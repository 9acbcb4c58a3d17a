package proxy

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// serveMove takes a client over from another replica, if it gets the session that it claims. It
// calls end when the client is known.
func (r *replicas) serveMove(st *cluster.Stream, end func()) {
	end = sync.OnceFunc(end)
	defer end()
	var ask peerwire.MoveRequest
	if err := json.Unmarshal(st.About(), &ask); err != nil {
		_ = st.Close()
		return
	}
	c, err := r.newMovedClient(&ask)
	if err != nil {
		r.log.Warn("another replica's request to move a client cannot be read", "error", err)
		_ = st.Close()
		return
	}
	defer c.recoverRequest()
	var refused reason.Reason
	if c.keyed != nil {
		refused = c.takeMovedKey(&ask, st)
	} else {
		refused = c.resumeMoved(&ask, st)
	}
	end()
	st.Append(peerwire.Encode(peerwire.MoveReply{Refused: refused}))
	st.Flush()
	if refused != "" {
		_ = st.CloseWrite()
		return
	}
	var state peerwire.MoveState
	_ = st.SetReadDeadline(time.Now().Add(stateTimeout))
	if err := peerwire.Read(st, &state); err != nil {
		c.lost(err)
		return
	}
	_ = st.SetReadDeadline(time.Time{})
	c.startMoved(&state, st)
}

// newMovedClient returns a client for a connection that another replica accepted.
func (r *replicas) newMovedClient(ask *peerwire.MoveRequest) (movedClient, error) {
	req, err := savedRequest(ask.Head).restore(ask.ByWebSocket)
	if err != nil {
		return movedClient{}, err
	}
	q, err := url.ParseQuery(req.RawQuery)
	if err != nil {
		q = url.Values{} // the edge has read what can be read
	}
	s := r.deps
	opts := engineio.Options{
		PingInterval: time.Duration(ask.Ping[0]) * time.Millisecond, PingTimeout: time.Duration(ask.Ping[1]) * time.Millisecond,
		MaxPayload: ask.MaxPayload, Upgrades: ask.Upgrades, HandshakeID: ask.HandshakeID,
		UpgradeTimeout: s.settings().EngineIO.UpgradeTimeout,
	}
	// The edge has checked the other conditions.
	recoverable, keyed := s.settings().clientFilter(q, req.Header.Get("User-Agent")), (*keyedClient)(nil)
	if len(ask.Key) > 0 {
		recoverable, keyed = s.settings().Recovery.Keyed.Query != "", &keyedClient{key: string(ask.Key), counts: ask.Counts}
	}
	recoverable = recoverable && s.settings().Recovery.MaxDisconnectionDuration > 0
	age := time.Duration(ask.Age) * time.Millisecond
	c := newClient(s, r.movedSeq(ask), req, ask.SID, opts, recoverable, keyed)
	c.opened = instant.Now().Add(-age)
	c.connectDelay.Store(ask.ConnectDelay)
	c.receiver.parser.move(parserSocketIO)
	c.primary.setLazy()
	c.pollHeaders = ask.PollHeaders
	c.sender.watch = ask.Watch
	if a, err := netip.ParseAddr(ask.Address); err == nil {
		c.address = a
	}
	return movedClient{c}, nil
}

// movedClient is a client that another replica accepted.
type movedClient struct{ *client }

// resumeMoved gives the client the session that it claims, and returns why not.
func (c movedClient) resumeMoved(ask *peerwire.MoveRequest, st *cluster.Stream) (refused reason.Reason) {
	claim, refused := c.movedClaim(ask)
	if refused != "" {
		return refused
	}
	c.deps.conns.addArriving(c.client)
	c.sock.Input(func() {
		for _, m := range ask.HeldAcks {
			c.Message(m.Data, m.Binary)
		}
		var closed bool
		if refused, closed = c.receiver.tryResume(claim, instant.Now()); closed {
			refused = reason.Internal // held acknowledgements that violate the protocol, at the most
		}
		c.receiver.namespaces = append(c.receiver.namespaces, claim.Namespace)
	})
	if refused != "" {
		c.leave()
		return refused
	}
	c.deps.replicas.took(c.client, st)
	return ""
}

// movedClaim returns what the client claims, or why it cannot have it.
func (c movedClient) movedClaim(ask *peerwire.MoveRequest) (claim session.Claim, refused reason.Reason) {
	rest, rec, err := socketio.TakeRecovery(ask.Connect, session.IsPID, session.IsOffset)
	switch {
	case err != nil || rec.PID == "":
		return claim, reason.UnknownPID
	case !c.recoverable, !c.deps.settings().recoverable(ask.Namespace):
		return claim, reason.Excluded
	}
	return c.receiver.claim(ask.Namespace, rest, rec), ""
}

// startMoved continues the client's transport.
func (c movedClient) startMoved(state *peerwire.MoveState, st *cluster.Stream) {
	if len(state.Messages) > 0 {
		c.sock.Input(func() {
			for _, m := range state.Messages {
				c.Message(m.Data, m.Binary)
			}
		})
	}
	if state.WebSocket {
		c.transport.upgrade()
		c.deps.replicas.took(c.client, nil)
		c.sock.StartMoved(state.Transfer, st)
		c.deps.conns.arrived(c.client)
		return
	}
	c.sock.StartMoved(state.Transfer, nil)
	c.deps.conns.arrived(c.client)
	st.Append([]byte{1})
	st.Flush()
	st.OnEnd(func(err error) { go c.lost(err) }) // ends when the sessions are parked
}

// lost closes a client whose edge is gone, or has reported the client's end.
func (c movedClient) lost(err error) {
	defer c.recoverPanic()
	why := reason.TransportClose
	if errors.Is(err, netpoll.ErrPeerLost) || errors.Is(err, io.EOF) {
		why = reason.PeerLost
	}
	c.abort(why)
}

// serveProbe serves a WebSocket to which a client that was moved here may upgrade.
func (r *replicas) serveProbe(st *cluster.Stream) {
	var p peerwire.Probe
	if err := json.Unmarshal(st.About(), &p); err != nil {
		_ = st.Close()
		return
	}
	c := r.conns.client(p.SID)
	if c == nil {
		_ = st.Close()
		return
	}
	c.sock.ServeMovedProbe(st, p.Answered, p.Input)
}

// abandon ends the session that a client claimed while this replica could not be asked: the client
// got a fresh one. Only a claim that would have been granted counts.
func (r *replicas) abandon(ask *peerwire.MoveRequest) {
	c, err := r.newMovedClient(ask)
	if err != nil {
		return
	}
	why := reason.OwnerUnreachable
	if ask.Why == reason.OwnerConflict {
		why = reason.OwnerConflict
	}
	claim, refused := c.movedClaim(ask)
	for refused == "" {
		got, closed := c.reattach(claim, instant.Now())
		switch {
		case got.Takeover != nil:
			clientOf(got.Takeover).abort(reason.Takeover)
			continue
		case got.Cursor != nil:
			r.registry.Abort(got.Cursor, why)
		}
		if !closed {
			c.detach(func(detachedClient) {})
		}
		return
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
	c.deps.conns.addArriving(c.client)
	if refused = (keyedReceiver{&c.receiver}).awaitKey(ask.Namespace, connect); refused != "" {
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
