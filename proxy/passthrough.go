package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/internal/accept"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/upstream"
)

// newPassthrough returns the reverse proxy for requests that holdfast does not handle itself.
func (s *Server) newPassthrough(transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = urlAt(upstream.Base(), r.In)
			r.Out.Host = r.In.Host
			r.Out.Trailer = nil // ReverseProxy would announce the trailer and never send it
			if !isUpgrade(r.In) {
				// Only WebSocket upgrades pass: requests inside an h2c connection would bypass all checks.
				r.Out.Header.Del("Connection")
				r.Out.Header.Del("Upgrade")
			}
			// ReverseProxy removed some forwarding headers. Restore them: setForwarded decides which ones
			// to trust.
			for name, v := range r.In.Header {
				if isForwarding(name) {
					r.Out.Header[name] = v
				}
			}
			s.setForwarded(r.Out.Header, r.In)
			if _, ok := r.Out.Header["User-Agent"]; !ok {
				r.Out.Header["User-Agent"] = []string{""} // keeps net/http from adding its own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode != http.StatusSwitchingProtocols && isUpgrade(resp.Request) {
				resp.Header.Set("Connection", "close") // servers close a connection whose upgrade they refuse
			}
			if a, ok := resp.Request.Context().Value(ownSIDKey{}).(engineio.Answer); ok {
				return hideUnknownSID(resp, a)
			}
			return nil
		},
		FlushInterval: -1, // server-sent events and other streams must not be delayed
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			switch {
			case s.drained.Err() != nil:
				refuseDraining(w)
				return
			case r.Context().Err() != nil:
				return // the client is gone
			}
			s.log.Debug("passthrough failed", "error", err)
			b, ok := r.Context().Value(bodyKey{}).(*body)
			switch {
			case ok && b.failed.Load():
				w.Header().Set("Connection", "close")
				writeError(w, http.StatusBadRequest, "the request's body is malformed, or did not come")
			case accept.IsOutOfDescriptors(err):
				s.outOfDescriptors(err)
				refuseForNow(w, http.StatusServiceUnavailable, "holdfast is out of file descriptors")
			case errors.Is(err, context.DeadlineExceeded):
				writeError(w, http.StatusGatewayTimeout, "holdfast cannot reach the upstream server")
			default:
				writeError(w, http.StatusBadGateway, "holdfast cannot reach the upstream server")
			}
		},
	}
}

// refuseDraining refuses a request that a load balancer can send to another replica.
func refuseDraining(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Retry-After", "1")
	writeError(w, http.StatusServiceUnavailable, "holdfast is shutting down")
}

// passThrough relays a request to the upstream, and its answer or WebSocket back. A shutdown waits for it
// and aborts it when the drain timeout ends.
func (s *Server) passThrough(w http.ResponseWriter, r *http.Request) {
	websocket := isUpgrade(r)
	// An upgrade with a sid belongs to a session that already exists, so it still passes.
	if websocket && s.stopping() && !hasKey(r.URL.RawQuery, "sid") {
		refuseDraining(w)
		return
	}
	if websocket {
		s.metrics.Passthrough.WebSocket.Inc()
		s.passedWebSockets.Add(1)
		defer s.passedWebSockets.Add(-1)
	} else {
		s.metrics.Passthrough.HTTP.Inc()
	}
	s.addPassing(1)
	defer s.addPassing(-1)
	if s.draining.Load() && !websocket {
		w.Header().Set("Connection", "close") // the next request may go to another replica
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.drained, cancel)()
	w.Header()["Content-Type"] = nil // keeps net/http from guessing one if the server sent none
	handler := s.reverseProxy
	if s.isEngineIO(r) { // only one server knows the session that it belongs to, or will
		ctx = upstream.WithClient(ctx, s.clientAddress(r))
	}
	if hasKey(r.URL.RawQuery, "sid") && hasKey(r.URL.RawQuery, "transport") {
		handler = s.passedBySID
	}
	handler.ServeHTTP(w, r.WithContext(ctx))
}

// target returns the path and the query of a request exactly as the client wrote them. url.URL would escape
// characters that RFC 3986 does not allow, and ReverseProxy would drop parameters that it cannot parse.
func target(r *http.Request) (path, query string, hasQuery bool) {
	uri := r.RequestURI
	if !strings.HasPrefix(uri, "/") && uri != "*" { // the absolute form
		_, rest, _ := strings.Cut(uri, "://")
		uri = "/"
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			uri = rest[i:]
		}
		if strings.HasPrefix(uri, "?") {
			uri = "/" + uri
		}
	}
	return strings.Cut(uri, "?")
}

// urlAt returns a URL at base that makes http.Transport send the target of r byte for byte.
func urlAt(base *url.URL, r *http.Request) *url.URL {
	path, query, hasQuery := target(r)
	to := &url.URL{Scheme: base.Scheme, Host: base.Host, Opaque: path, RawQuery: query, ForceQuery: hasQuery}
	if strings.HasPrefix(path, "//") { // http.Transport would read Opaque as a host
		to.Opaque, to.Path, to.RawPath = "", r.URL.Path, r.URL.RawPath
	}
	return to
}

// ownSIDKey is the context key of an engineio.Answer. The request names a client's sid, and a server that
// knows the sid would give this answer.
type ownSIDKey struct{}

// knownBySID returns r with the answer to give if the upstream refuses the sid. The upstream does not know
// it, because the sid is holdfast's own.
func (c *client) knownBySID(r *http.Request, transport string) *http.Request {
	a := engineio.ErrorAnswer(engineio.CodeBadRequest) // for a transport that the client does not use
	current := "polling"
	if c.websocket.Load() {
		current = "websocket"
	}
	switch {
	case isUpgrade(r):
		a = engineio.Answer{Status: http.StatusBadRequest, Body: []byte("Bad Request"), Type: "text/html"}
	case transport == current:
		a = engineio.Answer{Status: http.StatusInternalServerError}
	case transport != "polling" && transport != "websocket" && r.Method == http.MethodHead:
		return r // the upstream refuses the transport, not the sid; without a body the two look alike
	}
	return r.WithContext(context.WithValue(r.Context(), ownSIDKey{}, a))
}

// maxUnknownSID is larger than any server's refusal of an unknown sid.
const maxUnknownSID = 256

// hideUnknownSID replaces a response with a if it is the upstream's refusal of a sid that only holdfast
// knows.
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
