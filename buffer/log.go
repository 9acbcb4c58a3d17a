package buffer

import (
	"bytes"
	"slices"
	"sync"
)

// Kind is what has to be known of a packet to write it.
type Kind uint8

const (
	// NoOffset packets are written as they are: acknowledgements, for one.
	NoOffset Kind = iota
	// WithOffset packets are events that get their offset when written.
	WithOffset
	// AckRequested packets are events that ask for an acknowledgement: they cannot bear an offset.
	AckRequested
	// Dropped is what a packet becomes that Drop or Compact took out: only its number is left. It is not written.
	Dropped
)

// Packet is one Socket.IO packet with its binary attachments, to be appended to a log.
type Packet struct {
	Data        []byte
	Attachments [][]byte
	// AckID is the acknowledgement id of an AckRequested packet.
	AckID int64
	Kind  Kind
	// ShortLived packets may soon be dropped while those around them stay: AppendShared puts their bytes into no chunk.
	ShortLived bool
}

// Entry is a Packet as a log keeps it: there may be many, so what few packets have stands apart. It belongs to the log,
// as do its bytes, and is valid until the next call of Trim, Append, AppendShared, Drop, Compact or Release.
type Entry struct {
	data       []byte
	rare       *rare // nil for most
	sharedFrom uint16
	kind       Kind
	shortLived bool
}

// rare is what an Entry may have beside its data.
type rare struct {
	attachments [][]byte
	ackID       int64
}

// Data is the packet without its attachments.
func (e *Entry) Data() []byte { return e.data }

// Kind is the packet's, or Dropped.
func (e *Entry) Kind() Kind { return e.kind }

// Attachments are the packet's.
func (e *Entry) Attachments() [][]byte {
	if e.rare == nil {
		return nil
	}
	return e.rare.attachments
}

// AckID is the acknowledgement id of an AckRequested packet.
func (e *Entry) AckID() int64 {
	if e.rare == nil {
		return 0
	}
	return e.rare.ackID
}

// packetOverhead is about what a packet costs in memory beside its bytes: its entry, and room for further ones.
const packetOverhead = 64

// attachmentOverhead is what an attachment costs beside its bytes.
const attachmentOverhead = 24

// sizes are what the entry counts for its log, and what of that counts for the Budget: not what is counted where it is
// shared.
func (e *Entry) sizes() (all, own int) {
	all = len(e.data) + packetOverhead
	own = all
	if e.shares(e.data) {
		own -= len(e.data)
	}
	for _, a := range e.Attachments() {
		all += len(a) + attachmentOverhead
		own += attachmentOverhead
		if !e.shares(a) {
			own += len(a)
		}
	}
	return all, own
}

const (
	minChunkBytes = 256
	maxChunkBytes = 8 << 10
	// largeBytes is what goes into no chunk. It is looked for in other logs: it is worth it.
	largeBytes = maxChunkBytes/4 + 1
	// keptEntries is how many entries an empty log may keep room for, whatever use it made of it.
	keptEntries = 512
	// busyEntries is the same for a log that needed a fourth of them since it was last empty.
	busyEntries = 8 * keptEntries
)

// Log is the packet log of one session. The zero value is an empty log that counts for no Budget.
type Log struct {
	budget  *Budget
	entries []Entry // entries[head:] are packets trimmed+1 to Last
	head    int
	most    int // that Len was since the log was last empty, as Trim saw it
	trimmed uint64
	dropped int // of the entries
	bytes   int
	chunk   []byte      // packets' bytes are copied to its end; what is beyond its length is free
	full    []fullChunk // the oldest first
}

// fullChunk is a chunk that is in use up to packet last.
type fullChunk struct {
	bytes []byte
	last  uint64
}

// NewLog returns an empty log that counts for b, which may be nil.
func NewLog(b *Budget) Log { return Log{budget: b} }

// Append copies p to the end of the log and returns its sequence number.
func (l *Log) Append(p *Packet) (seq uint64) { return l.append(p, largeBytes) }

// append shares parts of at least sharedFrom bytes with other logs.
func (l *Log) append(p *Packet, sharedFrom uint16) (seq uint64) {
	e := l.grow()
	e.kind, e.shortLived = p.Kind, p.ShortLived
	if l.budget != nil {
		e.sharedFrom = sharedFrom
	}
	e.data = l.keep(e, p.Data)
	if len(p.Attachments) > 0 || p.Kind == AckRequested {
		e.rare = &rare{ackID: p.AckID}
	}
	if len(p.Attachments) > 0 {
		kept := make([][]byte, len(p.Attachments))
		for i, a := range p.Attachments {
			kept[i] = l.keep(e, a)
		}
		e.rare.attachments = kept
	}
	all, own := e.sizes()
	l.bytes += all
	l.budget.add(own, 1)
	return l.Last()
}

// keep copies b, which is one of the parts of the last entry.
func (l *Log) keep(e *Entry, b []byte) []byte {
	switch {
	case e.shares(b):
		return l.budget.share(b)
	case e.shortLived || len(b) >= largeBytes:
		return bytes.Clone(b)
	}
	return l.copyToChunk(b)
}

// grow puts an empty entry at the end, to be filled where it stands.
func (l *Log) grow() *Entry {
	n := len(l.entries)
	if n < cap(l.entries) { // what is beyond the length is clear
		l.entries = l.entries[:n+1]
		return &l.entries[n]
	}
	if l.head > 0 && l.head >= n/2 {
		n = copy(l.entries, l.entries[l.head:])
		clear(l.entries[n:])
		l.entries, l.head = l.entries[:n], 0
	}
	l.entries = append(l.entries, Entry{})
	return &l.entries[n]
}

// copyToChunk copies b to the chunk, which many small packets have in common.
func (l *Log) copyToChunk(b []byte) []byte {
	if cap(l.chunk)-len(l.chunk) < len(b) {
		l.nextChunk(len(b))
	}
	start := len(l.chunk)
	l.chunk = append(l.chunk, b...)
	return l.chunk[start:len(l.chunk):len(l.chunk)]
}

// nextChunk replaces a chunk that has no room for size bytes.
func (l *Log) nextChunk(size int) {
	if len(l.chunk) > 0 {
		l.full = append(l.full, fullChunk{l.chunk, l.Last()}) // the last packet may have parts in both
	}
	if next := max(size, 2*cap(l.chunk), minChunkBytes); next < maxChunkBytes {
		l.chunk = make([]byte, 0, next)
	} else {
		l.chunk = chunks.Get().(*[maxChunkBytes]byte)[:0]
	}
}

// chunks are those of maxChunkBytes that no log has any more.
var chunks = sync.Pool{New: func() any { return new([maxChunkBytes]byte) }}

// freeChunk gives a chunk away that no packet is in.
func freeChunk(b []byte) {
	if cap(b) == maxChunkBytes {
		chunks.Put((*[maxChunkBytes]byte)(b[:maxChunkBytes]))
	}
}

// freeChunks gives the full chunks away that no packet is in any more.
func (l *Log) freeChunks() {
	n := 0
	for n < len(l.full) && l.full[n].last <= l.trimmed {
		freeChunk(l.full[n].bytes)
		n++
	}
	l.full = slices.Delete(l.full, 0, n)
}

// Last is the sequence number of the newest packet appended; 0 before the first.
func (l *Log) Last() uint64 { return l.trimmed + uint64(l.Len()) }

// Trimmed is the sequence number up to which packets have been dropped.
func (l *Log) Trimmed() uint64 { return l.trimmed }

// Len is how many numbers the log holds: Last() - Trimmed().
func (l *Log) Len() int { return len(l.entries) - l.head }

// Packets is how many packets the log holds: Len, without the numbers of packets that were dropped.
func (l *Log) Packets() int { return l.Len() - l.dropped }

// Bytes is about how much memory the log's packets take.
func (l *Log) Bytes() int { return l.bytes }

// At returns packet seq, which must be in the log: Trimmed() < seq <= Last().
func (l *Log) At(seq uint64) *Entry {
	return &l.entries[l.head+int(seq-l.trimmed-1)]
}

// Trim drops packets up to seq. A seq that was dropped before, or is not reached yet, is
// no error: it drops nothing, or all.
func (l *Log) Trim(seq uint64) {
	seq = min(seq, l.Last())
	if seq <= l.trimmed {
		return
	}
	l.most = max(l.most, l.Len())
	n, dropped := int(seq-l.trimmed), 0
	freed, own := 0, 0
	for i := l.head; i < l.head+n; i++ {
		e := &l.entries[i]
		a, o := e.sizes()
		freed += a
		own += o
		if e.kind == Dropped {
			dropped++
		}
		e.eachShared(l.budget.release)
	}
	clear(l.entries[l.head : l.head+n])
	l.head += n
	l.trimmed = seq
	l.dropped -= dropped
	l.bytes -= freed
	l.budget.add(-own, dropped-n)
	l.freeChunks()
	l.resetIfEmpty()
}

// settle makes an empty log begin anew with the room that it has, if that is little, or it was needed.
func (l *Log) resetIfEmpty() {
	if l.head < len(l.entries) {
		return
	}
	l.entries, l.head = l.entries[:0], 0
	l.chunk = l.chunk[:0] // nobody holds a packet any more
	for _, c := range l.full {
		freeChunk(c.bytes)
	}
	clear(l.full)
	l.full = l.full[:0]
	if cap(l.entries) > max(keptEntries, min(busyEntries, 4*l.most)) {
		l.entries = nil
	}
	l.most = 0
}

// Idle frees what an empty log keeps for the next packets.
func (l *Log) Idle() {
	if l.Len() == 0 {
		freeChunk(l.chunk)
		l.entries, l.head, l.chunk, l.full = nil, 0, nil, nil
	}
}

// Drain takes all packets out, in a Log of their own, at a constant cost. They still count for the Budget, until that Log is
// released. This one goes on with the numbers behind theirs.
func (l *Log) Drain() Log {
	d := *l
	*l = Log{budget: l.budget, trimmed: l.Last()}
	return d
}

// Release drops all packets for good.
func (l *Log) Release() {
	l.Trim(l.Last())
	l.Idle()
}
