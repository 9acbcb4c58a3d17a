package buffer

import (
	"bytes"
	"hash/maphash"
	"sync"
	"unsafe"
)

// A broadcast reaches every session, over a link of its own. While clients are away it is kept for each of them,
// and so as often as they are many. Logs of parked sessions keep equal bytes once.

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

// AppendShared is Append for a session without a client: the log keeps bytes that other logs have too only once.
func (l *Log) AppendShared(p Packet) (seq uint64) {
	if l.budget == nil {
		return l.Append(p)
	}
	p.shared = true
	p.Data = l.keepShared(p.Data, p.Brief)
	if len(p.Attachments) > 0 {
		kept := make([][]byte, len(p.Attachments))
		for i, a := range p.Attachments {
			kept[i] = l.keepShared(a, p.Brief)
		}
		p.Attachments = kept
	}
	return l.add(p)
}

func (l *Log) keepShared(b []byte, brief bool) []byte {
	switch {
	case len(b) >= minSharedBytes:
		return l.budget.share(b)
	case brief:
		return bytes.Clone(b)
	}
	return l.keep(b)
}

// ownSize is what the packet counts for the Budget, without what is counted where it is shared.
func (p *Packet) ownSize() int {
	n := p.size()
	if !p.shared {
		return n
	}
	p.eachShared(func(b []byte) { n -= len(b) })
	return n
}

// eachShared calls fn for those of the packet's bytes that are shared.
func (p *Packet) eachShared(fn func([]byte)) {
	if !p.shared {
		return
	}
	if len(p.Data) >= minSharedBytes {
		fn(p.Data)
	}
	for _, a := range p.Attachments {
		if len(a) >= minSharedBytes {
			fn(a)
		}
	}
}
