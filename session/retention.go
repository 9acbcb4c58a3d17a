package session

import "github.com/holdfast/holdfast/buffer"

// Retention is what becomes of an event while its client is away. Events that ask for an acknowledgement, for which the
// server waits, and packets that are no events are always Keep.
type Retention uint8

// RetentionFunc of an event.
const (
	Keep         Retention = iota // sent when the client is back
	DropVolatile                  // dropped
	KeepLatest                    // dropped when another of its name comes after it
)

func (f Retention) String() string {
	switch f {
	case Keep:
		return "kept"
	case DropVolatile:
		return "volatile"
	case KeepLatest:
		return "latest"
	}
	return "unknown"
}

// RetentionFunc decides the Retention of a namespace's event, by the packet as the server wrote it. For KeepLatest it returns the event's
// name too; name may alias packet.
type RetentionFunc func(namespace string, packet []byte) (f Retention, name []byte)

// maxGaps is how many numbers without a packet a parked session's log may have, beside as many as it has packets.
const maxGaps = 64

// away is what is known of the log of a session while it is parked.
type away struct {
	latest map[string]*uint64 // the numbers of KeepLatest events, by their names
	gaps   int                // dropped packets whose numbers can be given anew
}

// A session is sifted once after it was parked: of what its client was sent without confirming it, or not sent, the
// events that are DropVolatile or superseded go. They may have arrived. They may also have been written to a connection
// that was dead for a minute before that was seen, and are stale then: they are not sent again.
// From then on each packet is judged as it comes.

// compactLocked drops what the client is not to have any more, and numbers anew what no client was sent. s.mu is held.
func (s *Session) compactLocked() {
	a := &away{latest: make(map[string]*uint64)}
	s.away = a
	dropped := [KeepLatest + 1]int{}
	s.log.Compact(s.sent, func(p *buffer.Entry, behind uint64) bool {
		f, name := s.retentionOf(p.Kind(), p.Data())
		if f == KeepLatest && a.latest[string(name)] == nil {
			a.latest[string(name)] = &behind // from the end, as yet
			return false
		}
		if f == Keep {
			return false
		}
		dropped[f]++
		return true
	})
	for _, seq := range a.latest {
		*seq = s.log.Last() - *seq
	}
	for f, n := range dropped {
		if n > 0 {
			s.registry.observer.Dropped(Retention(f), n)
		}
	}
}

func (s *Session) retentionOf(kind buffer.Kind, data []byte) (f Retention, name []byte) {
	if s.registry.limits().Retention == nil || kind != buffer.WithOffset {
		return Keep, nil
	}
	return s.registry.limits().Retention(s.namespace, data)
}

// appendParkedLocked adds a packet to a parked session's log, if its client is to have it. s.mu is held.
func (s *Session) appendParkedLocked(p *buffer.Packet) {
	if s.registry.limits().Retention == nil {
		s.log.AppendShared(p)
		return
	}
	if s.away == nil {
		s.compactLocked()
	}
	f, name := s.retentionOf(p.Kind, p.Data)
	if f == DropVolatile {
		s.registry.observer.Dropped(DropVolatile, 1)
		return
	}
	shortLived := *p
	shortLived.ShortLived = f == KeepLatest
	seq := s.log.AppendShared(&shortLived)
	if f == KeepLatest {
		s.supersedeLocked(name, seq)
	}
}

// supersedeLocked drops the former event of a name.
func (s *Session) supersedeLocked(name []byte, seq uint64) {
	a := s.away
	former := a.latest[string(name)]
	if former == nil {
		a.latest[string(name)] = &seq
		return
	}
	s.log.Drop(*former)
	s.registry.observer.Dropped(KeepLatest, 1)
	if *former > s.sent {
		a.gaps++
	}
	*former = seq
	if a.gaps > maxGaps+s.log.Packets() {
		s.compactLocked()
	}
}
