package httpmsg

import (
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
)

// NotForwarded are request headers that concern a single connection, or that each link negotiates
// for itself.
var NotForwarded = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions",
	"Sec-Websocket-Accept", "Accept-Encoding", "Content-Length", "Content-Type", "Expect",
}

// NotRelayed are response headers that describe a single connection or a single response's body.
var NotRelayed = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding",
	"Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions", "Content-Length", "Date",
}

// Without returns h Without the given headers, whose names are canonical, and Without those that
// Connection names. The result shares its values with h.
func Without(h http.Header, names []string) http.Header {
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

// IsForwarding reports whether proxies use a header to describe the client that they forward for.
func IsForwarding(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "x-forwarded-") || name == "forwarded" || name == "x-real-ip"
}

// looksForwarding reports whether some servers mistake a header for a forwarding header. To CGI and
// WSGI a hyphen and an underscore are the same. No proxy writes such headers, so only a forger
// sends them.
func looksForwarding(name string) bool {
	return strings.Contains(name, "_") && IsForwarding(strings.ReplaceAll(name, "_", "-"))
}

// SetForwarded adds the forwarding headers for r to h. It removes those of untrusted peers, which
// may be forged.
func (t TrustedProxies) SetForwarded(h http.Header, r *http.Request) {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = "" // a Unix socket
	}
	trusted := t.Contains(hostAddr(r.RemoteAddr))
	for name := range h {
		if looksForwarding(name) || !trusted && IsForwarding(name) {
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

// PollHeadersOf returns the headers of a handshake's response that must also be on later polling
// responses: browsers check CORS headers on each.
func PollHeadersOf(h http.Header) http.Header {
	later := make(http.Header)
	for name, values := range h {
		if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
			later[name] = values
		}
	}
	return later
}

// CopyHeader copies the headers of src to dst, replacing those of the same name.
func CopyHeader(dst, src http.Header) {
	maps.Copy(dst, src)
}

// DropCookies removes cookies from a request's header. The others stay as they are.
func DropCookies(h http.Header, names []string) {
	lines := h["Cookie"]
	if len(lines) == 0 || len(names) == 0 {
		return
	}
	var kept []string
	for _, line := range lines {
		pairs := strings.Split(line, ";")
		rest := slices.DeleteFunc(slices.Clone(pairs), func(pair string) bool {
			name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
			return slices.Contains(names, name)
		})
		switch {
		case len(rest) == len(pairs):
			kept = append(kept, line)
		case len(rest) > 0:
			kept = append(kept, strings.TrimSpace(strings.Join(rest, ";")))
		}
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = kept
}

// Cookies returns all values of a cookie. net/http would skip values with characters that it
// considers invalid, and a skipped value would equal an absent one.
func Cookies(h http.Header, name string) []string {
	var values []string
	for _, line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if n, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && n == name {
				values = append(values, v)
			}
		}
	}
	return values
}

// WithoutCookie returns h without a cookie. netty-socketio gives a connection the sid that the
// cookie "io" has, which may be another connection's.
func WithoutCookie(h http.Header, name string) http.Header {
	lines := h.Values("Cookie")
	if len(Cookies(h, name)) == 0 {
		return h
	}
	var kept []string
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.TrimSpace(pair)
			if n, _, _ := strings.Cut(pair, "="); pair != "" && n != name {
				kept = append(kept, pair)
			}
		}
	}
	h = h.Clone()
	h.Del("Cookie")
	if len(kept) > 0 {
		h.Set("Cookie", strings.Join(kept, "; "))
	}
	return h
}

// IsUpgrade reports whether a request asks for a WebSocket.
func IsUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && hasToken(r.Header, "Connection", "upgrade")
}

// hasToken reports whether a header that lists tokens has this one.
func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
