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
			if r.Context().Err() != nil {
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

func (s *Server) passThrough(w http.ResponseWriter, r *http.Request) {
	if isUpgrade(r) {
		s.metrics.Passthrough.WebSocket.Inc()
	} else {
		s.metrics.Passthrough.HTTP.Inc()
	}
	w.Header()["Content-Type"] = nil // the server's, or none: net/http is not to guess
	s.passed.ServeHTTP(w, r)
}
