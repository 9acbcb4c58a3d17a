package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/relay"
)

// peerServer serves the streams and notes of other replicas. It is also the cluster.Observer.
type peerServer struct{ *replicas }

// newReplicas makes the Server one of several replicas.
func newReplicas(d *deps, opts cluster.Options) *replicas {
	r := &replicas{
		deps: d, epoch: time.Now(), moved: make(map[string]*movedAway), relays: make(map[*relay.Relay]struct{}),
		taken: make(map[*client]*cluster.Stream),
	}
	r.drained, r.cut = context.WithCancel(context.Background())
	r.lost = newLostOwners(r)
	p := peerServer{r}
	opts.Serve, opts.Noted, opts.Observer, opts.Log, opts.Clock = p.serve, p.noted, p, d.log, r.clock
	opts.Expected = r.handovers.expects
	r.node = cluster.New(opts)
	r.keys = keys.NewDirectory(opts.ID, r.clock, d.keyring.Claims, keyedReplicas{r}.sendKeys)
	d.keyring.Join(r.keys, keys.ClusterSalt(opts.Name))
	d.registry.SetOwner(opts.ID)
	return r
}

// begin records that a move is in progress, as conns.opening does. While this process hands over to
// another one it waits: either the handover fails, or st ends. It tells the client to come back
// before the edge gives up.
func (r peerServer) begin(st *cluster.Stream) (end func(), ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout/2)
	defer cancel()
	var gone atomic.Bool
	st.OnEnd(func(error) {
		gone.Store(true)
		cancel()
	})
	r.conns.await(ctx, func() bool {
		if ok = !r.phase.is(phaseLeaving); ok {
			r.conns.openings++
		}
		return ok
	})
	switch {
	case ok:
		return func() { r.conns.add(&r.conns.openings, -1) }, true
	case !gone.Load():
		st.Append(peerwire.Encode(peerwire.MoveReply{Refused: reason.Handover}))
		st.Flush()
		_ = st.CloseWrite()
	}
	return nil, false
}

// serve serves a stream that another replica has opened.
func (r peerServer) serve(st *cluster.Stream) {
	defer r.recoverPeer(st)
	switch st.Kind() {
	case peerwire.StreamMove:
		if end, ok := r.begin(st); ok {
			r.serveMove(st, end)
		}
	case peerwire.StreamRequest:
		r.serveRequest(st)
	case peerwire.StreamProbe:
		r.serveProbe(st)
	case peerwire.StreamHandshake:
		if end, ok := r.begin(st); ok {
			keyedReplicas(r).serveHandshake(st, end)
		}
	case peerwire.StreamEnded:
		keyedReplicas(r).serveEnded(st)
	default:
		_ = st.Close() // only another version would open it
	}
}

// recoverPeer is deferred where a stream of another replica is served.
func (r peerServer) recoverPeer(st net.Conn) {
	if v := recover(); v != nil {
		_ = st.Close()
		if v != http.ErrAbortHandler { //nolint:errorlint // as in recoverRequest
			r.reportPanic(v)
		}
	}
}

// noted takes a note of another replica.
func (r peerServer) noted(from cluster.Sender, kind byte, about []byte) {
	switch kind { // others are of another version
	case peerwire.NoteKeys:
		keyedReplicas(r).notedKeys(from, about)
	case peerwire.NoteHandover:
		r.handovers.noted(from.ID, about)
	case peerwire.NoteDoubt:
		r.lost.notedDoubt(from.ID, about)
	case peerwire.NoteReturned:
		r.lost.notedReturned(string(about))
	case peerwire.NoteAbandoned:
		var ask peerwire.MoveRequest
		if json.Unmarshal(about, &ask) == nil {
			go r.abandon(&ask) // ends when the session is closed
		}
	}
}

// serveRequest serves a request that another replica forwards.
func (r peerServer) serveRequest(st *cluster.Stream) {
	req, err := peerwire.ParseRequest(st)
	if err != nil {
		r.limitedLog.Log(slog.LevelWarn, "", "another replica's request cannot be read", "error", err)
		_ = st.Close()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q := req.URL.Query()
	c := r.conns.client(q.Get("sid"))
	w := peerwire.NewResponse(st)
	defer w.Finish()
	if c == nil && handles(req, q) { // it may have been moved on
		if owner := r.movedTo(ctx, q.Get("sid")); owner != "" {
			st.OnEnd(func(error) { cancel() })
			r.forward(w, req.WithContext(ctx), owner)
			return
		}
	}
	if c == nil || !handles(req, q) {
		writeAnswer(r.log, w, req, engineio.ErrorAnswer(engineio.CodeUnknownSID))
		return
	}
	st.OnEnd(func(err error) {
		if !errors.Is(err, netpoll.ErrPeerLost) {
			cancel()
			return
		}
		go func() { // ends when the sessions are parked; the client cannot be reached
			defer cancel() // only now: a poll that is canceled would be the client's fault
			movedClient{c}.lost(err)
		}()
	})
	c.serve(w, req.WithContext(ctx), q)
}

// PeerLost implements cluster.Observer.
func (r peerServer) PeerLost(why string) { r.metrics.PeerLost(why) }

// RoundTrip implements cluster.Observer.
func (r peerServer) RoundTrip(took time.Duration) {
	r.metrics.PeerRoundTrip.Observe(took.Seconds())
}

// LookupFailed implements cluster.Observer.
func (r peerServer) LookupFailed() { r.metrics.PeerLookupFailures.Inc() }

// Returned implements cluster.Observer.
func (r peerServer) Returned(id string) {
	r.keys.Connected(id)
	r.handovers.served(id)
	go r.lost.returned(id) // ends when the notes are queued; the caller holds nothing, but must not wait
}

// Gone implements cluster.Observer.
func (r peerServer) Gone(id string) {
	r.keys.Forget(id)
	r.lost.gone(id)
}
