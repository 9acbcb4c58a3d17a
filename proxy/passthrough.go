package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"

	"github.com/holdfast/holdfast/internal/accept"
)

// newPassthrough returns the handler of what is not ours to understand.
func (s *Server) newPassthrough() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: s.upstream.RoundTripper(),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = s.upstream.Base().Scheme, s.upstream.Base().Host
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
	s.passed.ServeHTTP(w, r.WithContext(ctx))
}
