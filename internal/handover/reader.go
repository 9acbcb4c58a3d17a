package handover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrVersion means that a snapshot is too old or too new for this reader.
var ErrVersion = errors.New("handover: unknown format")

// ErrUsed means that a process took over before, and has ended since. Its links are not as the
// snapshot says.
var ErrUsed = errors.New("handover: the process that took over has ended")

// MarkUsed makes every later Read of a snapshot fail with ErrUsed.
func MarkUsed(snapshot io.WriterAt) error {
	_, err := snapshot.WriteAt([]byte(usedMagic), 0)
	return err
}

// Handler receives the records of a snapshot in their order. Nil functions receive nothing.
type Handler struct {
	Process  func(p *Process) error
	Listener func(l *Listener) error
	// Blob receives a shared payload. Entries get the bytes that it returns, which must be equal.
	Blob  func(b []byte) []byte
	Group func(g *Group) error
	Link  func(l *Link) error
	// Session receives a session of the latest link.
	Session func(s *Session) error
	// Behind reports that the snapshot's first bytes are no longer needed. It is not called after
	// every record.
	Behind func(bytes int)
}

// Read reads a snapshot. It checks each record before it passes it on, but not the records after
// that: Verify does.
func Read(data []byte, h Handler) error {
	r := reader{h: h, data: data}
	if err := r.header(); err != nil {
		return err
	}
	for !r.ended {
		if err := r.record(); err != nil {
			return err
		}
	}
	if len(r.data) > r.at {
		return malformed("%d bytes follow the end", len(r.data)-r.at)
	}
	return nil
}

// Summary is what Verify has found.
type Summary struct {
	Process   Process
	Listeners []Listener
	LinkFDs   []int
	Counts    Counts
}

// Verify reads a whole snapshot without any effect.
func Verify(data []byte) (*Summary, error) {
	s := new(Summary)
	err := Read(data, Handler{
		Process: func(p *Process) error {
			s.Process = *p
			for _, b := range []*[]byte{&s.Process.Owner, &s.Process.BindKey, &s.Process.BindSum, &s.Process.KeySalt, &s.Process.Config} {
				*b = bytes.Clone(*b) // the summary outlives the snapshot
			}
			return nil
		},
		Listener: func(l *Listener) error {
			s.Listeners = append(s.Listeners, *l)
			s.Counts.Listeners++
			return nil
		},
		Link: func(l *Link) error {
			s.LinkFDs = append(s.LinkFDs, l.FD)
			s.Counts.Links++
			return nil
		},
		Session: func(*Session) error {
			s.Counts.Sessions++
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// behindBytes is how often Handler.Behind is called.
const behindBytes = 4 << 20

type reader struct {
	h      Handler
	data   []byte
	at     int // where the next record begins
	behind int // what Handler.Behind was told
	counts Counts
	blobs  [][]byte
	begun  bool // the first record was read
	ended  bool
}

func (r *reader) header() error {
	d := r.data
	if len(d) >= headerBytes && string(d[:len(usedMagic)]) == usedMagic {
		return ErrUsed
	}
	if len(d) < headerBytes || string(d[:len(magic)]) != magic {
		return malformed("no header")
	}
	sum := headerBytes - 4
	if crc32.Checksum(d[:sum], castagnoli) != binary.LittleEndian.Uint32(d[sum:]) {
		return malformed("header: wrong checksum")
	}
	format := binary.LittleEndian.Uint16(d[len(magic):])
	least := binary.LittleEndian.Uint16(d[len(magic)+2:])
	if format < Oldest || least > Format {
		return fmt.Errorf("%w: %d, readable from %d on; this reader knows %d to %d", ErrVersion, format, least, Oldest, Format)
	}
	r.at = headerBytes
	return nil
}

func (r *reader) record() error {
	rest := r.data[r.at:]
	if len(rest) < recordHeadBytes {
		return malformed("truncated")
	}
	length := binary.LittleEndian.Uint32(rest[1:])
	if uint64(length) > uint64(len(rest)-recordHeadBytes) {
		return malformed("truncated record")
	}
	t, payload := recordType(rest[0]), rest[recordHeadBytes:recordHeadBytes+int(length)]
	if head := recordHead(t, payload); string(head[:]) != string(rest[:recordHeadBytes]) {
		return malformed("record: wrong checksum")
	}
	if r.begun == (t == processRecord) {
		return malformed("a snapshot has one process record, and begins with it")
	}
	r.begun = true
	if err := r.decode(t, payload); err != nil {
		return err
	}
	r.at += recordHeadBytes + int(length)
	if r.h.Behind != nil && r.at-r.behind >= behindBytes {
		r.behind = r.at
		r.h.Behind(r.at)
	}
	return nil
}

func (r *reader) decode(t recordType, payload []byte) error {
	switch t {
	case processRecord:
		return pass(payload, new(Process), r.h.Process)
	case listenerRecord:
		r.counts.Listeners++
		return pass(payload, new(Listener), r.h.Listener)
	case blobRecord:
		r.counts.Blobs++
		if r.h.Blob != nil {
			payload = r.h.Blob(payload)
		}
		r.blobs = append(r.blobs, payload)
	case groupRecord:
		r.counts.Groups++
		return pass(payload, new(Group), r.h.Group)
	case linkRecord:
		r.counts.Links++
		return pass(payload, new(Link), r.h.Link)
	case sessionRecord:
		return r.session(payload)
	case endRecord:
		r.ended = true
		var counts Counts
		if err := counts.decode(payload); err != nil {
			return err
		}
		if counts != r.counts {
			return malformed("records are missing: found %+v, not %+v", r.counts, counts)
		}
	}
	return nil // what a later format added
}

func (r *reader) session(payload []byte) error {
	r.counts.Sessions++
	var s Session
	if err := s.decode(payload, r.blobs); err != nil {
		return err
	}
	switch {
	case s.Group >= r.counts.Groups:
		return malformed("session of group %d of %d", s.Group, r.counts.Groups)
	case r.counts.Links == 0:
		return malformed("session without a link")
	case r.h.Session == nil:
		return nil
	}
	return r.h.Session(&s)
}

// pass decodes a record, and passes it to fn unless that is nil.
func pass[T any, P interface {
	*T
	decode(b []byte) error
}](payload []byte, to P, fn func(P) error) error {
	if err := to.decode(payload); err != nil {
		return err
	}
	if fn == nil {
		return nil
	}
	return fn(to)
}
