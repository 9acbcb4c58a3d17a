package frame

import (
	"encoding/binary"
	"errors"
)

// Opcode is a frame's meaning, RFC 6455 section 5.2.
type Opcode byte

// Those that a Socket.IO peer without attachments sends.
const (
	Text  Opcode = 1
	Close Opcode = 8
	Ping  Opcode = 9
	Pong  Opcode = 10
)

// ErrUnsupported is returned for a frame that this package does not read.
var ErrUnsupported = errors.New("frame: fragment, extension or too large a frame")

// MaxPayloadBytes bounds the frames that Parse accepts.
const MaxPayloadBytes = 1 << 20

const (
	finBit  = 0x80
	maskBit = 0x80
)

// Frame is one frame; Payload aliases what Parse was given.
type Frame struct {
	Opcode  Opcode
	Payload []byte
}

// Parse reads the frame that src begins with, and returns its size in bytes. A
// masked payload is unmasked in place. Size is 0 while src does not hold a
// whole frame.
func Parse(src []byte) (f Frame, size int, err error) {
	if len(src) < 2 {
		return Frame{}, 0, nil
	}
	if src[0]&^0x0f != finBit || src[0]&0x0f == 0 {
		return Frame{}, 0, ErrUnsupported
	}
	header, length := 2, uint64(src[1]&^maskBit)
	switch length {
	case 126:
		header = 4
		if len(src) < header {
			return Frame{}, 0, nil
		}
		length = uint64(binary.BigEndian.Uint16(src[2:]))
	case 127:
		header = 10
		if len(src) < header {
			return Frame{}, 0, nil
		}
		length = binary.BigEndian.Uint64(src[2:])
	}
	if length > MaxPayloadBytes {
		return Frame{}, 0, ErrUnsupported
	}
	masked := src[1]&maskBit != 0
	if masked {
		header += 4
	}
	size = header + int(length)
	if len(src) < size {
		return Frame{}, 0, nil
	}
	payload := src[header:size:size]
	if masked {
		mask(payload, binary.LittleEndian.Uint32(src[header-4:]))
	}
	return Frame{Opcode(src[0] & 0x0f), payload}, size, nil
}

// ParseAll calls handle with each whole frame of data, until one fails. It returns how many bytes
// these frames have.
func ParseAll(data []byte, handle func(Frame) error) (used int, err error) {
	for {
		f, n, err := Parse(data[used:])
		if n == 0 || err != nil {
			return used, err
		}
		used += n
		if err := handle(f); err != nil {
			return used, err
		}
	}
}

// AppendServer appends an unmasked frame.
func AppendServer(dst []byte, op Opcode, payload []byte) []byte {
	dst = appendHeader(dst, op, len(payload), 0)
	return append(dst, payload...)
}

// AppendClient appends a frame masked with key, which should be another one
// each time.
func AppendClient(dst []byte, op Opcode, payload []byte, key uint32) []byte {
	dst = appendHeader(dst, op, len(payload), maskBit)
	dst = binary.LittleEndian.AppendUint32(dst, key)
	start := len(dst)
	dst = append(dst, payload...)
	mask(dst[start:], key)
	return dst
}

func appendHeader(dst []byte, op Opcode, length int, bit byte) []byte {
	dst = append(dst, finBit|byte(op))
	switch {
	case length < 126:
		return append(dst, bit|byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, bit|126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, bit|127), uint64(length))
}

// mask is its own inverse. The key's first byte is its lowest.
func mask(p []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(key >> (8 * (i & 3)))
	}
}
