package proxy

import (
	"bytes"
	"context"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/internal/upstream"
)

// A client of Engine.IO 3 with a key recovers, too. Its link speaks version 3 with the server. In
// between everything is Socket.IO protocol 5, as for all other clients: the link's translator and
// the client's inDialect convert at the two ends. Two things are special.
//
// The client computes its socket.id from its Engine.IO sid, as the server does. So the sid must be
// the server's, also after a recovery. Therefore holdfast finds the session at the handshake. It
// does not repeat the handshake of a client that resumes: the server would see another user.
//
// The server connects "/" without being asked. So holdfast acts as if the client had sent a CONNECT
// for it.

// handshakerV3 serves the handshakes of clients of Engine.IO 3.
type handshakerV3 struct{ *handshaker }

// serveV3 serves the handshake of a client of Engine.IO 3.
func (h handshakerV3) serveV3(w http.ResponseWriter, r *http.Request, q url.Values, websocket bool) {
	defer h.conns.opening()() // accept.Listener counts only those that it serves
	served, refused := keyedReplicas{h.replicas}.forwardHandshake(w, r, h.keyring.Digest(h.settings().usableKey(q)))
	switch {
	case served:
		return
	case refused == reason.Handover: // the next process has its session in a moment
		httpmsg.RefuseForNow(w, http.StatusServiceUnavailable, "the session is being handed to another process")
		return
	}
	keyed, req := h.keyedV3(q), h.requestV3(r, websocket)
	h.mayUseKey(keyed, refused)
	if l := h.linkFor(keyed, h.binder.Handshake(req)); l != nil {
		h.resumeV3(w, r, q, req, keyed, l)
		return
	}
	h.freshV3(w, r, q, req, keyed)
}

// keyedV3 returns what a client of Engine.IO 3 has.
func (h handshakerV3) keyedV3(q url.Values) *keyedClient {
	k := h.keyedClient(q)
	k.v3 = true
	return k
}

// requestV3 returns a client's handshake in the form that is sent to the upstream.
func (h handshakerV3) requestV3(r *http.Request, websocket bool) engineio.Request {
	req := h.upstreamRequest(r, websocket)
	return engineio.Request{
		Protocol: engineio.V3, WebSocket: websocket, Path: req.Path, RawQuery: withoutBase64(req.RawQuery), Host: req.Host, Header: req.Header,
	}
}

// mayUseKey decides whether a new client may use its key. refused is what another replica has said.
func (h handshakerV3) mayUseKey(k *keyedClient, refused reason.Reason) {
	switch {
	case refused == "" && h.takeKey(k), refused == reason.UnknownPID:
		return
	case refused == "", refused == reason.KeyInUse:
		h.limitedLog.Log(slog.LevelWarn, "", keyInUseText)
		refused = reason.KeyInUse
		k.foreign.Store(true)
	case refused == reason.Binding:
		k.foreign.Store(true)
	}
	h.metrics.RecoveryFailed(refused)
}

// freshV3 makes a handshake with the server for a client without a session.
func (h handshakerV3) freshV3(w http.ResponseWriter, r *http.Request, q url.Values, req engineio.Request, keyed *keyedClient) {
	ctx, cancel := context.WithTimeout(r.Context(), h.settings().Upstream.HandshakeTimeout)
	defer cancel()
	conn, err := h.upstream.Dial(ctx, req)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	opened := false
	defer func() {
		if !opened {
			conn.Close()
		}
	}()
	sid := conn.Handshake().SID
	if h.conns.client(sid) != nil { // go-socket.io counts from 1 again when it is restarted
		sid = h.replicas.newSID()
	}
	a := answer{conn.Handshake(), httpmsg.Without(conn.ResponseHeader(), httpmsg.NotRelayed), upstream.ServerOf(conn)}
	c := h.clientV3(r, q, req, keyed, sid, &a)
	defer c.recoverRequest()
	keyedReceiver{&c.receiver}.claimAtHandshake()
	l, _ := c.newPrimary(conn, "") // a new client is not closed
	l.translator.forV3 = true
	l.reserve(c, socketio.Root, []byte{byte(socketio.Connect)})
	if opened = h.open(w, r, c, a, l); !opened {
		c.abort(reason.TransportClose) // it has its key
	}
}

// takeKey takes the key from another client that has it. It returns false if that one shows a sign
// of life.
func (h handshakerV3) takeKey(k *keyedClient) bool {
	other := clientOf(h.keyring.Owner(k.key))
	switch {
	case other == nil:
	case !mayHaveChoked(other) && answers(other):
		return false
	default:
		other.abort(reason.Takeover)
		k.tookOver = true
	}
	return true
}

// linkFor returns the link of the sessions that a client may resume, or nil. presented is the
// digest of what its handshake presents.
func (h handshakerV3) linkFor(k *keyedClient, presented string) *link {
	if k.foreign.Load() {
		return nil
	}
	for _, s := range h.keyring.SessionsFor(k.key, presented) {
		if l := linkOf(s); l.translator != nil && l.translator.forV3 {
			return l
		}
	}
	return nil
}

// claimAtHandshake makes the client the owner of its key. If that fails, the client is served without
// recovery.
func (r keyedReceiver) claimAtHandshake() {
	c, k := r.c, r.c.keyed
	if k.foreign.Load() {
		return
	}
	binding := c.deps.binder.Session(c.bindingDigest(), []byte{byte(socketio.Connect)})
	if owner, ok := claimKey(c, socketio.Root, binding); !ok || owner != nil {
		k.foreign.Store(true)
		return
	}
	r.ownKey()
	if pid, why := c.deps.keyring.Find(k.key, socketio.Root); pid == "" {
		r.reportEnd(socketio.Root, why)
	}
}

// resumeV3 answers the handshake of a client that has sessions on l, and resumes that of "/".
func (h handshakerV3) resumeV3(w http.ResponseWriter, r *http.Request, q url.Values, req engineio.Request, keyed *keyedClient, l *link) {
	sid := l.conn.Handshake().SID
	t, dated := yeast(q.Get("t"))
	switch {
	case h.conns.client(sid) != nil, !req.WebSocket && !dated:
		// A late request of the previous connection could not be told from one of this connection.
		sid = h.replicas.newSID()
	case !req.WebSocket:
		keyed.since = t
	}
	a := answer{engineio.Handshake{Upgrades: []string{"websocket"}}, httpmsg.CORSHeader(r), nil}
	c := h.clientV3(r, q, req, keyed, sid, &a)
	defer c.recoverRequest()
	c.primary.setLazy()
	if !(keyedReceiver{&c.receiver}).resumeRoot() {
		c.abort(reason.TransportClose)
		httpmsg.RefuseForNow(w, http.StatusServiceUnavailable, "the session has just ended, or another connection has it: ask again")
		return
	}
	c.closeUnlessConnected(connectTimeout)
	if h.open(w, r, c, a, nil) {
		c.sock.Wake()
	} else {
		c.abort(reason.TransportClose)
	}
}

// resumeRoot resumes the session of "/", if there is one: the client does not ask for it. It returns
// false if the handshake must not be answered, because the client would never be connected to "/":
// its sessions have just ended, or another client has the key. Of two handshakes that come at the
// same time, both find the key free (takeKey), and one of them gets it.
func (r keyedReceiver) resumeRoot() (ok bool) {
	c, ring := r.c, &r.c.deps.keyring
	if pid, _ := ring.Find(c.keyed.key, socketio.Root); pid == "" {
		return ring.AnySession(c.keyed.key) != nil // the client asks for the other namespaces
	}
	p := packet{data: []byte{byte(socketio.Connect)}}
	if err := p.h.Parse(p.data); err != nil {
		return false
	}
	switch why := r.awaitKey(socketio.Root, p.data); why {
	case "":
	case reason.KeyInUse, reason.OwnerUnreachable: // it asks again, and is told then
		return false
	default:
		c.notRecovered(socketio.Root, why)
		return false
	}
	c.sock.Input(func() {
		c.keyed.owner = true
		r.adoptLink(linkOfKey(ring, c.keyed.key))
		r.connect(&p)
	})
	return !c.done.HasFired()
}

// connectV3 handles a CONNECT of a client of Engine.IO 3. The namespace may have a query, in which
// socket.io-client repeats that of the URL, key included.
func connectV3(r *receiver, p *packet) {
	name, query, _ := bytes.Cut(p.h.Namespace, []byte("?"))
	p.h.Namespace = name
	if string(name) == socketio.Root {
		return
	}
	if rest := r.c.deps.settings().withoutKey(string(query)); len(rest) < len(query) {
		p.data = socketio.ConnectRequest4(string(name), rest)
		p.h.Data = len(p.data) // this version has no payload
	}
	r.connect(p)
}

// clientV3 returns a client of Engine.IO 3 whose handshake is answered with a.
func (h handshakerV3) clientV3(r *http.Request, q url.Values, req engineio.Request, keyed *keyedClient, sid string, a *answer) *client {
	// These heartbeats are between the client and holdfast. The timeout is shorter than the
	// interval, so that each PING shows that the answer to the one before has come.
	a.handshake.PingInterval, a.handshake.PingTimeout, a.handshake.MaxPayload = defaultPingInterval, defaultPingTimeout, 0
	var opts engineio.Options
	a.handshake, opts = h.ownHandshake(a.handshake, req.WebSocket)
	a.handshake.SID, a.handshake.MaxPayload = sid, 0 // which this version does not have
	opts.HandshakeID, opts.Protocol, opts.Base64 = q.Get("t"), engineio.V3, q.Has("b64")
	c := newClient(h.deps, h.next(), req, sid, opts, true, keyed)
	c.address = h.settings().trusted.ClientAddress(r)
	c.receiver.parser.move(parserSocketIO)
	if !req.WebSocket {
		c.pollHeaders = httpmsg.PollHeadersOf(a.header)
	}
	return c
}

// outdated reports whether a polling request belongs to an earlier connection with the same sid.
func (k *keyedClient) outdated(q url.Values) bool {
	if k.since == nil || q.Get("transport") != "polling" {
		return false
	}
	t, ok := yeast(q.Get("t"))
	return !ok || t.Cmp(k.since) < 0
}

// yeastDigits are the digits of the parameter t of clients for JavaScript: milliseconds in base 64,
// and behind a dot the number of the request in that millisecond.
const yeastDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"

// maxYeast bounds what is decoded.
const maxYeast = 20

// yeast decodes such a parameter into a number that grows with each request of a page. Other
// clients write the time in another form, or none.
func yeast(t string) (n *big.Int, ok bool) {
	time, count, _ := strings.Cut(t, ".")
	if len(time) != 7 || len(t) > maxYeast {
		return nil, false // no time between 2004 and 2109
	}
	n = new(big.Int)
	for _, part := range []string{time, count} {
		digits := new(big.Int)
		for _, digit := range []byte(part) {
			i := strings.IndexByte(yeastDigits, digit)
			if i < 0 {
				return nil, false
			}
			digits.Lsh(digits, 6).Or(digits, big.NewInt(int64(i)))
		}
		n.Lsh(n, 6*maxYeast).Or(n, digits)
	}
	return n, true
}

// withoutBase64 returns a query without the parameter with which clients ask for base64. Links do
// not need it, and some servers count wrongly then.
func withoutBase64(query string) string {
	if !httpmsg.HasParameter(query, "b64") {
		return query
	}
	return strings.Join(slices.DeleteFunc(strings.Split(query, "&"), func(pair string) bool { return httpmsg.HasParameter(pair, "b64") }), "&")
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
