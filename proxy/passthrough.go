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
)

// newPassthrough returns the handler of what is not ours to understand.
func (s *Server) newPassthrough(transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = urlAt(s.upstream.Base(), r.In)
			r.Out.Host = r.In.Host
			r.Out.Trailer = nil // of the client's connection; ReverseProxy would only announce it
			if !isUpgrade(r.In) {
				// No other protocol than WebSocket: inside HTTP/2 (h2c) requests would pass that nobody has looked at.
				r.Out.Header.Del("Connection")
				r.Out.Header.Del("Upgrade")
			}
			// ReverseProxy took some of the forwarding headers out; setForwarded decides what to believe of them.
			for name, v := range r.In.Header {
				if isForwarding(name) {
					r.Out.Header[name] = v
				}
			}
			s.setForwarded(r.Out.Header, r.In)
			if _, ok := r.Out.Header["User-Agent"]; !ok {
				r.Out.Header["User-Agent"] = []string{""} // else net/http adds its own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode != http.StatusSwitchingProtocols && isUpgrade(resp.Request) {
				resp.Header.Set("Connection", "close") // as servers end a connection whose upgrade they refuse
			}
			if a, ok := resp.Request.Context().Value(ownSIDKey{}).(engineio.Answer); ok {
				return hideUnknownSID(resp, a)
			}
			return nil
		},
		FlushInterval: -1, // server-sent events and other streams are not held back
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			switch {
			case s.drained.Err() != nil:
				refuseDraining(w)
				return
			case r.Context().Err() != nil:
				return // the client has gone
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

// refuseDraining refuses what may go to another replica.
func refuseDraining(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Retry-After", "1")
	writeError(w, http.StatusServiceUnavailable, "holdfast is shutting down")
}

// passThrough passes a request on to the upstream, and its answer or WebSocket back. A shutdown waits for it, and cuts it when the
// time is over.
func (s *Server) passThrough(w http.ResponseWriter, r *http.Request) {
	websocket := isUpgrade(r)
	if websocket && s.draining.Load() && !hasKey(r.URL.RawQuery, "sid") { // with a sid it is a known session's upgrade
		refuseDraining(w)
		return
	}
	if websocket {
		s.metrics.Passthrough.WebSocket.Inc()
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
	w.Header()["Content-Type"] = nil // the server's, or none: net/http is not to guess
	handler := s.reverseProxy
	if hasKey(r.URL.RawQuery, "sid") && hasKey(r.URL.RawQuery, "transport") {
		handler = s.passedBySID
	}
	handler.ServeHTTP(w, r.WithContext(ctx))
}

// target is the path and the query of a request as the client wrote them. url.URL escapes what RFC 3986 does not allow, and
// ReverseProxy drops parameters that it cannot read.
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

// urlAt is the URL, at a server, for which http.Transport writes the target of r byte for byte.
func urlAt(base *url.URL, r *http.Request) *url.URL {
	path, query, hasQuery := target(r)
	to := &url.URL{Scheme: base.Scheme, Host: base.Host, Opaque: path, RawQuery: query, ForceQuery: hasQuery}
	if strings.HasPrefix(path, "//") { // Opaque would be taken for a host
		to.Opaque, to.Path, to.RawPath = "", r.URL.Path, r.URL.RawPath
	}
	return to
}

// ownSIDKey is the key, in the context of a request with the sid of a client, of the engineio.Answer that a server gives which
// knows the sid.
type ownSIDKey struct{}

// knownBySID returns the request with what to answer if the upstream says that it does not know the sid, which only holdfast does.
func (c *client) knownBySID(r *http.Request, transport string) *http.Request {
	a := engineio.ErrorAnswer(engineio.CodeBadRequest) // not the transport that the client uses
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
		return r // the refusal, without a body, is of the transport
	}
	return r.WithContext(context.WithValue(r.Context(), ownSIDKey{}, a))
}

// maxUnknownSID is more than a server's refusal of an unknown sid is long.
const maxUnknownSID = 256

// hideUnknownSID replaces the upstream's refusal of a sid that only holdfast knows.
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
		if !bytes.HasPrefix(begin, []byte(`{"code":1,`)) && string(begin) != "Session ID unknown" { // the latter to an upgrade
			resp.Body = replayed{io.MultiReader(bytes.NewReader(begin), resp.Body), resp.Body}
			return nil
		}
	}
	_ = resp.Body.Close() // nobody reads it
	resp.Body = io.NopCloser(bytes.NewReader(a.Body))
	resp.StatusCode, resp.Status = a.Status, ""
	resp.Header.Set("Content-Length", strconv.Itoa(len(a.Body)))
	resp.Header.Del("Content-Type")
	if a.Type != "" {
		resp.Header.Set("Content-Type", a.Type)
	}
	return nil
}

// replayed is a body of which some has been read.
type replayed struct {
	io.Reader
	io.Closer
}
