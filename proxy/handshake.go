package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/accept"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/upstream"
)

// newSID returns a random Engine.IO session id, as long as those of engine.io.
func newSID() string {
	var b [15]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on supported platforms
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// upstreamRequest returns a client's handshake in the form that is sent to the upstream.
func (s *Server) upstreamRequest(r *http.Request, websocket bool) engineio.Request {
	h := without(r.Header, notForwarded)
	s.setForwarded(h, r)
	path, query, _ := target(r)
	req := engineio.Request{WebSocket: websocket, Path: path, RawQuery: query, Host: r.Host, Header: h}
	req.Head() // caches the text, which every copy of req shares
	return req
}

// handshake serves a new client's handshake. The client gets the upstream's answer, so the upstream decides
// who is admitted. With a lazy upstream.handshake it gets the cached answer to the last handshake of this
// kind.
func (s *Server) handshake(w http.ResponseWriter, r *http.Request, q url.Values, websocket bool) {
	defer s.beginHandshake()() // accept.Listener counts only those that it serves
	order := s.handshakes.Add(1)
	req := s.upstreamRequest(r, websocket)
	if a, ok := s.cache.get(req); ok {
		s.metrics.LazyHandshakes.Inc()
		c := s.answeredClient(r, q, req, order, &a)
		defer c.recoverRequest()
		c.primary.setLazy()
		c.closeUnlessConnected(connectTimeout)
		s.open(w, r, c, a, nil)
		return
	}
	ctx := r.Context()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.settings().Upstream.HandshakeTimeout)
		defer cancel()
	}
	version, err := s.askProtocol(ctx, req)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if version == engineio.V3 {
		s.answerForUpstream(w, r, q, req, order)
		return
	}
	conn, err := s.upstream.Dial(ctx, req)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	opened := false
	defer func() {
		if !opened {
			conn.Close()
		}
	}()
	a := answer{conn.Handshake(), without(conn.ResponseHeader(), notRelayed), upstream.ServerOf(conn)}
	s.cache.put(req, a)
	c := s.answeredClient(r, q, req, order, &a)
	defer c.recoverRequest()
	primary, _ := c.newPrimary(conn, "") // a new client is not closed
	opened = s.open(w, r, c, a, primary)
}

// answeredClient returns a client whose handshake is answered with a. It replaces the upstream's handshake
// in a with the client's own.
func (s *Server) answeredClient(r *http.Request, q url.Values, req engineio.Request, order uint64, a *answer) *client {
	var opts engineio.Options
	a.handshake, opts = s.ownHandshake(a.handshake, req.WebSocket)
	opts.HandshakeID = q.Get("t")
	c := newClient(s, order, req, a.handshake.SID, opts, s.canResume(r, q))
	c.address = s.clientAddress(r)
	if !req.WebSocket {
		c.pollHeaders = pollHeadersOf(a.header)
	}
	return c
}

// open answers a handshake and starts the client and its primary link. A nil primary is dialled when it is
// needed. open returns false if the client could not be opened.
func (s *Server) open(w http.ResponseWriter, r *http.Request, c *client, a answer, primary *link) bool {
	start := func() {
		if primary != nil {
			primary.start()
		}
	}
	if !c.byWebSocket {
		s.addClient(c)
		c.sock.Start()
		start()
		copyHeader(w.Header(), a.header)
		s.writeAnswer(w, r, c.sock.OpenAnswer(a.handshake))
		return true
	}
	client, err := upgrade(w, r, a.header)
	if err != nil {
		s.log.Debug("websocket handshake failed", "client", c.seq, "error", err)
		return false
	}
	c.websocket.Store(true)
	s.addClient(c)
	c.sock.StartWebSocket(client.conn, client.initial, client.answer.Bytes(), a.handshake)
	start()
	return true
}

// ownHandshake returns h with a new sid, and with the configured values in place of the upstream's. A
// client's sid must outlive its links, so it cannot be the upstream's.
func (s *Server) ownHandshake(h engineio.Handshake, websocket bool) (engineio.Handshake, engineio.Options) {
	e := s.settings().EngineIO
	h.SID = newSID()
	upgrades := []string{}
	if !websocket && slices.Contains(h.Upgrades, "websocket") {
		upgrades = append(upgrades, "websocket")
	}
	h.Upgrades = upgrades
	if e.PingInterval > 0 {
		h.PingInterval = e.PingInterval.Milliseconds()
	}
	if e.PingTimeout > 0 {
		h.PingTimeout = e.PingTimeout.Milliseconds()
	}
	if e.MaxPayload > 0 {
		h.MaxPayload = int64(e.MaxPayload)
	}
	opts := engineio.Options{
		PingInterval:   time.Duration(h.PingInterval) * time.Millisecond,
		PingTimeout:    time.Duration(h.PingTimeout) * time.Millisecond,
		MaxPayload:     h.MaxPayload,
		UpgradeTimeout: e.UpgradeTimeout,
		Upgrades:       len(upgrades) > 0,
	}
	if opts.MaxPayload == 0 { // the server states no limit, so it enforces its own
		opts.MaxPayload = s.incomplete.largest()
	}
	return h, opts
}

// refuse answers a handshake whose dial failed: with the upstream's refusal, or with an error of holdfast's
// own.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var rejected *engineio.RejectedError
	switch {
	case errors.As(err, &rejected):
		w.Header()["Content-Type"] = nil // keeps net/http from guessing one if the server sent none
		copyHeader(w.Header(), without(rejected.Header, notRelayed))
		w.Header().Set("Content-Length", strconv.Itoa(len(rejected.Body)))
		if isUpgrade(r) {
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(rejected.Status)
		_, _ = w.Write(rejected.Body) // fails only if the client is gone
	case errors.Is(r.Context().Err(), context.Canceled): // the client is gone
	case errors.Is(err, context.DeadlineExceeded):
		s.limitedLog.Log(slog.LevelWarn, "", "upstream handshake timed out", "error", err)
		refuseForNow(w, http.StatusServiceUnavailable, "the upstream server did not answer in time")
	case accept.IsOutOfDescriptors(err):
		s.outOfDescriptors(err)
		refuseForNow(w, http.StatusServiceUnavailable, "holdfast is out of file descriptors")
	default:
		s.limitedLog.Log(slog.LevelWarn, "", "upstream handshake failed", "error", err)
		refuseForNow(w, http.StatusBadGateway, "holdfast cannot reach the upstream server")
	}
}

// refuseForNow refuses a request that may succeed when the client retries a second later.
func refuseForNow(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Retry-After", "1")
	writeError(w, status, message)
}

// hijacked is a connection on which a WebSocket handshake is being answered. It buffers the answer, so that
// the answer and the first messages go out in one write.
type hijacked struct {
	http.ResponseWriter
	conn    net.Conn
	answer  bytes.Buffer
	initial []byte // bytes that the client sent after its request
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = conn
	rw.Writer.Reset(&h.answer)
	return conn, rw, nil
}

// upgrade accepts a WebSocket handshake with the upstream's headers and its choice of subprotocol. It
// answers an invalid handshake itself and returns an error.
func upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (*hijacked, error) {
	h := &hijacked{ResponseWriter: w}
	protocol := header.Get("Sec-WebSocket-Protocol")
	if protocol != "" {
		header = header.Clone()
		header.Del("Sec-WebSocket-Protocol")
	}
	u := ws.HTTPUpgrader{Header: header, Protocol: func(p string) bool { return p == protocol }}
	_, rw, _, err := u.Upgrade(r, h)
	if err == nil {
		err = h.conn.SetDeadline(time.Time{}) // clears net/http's deadlines
	}
	if err == nil && rw.Reader.Buffered() > 0 {
		h.initial, err = rw.Peek(rw.Reader.Buffered())
		h.initial = slices.Clone(h.initial)
	}
	if c, ok := h.conn.(interface{ Unread() []byte }); ok {
		h.initial = append(h.initial, c.Unread()...)
	}
	if err != nil {
		if h.conn != nil {
			_, _ = h.conn.Write(h.answer.Bytes()) // tells the client why, if it is still there
			h.conn.Close()
		}
		return nil, err
	}
	return h, nil
}

// handles reports whether serveClient handles a request that names a client's sid. Other requests go to the
// upstream. Most of them are CORS preflights, which the upstream can answer without knowing the sid.
func handles(r *http.Request, q url.Values) bool {
	switch q.Get("transport") {
	case "polling", "websocket":
		return r.Method == http.MethodGet || r.Method == http.MethodPost && !isUpgrade(r)
	}
	return false
}

// serveClient serves a request that names the sid of c. The caller has checked it with handles.
func (s *Server) serveClient(w http.ResponseWriter, r *http.Request, c *client, q url.Values) {
	defer c.recoverRequest()
	transport, upgrading := q.Get("transport"), isUpgrade(r)
	switch {
	case transport == "websocket" && upgrading:
		upgraded, err := upgrade(w, r, nil)
		if err != nil {
			s.log.Debug("websocket upgrade failed", "client", c.seq, "error", err)
			return
		}
		c.sock.ServeProbe(upgraded.conn, upgraded.initial, upgraded.answer.Bytes())
	case transport == "websocket", upgrading:
		s.answer(w, r, c, engineio.ErrorAnswer(engineio.CodeBadRequest))
	case r.Method == http.MethodGet:
		if a, ok := c.sock.Poll(r.Context(), q.Get("t")); ok {
			s.answer(w, r, c, a)
		}
	default: // a POST
		a, ok := c.sock.Post(r.Context(), q.Get("t"), r.Header.Get("Content-Type"), r.ContentLength, r.Body)
		if !ok {
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
		s.answer(w, r, c, a)
	}
}

// answer writes a to c's request, with the headers that the upstream wants on polling responses.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *client, a engineio.Answer) {
	copyHeader(w.Header(), c.pollHeaders)
	s.writeAnswer(w, r, a)
}

// compressFrom is the smallest body that is compressed. engine.io has the same threshold.
const compressFrom = 1024

func (s *Server) writeAnswer(w http.ResponseWriter, r *http.Request, a engineio.Answer) {
	h := w.Header()
	if a.Type != "" {
		h.Set("Content-Type", a.Type)
	}
	h.Set("Cache-Control", "no-store")
	body := a.Body
	if len(body) >= compressFrom {
		if encoding := acceptedEncoding(r.Header); encoding != "" {
			h.Set("Content-Encoding", encoding)
			body = compress(encoding, body)
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.Status)
	if err := writeBody(w, body); err != nil { // the heartbeat notices if the client is gone
		s.log.Debug("polling answer not taken", "bytes", len(body), "error", err)
	}
}

const (
	// answerTimeout is how long a client may take to read answerPieceBytes. Clients slower than about 1
	// KiB/s time out.
	answerTimeout    = 30 * time.Second
	answerPieceBytes = 32 << 10
	// smallAnswerBytes is the size of an answer that fits the buffers of net/http and the kernel. Writing
	// it never blocks.
	smallAnswerBytes = 4 << 10
)

// writeBody writes an answer's body and moves the deadline with each piece. A slow client thus gets the
// whole body. A client that stops reading cannot keep the goroutine and the body forever.
func writeBody(w http.ResponseWriter, body []byte) error {
	if len(body) <= smallAnswerBytes {
		_, err := w.Write(body)
		return err
	}
	rc := http.NewResponseController(w) // ignore errors: writers in tests lack deadlines and Flush
	for len(body) > 0 {
		n := min(len(body), answerPieceBytes)
		_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout))
		if _, err := w.Write(body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	_ = rc.Flush()                       // while the deadline still applies
	_ = rc.SetWriteDeadline(time.Time{}) // the next answer must not inherit it
	return nil
}

// acceptedEncoding returns gzip or deflate, in this order of preference, or "" if the client accepts neither.
func acceptedEncoding(h http.Header) string {
	accepted := strings.Join(h.Values("Accept-Encoding"), ",")
	for _, encoding := range []string{"gzip", "deflate"} {
		for part := range strings.SplitSeq(accepted, ",") {
			name, params, _ := strings.Cut(part, ";")
			q := strings.TrimSpace(params)
			if strings.TrimSpace(name) == encoding && q != "q=0" && q != "q=0.0" {
				return encoding
			}
		}
	}
	return ""
}

// savedRequest is a client's upstream handshake as text. Few clients ever dial again, and the text takes
// far less memory than an http.Header.
type savedRequest string

func saveRequest(r engineio.Request) savedRequest { return savedRequest(r.Head()) }

// restore returns the handshake, for a dial over WebSocket or polling.
func (s savedRequest) restore(websocket bool) (engineio.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(s) + "\r\n")))
	if err != nil {
		return engineio.Request{}, err
	}
	path, query, _ := target(r)
	return engineio.Request{WebSocket: websocket, Path: path, RawQuery: query, Host: r.Host, Header: r.Header}, nil
}
