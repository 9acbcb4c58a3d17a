package proxy

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/internal/engineio"
)

// A lazy handshake is answered here, and repeated upstream only when the client sends something that needs a primary link: a
// CONNECT that cannot resume, say. Most reconnections then cost the upstream nothing. What is answered is what the upstream
// answered to the last handshake of its kind, so the first of each kind goes there, and so do all once the
// upstream is in doubt.

const (
	// maxCachedHandshakes bounds the kinds of handshakes whose answers are remembered: web pages choose their origin.
	maxCachedHandshakes = 1024
	// connectTimeout is how long a client without a primary link may send nothing, as socket.io's own.
	connectTimeout = 45 * time.Second
)

// answer is the upstream's answer to a handshake.
type answer struct {
	handshake engineio.Handshake
	header    http.Header
}

// kind is what the upstream's answer depends on, but for refusals.
type kind struct {
	path, origin string
	websocket    bool
}

// answers are the upstream's last ones. It is safe for concurrent use; a nil one remembers nothing.
type handshakeCache struct{ last *lru.Cache[kind, answer] }

func newHandshakeCache() *handshakeCache {
	last, err := lru.New[kind, answer](maxCachedHandshakes)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &handshakeCache{last}
}

// kindOf reports whether a handshake's answer can be given in place of the upstream. One that offers subprotocols is the
// upstream's own to answer.
func (a *handshakeCache) kindOf(r engineio.Request) (k kind, ok bool) {
	k = kind{path: r.Path, origin: r.Header.Get("Origin"), websocket: r.WebSocket}
	return k, a != nil && len(r.Header.Values("Sec-Websocket-Protocol")) == 0
}

func (a *handshakeCache) get(r engineio.Request) (answer, bool) {
	if k, ok := a.kindOf(r); ok {
		return a.last.Get(k)
	}
	return answer{}, false
}

// replayedHeaders are response headers that are the same for all clients of one origin. Others may be for one client only:
// cookies, tokens, ids of requests. Browsers need these to read the answer; caches, to keep it for nobody else. Beside them
// stand all that begin with Access-Control-.
var replayedHeaders = []string{
	"Cache-Control", "Cross-Origin-Embedder-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy", "Expires",
	"Pragma", "Referrer-Policy", "Server", "Strict-Transport-Security", "Timing-Allow-Origin", "Vary", "X-Content-Type-Options",
	"X-Frame-Options", "X-Powered-By",
}

func isReplayed(name string) bool {
	return strings.HasPrefix(name, "Access-Control-") || slices.Contains(replayedHeaders, name)
}

// put remembers an answer, with those headers only that are not for one client.
func (a *handshakeCache) put(r engineio.Request, given answer) {
	if k, ok := a.kindOf(r); ok {
		given.header = given.header.Clone()
		maps.DeleteFunc(given.header, func(name string, _ []string) bool { return !isReplayed(name) })
		a.last.Add(k, given)
	}
}

// forget has the next handshakes answered by the upstream.
func (a *handshakeCache) forget() {
	if a != nil {
		a.last.Purge()
	}
}

// closeUnlessConnected ends a client that has no primary link by then and has resumed no session.
func (c *client) closeUnlessConnected(timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeAfterLocked(timeout, func() {
		c.mu.Lock()
		unused := c.primary == nil && c.sessions.empty()
		c.mu.Unlock()
		if unused && !c.pauses.has(redialing) {
			c.sock.Close()
		}
	})
}

// relayLazily relays a message to the primary link that a client has yet to get. The first decides what the primary link relays.
func (c *client) relayLazily(data []byte, binary bool) {
	if c.receiver.dialing {
		c.wait(data, binary)
		return
	}
	data = slices.Clone(data)
	c.redialPrimary(func(primary *link) {
		if c.receiver.raw {
			primary.relayRaw()
		}
		c.sendPrimary(data, binary)
	})
}
