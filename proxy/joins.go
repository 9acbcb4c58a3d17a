package proxy

import (
	"bytes"
	"crypto/sha256"
	bigendian "encoding/binary"
	"slices"
	"sync"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// Most applications send "join" or "login" in their connect handler, which also runs after a
// recovery. The server's socket never left, and would handle the event a second time. With
// events.join, holdfast does not pass on an event that the client of a resumed session sends again.
// The two must be equal byte for byte, except for the acknowledgement id. If it asks for an
// acknowledgement, the client gets the answer that the server gave then.

const (
	// maxJoins and maxAnswerBytes bound what is remembered of one session. Events beyond that are
	// passed on each time.
	maxJoins       = 32
	maxAnswerBytes = 16 << 10
)

// joins remembers the events that events.join names. It is safe for concurrent use.
type joins struct {
	patterns []config.EventPattern // immutable

	mu       sync.Mutex // guards the fields below
	sessions map[*session.Session]*joined
}

// joined is what a session's clients have sent.
type joined struct {
	events      map[[sha256.Size]byte]*joinEvent
	asked       map[int64]*joinEvent // by the id that the server sees
	answerBytes int
}

// joinEvent is one event.
type joinEvent struct {
	client uint64  // the handshake of the latest client that sent it
	answer *packet // the server's; nil until it comes
}

// newJoins returns nil if no event is named.
func newJoins(patterns []string) *joins {
	if len(patterns) == 0 {
		return nil
	}
	return &joins{patterns: config.ParseEventPatterns(patterns), sessions: make(map[*session.Session]*joined)}
}

// repeated reports whether an event that a client sends repeats one that another client of the same
// session has sent, and what the server answered then. It remembers the event otherwise. id is the
// acknowledgement id that the server will see.
func (j *joins) repeated(client uint64, s *session.Session, p *packet, id int64) (repeated bool, answer *packet) {
	name, ok := socketio.EventName(p.data[p.h.Data:])
	if !ok || !matchAny(j.patterns, s.Namespace(), name) {
		return false, nil
	}
	sum := sumOf(p)
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.sessions[s]
	if all == nil {
		all = &joined{events: make(map[[sha256.Size]byte]*joinEvent), asked: make(map[int64]*joinEvent)}
		j.sessions[s] = all
	}
	e := all.events[sum]
	switch {
	case e == nil && len(all.events) >= maxJoins:
		return false, nil
	case e == nil:
		e = &joinEvent{}
		all.events[sum] = e
	case e.client != client && (!p.h.HasAck() || e.answer != nil):
		e.client = client // if it comes again over this connection, the application means it
		return true, e.answer
	}
	e.client = client
	if p.h.HasAck() && len(all.asked) < maxJoins {
		all.asked[id] = e
	}
	return false, nil
}

// sumOf identifies an event without its acknowledgement id.
func sumOf(p *packet) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range slices.Concat([][]byte{p.h.Namespace, p.data[p.h.Data:]}, p.attachments) {
		_ = bigendian.Write(h, bigendian.BigEndian, int64(len(part))) // writing to a Hash does not fail
		_, _ = h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

// answered remembers the server's answer to an event.
func (j *joins) answered(s *session.Session, p *packet) {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.sessions[s]
	if all == nil || all.asked[p.h.AckID] == nil {
		return
	}
	e := all.asked[p.h.AckID]
	delete(all.asked, p.h.AckID)
	if e.answer != nil {
		all.answerBytes -= e.answer.size()
		e.answer = nil
	}
	if all.answerBytes+p.size() > maxAnswerBytes {
		return
	}
	kept := &packet{data: bytes.Clone(p.data)}
	if kept.h.Parse(kept.data) != nil {
		return // it parsed before
	}
	for _, a := range p.attachments {
		kept.attachments = append(kept.attachments, bytes.Clone(a))
	}
	e.answer = kept
	all.answerBytes += p.size()
}

// forget forgets a session that has ended.
func (j *joins) forget(s *session.Session) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.sessions, s)
}

// handle reports whether an event that a client sends repeats one that its session has sent before,
// and must not be passed on. Then it returns what answers the event.
func (j *joins) handle(client uint64, cur *session.Cursor, p *packet) (repeated bool, answer []message) {
	id := p.h.AckID
	if p.h.HasAck() && cur.Session().Keyed() {
		id, _ = cur.UpstreamAckID(id) // an id that is too large is refused later
	}
	repeated, given := j.repeated(client, cur.Session(), p, id)
	if repeated && p.h.HasAck() {
		answer = append(answer, message{socketio.AppendWithAckID(nil, given.data, &given.h, p.h.AckID), false})
		for _, a := range given.attachments {
			answer = append(answer, message{a, true})
		}
	}
	return repeated, answer
}
