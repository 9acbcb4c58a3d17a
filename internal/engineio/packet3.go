package engineio

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Protocol is a version of the Engine.IO protocol.
type Protocol uint8

// Versions.
const (
	V4 Protocol = iota // socket.io 3 and 4; the zero value
	V3                 // socket.io 1 and 2
)

// String implements fmt.Stringer.
func (p Protocol) String() string {
	if p == V3 {
		return "3"
	}
	return "4"
}

// Version 3 differs from version 4 in these places:
//
//	a binary packet   begins with its type as a number, also over WebSocket; in base64 with "b4"
//	a polling payload has a length before each packet, in one of two forms
//	the heartbeat     is the client's: it sends PING, and the server answers PONG
//	the OPEN packet   has no maxPayload
//
// The text form of a payload is <length>:<packet> for each packet. The length counts UTF-16 code
// units. The binary form is a byte that tells text (0) from binary (1), the length, 0xff, and the
// packet. The length counts bytes, and is written as decimal digits of one byte each.

const (
	// binaryMessage3 is the first byte of a binary message.
	binaryMessage3 = byte(Message - '0')
	textForm3      = 0 // first byte of a text packet in the binary form
	binaryForm3    = 1 // first byte of a binary packet in it
	endOfLength3   = 0xff
	// binaryType3 is the content type of the binary form.
	binaryType3 = "application/octet-stream"
	// maxLengthDigits3 is more than a length needs, and fits an int64.
	maxLengthDigits3 = 12
)

// decoder3 decodes the payloads of one connection.
type decoder3 struct {
	// single says that the peer encodes text as UTF-8 once. socket.io 1.x encodes it twice in the
	// text form, and nothing else tells it from 2.x.
	single bool
}

// DecodePayload3 is DecodePayload for Engine.IO protocol v3, for payloads of either form.
func DecodePayload3(payload []byte, fn func(Packet) bool) error {
	var d decoder3
	return d.decode(payload, fn)
}

// isBinaryForm3 reports whether a payload has the binary form. A payload in the text form begins
// with a digit.
func isBinaryForm3(payload []byte) bool { return len(payload) > 0 && payload[0] <= binaryForm3 }

// isPayload3 reports whether the answer to a handshake is a payload of version 3. One of version 4
// begins with an OPEN packet, "0{".
func isPayload3(payload []byte) bool {
	if isBinaryForm3(payload) {
		return true
	}
	i := digits(payload)
	return i > 0 && i < len(payload) && payload[i] == ':'
}

func digits(p []byte) (n int) {
	for n < len(p) && p[n] >= '0' && p[n] <= '9' {
		n++
	}
	return n
}

// decode calls fn for each packet of a payload. See DecodePayload.
func (d *decoder3) decode(payload []byte, fn func(Packet) bool) error {
	cut := d.cutText
	if isBinaryForm3(payload) {
		cut = d.cutBinary
	}
	for first := true; first || len(payload) > 0; first = false {
		p, rest, err := cut(payload)
		if err != nil {
			return err
		}
		if p.Type != 0 && !fn(p) {
			return nil
		}
		payload = rest
	}
	return nil
}

// cutBinary decodes the first packet of a payload in the binary form. An empty packet has no type.
func (d *decoder3) cutBinary(payload []byte) (p Packet, rest []byte, err error) {
	end := bytes.IndexByte(payload[:min(len(payload), maxLengthDigits3+2)], endOfLength3)
	if end < 2 || payload[0] > binaryForm3 {
		return p, nil, fmt.Errorf("%w: no length", ErrMalformed)
	}
	n := 0
	for _, digit := range payload[1:end] {
		if digit > 9 {
			return p, nil, fmt.Errorf("%w: length", ErrMalformed)
		}
		n = n*10 + int(digit)
	}
	rest = payload[end+1:]
	if n > len(rest) {
		return p, nil, fmt.Errorf("%w: length beyond the payload", ErrMalformed)
	}
	part, rest := rest[:n:n], rest[n:]
	switch {
	case n == 0:
		return Packet{}, rest, nil
	case payload[0] == binaryForm3:
		p, err = decodeBinary3(part)
	default:
		p, err = decodeText3(part)
	}
	return p, rest, err
}

// cutText decodes the first packet of a payload in the text form. An empty packet has no type.
func (d *decoder3) cutText(payload []byte) (p Packet, rest []byte, err error) {
	i := digits(payload)
	if i == 0 || i > maxLengthDigits3 || i == len(payload) || payload[i] != ':' {
		return p, nil, fmt.Errorf("%w: no length", ErrMalformed)
	}
	n, err := strconv.ParseInt(string(payload[:i]), 10, 64)
	if err != nil {
		return p, nil, fmt.Errorf("%w: length: %w", ErrMalformed, err)
	}
	payload = payload[i+1:]
	end := textEnd3(payload, int(min(n, math.MaxInt)))
	if end < 0 {
		return p, nil, fmt.Errorf("%w: length beyond the payload", ErrMalformed)
	}
	if end == 0 {
		return Packet{}, payload, nil
	}
	p, err = decodeText3(d.decodedOnce(payload[:end:end]))
	return p, payload[end:], err
}

// textEnd3 returns where a packet of n units ends in payload, or -1. A unit is a UTF-16 code unit.
// Some servers count code points or bytes instead. Then the text ends before another packet, or at
// the end of the payload, only if it is counted as they do.
func textEnd3(payload []byte, n int) int {
	if n > len(payload) {
		return -1
	}
	if isASCII(payload[:n]) {
		return n
	}
	units, points := unitEnd(payload, n, true), unitEnd(payload, n, false)
	for _, end := range []int{units, points, n} {
		if end >= 0 && (end == len(payload) || beginsPacket3(payload[end:])) {
			return end
		}
	}
	return units
}

// beginsPacket3 reports whether p begins like a packet with its length, in the text form.
func beginsPacket3(p []byte) bool {
	i := digits(p)
	return i > 0 && i <= maxLengthDigits3 && i+1 < len(p) && p[i] == ':' && (p[i+1] >= '0' && p[i+1] <= '6' || p[i+1] == 'b')
}

func isASCII(p []byte) bool {
	for _, c := range p {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// unitEnd returns the length in bytes of the first n UTF-16 code units of p, or code points, or -1
// if p has fewer.
func unitEnd(p []byte, n int, inUTF16 bool) int {
	i := 0
	for n > 0 && i < len(p) {
		r, size := utf8.DecodeRune(p[i:])
		i += size
		n--
		if inUTF16 && r > 0xffff {
			n--
		}
	}
	if n != 0 {
		return -1
	}
	return i
}

// decodedOnce returns the text of a packet. If it looks as if it was encoded as UTF-8 twice, it
// decodes it once. Text for which that is impossible proves that the peer encodes once.
func (d *decoder3) decodedOnce(text []byte) []byte {
	if d.single || isASCII(text) {
		return text
	}
	once := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r > 0xff {
			d.single = true
			return text
		}
		once = append(once, byte(r))
		i += size
	}
	if !utf8.Valid(once) {
		d.single = true
		return text
	}
	return once
}

// decodeText decodes the payload of a text frame.
func (p Protocol) decodeText(payload []byte) (Packet, error) {
	if p == V3 {
		return decodeText3(payload)
	}
	return decodeText(payload)
}

// decodeBinary decodes the payload of a binary frame.
func (p Protocol) decodeBinary(payload []byte) (Packet, error) {
	if p == V3 {
		return decodeBinary3(payload)
	}
	return Packet{Type: Message, Binary: true, Data: payload}, nil
}

// decodeText3 decodes one packet that is text.
func decodeText3(part []byte) (Packet, error) {
	if len(part) > 1 && part[0] == 'b' {
		data, err := decodeBase64(part[2:])
		if err != nil {
			return Packet{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return binaryPacket3(part[1]-'0', data)
	}
	if len(part) > 0 && part[0] == 'b' {
		return Packet{}, fmt.Errorf("%w: base64 without a type", ErrMalformed)
	}
	return decodeText(part)
}

// decodeBinary3 decodes one packet that is binary. Its type is its first byte.
func decodeBinary3(part []byte) (Packet, error) {
	if len(part) == 0 {
		return Packet{}, fmt.Errorf("%w: empty", ErrMalformed)
	}
	return binaryPacket3(part[0], part[1:])
}

// binaryPacket3 returns a packet that was sent as binary. Only messages have binary data.
func binaryPacket3(kind byte, data []byte) (Packet, error) {
	if kind > byte(Noop-'0') {
		return Packet{}, fmt.Errorf("%w: unknown type %d", ErrMalformed, kind)
	}
	return Packet{Type: PacketType('0' + kind), Binary: kind == binaryMessage3, Data: data}, nil
}

// appendBinaryForm3 appends a packet, given in up to four parts, to a payload in the binary form.
func appendBinaryForm3(dst []byte, form byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	dst = append(dst, form)
	start := len(dst)
	dst = strconv.AppendInt(dst, int64(n), 10)
	for i := start; i < len(dst); i++ {
		dst[i] -= '0'
	}
	dst = append(dst, endOfLength3)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// appendTextForm3 appends a text packet, given in up to four parts, to a payload in the text form.
// It escapes what is not ASCII as in JSON, "\\u20ac". Clients of socket.io 1.x decode text twice,
// and read the same as others.
func appendTextForm3(dst []byte, parts ...[]byte) []byte {
	n := 0
	for i, p := range parts {
		if !isASCII(p) {
			parts[i] = appendEscaped(nil, p)
		}
		n += len(parts[i])
	}
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, ':')
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// appendEscaped appends text in which characters other than ASCII are escaped as in JSON.
func appendEscaped(dst, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r < utf8.RuneSelf:
			dst = append(dst, text[0])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			dst = fmt.Appendf(dst, "\\u%04x\\u%04x", high, low)
		default:
			dst = fmt.Appendf(dst, "\\u%04x", r)
		}
		text = text[size:]
	}
	return dst
}
