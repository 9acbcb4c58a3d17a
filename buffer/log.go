package buffer

import (
	"bytes"
	"slices"
	"sync"
)

// Kind says how a packet is written.
type Kind uint8

const (
	// NoOffset packets are written as they are, for example acknowledgements.
	NoOffset Kind = iota
	// WithOffset packets are events. Their offset is added when they are written.
	WithOffset
	// AckRequested packets are events that ask for an acknowledgement. They cannot have an offset.
	AckRequested
	// Dropped is the kind of a number whose packet was taken out by Drop or Compact. It is not
	// written.
	Dropped
	// Answer packets are acknowledgements of a session whose clients may use an id again.
	Answer
)

// Packet is a Socket.IO packet with its binary attachments. Log.Append copies it.
type Packet struct {
	Data        []byte
	Attachments [][]byte
	// AckID is the acknowledgement id of an AckRequested or an Answer packet.
	AckID int64
	Kind  Kind
	// ShortLived packets may be dropped while those around them stay. Their bytes go into no chunk.
	ShortLived bool
}

// Entry is a packet in a log. It is small: fields that few packets need are in rare. The entry and
// its bytes belong to the log, and are valid until the next call of one of the log's methods that
// change it.
type Entry struct {
	data       []byte
	rare       *rare // nil for most
	sharedFrom uint16
	kind       Kind
	shortLived bool
	late       bool // see DroppedLate
}

// rare is the part of an Entry that most packets do not need.
type rare struct {
	attachments [][]byte
	ackID       int64
}

// Data returns the packet without its attachments.
func (e *Entry) Data() []byte { return e.data }

// Kind returns the packet's kind, or Dropped.
func (e *Entry) Kind() Kind { return e.kind }

// Attachments returns the packet's attachments.
func (e *Entry) Attachments() [][]byte {
	if e.rare == nil {
		return nil
	}
	return e.rare.attachments
}

// DroppedLate reports whether a Dropped packet was an event that may have been written before.
func (e *Entry) DroppedLate() bool { return e.late }

// AckID returns the acknowledgement id of an AckRequested or an Answer packet.
func (e *Entry) AckID() int64 {
	if e.rare == nil {
		return 0
	}
	return e.rare.ackID
}

// packetOverhead is about how much memory a packet takes in addition to its bytes: its entry, and
// spare room.
const packetOverhead = 64

// attachmentOverhead is how much memory an attachment takes in addition to its bytes.
const attachmentOverhead = 24

// sizes returns what the entry counts in its log, and in the Budget. Shared bytes count in the
// Budget only once, with the table that has them.
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
	// largeBytes is the size from which bytes go into no chunk, and are shared with other logs.
	largeBytes = maxChunkBytes/4 + 1
	// keptEntries is how many entries an empty log keeps room for, even if it used few of them.
	keptEntries = 512
	// busyEntries is the same for a log that used a quarter of them since it was last empty.
	busyEntries = 8 * keptEntries
)

// Log is the packet log of one session. The zero value is an empty log without a Budget.
type Log struct {
	budget  *Budget
	entries []Entry // entries[head:] are packets trimmed+1 to Last
	head    int
	most    int // the greatest Len that Trim saw since the log was last empty
	trimmed uint64
	dropped int // entries of the kind Dropped
	bytes   int
	chunk   []byte      // small packets are copied to its end; its spare capacity is free
	full    []fullChunk // the oldest first
}

// fullChunk is a chunk without room. Packets up to last are in it.
type fullChunk struct {
	bytes []byte
	last  uint64
}

// NewLog returns an empty log that counts in b, which may be nil.
func NewLog(b *Budget) Log { return Log{budget: b} }

// Append copies p to the end of the log and returns its sequence number.
func (l *Log) Append(p *Packet) (seq uint64) { return l.append(p, largeBytes) }

// append shares payloads and attachments of at least sharedFrom bytes with other logs.
func (l *Log) append(p *Packet, sharedFrom uint16) (seq uint64) {
	e := l.grow()
	e.kind, e.shortLived = p.Kind, p.ShortLived
	if l.budget != nil {
		e.sharedFrom = sharedFrom
	}
	e.data = l.keep(e, p.Data)
	if len(p.Attachments) > 0 || p.Kind == AckRequested || p.Kind == Answer {
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

// keep copies b, which is the data or an attachment of the last entry.
func (l *Log) keep(e *Entry, b []byte) []byte {
	switch {
	case e.shares(b):
		return l.budget.share(b)
	case e.shortLived || len(b) >= largeBytes:
		return bytes.Clone(b)
	}
	return l.copyToChunk(b)
}

// grow adds an empty entry at the end. The caller fills it in place.
func (l *Log) grow() *Entry {
	n := len(l.entries)
	if n < cap(l.entries) { // the spare capacity is zero
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

// copyToChunk copies b to the chunk that small packets share.
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
		// The last packet may have parts in both chunks.
		l.full = append(l.full, fullChunk{l.chunk, l.Last()})
	}
	if next := max(size, 2*cap(l.chunk), minChunkBytes); next < maxChunkBytes {
		l.chunk = make([]byte, 0, next)
	} else {
		l.chunk = chunks.Get().(*[maxChunkBytes]byte)[:0]
	}
}

// chunks are free chunks of maxChunkBytes.
var chunks = sync.Pool{New: func() any { return new([maxChunkBytes]byte) }}

// freeChunk gives back a chunk that contains no packet.
func freeChunk(b []byte) {
	if cap(b) == maxChunkBytes {
		chunks.Put((*[maxChunkBytes]byte)(b[:maxChunkBytes]))
	}
}

// freeChunks gives back the full chunks that contain no packet any more.
func (l *Log) freeChunks() {
	n := 0
	for n < len(l.full) && l.full[n].last <= l.trimmed {
		freeChunk(l.full[n].bytes)
		n++
	}
	l.full = slices.Delete(l.full, 0, n)
}

// Last returns the sequence number of the newest packet, or 0 before the first.
func (l *Log) Last() uint64 { return l.trimmed + uint64(l.Len()) }

// Trimmed returns the sequence number up to which packets were trimmed.
func (l *Log) Trimmed() uint64 { return l.trimmed }

// Len returns how many sequence numbers the log has: Last() - Trimmed().
func (l *Log) Len() int { return len(l.entries) - l.head }

// Packets returns how many packets the log has: Len without the numbers of dropped packets.
func (l *Log) Packets() int { return l.Len() - l.dropped }

// Bytes returns about how much memory the log's packets take.
func (l *Log) Bytes() int { return l.bytes }

// At returns packet seq. The log must have it: Trimmed() < seq <= Last().
func (l *Log) At(seq uint64) *Entry {
	return &l.entries[l.head+int(seq-l.trimmed-1)]
}

// Trim drops packets up to seq. It drops nothing if they were trimmed before, and everything if seq
// is greater than Last.
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

// resetIfEmpty makes an empty log reuse its memory, unless that is much more than it needed.
func (l *Log) resetIfEmpty() {
	if l.head < len(l.entries) {
		return
	}
	l.entries, l.head = l.entries[:0], 0
	l.chunk = l.chunk[:0] // no packet is in it
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

// Idle frees the memory that an empty log keeps for its next packets.
func (l *Log) Idle() {
	if l.Len() == 0 {
		freeChunk(l.chunk)
		l.entries, l.head, l.chunk, l.full = nil, 0, nil, nil
	}
}

// Drain moves all packets to a Log of their own, at constant cost. They count in the Budget until
// that is released. This log continues with the next number.
func (l *Log) Drain() Log {
	d := *l
	*l = Log{budget: l.budget, trimmed: l.Last()}
	return d
}

// Release drops all packets and frees all memory.
func (l *Log) Release() {
	l.Trim(l.Last())
	l.Idle()
}
