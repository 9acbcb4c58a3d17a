package engineio

import (
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/gobwas/ws"
)

// format is how an Encoder writes packets.
type format uint8

const (
	payloadFormat  format = iota // a polling body
	textPayload3                 // a polling body of version 3, in the text form
	binaryPayload3               // the same, in the binary form
	serverFrames                 // WebSocket frames, not masked
	clientFrames                 // WebSocket frames, masked
)

// isPayload reports whether the format is that of a polling body.
func (f format) isPayload() bool { return f < serverFrames }

// Encoder collects packets for one write, as WebSocket frames or as a polling payload. Its methods
// copy their arguments.
type Encoder struct {
	buf    []byte
	format format
	// binaryType is the first byte of a binary frame: the packet's type in version 3, and 0 for
	// none in version 4.
	binaryType byte
	packets    int
	pings      uint32 // the number of the last Ping
	watch      uint64 // the number of the last Watch in a payload
}

// maxPooledBytes keeps huge buffers out of the pool.
const maxPooledBytes = 256 << 10

var encoders = sync.Pool{New: func() any { return new(Encoder) }}

func newEncoder(f format) *Encoder {
	e := encoders.Get().(*Encoder)
	e.buf, e.format, e.binaryType, e.packets, e.pings, e.watch = e.buf[:0], f, 0, 0, 0, 0
	return e
}

// newEncoderFor returns an Encoder for frames of either version.
func newEncoderFor(f format, p Protocol) *Encoder {
	e := newEncoder(f)
	if p == V3 {
		e.binaryType = binaryMessage3
	}
	return e
}

func (e *Encoder) free() {
	if cap(e.buf) <= maxPooledBytes {
		encoders.Put(e)
	}
}

// Len returns how many bytes the batch has so far.
func (e *Encoder) Len() int { return len(e.buf) }

// Packets returns how many packets the batch has so far.
func (e *Encoder) Packets() int { return e.packets }

// Text adds a text message, given in up to three parts.
func (e *Encoder) Text(a, b, c []byte) {
	e.packet(Message, a, b, c)
}

// Binary adds a binary message.
func (e *Encoder) Binary(data []byte) {
	e.packets++
	switch {
	case !e.format.isPayload():
		e.frame(ws.OpBinary, e.binaryType, data, nil, nil)
	case e.format == payloadFormat:
		e.separate()
		e.buf = append(e.buf, 'b')
		e.buf = base64.StdEncoding.AppendEncode(e.buf, data)
	case e.format == textPayload3:
		e.buf = appendTextForm3(e.buf, base64.StdEncoding.AppendEncode([]byte{'b', byte(Message)}, data))
	default:
		e.buf = appendBinaryForm3(e.buf, binaryForm3, []byte{binaryMessage3}, data)
	}
}

// Watched adds a message like Text or Binary. Over WebSocket, its last byte is a fragment of its
// own, after a WebSocket ping with the given number. An endpoint answers that ping only while it
// has not closed the connection; see Socket.Reached.
func (e *Encoder) Watched(data []byte, isBinary bool, number uint64) {
	n := len(data) - 1
	if e.format.isPayload() || n < 0 {
		if isBinary {
			e.Binary(data)
		} else {
			e.Text(data, nil, nil)
		}
		return
	}
	start := len(e.buf)
	if isBinary {
		e.frame(ws.OpBinary, e.binaryType, data[:n], nil, nil)
	} else {
		e.frame(ws.OpText, byte(Message), data[:n], nil, nil)
	}
	e.buf[start] &^= finBit
	e.Watch(number)
	e.frame(ws.OpContinuation, 0, data[n:], nil, nil)
	e.packets++
}

// Watch adds a WebSocket ping with the given number, so that Socket.Reached tells when the client
// has answered it. It adds nothing to a polling payload: there Socket.Reached tells when another
// poll, or the upgrade, has shown that the payload has arrived.
func (e *Encoder) Watch(number uint64) {
	if e.format.isPayload() {
		e.watch = number
		return
	}
	e.frame(ws.OpPing, 0, strconv.AppendUint(nil, number, 10), nil, nil)
}

// Ping adds an Engine.IO ping and returns its number, so that Socket.PingsAnswered tells when the
// client has answered it. A client that closes its connection answers no more pings. Only Fill may
// call it, and only if Socket.NumbersPings.
func (e *Encoder) Ping() (number uint32) {
	e.pings++
	e.packet(Ping, nil, nil, nil)
	return e.pings
}

// packet adds any Engine.IO packet except a binary message.
func (e *Encoder) packet(t PacketType, a, b, c []byte) {
	e.packets++
	if e.format.isPayload() {
		e.payloadPacket(t, a, b, c)
		return
	}
	e.frame(ws.OpText, byte(t), a, b, c)
}

// payloadPacket adds a packet to a polling body.
func (e *Encoder) payloadPacket(t PacketType, a, b, c []byte) {
	switch e.format {
	case textPayload3:
		e.buf = appendTextForm3(e.buf, []byte{byte(t)}, a, b, c)
	case binaryPayload3:
		e.buf = appendBinaryForm3(e.buf, textForm3, []byte{byte(t)}, a, b, c)
	default:
		e.separate()
		e.buf = append(e.buf, byte(t))
		e.buf = append(e.buf, a...)
		e.buf = append(e.buf, b...)
		e.buf = append(e.buf, c...)
	}
}

func (e *Encoder) separate() {
	if len(e.buf) > 0 {
		e.buf = append(e.buf, separator)
	}
}

// finBit marks the last fragment of a message in a frame's first byte.
const finBit = 0x80

// frame adds one unfragmented WebSocket frame (RFC 6455, 5.2). first precedes the parts unless it
// is 0.
func (e *Encoder) frame(op ws.OpCode, first byte, a, b, c []byte) {
	n := len(a) + len(b) + len(c)
	if first != 0 {
		n++
	}
	masked := byte(0)
	if e.format == clientFrames {
		masked = 0x80
	}
	buf := slices.Grow(e.buf, maxHeaderBytes+n)
	buf = append(buf, finBit|byte(op))
	switch {
	case n < 126:
		buf = append(buf, masked|byte(n))
	case n < 1<<16:
		buf = append(buf, masked|126)
		buf = binary.BigEndian.AppendUint16(buf, uint16(n))
	default:
		buf = append(buf, masked|127)
		buf = binary.BigEndian.AppendUint64(buf, uint64(n))
	}
	var key [4]byte
	if masked != 0 {
		// The mask protects intermediaries from scripts that choose the bytes on the wire (RFC
		// 6455, 10.3). It is not a secret, so a fast unpredictable generator is enough.
		binary.NativeEndian.PutUint32(key[:], rand.Uint32())
		buf = append(buf, key[:]...)
	}
	start := len(buf)
	buf = buf[:start+n]
	payload := buf[start:]
	if first != 0 {
		payload[0] = first
		payload = payload[1:]
	}
	payload = payload[copy(payload, a):]
	payload = payload[copy(payload, b):]
	copy(payload, c)
	if masked != 0 {
		ws.Cipher(buf[start:], key, 0)
	}
	e.buf = buf
}
