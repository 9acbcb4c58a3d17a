package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/accept"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/knownclients"
	"github.com/holdfast/holdfast/internal/upstream"
)

// handshaker serves the handshakes of new clients.
type handshaker struct {
	*deps
	count atomic.Uint64 // numbers the clients
}

// next numbers a new client.
func (h *handshaker) next() uint64 {
	if h.replicas == nil {
		return h.count.Add(1)
	}
	return h.replicas.seq()
}

// continueAfter makes the numbers of new clients larger than n, which the process before gave.
// Among replicas they are times. Without this, all clients would seem to be older than those that
// had the sessions if the cluster is left out of the configuration, or the clock goes back.
func (h *handshaker) continueAfter(n uint64) {
	if h.replicas == nil {
		h.count.Store(max(h.count.Load(), n))
		return
	}
	h.replicas.advance(n)
}

// upstreamRequest returns a client's handshake in the form that is sent to the upstream.
func (h *handshaker) upstreamRequest(r *http.Request, websocket bool) engineio.Request {
	header := httpmsg.Without(r.Header, httpmsg.NotForwarded)
	httpmsg.DropCookies(header, h.settings().Upstream.DropCookies)
	h.settings().trusted.SetForwarded(header, r)
	path, query, _ := httpmsg.Target(r)
	req := engineio.Request{WebSocket: websocket, Path: path, RawQuery: h.settings().withoutKey(query), Host: r.Host, Header: header}
	req.Head() // caches the text, which every copy of req shares
	return req
}

// serve serves a new client's handshake. The client gets the upstream's answer, so the upstream
// decides who is admitted. With a lazy upstream.handshake it gets the cached answer to the last
// handshake of this kind.
func (h *handshaker) serve(w http.ResponseWriter, r *http.Request, q url.Values, websocket bool) {
	defer h.conns.opening()() // accept.Listener counts only those that it serves
	seq := h.next()
	req := h.upstreamRequest(r, websocket)
	if a, ok := h.cache.get(req); ok {
		h.metrics.LazyHandshakes.Inc()
		c := h.answeredClient(r, q, req, seq, &a)
		c.primary.setLazy()
		c.closeUnlessConnected(connectTimeout)
		h.open(w, r, c, a, nil)
		return
	}
	ctx := r.Context()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.settings().Upstream.HandshakeTimeout)
		defer cancel()
	}
	version, err := h.protocol.ask(ctx, h.upstream, h.log, req)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if version == engineio.V3 {
		h.answerForUpstream(w, r, q, req, seq)
		return
	}
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
	a := answer{conn.Handshake(), httpmsg.Without(conn.ResponseHeader(), httpmsg.NotRelayed), upstream.ServerOf(conn)}
	h.cache.put(req, a)
	c := h.answeredClient(r, q, req, seq, &a)
	primary, _ := c.newPrimary(conn, "") // a new client is not closed
	opened = h.open(w, r, c, a, primary)
}

// answeredClient returns a client whose handshake is answered with a. It replaces the upstream's
// handshake in a with the client's own.
func (h *handshaker) answeredClient(r *http.Request, q url.Values, req engineio.Request, seq uint64, a *answer) *client {
	var opts engineio.Options
	a.handshake, opts = h.ownHandshake(a.handshake, req.WebSocket)
	opts.HandshakeID = q.Get("t")
	keyed := h.keyedClient(q)
	c := newClient(h.deps, seq, req, a.handshake.SID, opts, keyed != nil || h.canResume(r, q), keyed)
	c.address = h.settings().trusted.ClientAddress(r)
	if !req.WebSocket {
		c.pollHeaders = httpmsg.PollHeadersOf(a.header)
	}
	return c
}

// open answers a handshake and starts the client and its primary link. A nil primary is dialled
// when it is needed. open returns false if the client could not be opened.
func (h *handshaker) open(w http.ResponseWriter, r *http.Request, c *client, a answer, primary *link) bool {
	defer c.recoverRequest()
	start := func() {
		if primary != nil {
			primary.start()
		}
	}
	if !c.transport.begunByWebSocket() {
		h.opened(c, r)
		c.sock.Start()
		start()
		httpmsg.CopyHeader(w.Header(), a.header)
		writeAnswer(h.log, w, r, c.sock.OpenAnswer(a.handshake))
		return true
	}
	client, err := httpmsg.Upgrade(w, r, a.header)
	if err != nil {
		h.log.Debug("websocket handshake failed", "client", c.seq, "error", err)
		return false
	}
	h.opened(c, r)
	c.sock.StartWebSocket(client.Conn, client.Initial, client.Answer.Bytes(), a.handshake)
	start()
	return true
}

// opened makes requests find the client. One of Engine.IO 3 has its key already: if another has
// taken that over, the client was removed before it was added.
func (h *handshaker) opened(c *client, r *http.Request) {
	h.conns.addClient(c)
	if c.isV3() && c.isClosed() {
		h.conns.removeClient(c)
	}
	h.metrics.ClientsOpened.Inc()
	h.log.Debug("client opened", "client", c.seq, "from", r.RemoteAddr)
}

// ownHandshake returns a handshake with a new sid, and with the configured values in place of the
// upstream's. A client's sid must outlive its links, so it cannot be the upstream's.
func (h *handshaker) ownHandshake(own engineio.Handshake, websocket bool) (engineio.Handshake, engineio.Options) {
	e := h.settings().EngineIO
	own.SID = h.replicas.newSID()
	upgrades := []string{}
	if !websocket && slices.Contains(own.Upgrades, "websocket") {
		upgrades = append(upgrades, "websocket")
	}
	own.Upgrades = upgrades
	if e.PingInterval > 0 {
		own.PingInterval = e.PingInterval.Milliseconds()
	}
	if e.PingTimeout > 0 {
		own.PingTimeout = e.PingTimeout.Milliseconds()
	}
	if e.MaxPayload > 0 {
		own.MaxPayload = int64(e.MaxPayload)
	}
	opts := engineio.Options{
		PingInterval:   time.Duration(own.PingInterval) * time.Millisecond,
		PingTimeout:    time.Duration(own.PingTimeout) * time.Millisecond,
		MaxPayload:     own.MaxPayload,
		UpgradeTimeout: e.UpgradeTimeout,
		Upgrades:       len(upgrades) > 0,
	}
	if opts.MaxPayload == 0 { // the server states no limit, so it enforces its own
		opts.MaxPayload = h.incomplete.largest()
	}
	return own, opts
}

// refuse answers a handshake whose dial failed: with the upstream's refusal, or with an error of
// holdfast's own.
func (h *handshaker) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var rejected *engineio.RejectedError
	switch {
	case errors.As(err, &rejected):
		w.Header()["Content-Type"] = nil // keeps net/http from guessing one if the server sent none
		httpmsg.CopyHeader(w.Header(), httpmsg.Without(rejected.Header, httpmsg.NotRelayed))
		w.Header().Set("Content-Length", strconv.Itoa(len(rejected.Body)))
		if httpmsg.IsUpgrade(r) {
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(rejected.Status)
		_, _ = w.Write(rejected.Body) // fails only if the client is gone
	case errors.Is(r.Context().Err(), context.Canceled):
		noAnswer()
	case errors.Is(err, context.DeadlineExceeded):
		h.limitedLog.Log(slog.LevelWarn, "", "upstream handshake timed out", "error", err)
		httpmsg.RefuseForNow(w, http.StatusServiceUnavailable, "the upstream server did not answer in time")
	case accept.IsOutOfDescriptors(err):
		h.outOfDescriptors(err)
		httpmsg.RefuseForNow(w, http.StatusServiceUnavailable, "holdfast is out of file descriptors")
	default:
		h.limitedLog.Log(slog.LevelWarn, "", "upstream handshake failed", "error", err)
		httpmsg.RefuseForNow(w, http.StatusBadGateway, "holdfast cannot reach the upstream server")
	}
}

// answerForUpstream answers a handshake in place of a server of version 3.
func (h *handshaker) answerForUpstream(w http.ResponseWriter, r *http.Request, q url.Values, req engineio.Request, seq uint64) {
	a := answer{
		engineio.Handshake{
			Upgrades: []string{"websocket"}, PingInterval: defaultPingInterval, PingTimeout: defaultPingTimeout,
			MaxPayload: int64(config.DefaultMaxPayload),
		},
		httpmsg.CORSHeader(r), nil,
	}
	c := h.answeredClient(r, q, req, seq, &a)
	c.primary.setLazy()
	c.closeUnlessConnected(connectTimeout)
	h.open(w, r, c, a, nil)
}

// The handshake that clients get from a server of version 4 by default. Servers of version 3 have
// other defaults, for heartbeats of the other direction.
const (
	defaultPingInterval = 25000 // milliseconds
	defaultPingTimeout  = 20000
)

// keyedClient returns what a client with a key has, or nil without one.
func (h *handshaker) keyedClient(q url.Values) *keyedClient {
	set := h.settings()
	k := set.Recovery.Keyed
	if k.Query == "" || set.Recovery.MaxDisconnectionDuration <= 0 || !q.Has(k.Query) {
		return nil
	}
	key := set.usableKey(q)
	if key == "" {
		h.limitedLog.Log(slog.LevelWarn, "", "a client's key is too short to be secret: it is served as one without a key",
			"parameter", k.Query, "characters", len(q.Get(k.Query)), "minimum", minKeyBytes)
		return nil
	}
	h.metrics.KeyedClients.Inc()
	return &keyedClient{key: h.keyring.Digest(key), counts: parseCounts(q.Get(k.CountQuery))}
}

// canResume reports whether the client of a handshake gets a pid, offsets, and parked sessions.
// Clients that are known to be unable to resume do not, unless the configuration says so: they
// would gain nothing, and an offset is one more argument for their handlers.
func (h *handshaker) canResume(r *http.Request, q url.Values) bool {
	set := h.settings()
	if set.Recovery.MaxDisconnectionDuration <= 0 || !set.clientFilter(q, r.UserAgent()) {
		return false
	}
	if !set.Recovery.Clients.ExcludesKnown() {
		return true
	}
	known := knownclients.Identify(r)
	if known == nil {
		return true
	}
	h.metrics.ClientsUnable.Inc()
	if _, logged := h.unableLogged.LoadOrStore(known.Name, true); !logged {
		h.log.Info("a client is served without recovery: its library cannot resume sessions (logged once for each library)",
			"library", known.Name)
	}
	return false
}
