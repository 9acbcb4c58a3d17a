package socketio

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// Type is a Socket.IO packet type: its character on the wire.
type Type byte

// Packet types of Socket.IO protocol v5.
const (
	Connect      Type = '0'
	Disconnect   Type = '1'
	Event        Type = '2'
	Ack          Type = '3'
	ConnectError Type = '4'
	BinaryEvent  Type = '5'
	BinaryAck    Type = '6'
)

// Root is the main namespace. Packets omit its name.
const Root = "/"

// ErrMalformed is wrapped by every error of this package.
var ErrMalformed = errors.New("socketio: malformed packet")

// Header is the part of a packet before its JSON payload.
type Header struct {
	Type Type
	// Attachments is how many binary frames follow. Only BinaryEvent and BinaryAck have any.
	Attachments int
	// Namespace aliases the packet. It is "/" if the packet names none.
	Namespace []byte
	// AckID is the acknowledgement id, or -1.
	AckID int64
	// Data is where the payload starts, or the packet's length if there is none.
	Data int
}

// HasAck reports whether the packet asks for an acknowledgement or is one.
func (h *Header) HasAck() bool { return h.AckID >= 0 }

// IsEvent reports whether the packet is an EVENT or a BINARY_EVENT.
func (h *Header) IsEvent() bool { return h.Type == Event || h.Type == BinaryEvent }

// IsAck reports whether the packet is an ACK or a BINARY_ACK.
func (h *Header) IsAck() bool { return h.Type == Ack || h.Type == BinaryAck }

// EndsSocket reports whether the packet is a DISCONNECT or a CONNECT_ERROR: whatever follows its
// header, its sender has no socket for the namespace any more.
func (h *Header) EndsSocket() bool { return h.Type == Disconnect || h.Type == ConnectError }

// IsBinary reports whether the packet's type has attachments.
func (h *Header) IsBinary() bool { return h.Type == BinaryEvent || h.Type == BinaryAck }

var rootNamespace = []byte(Root)

// ParseHeader parses the header of p. See Header.Parse.
func ParseHeader(p []byte) (Header, error) {
	var h Header
	err := h.Parse(p)
	return h, err
}

// Parse scans a packet up to its payload: type, number of attachments, namespace and
// acknowledgement id. It checks the payload's first character if the protocol fixes it (an array
// for events and acks), but not the JSON. Errors wrap ErrMalformed; h then has the fields before
// the error.
func (h *Header) Parse(p []byte) error {
	h.Type, h.Attachments, h.Namespace, h.AckID, h.Data = 0, 0, rootNamespace, -1, 0
	if len(p) > 2 && p[0] == byte(Event) && p[1] == '[' { // almost all packets
		h.Type, h.Data = Event, 1
		return nil
	}
	if len(p) == 0 || p[0] < '0' || p[0] > '6' {
		return fmt.Errorf("%w: unknown type", ErrMalformed)
	}
	h.Type = Type(p[0])
	i := 1
	if h.IsBinary() {
		n, end, ok := scanInt(p, i)
		if !ok || end == i || end == len(p) || p[end] != '-' || n > math.MaxInt32 {
			return fmt.Errorf("%w: no attachment count", ErrMalformed)
		}
		h.Attachments = int(n)
		i = end + 1
	}
	if i < len(p) && p[i] == '/' {
		end := bytes.IndexByte(p[i:], ',')
		if end < 0 {
			h.Namespace = p[i:]
			i = len(p)
		} else {
			h.Namespace = p[i : i+end]
			i += end + 1
		}
	}
	if i < len(p) && isDigit(p[i]) {
		n, end, ok := scanInt(p, i)
		switch {
		case ok:
			h.AckID = n
			i = end
		case !h.EndsSocket():
			return fmt.Errorf("%w: acknowledgement id too large", ErrMalformed)
		}
	}
	h.Data = i
	return h.checkPayload(p[i:])
}

// checkPayload checks a payload's first character against the packet's type, as the reference
// parser's isPayloadValid does after decoding.
func (h *Header) checkPayload(data []byte) error {
	switch h.Type {
	case Event, BinaryEvent, Ack, BinaryAck:
		if len(data) < 2 || data[0] != '[' {
			return fmt.Errorf("%w: payload is not an array", ErrMalformed)
		}
	case Connect:
		if len(data) > 0 && data[0] != '{' {
			return fmt.Errorf("%w: payload of CONNECT is not an object", ErrMalformed)
		}
	case Disconnect, ConnectError:
		// The type alone says that the socket is gone. python-socketio refuses a client by a
		// DISCONNECT with a payload, which the reference parser rejects.
	}
	if h.IsAck() && !h.HasAck() {
		return fmt.Errorf("%w: acknowledgement without an id", ErrMalformed)
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// scanInt parses decimal digits from p[i:]. ok is false beyond JavaScript's largest safe integer.
func scanInt(p []byte, i int) (n int64, end int, ok bool) {
	const maxSafe = 1<<53 - 1
	for i < len(p) && isDigit(p[i]) {
		n = n*10 + int64(p[i]-'0')
		if n > maxSafe {
			return 0, i, false
		}
		i++
	}
	return n, i, true
}

// SplitArray splits an event packet before the bracket that closes its arguments. head + `,"x"` +
// tail is then the same event with one more argument. ok is false unless the packet ends with a
// non-empty array. head and tail alias p.
func SplitArray(p []byte) (head, tail []byte, ok bool) {
	i := lastNonSpace(p, len(p))
	if i < 0 || p[i] != ']' {
		return nil, nil, false
	}
	// An opening bracket directly before the last one means that the array is empty.
	if j := lastNonSpace(p, i); j < 0 || p[j] == '[' {
		return nil, nil, false
	}
	return p[:i], p[i:], true
}

// lastNonSpace returns the index of the last byte of p[:end] that is not white space, or -1.
func lastNonSpace(p []byte, end int) int {
	i := end - 1
	for i >= 0 && jsonscan.IsSpace(p[i]) {
		i--
	}
	return i
}

// AppendWithAckID appends a packet with another acknowledgement id. h is its header, which has an
// id.
func AppendWithAckID(dst, p []byte, h *Header, id int64) []byte {
	start := h.Data
	for start > 0 && isDigit(p[start-1]) {
		start--
	}
	if start == 0 { // the type is a digit, too
		start = 1
	}
	dst = append(dst, p[:start]...)
	dst = strconv.AppendInt(dst, id, 10)
	return append(dst, p[h.Data:]...)
}

// AppendDisconnect appends a DISCONNECT packet for a namespace.
func AppendDisconnect(dst []byte, namespace string) []byte {
	dst = append(dst, byte(Disconnect))
	if namespace != Root {
		dst = append(dst, namespace...)
		dst = append(dst, ',')
	}
	return dst
}
