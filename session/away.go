package session

import "github.com/holdfast/holdfast/buffer"

// Fate is what becomes of an event while its client is away. Events that ask for an acknowledgement, for which the
// server waits, and packets that are no events are always Kept.
type Fate uint8

// Fates of an event.
const (
	Kept     Fate = iota // sent when the client is back
	Volatile             // dropped
	Latest               // dropped when another of its name comes after it
)

func (f Fate) String() string {
	switch f {
	case Kept:
		return "kept"
	case Volatile:
		return "volatile"
	case Latest:
		return "latest"
	}
	return "unknown"
}

// Fates decides the Fate of a namespace's event, by the packet as the server wrote it. For Latest it returns the event's
// name too; name may alias packet.
type Fates func(namespace string, packet []byte) (f Fate, name []byte)

// maxGaps is how many numbers without a packet a parked session's log may have, beside as many as it has packets.
const maxGaps = 64

// away is what is known of the log of a session while it is parked.
type away struct {
	latest map[string]*uint64 // the numbers of Latest events, by their names
	gaps   int                // dropped packets whose numbers can be given anew
}

// A session is sifted once after it was parked: of what its client was sent without confirming it, or not sent, the
// events that are Volatile or superseded go. They may have arrived. They may also have been written to a connection
// that was dead for a minute before that was seen, and are stale then: they are not sent again.
// From then on each packet is judged as it comes.

// siftLocked drops what the client is not to have any more, and numbers anew what no client was sent. s.mu is held.
func (s *Session) siftLocked() {
	a := &away{latest: make(map[string]*uint64)}
	s.away = a
	dropped := [Latest + 1]int{}
	s.log.Sift(s.sent, func(p *buffer.Entry, behind uint64) bool {
		f, name := s.fateOf(p.Kind(), p.Data())
		if f == Latest && a.latest[string(name)] == nil {
			a.latest[string(name)] = &behind // from the end, as yet
			return false
		}
		if f == Kept {
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
			s.registry.observer.Dropped(Fate(f), n)
		}
	}
}

func (s *Session) fateOf(kind buffer.Kind, data []byte) (f Fate, name []byte) {
	if s.registry.limits().Fates == nil || kind != buffer.Stamped {
		return Kept, nil
	}
	return s.registry.limits().Fates(s.namespace, data)
}

// appendAwayLocked adds a packet to a parked session's log, if its client is to have it. s.mu is held.
func (s *Session) appendAwayLocked(p *buffer.Packet) {
	if s.registry.limits().Fates == nil {
		s.log.AppendShared(p)
		return
	}
	if s.away == nil {
		s.siftLocked()
	}
	f, name := s.fateOf(p.Kind, p.Data)
	if f == Volatile {
		s.registry.observer.Dropped(Volatile, 1)
		return
	}
	brief := *p
	brief.Brief = f == Latest
	seq := s.log.AppendShared(&brief)
	if f == Latest {
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
	s.registry.observer.Dropped(Latest, 1)
	if *former > s.sent {
		a.gaps++
	}
	*former = seq
	if a.gaps > maxGaps+s.log.Packets() {
		s.siftLocked()
	}
}
