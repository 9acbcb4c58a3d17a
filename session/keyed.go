package session

import (
	"bytes"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// A keyed session belongs to a client without support for recovery. The client presents the same
// key each time it connects, and the caller finds the session by the key. The session's pid never
// leaves the process, and its events have no offsets. Two things show what the client has: its
// confirmations, and the number of events that it says it has handled. See
// docs/adr/0011-keyed-recovery.md.

// keyed is what a keyed session has in addition.
type keyed struct {
	key Key // immutable
	// epoch counts the clients that have resumed the session.
	epoch uint64
	// trimmedEvents counts the events among the packets that are trimmed, as its client counts
	// them.
	trimmedEvents uint64
	// uncountable says that a client resumed without counting while events were in flight, so that
	// later counts cannot be used.
	uncountable bool
}

// ackIDsPerEpoch is how many acknowledgement ids each client of a keyed session has. Most clients
// begin with 0 or 1 again when they reconnect. The server therefore sees the ids of the n-th client
// increased by n*ackIDsPerEpoch. Otherwise the answer to an earlier client's event could be taken
// for one to a new event.
const ackIDsPerEpoch = 1 << 32

// maxEpoch keeps ids below 2^53, beyond which JavaScript servers cannot count.
const maxEpoch = 1<<21 - 1

// Key is what a keyed session is found by.
type Key struct {
	Digest    string // of the key
	Handshake string // a digest of what the first client's handshake presented; see Binding
}

// SetKey makes the session a keyed one. It must be called before the first packet.
func (s *Session) SetKey(key Key) { s.keyed = &keyed{key: key} }

// Keyed reports whether the session is a keyed one.
func (s *Session) Keyed() bool { return s.keyed != nil }

// Key is the key of a keyed session.
func (s *Session) Key() Key { return s.keyed.key }

// Accepts reports whether a client with this binding may resume the session.
func (s *Session) Accepts(b Binding) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.binding.equal(b)
}

// UpstreamAckID returns the acknowledgement id under which the server sees an event that the client
// of a keyed session sent with id. ok is false for an id that no client uses.
func (c *Cursor) UpstreamAckID(id int64) (upstream int64, ok bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if id >= ackIDsPerEpoch {
		return 0, false
	}
	return int64(c.s.keyed.epoch%(maxEpoch+1))*ackIDsPerEpoch + id, true
}

// ClientAckID returns the id that a client gave to an event which the server sees as upstream.
func ClientAckID(upstream int64) int64 { return upstream % ackIDsPerEpoch }

// answersOther reports whether an Answer is for an earlier client.
func (k *keyed) answersOther(p *buffer.Entry) bool {
	return uint64(p.AckID()/ackIDsPerEpoch) != k.epoch%(maxEpoch+1)
}

// countsAsEvent reports whether a client that was sent this entry has counted it.
func countsAsEvent(p *buffer.Entry) bool {
	switch p.Kind() {
	case buffer.WithOffset, buffer.AckRequested:
		return true
	case buffer.Dropped:
		return p.DroppedLate()
	case buffer.NoOffset, buffer.Answer:
	}
	return false
}

// countTrimmed counts the events up to seq, which are about to be trimmed.
func (k *keyed) countTrimmed(log *sentLog, seq uint64) {
	for i := log.Trimmed() + 1; i <= seq; i++ {
		if countsAsEvent(log.At(i)) {
			k.trimmedEvents++
		}
	}
}

// seqOfEvent returns the number of the n-th event of the session, or of the last packet that is
// trimmed if that comes later. It fails if the client has not been sent so many events, or needs
// some that are trimmed.
func (k *keyed) seqOfEvent(log *sentLog, n uint64) (seq uint64, refused reason.Reason) {
	seq = log.Trimmed()
	if k.uncountable || n < k.trimmedEvents {
		return 0, reason.BadOffset
	}
	for left := n - k.trimmedEvents; left > 0; {
		if seq++; seq > min(log.sent, log.Last()) {
			return 0, reason.BadOffset
		}
		if countsAsEvent(log.At(seq)) {
			left--
		}
	}
	return seq, ""
}

// keyedFromLocked returns the number of the last packet that the client of a keyed session need not
// have again. s.mu is held.
func keyedFromLocked(s *Session, claim *Claim) (from uint64, refused reason.Reason) {
	switch {
	case claim.Counted && claim.HandledBy != "" && !hasIDLocked(s, claim.HandledBy):
		return s.keyed.seqOfEvent(&s.log, 0) // it never had the reply of this session
	case claim.Counted:
		return s.keyed.seqOfEvent(&s.log, claim.Handled)
	}
	if s.log.sent > s.log.Trimmed() { // it is unknown whether it has those
		s.keyed.uncountable = true
	}
	if s.registry.limits().KeyedAtMostOnce {
		return max(s.log.Trimmed(), s.log.sent), ""
	}
	return s.log.Trimmed(), ""
}

// hasIDLocked reports whether the client's socket has this id: the session's CONNECT reply says it.
// s.mu is held.
func hasIDLocked(s *Session, id string) bool {
	reply := bytes.ReplaceAll(s.reply, []byte(`\/`), []byte("/"))
	return bytes.Contains(reply, []byte(`"`+id+`"`))
}
