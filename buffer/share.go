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

// blob is bytes that are kept once.
type blob struct {
	data []byte // immutable
	refs int    // guarded by shares.mu
}

var shareSeed = maphash.MakeSeed()

// share returns bytes equal to data that are kept until as many calls of release. They count for the Budget once. Where
// two different data have one hash the second is a copy of its own.
func (b *Budget) share(data []byte) []byte {
	h := maphash.Bytes(shareSeed, data)
	if old := b.shares.hold(h, nil); old != nil {
		return b.sameOrCopy(h, old, data)
	}
	fresh := &blob{bytes.Clone(data), 1} // before the lock is taken: there may be much of it
	if old := b.shares.hold(h, fresh); old != fresh {
		return b.sameOrCopy(h, old, data) // another was faster
	}
	b.bytes.Add(int64(len(data)))
	return fresh.data
}

// sameOrCopy returns the bytes of a blob that is held, if they equal data; else a copy of data, and the blob is held no longer.
func (b *Budget) sameOrCopy(h uint64, old *blob, data []byte) []byte {
	if bytes.Equal(old.data, data) {
		return old.data
	}
	b.unshare(h, old.data)
	b.bytes.Add(int64(len(data)))
	return bytes.Clone(data)
}

// hold counts one more reference to the blob with a hash. Without one it keeps fresh, which may be nil, and returns it.
func (s *shares) hold(h uint64, fresh *blob) *blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.blobs[h]; old != nil {
		old.refs++
		return old
	}
	if fresh != nil {
		if s.blobs == nil {
			s.blobs = make(map[uint64]*blob)
		}
		s.blobs[h] = fresh
	}
	return fresh
}

// release gives back what share returned.
func (b *Budget) release(data []byte) { b.unshare(maphash.Bytes(shareSeed, data), data) }

func (b *Budget) unshare(h uint64, data []byte) {
	if b.shares.drop(h, data) {
		b.bytes.Add(-int64(len(data)))
	}
}

// drop counts a reference to these bytes less, and reports whether that was the last.
func (s *shares) drop(h uint64, data []byte) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.blobs[h]
	if old == nil || unsafe.SliceData(old.data) != unsafe.SliceData(data) {
		return true // a copy of its own
	}
	if old.refs--; old.refs > 0 {
		return false
	}
	delete(s.blobs, h)
	if len(s.blobs) == 0 {
		s.blobs = nil // a map never shrinks
	}
	return true
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
