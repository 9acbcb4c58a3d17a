package handover

import (
	"maps"
	"slices"
	"time"
)

// Session is a parked session.
type Session struct {
	PID, Namespace string
	Tag            uint64
	Group          uint64 // the number of its Group
	Place          uint64 // among the parked sessions: the one parked longest has the lowest
	Sent           uint64
	SentWhenParked uint64
	Confirmed      uint64 // the last confirmed event
	Reply          []byte // the CONNECT reply with the pid
	Binding        string
	Owned          uint64 // the latest handshake of a client that had it
	ParkedFor      time.Duration
	TakeoversLeft  time.Duration // until the limit of takeovers has none to remember
	Heard          bool
	InFlight       bool
	Suspicions     *Suspicions // nil while no packet was suspected to be poison
	Trimmed        uint64
	Key            *Key    // nil unless it is a keyed one
	Entries        []Entry // with the numbers Trimmed+1, Trimmed+2, ...
}

// Suspicions are what is known about packets that the client may be unable to decode; see package
// session.
type Suspicions struct {
	Buffered uint8
	Poisons  int
	Rules    uint8
	Closes   bool
	Hold     time.Duration
	HeldAt   uint64
	Doubt    *Doubt // nil while nothing is searched for
}

// Doubt is the state of a search for poison.
type Doubt struct {
	From, To uint64
	Failures int
	Ending   uint8
	Narrowed bool
	Alone    uint64
	Proof    int
}

// Key is what a keyed session has; see package session.
type Key struct {
	Digest, Handshake string
	Epoch             uint64
	TrimmedEvents     uint64
	Uncountable       bool
}

// Entry is a packet in a session's log.
type Entry struct {
	Kind        uint8 // in the terms of package buffer
	ShortLived  bool
	AckID       int64
	DroppedLate bool
	Data        Part
	Attachments []Part
}

// Part is a packet's payload, or an attachment. A shared one is written once for all logs that have
// it.
type Part struct {
	Bytes  []byte
	Shared bool
}

// maxSequence bounds sequence numbers, so that sums of them do not overflow.
const maxSequence = 1 << 60

// encode writes the session. blob returns the number of a shared payload.
func (s *Session) encode(f *fields, blob func([]byte) uint64) {
	f.text(1, s.PID)
	f.text(2, s.Namespace)
	f.number(3, s.Tag)
	f.number(4, s.Group)
	f.number(5, s.Place)
	f.number(6, s.Sent)
	f.number(7, s.SentWhenParked)
	f.number(8, s.Confirmed)
	f.bytes(9, s.Reply)
	f.text(10, s.Binding)
	f.number(11, s.Owned)
	f.duration(12, s.ParkedFor)
	f.duration(13, s.TakeoversLeft)
	f.flag(14, s.Heard)
	f.flag(15, s.InFlight)
	f.number(19, s.Trimmed)
	var inner fields
	for i := range s.Entries {
		inner = inner[:0]
		s.Entries[i].encode(&inner, blob)
		f.item(20, inner)
	}
	if s.Key != nil {
		f.message(21, s.Key.encode)
	}
	if s.Suspicions != nil {
		f.message(22, s.Suspicions.encode)
	}
}

func (k *Key) encode(f *fields) {
	f.text(1, k.Digest)
	f.text(2, k.Handshake)
	f.number(3, k.Epoch)
	f.number(4, k.TrimmedEvents)
	f.flag(5, k.Uncountable)
}

func (k *Key) decode(b []byte) error {
	return eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			k.Digest = v.text()
		case 2:
			k.Handshake = v.text()
		case 3:
			k.Epoch = v.n
		case 4:
			k.TrimmedEvents = v.n
		case 5:
			k.Uncountable = v.flag()
		}
		return nil
	})
}

func (e *Entry) encode(f *fields, blob func([]byte) uint64) {
	f.number(1, uint64(e.Kind))
	f.flag(2, e.ShortLived)
	f.number(3, uint64(e.AckID)<<1^uint64(e.AckID>>63)) // zigzag
	if e.Data.Shared {
		f.always(4, blob(e.Data.Bytes))
	} else {
		f.bytes(5, e.Data.Bytes)
	}
	for _, a := range e.Attachments { // in order, whatever their form
		if a.Shared {
			f.always(6, blob(a.Bytes))
		} else {
			f.item(7, a.Bytes)
		}
	}
	f.flag(8, e.DroppedLate)
}

func (q *Suspicions) encode(f *fields) {
	f.number(1, uint64(q.Buffered))
	f.number(2, uint64(q.Poisons))
	f.number(3, uint64(q.Rules))
	f.flag(4, q.Closes)
	f.duration(5, q.Hold)
	f.number(6, q.HeldAt)
	if q.Doubt != nil {
		f.message(7, q.Doubt.encode)
	}
}

func (d *Doubt) encode(f *fields) {
	f.number(1, d.From)
	f.number(2, d.To)
	f.number(3, uint64(d.Failures))
	f.number(4, uint64(d.Ending))
	f.flag(5, d.Narrowed)
	f.number(6, d.Alone)
	f.number(7, uint64(d.Proof))
}

// decode reads the session, with blobs as the shared payloads so far.
func (s *Session) decode(b []byte, blobs [][]byte) error {
	err := eachField(b, func(field int, v value) error { return s.decodeField(field, v, blobs) })
	switch last := s.Trimmed + uint64(len(s.Entries)); {
	case err != nil:
		return err
	case s.PID == "":
		return malformed("session without a pid")
	case s.Trimmed > maxSequence || s.Sent > last || s.Confirmed > s.Trimmed || s.SentWhenParked > maxSequence:
		return malformed("session with impossible numbers")
	}
	return nil
}

func (s *Session) decodeField(field int, v value, blobs [][]byte) error {
	switch field {
	case 1:
		s.PID = v.text()
	case 2:
		s.Namespace = v.text()
	case 3:
		s.Tag = v.n
	case 4:
		s.Group = v.n
	case 5:
		s.Place = v.n
	case 6:
		s.Sent = v.n
	case 7:
		s.SentWhenParked = v.n
	case 8:
		s.Confirmed = v.n
	case 9:
		s.Reply = v.bytes
	case 10:
		s.Binding = v.text()
	case 11:
		s.Owned = v.n
	case 12:
		s.ParkedFor = v.duration()
	case 13:
		s.TakeoversLeft = v.duration()
	case 14:
		s.Heard = v.flag()
	case 15:
		s.InFlight = v.flag()
	case 19:
		s.Trimmed = v.n
	case 20:
		var e Entry
		if err := e.decode(v.bytes, blobs); err != nil {
			return err
		}
		s.Entries = append(s.Entries, e)
	case 21:
		s.Key = new(Key)
		return s.Key.decode(v.bytes)
	case 22:
		s.Suspicions = new(Suspicions)
		return s.Suspicions.decode(v.bytes)
	}
	return nil
}

func (e *Entry) decode(b []byte, blobs [][]byte) error {
	return eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			e.Kind = uint8(min(v.n, 255))
		case 2:
			e.ShortLived = v.flag()
		case 3:
			e.AckID = int64(v.n>>1) ^ -int64(v.n&1)
		case 4, 6:
			if v.n >= uint64(len(blobs)) {
				return malformed("entry with blob %d of %d", v.n, len(blobs))
			}
			p := Part{blobs[v.n], true}
			if field == 4 {
				e.Data = p
			} else {
				e.Attachments = append(e.Attachments, p)
			}
		case 5:
			e.Data = Part{Bytes: v.bytes}
		case 7:
			e.Attachments = append(e.Attachments, Part{Bytes: v.bytes})
		case 8:
			e.DroppedLate = v.flag()
		}
		return nil
	})
}

func (q *Suspicions) decode(b []byte) error {
	return eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			q.Buffered = uint8(min(v.n, 255))
		case 2:
			q.Poisons = v.count()
		case 3:
			q.Rules = uint8(v.n)
		case 4:
			q.Closes = v.flag()
		case 5:
			q.Hold = v.duration()
		case 6:
			q.HeldAt = v.n
		case 7:
			q.Doubt = new(Doubt)
			return q.Doubt.decode(v.bytes)
		}
		return nil
	})
}

func (d *Doubt) decode(b []byte) error {
	err := eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			d.From = v.n
		case 2:
			d.To = v.n
		case 3:
			d.Failures = v.count()
		case 4:
			d.Ending = uint8(min(v.n, 255))
		case 5:
			d.Narrowed = v.flag()
		case 6:
			d.Alone = v.n
		case 7:
			d.Proof = v.count()
		}
		return nil
	})
	if err == nil && (d.From > maxSequence || d.To > maxSequence) {
		return malformed("doubt with impossible numbers")
	}
	return err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
