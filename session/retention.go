package session

import (
	"math"

	"github.com/holdfast/holdfast/buffer"
)

// This file implements events.volatile and events.latest. While a session is parked, events that
// its client will no longer need are dropped from the log.

// Retention says what happens to an event while its client is away. Events that ask for an
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

// parkedIndex is what a parked session knows about its log once that is compacted. The session's
// lock guards it.
type parkedIndex struct {
	s      *Session           // immutable
	latest map[string]*uint64 // the sequence number of the newest event of each KeepLatest name
	gaps   int                // numbers of dropped packets that no client knows
}

// appendParkedLocked adds a packet to a parked session's log, unless it is volatile. s.mu is held.
func appendParkedLocked(s *Session, p *buffer.Packet) {
	if s.registry.limits().Retention == nil {
		s.log.AppendShared(p)
		return
	}
	if s.parked.index == nil {
		compactLocked(s)
	}
	s.parked.index.append(p)
}

// compactLocked drops events that the client no longer needs, and closes the gaps in numbers that
// no client was sent. s.mu is held.
//
// It runs once after the session was parked. It also looks at what the client was sent but did not
// confirm. That may have been written to a connection that was dead for a minute, and is stale now.
// Later events are looked at as they arrive.
func compactLocked(s *Session) {
	s.parked.index = nil
	// Before the packets are dropped, find those that the client cannot decode.
	judgeLocked(s, s.log.sent, math.MaxInt)
	seen := make(map[string]bool)
	dropped := [KeepLatest + 1]int{}
	s.log.Compact(s.log.sent, func(p *buffer.Entry) bool { // the newest first
		retention, name := retentionOf(s, p.Kind(), p.Data())
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
	s.parked.index = newParkedIndex(s)
	for r, n := range dropped {
		if n > 0 {
			s.registry.observer.Dropped(Retention(r), n)
		}
	}
}

// newParkedIndex returns the index of a log that has just been compacted.
func newParkedIndex(s *Session) *parkedIndex {
	x := &parkedIndex{s: s, latest: make(map[string]*uint64)}
	for seq := s.log.Trimmed() + 1; seq <= s.log.Last(); seq++ {
		p := s.log.At(seq)
		if retention, name := retentionOf(s, p.Kind(), p.Data()); retention == KeepLatest {
			newest := seq
			x.latest[string(name)] = &newest
		}
	}
	return x
}

// retentionOf decides the Retention of a packet of this kind. s.mu is held.
func retentionOf(s *Session, kind buffer.Kind, data []byte) (r Retention, name []byte) {
	decide := s.registry.limits().Retention
	if decide == nil || kind != buffer.WithOffset {
		return Keep, nil
	}
	return decide(s.namespace, data)
}

// append adds a packet to the log, unless it is volatile.
func (x *parkedIndex) append(p *buffer.Packet) {
	retention, name := retentionOf(x.s, p.Kind, p.Data)
	if retention == DropVolatile {
		x.s.registry.observer.Dropped(DropVolatile, 1)
		return
	}
	shortLived := *p
	shortLived.ShortLived = retention == KeepLatest
	seq := x.s.log.AppendShared(&shortLived)
	if retention == KeepLatest {
		x.supersede(name, seq)
	}
}

// supersede drops the previous event of a name.
//
// Compaction closes the gaps only when they outnumber the packets, so an event costs constant time.
// Without it a million superseded events would leave a million entries, and the session would
// exceed MaxBytes although it holds one event.
func (x *parkedIndex) supersede(name []byte, seq uint64) {
	previous := x.latest[string(name)]
	if previous == nil {
		x.latest[string(name)] = &seq
		return
	}
	log := &x.s.log
	if *previous > log.Trimmed() { // otherwise a client had it that was not allowed to resume
		log.dropObsolete(*previous)
		x.s.registry.observer.Dropped(KeepLatest, 1)
	}
	if *previous > log.sent {
		x.gaps++
	}
	*previous = seq
	if x.gaps > maxGaps+log.Packets() {
		compactLocked(x.s) // makes a new index
	}
}
