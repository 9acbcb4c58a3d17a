package session

import (
	"math"

	"github.com/holdfast/holdfast/buffer"
)

// This file has what events.volatile and events.latest need: while a session is parked, events that
// its client will no longer need are dropped from the log.

// Retention is what becomes of an event while its client is away. Events that ask for an
// acknowledgement are always kept, because the server waits for it. So are packets other than
// events.
type Retention uint8

// Retentions of an event.
const (
	Keep         Retention = iota // sent when the client is back
	DropVolatile                  // dropped
	KeepLatest                    // dropped when another event of its name comes after it
)

func (r Retention) String() string {
	switch r {
	case Keep:
		return "keep"
	case DropVolatile:
		return "drop volatile"
	case KeepLatest:
		return "keep latest"
	}
	return "unknown"
}

// RetentionFunc decides the Retention of an event of a namespace. The packet is as the server wrote
// it. For KeepLatest it returns the event's name too, which may alias packet.
type RetentionFunc func(namespace string, packet []byte) (r Retention, name []byte)

// maxGaps is how many unused sequence numbers a parked session's log may have beyond the number of
// its packets.
const maxGaps = 64

// parkedIndex is what a parked session knows about its log once that is compacted.
type parkedIndex struct {
	latest map[string]*uint64 // the sequence number of the newest event of each KeepLatest name
	gaps   int                // numbers of dropped packets that no client knows
}

// compactLocked drops events that the client no longer needs, and closes the gaps in numbers that
// no client was sent. s.mu is held.
//
// It runs once after the session was parked, and judges also what the client was sent but did not
// confirm. That may have been written to a connection that was dead for a minute, and is stale now.
// Later events are judged as they come.
func (s *Session) compactLocked() {
	s.parked.index = nil
	judgeLocked(s, s.log.sent, math.MaxInt) // what the client cannot decode must be known although it is dropped
	seen := make(map[string]bool)
	dropped := [KeepLatest + 1]int{}
	s.log.Compact(s.log.sent, func(p *buffer.Entry) bool { // the newest first
		retention, name := s.retentionOf(p.Kind(), p.Data())
		switch {
		case retention == Keep:
			return false
		case retention == KeepLatest && !seen[string(name)]:
			seen[string(name)] = true
			return false
		}
		dropped[retention]++
		return true
	})
	s.parked.index = s.newParkedIndex()
	for r, n := range dropped {
		if n > 0 {
			s.registry.observer.Dropped(Retention(r), n)
		}
	}
}

// newParkedIndex returns the index of a log that has just been compacted.
func (s *Session) newParkedIndex() *parkedIndex {
	index := &parkedIndex{latest: make(map[string]*uint64)}
	for seq := s.log.Trimmed() + 1; seq <= s.log.Last(); seq++ {
		p := s.log.At(seq)
		if retention, name := s.retentionOf(p.Kind(), p.Data()); retention == KeepLatest {
			newest := seq
			index.latest[string(name)] = &newest
		}
	}
	return index
}

func (s *Session) retentionOf(kind buffer.Kind, data []byte) (r Retention, name []byte) {
	if s.registry.limits().Retention == nil || kind != buffer.WithOffset {
		return Keep, nil
	}
	return s.registry.limits().Retention(s.namespace, data)
}

// appendParkedLocked adds a packet to a parked session's log, unless it is volatile. s.mu is held.
func (s *Session) appendParkedLocked(p *buffer.Packet) {
	if s.registry.limits().Retention == nil {
		s.log.AppendShared(p)
		return
	}
	if s.parked.index == nil {
		s.compactLocked()
	}
	retention, name := s.retentionOf(p.Kind, p.Data)
	if retention == DropVolatile {
		s.registry.observer.Dropped(DropVolatile, 1)
		return
	}
	shortLived := *p
	shortLived.ShortLived = retention == KeepLatest
	seq := s.log.AppendShared(&shortLived)
	if retention == KeepLatest {
		s.supersedeLocked(name, seq)
	}
}

// supersedeLocked drops the previous event of a name.
//
// Compaction closes the gaps only when they outnumber the packets, so an event costs constant time.
// Without it a million superseded events would leave a million entries, and the session would
// exceed MaxBytes although it holds one event.
func (s *Session) supersedeLocked(name []byte, seq uint64) {
	index := s.parked.index
	previous := index.latest[string(name)]
	if previous == nil {
		index.latest[string(name)] = &seq
		return
	}
	if *previous > s.log.Trimmed() { // else a client had it that was not allowed to resume
		s.log.dropObsolete(*previous)
		s.registry.observer.Dropped(KeepLatest, 1)
	}
	if *previous > s.log.sent {
		index.gaps++
	}
	*previous = seq
	if index.gaps > maxGaps+s.log.Packets() {
		s.compactLocked()
	}
}
