package proxy

import (
	"maps"
	"net"
	"net/http"
	"strings"
)

// notForwarded are request headers which concern one connection only, or that a link negotiates for itself.
var notForwarded = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions",
	"Sec-Websocket-Accept", "Accept-Encoding", "Content-Length", "Content-Type", "Expect",
}

// notRelayed are response headers that describe one response's body or connection.
var notRelayed = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding",
	"Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions", "Content-Length", "Date",
}

// without returns a copy of h without the named headers, and those that Connection names.
func without(h http.Header, names []string) http.Header {
	h = h.Clone()
	for _, v := range h.Values("Connection") {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range names {
		h.Del(name)
	}
	return h
}

// setForwarded tells the upstream who the client is. What an untrusted peer claims is not passed on.
func (s *Server) setForwarded(h http.Header, r *http.Request) {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = "" // a Unix socket
	}
	trusted := s.trustsAddr(hostAddr(r.RemoteAddr))
	if !trusted {
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip"} {
			h.Del(name)
		}
	}
	if peer != "" {
		if before := h.Values("X-Forwarded-For"); len(before) > 0 {
			h.Set("X-Forwarded-For", strings.Join(before, ", ")+", "+peer)
		} else {
			h.Set("X-Forwarded-For", peer)
		}
	}
	if h.Get("X-Forwarded-Proto") == "" {
		proto := "http"
		if r.TLS != nil {
			proto = "https"
		}
		h.Set("X-Forwarded-Proto", proto)
	}
	if h.Get("X-Forwarded-Host") == "" {
		h.Set("X-Forwarded-Host", r.Host)
	}
}

// laterHeaders are those of a handshake's response that belong on the client's later polling responses too.
func laterHeaders(h http.Header) http.Header {
	later := make(http.Header)
	for name, values := range h {
		if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
			later[name] = values
		}
	}
	return later
}

// copyHeader adds src's headers to dst, in place of those of the same name.
func copyHeader(dst, src http.Header) {
	maps.Copy(dst, src)
}
