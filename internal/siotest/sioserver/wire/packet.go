package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Type is the type of a Socket.IO packet.
type Type uint8

// The packet types of Socket.IO protocol v5, "Exchange protocol".
const (
	Connect Type = iota
	Disconnect
	Event
	Ack
	ConnectError
	BinaryEvent
	BinaryAck
)

var typeNames = [...]string{
	"CONNECT", "DISCONNECT", "EVENT", "ACK", "CONNECT_ERROR", "BINARY_EVENT", "BINARY_ACK",
}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// binary reports whether attachments follow packets of this type.
func (t Type) binary() bool { return t == BinaryEvent || t == BinaryAck }

// NoID is the ID of a packet that asks for no acknowledgement.
const NoID = -1

// ErrMalformed is wrapped by every error that the peer's data caused.
var ErrMalformed = errors.New("wire: malformed packet")

// Packet is one Socket.IO packet.
type Packet struct {
	Type      Type
	Namespace string
	ID        int64 // of the acknowledgement, or NoID
	// Data is the JSON payload, nil if there is none. It aliases the text that
	// was decoded. Attachments stand in it as placeholders.
	Data        json.RawMessage
	Attachments [][]byte
}

// decode parses the text of a packet, without Engine.IO's leading '4', and
// returns how many attachments must follow.
// It implements Socket.IO protocol v5, "Packet encoding", as leniently as the
// parser of socket.io 4.5 does.
func decode(src []byte) (Packet, int, error) {
	if len(src) == 0 || src[0] < '0' || src[0] > '6' {
		return Packet{}, 0, fmt.Errorf("%w: type in %.20q", ErrMalformed, src)
	}
	p := Packet{Type: Type(src[0] - '0'), Namespace: "/", ID: NoID}
	rest := src[1:]

	attachments := 0
	if p.Type.binary() {
		n, digits := number(rest)
		if digits == len(rest) || rest[digits] != '-' || n < 0 {
			return Packet{}, 0, fmt.Errorf("%w: attachments in %.20q", ErrMalformed, src)
		}
		attachments = int(n)
		rest = rest[digits+1:]
	}
	if len(rest) > 0 && rest[0] == '/' {
		end := 0
		for end < len(rest) && rest[end] != ',' {
			end++
		}
		p.Namespace = string(rest[:end])
		rest = rest[min(end+1, len(rest)):]
	}
	if n, digits := number(rest); digits > 0 {
		if n < 0 {
			return Packet{}, 0, fmt.Errorf("%w: ack id in %.30q", ErrMalformed, src)
		}
		p.ID = n
		rest = rest[digits:]
	}
	if len(rest) > 0 {
		p.Data = rest
	}
	if !p.validData() {
		return Packet{}, 0, fmt.Errorf("%w: payload of %v %.20q", ErrMalformed, p.Type, p.Data)
	}
	return p, attachments, nil
}

// number reads the digits at the start of b. It returns -1 as the value of
// more digits than an ack id or a count can have.
func number(b []byte) (value int64, digits int) {
	const most = 15 // stays below 2^53, the last exact integer in JavaScript
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		digits++
	}
	if digits > most {
		return -1, digits
	}
	for _, c := range b[:digits] {
		value = value*10 + int64(c-'0')
	}
	return value, digits
}

func (p Packet) validData() bool {
	if p.Data == nil {
		// A CONNECT needs no payload; DISCONNECT has none.
		return p.Type == Connect || p.Type == Disconnect
	}
	if p.Type == Disconnect || !json.Valid(p.Data) {
		return false
	}
	switch p.Type {
	case Event, BinaryEvent:
		// At least the event's name.
		return p.Data[0] == '[' && !emptyArray(p.Data)
	case Ack, BinaryAck:
		return p.Data[0] == '['
	case ConnectError:
		return p.Data[0] == '{' || p.Data[0] == '"'
	default:
		return p.Data[0] == '{'
	}
}

// emptyArray reports whether valid JSON that begins with '[' has no element.
func emptyArray(data []byte) bool {
	for _, c := range data[1:] {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c == ']'
		}
	}
	return true
}

// Append appends the text of a packet to dst, without Engine.IO's leading '4'
// and without its attachments, and returns the extended slice.
func (p Packet) Append(dst []byte) []byte {
	dst = append(dst, '0'+byte(p.Type))
	if p.Type.binary() {
		dst = strconv.AppendInt(dst, int64(len(p.Attachments)), 10)
		dst = append(dst, '-')
	}
	if p.Namespace != "/" && p.Namespace != "" {
		dst = append(dst, p.Namespace...)
		dst = append(dst, ',')
	}
	if p.ID != NoID {
		dst = strconv.AppendInt(dst, p.ID, 10)
	}
	return append(dst, p.Data...)
}

// Args splits the payload of an event or acknowledgement. The result aliases
// nothing.
func (p Packet) Args() ([]json.RawMessage, error) {
	var args []json.RawMessage
	if err := json.Unmarshal(p.Data, &args); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return args, nil
}

// Decoder puts packets and their attachments together. The zero value is
// ready; it is not safe for concurrent use.
type Decoder struct {
	pending Packet
	missing int // attachments that pending still waits for
}

// Text takes the text of a packet. The packet is complete unless attachments
// must follow.
func (d *Decoder) Text(src []byte) (p Packet, complete bool, err error) {
	if d.missing > 0 {
		return Packet{}, false, fmt.Errorf("%w: text between attachments", ErrMalformed)
	}
	p, n, err := decode(src)
	if err != nil {
		return Packet{}, false, err
	}
	if n == 0 {
		return p, true, nil
	}
	d.pending, d.missing = p, n
	return Packet{}, false, nil
}

// Binary takes an attachment. The packet is complete with its last one, and
// keeps b.
func (d *Decoder) Binary(b []byte) (p Packet, complete bool, err error) {
	if d.missing == 0 {
		return Packet{}, false, fmt.Errorf("%w: attachment without an announcement", ErrMalformed)
	}
	d.pending.Attachments = append(d.pending.Attachments, b)
	d.missing--
	if d.missing > 0 {
		return Packet{}, false, nil
	}
	p, d.pending = d.pending, Packet{}
	return p, true, nil
}
