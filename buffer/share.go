package buffer

import (
	"bytes"
	"hash/maphash"
	"sync"
	"unsafe"
)

// A broadcast reaches every session, over a link of its own, and would be kept as often as they are many. Logs keep equal bytes
// once: those of parked sessions nearly all, for they are kept for long; those of live ones what is large.

// minSharedBytes is the least that is worth looking for an equal.
const minSharedBytes = 64

// shares are the bytes that several packets may have in common, by their hash. Safe for concurrent use.
type shares struct {
	mu    sync.Mutex // guards the fields below
	blobs map[uint64]*blob
}

type blob struct {
	data []byte
	refs int
}

var shareSeed = maphash.MakeSeed()

// share returns bytes equal to data that are kept until as many calls of unshare. They count for the Budget once. Where
// two different data have one hash the second is a copy of its own.
func (b *Budget) share(data []byte) []byte {
	h := maphash.Bytes(shareSeed, data)
	s := &b.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.blobs[h]; old != nil {
		if bytes.Equal(old.data, data) {
			old.refs++
			return old.data
		}
		b.bytes.Add(int64(len(data)))
		return bytes.Clone(data)
	}
	if s.blobs == nil {
		s.blobs = make(map[uint64]*blob)
	}
	kept := bytes.Clone(data)
	s.blobs[h] = &blob{kept, 1}
	b.bytes.Add(int64(len(data)))
	return kept
}

// unshare gives back what share returned.
func (b *Budget) unshare(data []byte) {
	h := maphash.Bytes(shareSeed, data)
	s := &b.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.blobs[h]; old != nil && unsafe.SliceData(old.data) == unsafe.SliceData(data) {
		if old.refs--; old.refs > 0 {
			return
		}
		delete(s.blobs, h)
		if len(s.blobs) == 0 {
			s.blobs = nil // a map never shrinks
		}
	}
	b.bytes.Add(-int64(len(data)))
}

// AppendShared is Append for a session without a client: its packets stay for long, and the log keeps all but the smallest
// only once with other logs.
func (l *Log) AppendShared(p *Packet) (seq uint64) { return l.append(p, minSharedBytes) }

// shares reports whether a part of the entry is to be had, or was had, from Budget.share.
func (e *Entry) shares(part []byte) bool { return e.sharedFrom > 0 && len(part) >= int(e.sharedFrom) }

// eachShared calls fn for those of the entry's bytes that are shared.
func (e *Entry) eachShared(fn func([]byte)) {
	if e.shares(e.data) {
		fn(e.data)
	}
	for _, a := range e.Attachments() {
		if e.shares(a) {
			fn(a)
		}
	}
}
