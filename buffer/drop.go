package buffer

import "slices"

// Packets leave a log at its front, when they are confirmed. But while a client is away there are events that it need
// not have any more when it returns: those can be dropped from anywhere.

// Drop takes packet seq out of the log, which it must be in: Trimmed() < seq <= Last(). Its number stays, as that of
// a packet of the Kind Dropped.
func (l *Log) Drop(seq uint64) {
	e := l.At(seq)
	if e.kind == Dropped {
		return
	}
	all, own := e.sizes()
	l.bytes -= all - packetOverhead
	l.budget.add(packetOverhead-own, -1)
	e.eachShared(l.budget.release)
	*e = Entry{kind: Dropped}
	l.dropped++
}

// Compact drops the packets that drop chooses; it is asked for each of them, the newest first, with how many numbers there
// are going to be behind it. The numbers of dropped packets go to those behind them, and Last goes
// down, but for numbers up to fixed, which stay: somebody knows them.
func (l *Log) Compact(fixed uint64, drop func(e *Entry, behind uint64) bool) {
	scattered := false // other packets' chunks have the bytes of some that were dropped
	behind := uint64(0)
	for seq := l.Last(); seq > l.trimmed; seq-- {
		e := l.At(seq)
		if e.kind != Dropped && drop(e, behind) {
			scattered = scattered || !e.shortLived
			l.Drop(seq)
		}
		if e.kind != Dropped || seq <= fixed {
			behind++
		}
	}
	l.closeGaps(fixed)
	if scattered {
		l.compactChunks()
	}
}

// closeGaps takes the numbers of dropped packets away that are greater than fixed.
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

// compactChunks moves small packets to chunks without gaps.
func (l *Log) compactChunks() {
	l.chunk, l.full = nil, nil // the garbage collector's, for the packets are still in them
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
