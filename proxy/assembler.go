package proxy

import (
	"slices"
	"sync/atomic"

	"github.com/holdfast/holdfast/internal/socketio"
)

// packet is a complete Socket.IO packet, from a client or from the server.
type packet struct {
	h           socketio.Header
	data        []byte
	attachments [][]byte
}

// size returns the length of the packet with its attachments.
func (p *packet) size() int {
	n := len(p.data)
	for _, a := range p.attachments {
		n += len(a)
	}
	return n
}

// clone returns a copy of the packet, whose attachments are copies already.
func (p *packet) clone() (packet, error) {
	kept := packet{data: slices.Clone(p.data), attachments: p.attachments}
	err := kept.h.Parse(kept.data)
	return kept, err
}

// attachmentOverhead is about what an attachment takes in addition to its bytes. It counts, because
// a peer may announce any number of empty ones.
const attachmentOverhead = 32

// assembler collects the attachments of a binary packet. The input lock of its connection guards
// it, except release.
type assembler struct {
	partial *partial     // nil between packets
	counted atomic.Int64 // bytes that memory counts
}

// byteCounter counts bytes of what has arrived in part.
type byteCounter interface {
	// take counts n more bytes. A negative n releases bytes. It returns false if there is no memory
	// for them, and then counts nothing.
	take(n int) bool
}

// partial is a binary packet whose attachments have not all arrived.
type partial struct {
	data        []byte
	need        int
	bytes       int // of the attachments
	attachments [][]byte
}

// begin begins a packet that announces attachments.
func (a *assembler) begin(p *packet) {
	a.partial = &partial{data: slices.Clone(p.data), need: p.h.Attachments}
}

// busy reports whether a packet waits for attachments.
func (a *assembler) busy() bool { return a.partial != nil }

// add adds a copy of the next attachment. whole is the packet if it is complete. ok is false if
// there is no memory for the attachment.
func (a *assembler) add(data []byte, memory byteCounter) (whole *packet, ok bool) {
	p := a.partial
	last := len(p.attachments)+1 == p.need
	if !last && !a.reserve(len(data)+attachmentOverhead, memory) {
		return nil, false
	}
	p.append(data)
	if !last {
		return nil, true
	}
	a.drop(memory)
	whole = &packet{data: p.data, attachments: p.attachments}
	if err := whole.h.Parse(p.data); err != nil {
		return nil, true // it parsed before
	}
	return whole, true
}

// restore begins with a packet that another process has received in part. If memory is short, the
// next attachment finds out.
func (a *assembler) restore(data []byte, need int, attachments [][]byte, memory byteCounter) {
	a.partial = &partial{data: slices.Clone(data), need: need}
	for _, one := range attachments {
		a.reserve(len(one)+attachmentOverhead, memory)
		a.partial.append(one)
	}
}

// append adds a copy of an attachment.
func (p *partial) append(data []byte) {
	p.attachments = append(p.attachments, slices.Clone(data))
	p.bytes += len(data)
}

// reserve counts n more bytes if the packet is large.
func (a *assembler) reserve(n int, memory byteCounter) bool {
	p := a.partial
	if p.bytes+len(p.attachments)*attachmentOverhead+n <= freeIncompleteBytes {
		return true
	}
	return a.count(n, memory)
}

// count counts n more bytes. It returns false if there is no memory for them.
func (a *assembler) count(n int, memory byteCounter) bool {
	if !memory.take(n) {
		return false
	}
	a.counted.Add(int64(n))
	return true
}

// drop forgets the packet.
func (a *assembler) drop(memory byteCounter) {
	a.partial = nil
	a.release(memory)
}

// release releases what is counted for the packet. It may be called from any goroutine, when
// nothing is added any more.
func (a *assembler) release(memory byteCounter) { memory.take(int(-a.counted.Swap(0))) }
