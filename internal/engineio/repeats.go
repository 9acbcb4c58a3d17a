package engineio

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// requestLog remembers the latest polling requests, to recognize one that comes again when later
// ones were handled. A client in Node.js repeats a request if the kept-alive connection that it
// used is reset. So do browsers and proxies. The first request may still be in progress then, for
// example through a replica that is stopped for a moment. A late poll would seem to show that the
// last answer has arrived, and would take the next one, which no client reads. A late POST would be
// handled twice.
type requestLog struct {
	entries  []loggedRequest // in order of time
	lastPost postID
}

type loggedRequest struct {
	at   instant.Instant
	id   uint64 // see pollHash and postHash
	body uint64 // hash of a POST's body; 0 for a poll, and for a request to another Socket
}

const (
	// repeatTime is how long a request may be in progress while later ones are answered.
	repeatTime = 20 * time.Second
	// maxRequests limits what is remembered.
	maxRequests = 128
)

// add remembers a request.
func (l *requestLog) add(id, body uint64) {
	now := instant.Now()
	old := max(0, len(l.entries)+1-maxRequests)
	for old < len(l.entries) && now.Sub(l.entries[old].at) > repeatTime {
		old++
	}
	if old > 0 {
		l.entries = l.entries[:copy(l.entries, l.entries[old:])]
	}
	l.entries = append(l.entries, loggedRequest{now, id, body})
}

// has reports whether a request was added.
func (l *requestLog) has(id, body uint64) bool {
	for _, r := range l.entries {
		if r.id == id && (r.body == body || r.body == 0) {
			return true
		}
	}
	return false
}

// ids returns what another Socket has to know.
func (l *requestLog) ids() (ids []uint64) {
	for _, r := range l.entries {
		ids = append(ids, r.id)
	}
	return ids
}

// pollHash and postHash identify requests by their "t" parameter, also in other processes.
func pollHash(id string) uint64 { return fnv("GET", id) }
func postHash(id string) uint64 { return fnv("POST", id) }

// fnv is FNV-1a of all parts.
func fnv(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range parts {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	return h
}
