package httpmsg

import (
	"net/http"
	"net/url"
	"strings"
)

// Target returns the path and the query of a request exactly as the client wrote them. url.URL
// would escape characters that RFC 3986 does not allow, and ReverseProxy would drop parameters that
// it cannot parse.
func Target(r *http.Request) (path, query string, hasQuery bool) {
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

// HasParameter reports whether a query has a parameter with this name.
func HasParameter(query, key string) bool {
	for pair := range strings.SplitSeq(query, "&") {
		k, _, _ := strings.Cut(pair, "=")
		if k == key {
			return true
		}
		if strings.Contains(k, "%") { // the server would decode it
			if k, err := url.QueryUnescape(k); err == nil && k == key {
				return true
			}
		}
	}
	return false
}
