package handover

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"unsafe"
)

const (
	// Format is the version of the format that Writer writes.
	Format = 1
	// LeastReader is the oldest format whose readers understand what Writer writes.
	LeastReader = 1
	// Oldest is the oldest format that Read understands.
	Oldest = 1
)

const magic = "hfhandov"

// usedMagic replaces magic in a snapshot whose links are read again.
const usedMagic = "hf-used!"

const (
	headerBytes = len(magic) + 12
	// recordHeadBytes is the size of a record without its payload.
	recordHeadBytes = 9
)

// recordType says what a record is.
type recordType uint8

const (
	processRecord recordType = iota + 1
	listenerRecord
	blobRecord
	groupRecord
	linkRecord
	sessionRecord
	endRecord
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Counts is how many records of each kind a snapshot has.
type Counts struct{ Listeners, Blobs, Groups, Links, Sessions uint64 }

func (c *Counts) encode(f *fields) {
	for i, n := range []uint64{c.Listeners, c.Blobs, c.Groups, c.Links, c.Sessions} {
		f.number(i+1, n)
	}
}

func (c *Counts) decode(b []byte) error {
	to := []*uint64{&c.Listeners, &c.Blobs, &c.Groups, &c.Links, &c.Sessions}
	return eachField(b, func(field int, v value) error {
		if field >= 1 && field <= len(to) {
			*to[field-1] = v.n
		}
		return nil
	})
}

// Writer writes a snapshot. Its methods keep the first error, and End returns it.
type Writer struct {
	w      *bufio.Writer
	err    error
	counts Counts
	blobs  map[*byte]uint64 // numbers of shared payloads
	buf    fields           // for payloads
}

// NewWriter returns a Writer that has written the header.
func NewWriter(w io.Writer) *Writer {
	sw := &Writer{w: bufio.NewWriterSize(w, 256<<10), blobs: make(map[*byte]uint64)}
	head := append(make([]byte, 0, headerBytes), magic...)
	head = binary.LittleEndian.AppendUint16(head, Format)
	head = binary.LittleEndian.AppendUint16(head, LeastReader)
	head = binary.LittleEndian.AppendUint32(head, 0)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	sw.write(head)
	return sw
}

func (w *Writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func (w *Writer) record(t recordType, payload []byte) {
	if uint64(len(payload)) > math.MaxUint32 && w.err == nil {
		w.err = fmt.Errorf("handover: a record of %d bytes is too large", len(payload))
	}
	if w.err != nil {
		return
	}
	head := recordHead(t, payload)
	w.write(head[:])
	w.write(payload)
}

// recordHead returns a record's head, with the checksum.
func recordHead(t recordType, payload []byte) (head [recordHeadBytes]byte) {
	head[0] = byte(t)
	binary.LittleEndian.PutUint32(head[1:], uint32(len(payload)))
	sum := crc32.Update(crc32.Checksum(head[:5], castagnoli), castagnoli, payload)
	binary.LittleEndian.PutUint32(head[5:], sum)
	return head
}

// fields writes a record that consists of fields.
func (w *Writer) fields(t recordType, encode func(f *fields)) {
	w.buf = w.buf[:0]
	encode(&w.buf)
	w.record(t, w.buf)
}

// Process writes the first record.
func (w *Writer) Process(p *Process) { w.fields(processRecord, p.encode) }

// Listener writes a listener.
func (w *Writer) Listener(l *Listener) {
	w.counts.Listeners++
	w.fields(listenerRecord, l.encode)
}

// Group writes a group and returns its number.
func (w *Writer) Group(g *Group) uint64 {
	w.fields(groupRecord, g.encode)
	w.counts.Groups++
	return w.counts.Groups - 1
}

// Link writes a link. Its sessions follow.
func (w *Writer) Link(l *Link) {
	w.counts.Links++
	w.fields(linkRecord, l.encode)
}

// Session writes a session of the latest link.
func (w *Writer) Session(s *Session) {
	w.counts.Sessions++
	w.fields(sessionRecord, func(f *fields) { s.encode(f, w.blob) })
}

// blob returns the number of a shared payload, which it writes the first time. Payloads are told
// apart by their place in memory, because logs share them by that.
func (w *Writer) blob(b []byte) uint64 {
	if len(b) == 0 {
		b = []byte{}
	}
	key := unsafe.SliceData(b)
	n, ok := w.blobs[key]
	if !ok {
		n = w.counts.Blobs
		w.blobs[key] = n
		w.counts.Blobs++
		w.record(blobRecord, b)
	}
	return n
}

// Counts returns what was written so far.
func (w *Writer) Counts() Counts { return w.counts }

// End writes the last record. It returns the first error of any method.
func (w *Writer) End() error {
	w.fields(endRecord, w.counts.encode)
	if w.err != nil {
		return w.err
	}
	return w.w.Flush()
}
