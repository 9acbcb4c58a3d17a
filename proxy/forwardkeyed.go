package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
)

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
		noAnswer()
	}
	r.metrics.RelayAskDuration.Observe(instant.Since(start).Seconds())
	if e, ok := errors.AsType[*refusedError](err); ok {
		refused = r.handovers.refusal(holder, e.why)
		r.metrics.RelayResumed(relayResult(refused))
		return false, refused
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
