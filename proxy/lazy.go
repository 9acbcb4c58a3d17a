package proxy

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/upstream"
)

// A lazy handshake is answered from a cache. It is repeated upstream only when the client sends
// something that needs a primary link, such as a CONNECT that cannot resume. Most reconnections
// then cost the upstream nothing.
//
// The cache holds the upstream's last answer to each kind of handshake, so the first handshake of
// each kind goes to the upstream. A failed dial removes the answers of the server that failed: it
// may be down, and its next answers may differ.

const (
	// maxCachedHandshakes bounds the cache, because clients choose its keys.
	maxCachedHandshakes = 1024
	// connectTimeout is how long a client without a primary link may stay without a session.
	// socket.io has the same.
	connectTimeout = 45 * time.Second
)

// answer is the upstream's answer to a handshake.
type answer struct {
	handshake engineio.Handshake
	header    http.Header
	from      *upstream.Server // which gave it
}

// cacheKey is what the upstream's answer depends on, unless it is a refusal.
type cacheKey struct {
	path, origin string
	websocket    bool
}

// handshakeCache holds the upstream's last answer to each kind of handshake. It is safe for
// concurrent use. A nil cache is always empty.
type handshakeCache struct{ last *lru.Cache[cacheKey, answer] }

func newHandshakeCache() *handshakeCache {
	last, err := lru.New[cacheKey, answer](maxCachedHandshakes)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &handshakeCache{last}
}

// keyOf returns the cache key of a handshake, and whether its answer can be cached. If the client
// offers subprotocols, only the upstream can answer, because it chooses one.
func (a *handshakeCache) keyOf(r engineio.Request) (k cacheKey, ok bool) {
	k = cacheKey{path: r.Path, origin: r.Header.Get("Origin"), websocket: r.WebSocket}
	return k, a != nil && len(r.Header.Values("Sec-Websocket-Protocol")) == 0
}

func (a *handshakeCache) get(r engineio.Request) (answer, bool) {
	if k, ok := a.keyOf(r); ok {
		return a.last.Get(k)
	}
	return answer{}, false
}

// replayedHeaders are response headers that are the same for all clients of an origin. Browsers and
// caches need them. Headers that begin with Access-Control- are replayed too. Any other header may
// be meant for a single client: a cookie, a token, a request id.
var replayedHeaders = []string{
	"Cache-Control", "Cross-Origin-Embedder-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy", "Expires",
	"Pragma", "Referrer-Policy", "Server", "Strict-Transport-Security", "Timing-Allow-Origin", "Vary", "X-Content-Type-Options",
	"X-Frame-Options", "X-Powered-By",
}

func isReplayed(name string) bool {
	return strings.HasPrefix(name, "Access-Control-") || slices.Contains(replayedHeaders, name)
}

// put stores an answer without the headers that may be meant for a single client.
func (a *handshakeCache) put(r engineio.Request, given answer) {
	if k, ok := a.keyOf(r); ok {
		given.header = given.header.Clone()
		maps.DeleteFunc(given.header, func(name string, _ []string) bool { return !isReplayed(name) })
		a.last.Add(k, given)
	}
}

// forget removes the answers of one server, so that the upstream answers the next handshakes.
func (a *handshakeCache) forget(from *upstream.Server) {
	if a == nil {
		return
	}
	for _, k := range a.last.Keys() {
		if given, ok := a.last.Peek(k); ok && given.from == from {
			a.last.Remove(k)
		}
	}
}

// dialled removes the answers of a server that did not answer a handshake.
func (a *handshakeCache) dialled(from *upstream.Server, err error) {
	var rejected *engineio.RejectedError
	switch {
	case err == nil, errors.As(err, &rejected):
	case errors.Is(err, context.Canceled): // a client that is gone is not the upstream's fault
	default:
		a.forget(from)
	}
}
