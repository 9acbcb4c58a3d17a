package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/internal/accept"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/upstream"
)

// passthrough relays requests that holdfast does not handle itself.
type passthrough struct {
	*deps
	shared  *httputil.ReverseProxy
	bySID   *httputil.ReverseProxy // uses a new upstream connection for each request
	drained context.Context        // its end cuts what still passes through
	cut     context.CancelFunc     // ends drained
}

func newPassthrough(d *deps) *passthrough {
	p := &passthrough{deps: d}
	p.shared = p.newProxy(d.upstream.RoundTripper())
	p.bySID = p.newProxy(d.upstream.UnsharedRoundTripper())
	p.drained, p.cut = context.WithCancel(context.Background())
	return p
}

func (p *passthrough) newProxy(transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:      transport,
		Rewrite:        p.rewrite,
		ModifyResponse: modifyResponse,
		FlushInterval:  -1, // server-sent events and other streams must not be delayed
		ErrorHandler:   p.handleError,
		ErrorLog:       slog.NewLogLogger(p.log.Handler(), slog.LevelDebug), // of answers that break off
	}
}

// rewrite makes the request for the upstream.
func (p *passthrough) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL = urlAt(upstream.Base(), r.In)
	if set := p.settings(); set.Recovery.Keyed.Query != "" && set.isEngineIO(r.In) {
		r.Out.URL.RawQuery = set.withoutKey(r.Out.URL.RawQuery)
	}
	r.Out.Host = r.In.Host
	r.Out.Trailer = nil // ReverseProxy would announce the trailer and never send it
	if !httpmsg.IsUpgrade(r.In) {
		// Only WebSocket upgrades pass: requests inside an h2c connection would bypass all checks.
		r.Out.Header.Del("Connection")
		r.Out.Header.Del("Upgrade")
	}
	// ReverseProxy removed some forwarding headers. Restore them: SetForwarded decides which ones
	// to trust.
	for name, v := range r.In.Header {
		if httpmsg.IsForwarding(name) {
			r.Out.Header[name] = v
		}
	}
	p.settings().trusted.SetForwarded(r.Out.Header, r.In)
	if _, ok := r.Out.Header["User-Agent"]; !ok {
		r.Out.Header["User-Agent"] = []string{""} // keeps net/http from adding its own
	}
}

func modifyResponse(resp *http.Response) error {
	if resp.StatusCode != http.StatusSwitchingProtocols && httpmsg.IsUpgrade(resp.Request) {
		resp.Header.Set("Connection", "close") // servers close a connection whose upgrade they refuse
	}
	if a, ok := resp.Request.Context().Value(ownSIDKey{}).(engineio.Answer); ok {
		return hideUnknownSID(resp, a)
	}
	return nil
}

// handleError answers a request that the upstream did not.
func (p *passthrough) handleError(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case p.drained.Err() != nil:
		httpmsg.RefuseDraining(w)
		return
	case r.Context().Err() != nil:
		noAnswer()
	}
	p.log.Debug("passthrough failed", "error", err)
	switch {
	case httpmsg.BodyFailed(r):
		w.Header().Set("Connection", "close")
		httpmsg.WriteError(w, http.StatusBadRequest, "the request's body is malformed, or did not come")
	case accept.IsOutOfDescriptors(err):
		p.outOfDescriptors(err)
		httpmsg.RefuseForNow(w, http.StatusServiceUnavailable, "holdfast is out of file descriptors")
	case errors.Is(err, context.DeadlineExceeded):
		httpmsg.WriteError(w, http.StatusGatewayTimeout, "holdfast cannot reach the upstream server")
	default:
		httpmsg.WriteError(w, http.StatusBadGateway, "holdfast cannot reach the upstream server")
	}
}

// serve relays a request to the upstream, and its answer or WebSocket back. A shutdown waits for it
// and aborts it when the drain timeout ends.
func (p *passthrough) serve(w http.ResponseWriter, r *http.Request) {
	websocket := httpmsg.IsUpgrade(r)
	// An upgrade with a sid belongs to a session that already exists, so it still passes.
	if websocket && p.phase.stopping() && !httpmsg.HasParameter(r.URL.RawQuery, "sid") {
		httpmsg.RefuseDraining(w)
		return
	}
	count := p.conns.addPassing
	if websocket {
		p.metrics.Passthrough.WebSocket.Inc()
		count = p.conns.addWebSockets
	} else {
		p.metrics.Passthrough.HTTP.Inc()
	}
	count(1)
	defer count(-1)
	if p.phase.is(phaseDraining) && !websocket {
		w.Header().Set("Connection", "close") // the next request may go to another replica
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.drained, cancel)()
	w.Header()["Content-Type"] = nil // keeps net/http from guessing one if the server sent none
	handler := p.shared
	if p.settings().isEngineIO(r) { // only one server knows the session that it belongs to, or will
		ctx = upstream.WithClient(ctx, p.settings().trusted.ClientAddress(r))
	}
	if httpmsg.HasParameter(r.URL.RawQuery, "sid") && httpmsg.HasParameter(r.URL.RawQuery, "transport") {
		handler = p.bySID
	}
	defer deliverHead(ctx, w)
	handler.ServeHTTP(w, r.WithContext(ctx))
}

// deliverHead sends the client the head of an answer whose body broke off. ReverseProxy panics then,
// and net/http would drop what it has not written yet: the client of a server that refuses a
// request, and resets the connection, would not learn why. ctx is the request's: once it has ended,
// there may be no head, and nobody waits for one. Defer it, because it recovers.
func deliverHead(ctx context.Context, w http.ResponseWriter) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler && ctx.Err() == nil { //nolint:errorlint // net/http compares it the same way
		_ = http.NewResponseController(w).Flush() // fails only if the client is gone
	}
	panic(v)
}

// urlAt returns a URL at base that makes http.Transport send the target of r byte for byte.
func urlAt(base *url.URL, r *http.Request) *url.URL {
	path, query, hasQuery := httpmsg.Target(r)
	to := &url.URL{Scheme: base.Scheme, Host: base.Host, Opaque: path, RawQuery: query, ForceQuery: hasQuery}
	if strings.HasPrefix(path, "//") { // http.Transport would read Opaque as a host
		to.Opaque, to.Path, to.RawPath = "", r.URL.Path, r.URL.RawPath
	}
	return to
}

// ownSIDKey is the context key of an engineio.Answer. The request names a client's sid, and a
// server that knows the sid would give this answer.
type ownSIDKey struct{}

// maxUnknownSID is larger than any server's refusal of an unknown sid.
const maxUnknownSID = 256

// hideUnknownSID replaces a response with a if it is the upstream's refusal of a sid that only
// holdfast knows.
func hideUnknownSID(resp *http.Response, a engineio.Answer) error {
	if resp.StatusCode != http.StatusBadRequest {
		return nil
	}
	head := resp.Request.Method == http.MethodHead
	if !head {
		begin, err := io.ReadAll(io.LimitReader(resp.Body, maxUnknownSID))
		if err != nil {
			return err
		}
		// Servers refuse requests in JSON, and upgrades in plain text.
		if !bytes.HasPrefix(begin, []byte(`{"code":1,`)) && string(begin) != "Session ID unknown" {
			resp.Body = replayed{io.MultiReader(bytes.NewReader(begin), resp.Body), resp.Body}
			return nil
		}
	}
	_ = resp.Body.Close() // replaced
	resp.Body = io.NopCloser(bytes.NewReader(a.Body))
	resp.StatusCode, resp.Status = a.Status, ""
	resp.Header.Set("Content-Length", strconv.Itoa(len(a.Body)))
	resp.Header.Del("Content-Type")
	if a.Type != "" {
		resp.Header.Set("Content-Type", a.Type)
	}
	return nil
}

// replayed is a body whose beginning was read and is read again.
type replayed struct {
	io.Reader
	io.Closer
}
