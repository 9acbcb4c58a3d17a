package buffer

import (
	"bytes"
	"slices"
)

// Kind is what has to be known of a packet to write it.
type Kind uint8

const (
	// Plain packets are written as they are: acknowledgements, for one.
	Plain Kind = iota
	// Stamped packets are events that get their offset when written.
	Stamped
	// Asking packets are events that ask for an acknowledgement: they cannot bear an offset.
	Asking
	// Dropped is what a packet becomes that Drop or Sift took out: only its number is left. It is not written.
	Dropped
)

// Packet is one Socket.IO packet with its binary attachments.
type Packet struct {
	Data        []byte
	Attachments [][]byte
	// AckID is the acknowledgement id of an Asking packet.
	AckID int64
	Kind  Kind
	// Brief packets may soon be dropped while those around them stay: AppendShared puts their bytes into no chunk.
	Brief bool

	sharedFrom int // parts of at least so many bytes are Budget.share's; 0 is none
}

// packetOverhead is about what a packet costs in memory beside its bytes.
const packetOverhead = 64

func (p *Packet) size() int {
	n := len(p.Data) + packetOverhead
	for _, a := range p.Attachments {
		n += len(a) + 24
	}
	return n
}

const (
	minChunkBytes = 256
	maxChunkBytes = 8 << 10
	// largeBytes is what goes into no chunk. It is looked for in other logs: it is worth it.
	largeBytes = maxChunkBytes/4 + 1
	// keptEntries is how many entries an empty log may keep room for.
	keptEntries = 512
)

// Log is the packet log of one session. The zero value is an empty log that counts for no Budget.
type Log struct {
	budget  *Budget
	entries []Packet // entries[head:] are packets trimmed+1 to Last
	head    int
	trimmed uint64
	dropped int // of the entries
	bytes   int
	chunk   []byte      // packets' bytes are copied to its end; what is beyond its length is free
	full    []fullChunk // the oldest first
	spare   []byte      // a chunk for when this one is full, or nil
}

// fullChunk is a chunk that is in use up to packet last.
type fullChunk struct {
	bytes []byte
	last  uint64
}

// NewLog returns an empty log that counts for b, which may be nil.
func NewLog(b *Budget) Log { return Log{budget: b} }

// Append copies p to the end of the log and returns its sequence number.
func (l *Log) Append(p Packet) (seq uint64) { return l.append(p, largeBytes) }

// append shares parts of at least sharedFrom bytes with other logs.
func (l *Log) append(p Packet, sharedFrom int) (seq uint64) {
	if l.budget != nil {
		p.sharedFrom = sharedFrom
	}
	p.Data = l.keep(&p, p.Data)
	if len(p.Attachments) > 0 {
		kept := make([][]byte, len(p.Attachments))
		for i, a := range p.Attachments {
			kept[i] = l.keep(&p, a)
		}
		p.Attachments = kept
	}
	return l.add(p)
}

// keep copies b, which is one of the parts of the packet that is to be added.
func (l *Log) keep(p *Packet, b []byte) []byte {
	switch {
	case p.shares(b):
		return l.budget.share(b)
	case p.Brief || len(b) >= largeBytes:
		return bytes.Clone(b)
	}
	return l.copyToChunk(b)
}

// add puts a packet, whose bytes are the log's, at the end.
func (l *Log) add(p Packet) (seq uint64) {
	if l.head > 0 && len(l.entries) == cap(l.entries) && l.head >= len(l.entries)/2 {
		n := copy(l.entries, l.entries[l.head:])
		clear(l.entries[n:])
		l.entries, l.head = l.entries[:n], 0
	}
	l.entries = append(l.entries, p)
	l.bytes += p.size()
	l.budget.add(p.ownSize(), 1)
	return l.Last()
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
		l.full = append(l.full, fullChunk{l.chunk, l.Last() + 1}) // the packet at hand may have parts in both
	}
	if l.spare != nil {
		l.chunk, l.spare = l.spare[:0], nil
		return
	}
	l.chunk = make([]byte, 0, max(size, min(max(2*cap(l.chunk), minChunkBytes), maxChunkBytes)))
}

// reuseChunk keeps one of the chunks that no packet is in any more for the next that is needed.
func (l *Log) reuseChunk() {
	n := 0
	for n < len(l.full) && l.full[n].last <= l.trimmed {
		if cap(l.full[n].bytes) == maxChunkBytes {
			l.spare = l.full[n].bytes
		}
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

// At returns packet seq, which must be in the log: Trimmed() < seq <= Last(). It
// and its bytes belong to the log, and are valid until the next call of Trim, Append or Release.
func (l *Log) At(seq uint64) *Packet {
	return &l.entries[l.head+int(seq-l.trimmed-1)]
}

// Trim drops packets up to seq. A seq that was dropped before, or is not reached yet, is
// no error: it drops nothing, or all.
func (l *Log) Trim(seq uint64) {
	seq = min(seq, l.Last())
	if seq <= l.trimmed {
		return
	}
	n, dropped := int(seq-l.trimmed), 0
	freed, own := 0, 0
	for i := l.head; i < l.head+n; i++ {
		p := &l.entries[i]
		freed += p.size()
		own += p.ownSize()
		if p.Kind == Dropped {
			dropped++
		}
		p.eachShared(l.budget.unshare)
		*p = Packet{}
	}
	l.head += n
	l.trimmed = seq
	l.dropped -= dropped
	l.bytes -= freed
	l.budget.add(-own, dropped-n)
	l.reuseChunk()
	l.settle()
}

// settle makes an empty log begin anew with the room that it has, if that is little.
func (l *Log) settle() {
	if l.head < len(l.entries) {
		return
	}
	l.entries, l.head = l.entries[:0], 0
	l.chunk = l.chunk[:0] // nobody holds a packet any more
	clear(l.full)
	l.full = l.full[:0]
	if cap(l.entries) > keptEntries {
		l.entries = nil
	}
}

// Idle frees what an empty log keeps for the next packets.
func (l *Log) Idle() {
	if l.Len() == 0 {
		l.entries, l.head, l.chunk, l.full, l.spare = nil, 0, nil, nil, nil
	}
}

// Release drops all packets for good.
func (l *Log) Release() {
	l.Trim(l.Last())
	l.Idle()
}
