package proxy

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/internal/engineio"
)

// Another client of the origin must not get headers that were meant for the first client only.
func TestCachedAnswersOmitHeadersForOneClient(t *testing.T) {
	a := newHandshakeCache()
	req := engineio.Request{Path: "/socket.io/", Header: http.Header{"Origin": {"https://example.org"}}}
	header := http.Header{
		"Access-Control-Allow-Origin":      {"https://example.org"},
		"Access-Control-Allow-Credentials": {"true"},
		"Vary":                             {"Origin"},
		"Cache-Control":                    {"no-store"},
		"Set-Cookie":                       {"session=1"},
		"Authorization":                    {"Bearer x"},
		"X-Auth-Token":                     {"x"},
		"X-User":                           {"7"},
		"X-Request-Id":                     {"8"},
		"Etag":                             {`"9"`},
		"Location":                         {"/user/7"},
		"Link":                             {"</user/7>"},
		"Www-Authenticate":                 {"Negotiate abc"},
		"Content-Security-Policy":          {"script-src 'nonce-abc'"},
		"Server-Timing":                    {"user;desc=7"},
		"Sec-Websocket-Protocol":           {"x"},
	}
	a.put(req, answer{header: header})
	got, ok := a.get(req)
	want := []string{"Access-Control-Allow-Credentials", "Access-Control-Allow-Origin", "Cache-Control", "Vary"}
	if names := slices.Sorted(maps.Keys(got.header)); !ok || !slices.Equal(names, want) {
		t.Errorf("replayed %v, want %v", names, want)
	}
	if len(header) != 16 {
		t.Error("the first client's own answer lost headers")
	}
}
