package engineio

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// PacketType is an Engine.IO packet type, as its character on the wire.
type PacketType byte

// Packet types of Engine.IO protocol v4.
const (
	Open    PacketType = '0'
	Close   PacketType = '1'
	Ping    PacketType = '2'
	Pong    PacketType = '3'
	Message PacketType = '4'
	Upgrade PacketType = '5'
	Noop    PacketType = '6'
)

// separator stands between the packets of a polling payload.
const separator = 0x1e

// ErrMalformed is wrapped by errors about packets that violate the protocol.
var ErrMalformed = errors.New("engineio: malformed packet")

// Packet is one Engine.IO packet. If Binary is set, it is a message.
type Packet struct {
	Type   PacketType
	Binary bool
	Data   []byte
}

// DecodePayload splits the body of a polling request into packets and calls fn for each, in order,
// until fn returns false. It implements Engine.IO protocol v4, "HTTP long-polling". The data of
// text packets aliases payload. At a malformed packet it returns an error that wraps ErrMalformed,
// after it has called fn for the packets before.
func DecodePayload(payload []byte, fn func(Packet) bool) error {
	for {
		part, rest, more := bytes.Cut(payload, []byte{separator})
		p, err := decodeText(part)
		if err != nil {
			return err
		}
		if !fn(p) || !more {
			return nil
		}
		payload = rest
	}
}

// decodeText decodes one packet of a payload, in which binary messages are base64.
func decodeText(part []byte) (Packet, error) {
	if len(part) == 0 {
		return Packet{}, fmt.Errorf("%w: empty", ErrMalformed)
	}
	if part[0] == 'b' {
		data, err := decodeBase64(part[1:])
		if err != nil {
			return Packet{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return Packet{Type: Message, Binary: true, Data: data}, nil
	}
	if part[0] < '0' || part[0] > '6' {
		return Packet{}, fmt.Errorf("%w: unknown type %q", ErrMalformed, part[0])
	}
	return Packet{Type: PacketType(part[0]), Data: part[1:]}, nil
}

func decodeBase64(src []byte) ([]byte, error) {
	src = bytes.TrimRight(src, "=")
	dst := make([]byte, base64.RawStdEncoding.DecodedLen(len(src)))
	n, err := base64.RawStdEncoding.Decode(dst, src)
	return dst[:n], err
}

// Handshake is the payload of an OPEN packet.
type Handshake struct {
	SID          string   `json:"sid"`
	Upgrades     []string `json:"upgrades"`
	PingInterval int64    `json:"pingInterval"` // milliseconds
	PingTimeout  int64    `json:"pingTimeout"`  // milliseconds
	MaxPayload   int64    `json:"maxPayload,omitempty"`
}

// maxHandshakeValue limits the numbers in a handshake, in milliseconds or bytes, so that sums and
// products do not overflow.
const maxHandshakeValue = 1 << 40

// ParseHandshake decodes the payload of an OPEN packet. Errors wrap ErrMalformed.
func ParseHandshake(data []byte) (Handshake, error) {
	var h Handshake
	var bad error
	_, err := jsonscan.Scan(data, func(m jsonscan.Member) {
		bad = errors.Join(bad, h.set(m, data))
	})
	if err = errors.Join(err, bad); err != nil {
		return Handshake{}, fmt.Errorf("%w: handshake: %w", ErrMalformed, err)
	}
	if h.SID == "" || h.PingInterval <= 0 || h.PingTimeout <= 0 {
		return Handshake{}, fmt.Errorf("%w: handshake without sid, pingInterval or pingTimeout", ErrMalformed)
	}
	return h, nil
}

// set sets the field for one member of the payload data.
func (h *Handshake) set(m jsonscan.Member, data []byte) (err error) {
	value := data[m.Value:m.End]
	switch string(m.Key) {
	case "sid":
		h.SID, _ = m.String(data)
	case "upgrades":
		if string(value) != "[]" { // the usual value over WebSocket
			err = json.Unmarshal(value, &h.Upgrades)
		}
	case "pingInterval":
		h.PingInterval, err = parseNumber(value)
		if string(value) == "0" {
			h.PingInterval = 1000 // python-engineio rounds down to whole seconds
		}
	case "pingTimeout":
		h.PingTimeout, err = parseNumber(value)
	case "maxPayload":
		h.MaxPayload, err = parseNumber(value)
		h.MaxPayload = max(h.MaxPayload, 0)
	}
	return err
}

// parseNumber parses a JSON number. Some servers write a fraction.
func parseNumber(value []byte) (int64, error) {
	f, err := strconv.ParseFloat(string(value), 64)
	return int64(max(-1, min(f, maxHandshakeValue))), err
}

// Encode returns the payload of an OPEN packet.
func (h Handshake) Encode() []byte {
	if h.Upgrades == nil {
		h.Upgrades = []string{}
	}
	b, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}

func (h Handshake) interval() time.Duration {
	return time.Duration(h.PingInterval) * time.Millisecond
}

func (h Handshake) timeout() time.Duration { return time.Duration(h.PingTimeout) * time.Millisecond }

func appendPacket(dst []byte, t PacketType, data []byte) []byte {
	return append(append(dst, byte(t)), data...)
}
