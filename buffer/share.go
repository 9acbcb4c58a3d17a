package buffer

import (
	"bytes"
	"hash/maphash"
	"sync"
	"unsafe"
)

// The server sends a broadcast once for each session. Logs keep equal payloads once. Parked
// sessions share nearly all of theirs, because they keep them for long; live ones share large
// payloads only.

// minSharedBytes is the smallest payload that parked sessions share.
const minSharedBytes = 64

// shares is the table of shared payloads, by their hash. It is safe for concurrent use.
type shares struct {
	mu    sync.Mutex // guards the fields below
	blobs map[uint64]*blob
}

// blob is a shared payload.
type blob struct {
	data []byte // immutable
	refs int    // guarded by shares.mu
}

var shareSeed = maphash.MakeSeed()

// share returns bytes that equal data. They remain until release has been called as often as share,
// and count in the Budget once. If the hash collides with that of another payload, share returns a
// copy that is not shared.
func (b *Budget) share(data []byte) []byte {
	h := maphash.Bytes(shareSeed, data)
	if old := b.shares.hold(h, nil); old != nil {
		return b.sameOrCopy(h, old, data)
	}
	fresh := &blob{bytes.Clone(data), 1} // before the lock is taken, because it may be large
	if old := b.shares.hold(h, fresh); old != fresh {
		return b.sameOrCopy(h, old, data) // another log was faster
	}
	b.bytes.Add(int64(len(data)))
	return fresh.data
}

// sameOrCopy returns a held blob's bytes if they equal data. Otherwise it releases the blob and
// returns a copy of data.
func (b *Budget) sameOrCopy(h uint64, old *blob, data []byte) []byte {
	if bytes.Equal(old.data, data) {
		return old.data
	}
	b.unshare(h, old.data)
	b.bytes.Add(int64(len(data)))
	return bytes.Clone(data)
}

// hold adds a reference to the blob with hash h, and returns the blob. If there is none it adds
// fresh, which may be nil, and returns that.
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

// release takes back what share returned.
func (b *Budget) release(data []byte) { b.unshare(maphash.Bytes(shareSeed, data), data) }

func (b *Budget) unshare(h uint64, data []byte) {
	if b.shares.drop(h, data) {
		b.bytes.Add(-int64(len(data)))
	}
}

// drop removes a reference to these bytes, and reports whether it was the last.
func (s *shares) drop(h uint64, data []byte) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.blobs[h]
	if old == nil || unsafe.SliceData(old.data) != unsafe.SliceData(data) {
		return true // a copy that is not shared
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

// AppendShared is Append for a parked session. It shares all payloads with other logs that are not
// tiny.
func (l *Log) AppendShared(p *Packet) (seq uint64) { return l.append(p, minSharedBytes) }

// shares reports whether a payload or attachment of the entry comes from Budget.share.
func (e *Entry) shares(part []byte) bool { return e.sharedFrom > 0 && len(part) >= int(e.sharedFrom) }

// eachShared calls fn for the entry's shared payload and attachments.
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
