package proxy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/relay"
	"github.com/holdfast/holdfast/session"
)

// A session can be served only by the replica that has its link: its owner, whose id its pid names.
// A client that reaches another replica, the edge, is moved to the owner: the owner's Socket
// continues its connection, and the edge relays bytes. docs/design.md has the whole under "Several
// replicas".
//
//   - replicas.go has what the Server knows about other replicas.
//   - move.go asks an owner for a session, and hands the client over (edge).
//   - moved.go takes a client over (owner).
//   - relay.go relays the bytes of a moved client's WebSocket (edge).
//   - keydirectory.go has what replicas know of each other's keys. keymove.go finds the replica
//     that has the key of a client, on both sides.
//   - forward.go forwards requests whose sid names another replica, on both sides.

// replicas is what the Server knows about other replicas. A nil *replicas knows none.
type replicas struct {
	*deps
	node      *cluster.Node
	keys      *keys.Directory
	epoch     time.Time
	ahead     int64 // of the time since epoch, in microseconds; set before anything is served
	lost      lostOwners
	pauses    ownerPauses
	handovers handovers

	mu      sync.Mutex // guards the fields below; a leaf
	lastSeq uint64
	moved   map[string]*movedAway     // polling clients that began here and are served elsewhere, by sid
	relays  map[*relay.Relay]struct{} // WebSockets that are relayed to other replicas
	// taken are the clients that were moved here, and the stream whose end says so; nil if it
	// carries a WebSocket.
	taken map[*client]*cluster.Stream

	drained context.Context // ends when everything that is relayed or forwarded is cut
	cut     context.CancelFunc
}

// movedAway is a polling client that is served by another replica.
type movedAway struct {
	owner  string
	stream *cluster.Stream
	ready  chan struct{} // closed when the owner serves the client
}

// errLooking is returned by Ready until this replica has looked for others: a client of another one
// might not find its session before.
var errLooking = errors.New("proxy: looking for other replicas")

// lookingTime limits how long a replica is not ready because of that.
const lookingTime = 3 * time.Second

func (r *replicas) ready() bool {
	return r == nil || time.Since(r.epoch) > lookingTime || r.node.Settled() && r.keysKnown()
}

// newSID returns a random Engine.IO session id. Among several replicas it begins with this one's
// id.
func (r *replicas) newSID() string {
	if r == nil {
		return newSID()
	}
	return r.node.ID() + newSID()
}

// clock is what numbers clients: microseconds, which never go back while the process runs, or hands
// over to another.
func (r *replicas) clock() int64 {
	return r.epoch.UnixMicro() + r.ahead + time.Since(r.epoch).Microseconds()
}

// advance sets the clock ahead if it shows less than n, the latest number of the process before.
// The wall clock may have been set back since that one began. It is called before anything is
// served.
func (r *replicas) advance(n uint64) {
	r.ahead += max(0, int64(n)+1-r.clock())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastSeq = max(r.lastSeq, n)
}

// clusterNode returns this replica's node, or nil without a cluster.
func (r *replicas) clusterNode() *cluster.Node {
	if r == nil {
		return nil
	}
	return r.node
}

// seq numbers a client that has just arrived. Among several replicas the numbers are times, so that
// clients of other replicas find their place.
func (r *replicas) seq() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastSeq = max(r.lastSeq+1, uint64(r.clock()))
	return r.lastSeq
}

// movedSeq numbers a client of another replica. A request that was long in transit seems later than
// it was, so the time by this replica's clock counts if the other one knows it.
// It alone counts if the owner was asked before: the first request may have been granted by it, and
// this one must not seem earlier.
func (r *replicas) movedSeq(ask *peerwire.MoveRequest) uint64 {
	if ask.Again && ask.At > 0 {
		return uint64(min(ask.At, r.clock()))
	}
	at := r.clock() - max(ask.Age, 1)*time.Millisecond.Microseconds()
	if ask.At > 0 {
		at = min(at, ask.At)
	}
	return uint64(at)
}

// date sets when a client's handshake was, for the owner that is asked now. If it is asked again,
// it may have granted the request, so that must seem a little later.
func (r *replicas) date(ask *peerwire.MoveRequest, opened instant.Instant, owner string) {
	age := instant.Since(opened)
	ask.Age = age.Milliseconds()
	if ask.At > 0 {
		ask.At++
		ask.Again = true
	} else if now, ok := r.node.ClockOf(owner); ok {
		ask.At = now - age.Microseconds()
	}
}

// tellAbandoned tells an owner, if it is connected, that a client does not come back to its
// session. The client may have returned to the owner itself since, with a later handshake, so the
// note says when the one here was.
func (r *replicas) tellAbandoned(a *abandonment) bool {
	ask := *a.ask
	r.date(&ask, a.opened, a.owner)
	return r.node.Note(a.owner, peerwire.NoteAbandoned, ask.Encode())
}

// ownerOf returns the id of the other replica that has the session with this pid, or "".
func (r *replicas) ownerOf(pid string) string {
	if r == nil {
		return ""
	}
	if owner := session.OwnerOf(pid); owner != r.node.ID() {
		return owner
	}
	return ""
}

// movedTo returns the other replica that serves a polling client which began here, or "". It may
// wait until a client that is just being moved is served.
func (r *replicas) movedTo(ctx context.Context, sid string) string {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	m := r.moved[sid]
	r.mu.Unlock()
	if m == nil {
		return ""
	}
	select {
	case <-m.ready:
		return m.owner
	case <-ctx.Done():
		return ""
	}
}

// serverOf returns the other replica that serves the client with this sid, or knows which one does,
// or "".
func (r *replicas) serverOf(ctx context.Context, sid string) string {
	if r == nil {
		return ""
	}
	if owner := r.movedTo(ctx, sid); owner != "" {
		return owner
	}
	if len(sid) != cluster.IDLen+sidLen {
		return ""
	}
	if id := sid[:cluster.IDLen]; cluster.ValidID(id) && id != r.node.ID() && r.node.Knows(id) {
		return id
	}
	return ""
}

// took notes that a client was moved here, or that st carries its WebSocket if that is nil.
func (r *replicas) took(c *client, st *cluster.Stream) {
	r.mu.Lock()
	r.taken[c] = st
	r.mu.Unlock()
	if c.done.HasFired() {
		r.left(c)
	}
}

// hasTaken reports whether a client was moved here.
func (r *replicas) hasTaken(c *client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.taken[c]
	return ok
}

// left forgets a client that was moved here and is gone.
func (r *replicas) left(c *client) {
	if r == nil {
		return
	}
	r.lost.forget(c)
	r.mu.Lock()
	st := r.taken[c]
	delete(r.taken, c)
	r.mu.Unlock()
	if st != nil {
		_ = st.Close() // tells the edge
	}
}

// closeAll ends everything that is relayed to other replicas. The clients reconnect elsewhere and
// recover.
func (r *replicas) closeAll() {
	if r == nil {
		return
	}
	r.cut()
	r.endRelays()
}

// endRelays ends what is relayed to other replicas. What a client sends until it has ended its side
// is still passed on.
func (r *replicas) endRelays() {
	if r == nil {
		return
	}
	r.mu.Lock()
	relays := slices.Collect(maps.Keys(r.relays))
	moved := r.moved
	r.moved = make(map[string]*movedAway)
	r.mu.Unlock()
	for _, p := range relays {
		p.End()
	}
	for _, m := range moved {
		_ = m.stream.Close()
	}
}

// RelayStarted implements relay.Owner.
func (r *replicas) RelayStarted(p *relay.Relay) {
	r.conns.addPassing(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relays[p] = struct{}{}
}

// RelayEnded implements relay.Owner.
func (r *replicas) RelayEnded(p *relay.Relay) {
	r.mu.Lock()
	delete(r.relays, p)
	r.mu.Unlock()
	r.conns.addPassing(-1)
}

// RelayPanicked implements relay.Owner.
func (r *replicas) RelayPanicked(v any) { r.reportPanic(v) }

// counts returns how many clients are relayed to and from other replicas.
func (r *replicas) counts() (edge, owner int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.relays) + len(r.moved), len(r.taken)
}

// refreshMetrics sets the gauges.
func (r *replicas) refreshMetrics() {
	if r == nil {
		return
	}
	edge, owner := r.counts()
	r.metrics.Relays.Edge.Set(float64(edge))
	r.metrics.Relays.Owner.Set(float64(owner))
	states := make(map[string]int)
	for _, p := range r.node.Peers() {
		states[p.State]++
	}
	r.metrics.SetPeers(states)
	r.metrics.PeerKeys.Set(float64(r.keys.Count()))
}

// listedPeers is how many other replicas a status report lists.
const listedPeers = 100

// report describes the other replicas.
func (r *replicas) report(to *status.Cluster, now time.Time) {
	if r == nil {
		return
	}
	to.ID = r.node.ID()
	to.RelaysEdge, to.RelaysOwner = r.counts()
	peers := r.node.Peers()
	slices.SortFunc(peers, func(a, b cluster.PeerStatus) int { return strings.Compare(a.Addr, b.Addr) })
	for _, p := range peers[:min(len(peers), listedPeers)] {
		to.Peers = append(to.Peers, status.Peer{
			ID: p.ID, Address: p.Addr, State: p.State, StateSeconds: max(0, now.Sub(p.Since).Seconds()),
			RoundTripSeconds: p.RoundTrip.Seconds(), Streams: p.Streams, Error: status.ShortError(p.Problem),
		})
	}
}

// unreachable maps why an owner cannot be asked to a reason.
func unreachable(err error) reason.Reason {
	switch {
	case errors.Is(err, cluster.ErrGone):
		return reason.OwnerGone
	case errors.Is(err, cluster.ErrIncompatible):
		return reason.OwnerIncompatible
	default:
		return reason.OwnerUnreachable
	}
}

// keysKnown reports whether all replicas that can be reached have told their keys.
func (r *replicas) keysKnown() bool {
	if r.settings().Recovery.Keyed.Query == "" {
		return true
	}
	return r.node.Settled() && !slices.ContainsFunc(r.node.Peers(), func(p cluster.PeerStatus) bool {
		return p.State == "up" && !r.keys.Whole(p.ID)
	})
}

// looking reports whether this replica has just started, and does not know yet which keys the
// others have.
func (r *replicas) looking() bool { return time.Since(r.epoch) < lookingTime && !r.keysKnown() }
