package proxy

import (
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/socketio"
)

// minKeyBytes rejects user ids, which others can guess.
const minKeyBytes = 16

// maxCounted bounds the namespaces that one client counts events of.
const maxCounted = 100

// usableKey returns the key in a query, or "" if there is none that can be used.
func (set *settings) usableKey(q url.Values) string {
	name := set.Recovery.Keyed.Query
	if name == "" || set.Recovery.MaxDisconnectionDuration <= 0 || len(q.Get(name)) < minKeyBytes {
		return ""
	}
	return q.Get(name)
}

// parseCounts parses "/:12,/admin:3@/admin#id": how many events of each namespace a client has
// handled, and with which socket. It passes over what it cannot parse.
func parseCounts(text string) map[string]peerwire.EventCount {
	if text == "" {
		return nil
	}
	counts := make(map[string]peerwire.EventCount)
	for item := range strings.SplitSeq(text, ",") {
		if len(counts) == maxCounted {
			break
		}
		namespace, c, ok := parseCount(item, "")
		if i := strings.LastIndexByte(item, '@'); !ok && i >= 0 {
			namespace, c, ok = parseCount(item[:i], item[i+1:])
		}
		if ok {
			counts[namespace] = c
		}
	}
	return counts
}

// parseCount parses a namespace and a number.
func parseCount(item, id string) (namespace string, c peerwire.EventCount, ok bool) {
	i := strings.LastIndexByte(item, ':')
	if i < 0 {
		return "", c, false
	}
	n, err := strconv.ParseUint(item[i+1:], 10, 53)
	return item[:i], peerwire.EventCount{N: n, ID: id}, err == nil
}

// withoutKey returns a query without the parameters of keyed recovery. The rest stays byte for
// byte.
func (set *settings) withoutKey(query string) string {
	k := set.Recovery.Keyed
	if k.Query == "" || k.Forward || !httpmsg.HasParameter(query, k.Query) && !httpmsg.HasParameter(query, k.CountQuery) {
		return query
	}
	pairs := strings.Split(query, "&")
	kept := pairs[:0]
	for _, pair := range pairs {
		if !httpmsg.HasParameter(pair, k.Query) && !httpmsg.HasParameter(pair, k.CountQuery) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// handlesV3 reports whether a handshake of Engine.IO 3 is not passed through: it has a key, and
// does not use JSONP. Clients that say no version speak version 3.
func (set *settings) handlesV3(q url.Values) bool {
	version := q.Get("EIO")
	return (version == "3" || version == "") && !q.Has("j") && set.usableKey(q) != "" && set.recoverable(socketio.Root)
}

// keyedClient is what a client with a key has in addition.
type keyedClient struct {
	key    string                         // a digest of it
	counts map[string]peerwire.EventCount // events that it has handled, by namespace; nil if it does not count
	v3     bool                           // it speaks Engine.IO 3; immutable
	since  *big.Int                       // the time of its handshake, if earlier requests may have its sid; immutable
	// foreign says that another client has the key, or that the client may not use it.
	foreign atomic.Bool

	// Guarded by the Socket's input lock.
	owner      bool   // it has the key
	lookedUp   bool   // no other replica has the key
	lastHolder string // the replica that had the key last, if it has ended
	tookOver   bool   // from a client that was connected
}
