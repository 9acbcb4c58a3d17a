package buffer

import "slices"

// Packets leave a log at its front when they are confirmed. While a client is away, some events
// become obsolete. Those can be dropped from anywhere.

// Drop takes packet seq out of the log, which must have it: Trimmed() < seq <= Last(). Its number
// stays and gets the Kind Dropped.
func (l *Log) Drop(seq uint64) { l.drop(seq, false) }

// DropLate is Drop for an event that may have been written.
func (l *Log) DropLate(seq uint64) { l.drop(seq, true) }

// NeverWritten says that the events after from, up to to, that were dropped late had not arrived.
func (l *Log) NeverWritten(from, to uint64) {
	for seq := max(from, l.trimmed) + 1; seq <= min(to, l.Last()); seq++ {
		l.At(seq).late = false
	}
}

func (l *Log) drop(seq uint64, late bool) {
	e := l.At(seq)
	if e.kind == Dropped {
		return
	}
	all, own := e.sizes()
	l.bytes -= all - packetOverhead
	l.budget.add(packetOverhead-own, -1)
	e.eachShared(l.budget.release)
	*e = Entry{kind: Dropped, late: late}
	l.dropped++
}

// Compact drops the packets for which drop returns true. It asks for each of them, the newest
// first.
//
// Numbers up to fixed stay, because clients know them. Beyond that packets move up into the gaps,
// and Last decreases.
func (l *Log) Compact(fixed uint64, drop func(e *Entry) bool) {
	scattered := false // chunks contain bytes of packets that were dropped
	for seq := l.Last(); seq > l.trimmed; seq-- {
		if e := l.At(seq); e.kind != Dropped && drop(e) {
			scattered = scattered || !e.shortLived
			l.drop(seq, seq <= fixed)
		}
	}
	l.closeGaps(fixed)
	if scattered {
		l.compactChunks()
	}
}

// closeGaps removes the numbers greater than fixed that belong to dropped packets.
func (l *Log) closeGaps(fixed uint64) {
	first := l.head + int(min(max(fixed, l.trimmed), l.Last())-l.trimmed)
	kept := slices.DeleteFunc(l.entries[first:], func(e Entry) bool { return e.kind == Dropped })
	n := len(l.entries) - first - len(kept)
	l.entries = l.entries[:first+len(kept)]
	l.dropped -= n
	l.bytes -= n * packetOverhead
	l.budget.add(-n*packetOverhead, 0)
	if cap(l.entries) > keptEntries && cap(l.entries) > 4*l.Len() {
		l.entries, l.head = slices.Clone(l.entries[l.head:]), 0
	}
	l.resetIfEmpty()
}

// compactChunks copies small packets to new chunks, without the bytes of dropped ones.
func (l *Log) compactChunks() {
	l.chunk, l.full = nil, nil // not for the pool: packets are still in them
	move := func(e *Entry, b []byte) []byte {
		if e.shortLived || len(b) >= largeBytes || e.shares(b) {
			return b // it has its own memory
		}
		return l.copyToChunk(b)
	}
	for i := l.head; i < len(l.entries); i++ {
		e := &l.entries[i]
		e.data = move(e, e.data)
		for j, a := range e.Attachments() {
			e.rare.attachments[j] = move(e, a)
		}
	}
}
