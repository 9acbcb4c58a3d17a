package proxy

import (
	"maps"
	"net"
	"net/http"
	"slices"
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

// without returns the headers of h but those that are named here, in their canonical form, and those that Connection names. The
// values are h's.
func without(h http.Header, names []string) http.Header {
	rest := make(http.Header, len(h))
	for name, values := range h {
		if !slices.Contains(names, name) {
			rest[name] = values
		}
	}
	for _, v := range h.Values("Connection") {
		for name := range strings.SplitSeq(v, ",") {
			rest.Del(strings.TrimSpace(name))
		}
	}
	return rest
}

// isForwarding reports whether a header says for whom a proxy has forwarded the request.
func isForwarding(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "x-forwarded-") || name == "forwarded" || name == "x-real-ip"
}

// looksForwarding reports whether a header is none of these, but taken for one by servers to which a hyphen and an underscore
// are the same (CGI, WSGI). No proxy writes them.
func looksForwarding(name string) bool {
	return strings.Contains(name, "_") && isForwarding(strings.ReplaceAll(name, "_", "-"))
}

// setForwarded tells the upstream who the client is. What an untrusted peer claims is not passed on.
func (s *Server) setForwarded(h http.Header, r *http.Request) {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = "" // a Unix socket
	}
	trusted := s.trustsAddr(hostAddr(r.RemoteAddr))
	for name := range h {
		if looksForwarding(name) || !trusted && isForwarding(name) {
			delete(h, name)
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

// pollHeadersOf are those of a handshake's response that belong on the client's later polling responses too.
func pollHeadersOf(h http.Header) http.Header {
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
