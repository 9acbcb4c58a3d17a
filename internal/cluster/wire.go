package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// A connection between two replicas carries frames. Each has a header of headerBytes: the type, the
// length of the payload in three bytes, and the number of the stream, or 0.
//
//	hello   the first frame of each side: who it is, in JSON
//	open    the dialling side begins a stream: its kind in one byte, then what it is about
//	data    bytes of a stream
//	window  the receiver has consumed so many more bytes of a stream (4 bytes)
//	fin     the sender sends no more data of a stream
//	reset   the stream has ended; nothing more is sent or wanted
//	note    the dialling side tells something that needs no answer: its kind, then what it is about
//	ping    asks for a pong; the payload is when it was sent, by the sender's clock
//	pong    the same payload, and behind it what the clock of the other side shows (8 bytes)
//	bye     the sender stops and does not come back
type frameType uint8

const (
	frameHello frameType = iota + 1
	frameOpen
	frameData
	frameWindow
	frameFin
	frameReset
	frameNote
	framePing
	framePong
	frameBye
)

const (
	headerBytes = 8
	// maxControl limits the payload of every frame except data. The head of a request is the
	// largest.
	maxControl = 4 << 20
	// maxHello limits the payload of a hello.
	maxHello = 4 << 10
	// windowBytes is how much of a stream may be sent before the receiver has consumed it.
	windowBytes = 256 << 10
)

// MaxFirst is the maximum number of first bytes for OpenWith. They are sent even while much waits
// for the network.
const MaxFirst = 16 << 10

// MaxAbout is the largest about of Open and Note.
const MaxAbout = maxControl - 1

// errProtocol is wrapped by errors about a peer that violates the protocol.
var errProtocol = errors.New("cluster: malformed frame")

// header is a frame's header.
type header struct {
	kind   frameType
	length int
	stream uint32
}

func parseHeader(p []byte) (h header, err error) {
	h = header{frameType(p[0]), int(p[1])<<16 | int(p[2])<<8 | int(p[3]), binary.BigEndian.Uint32(p[4:])}
	switch {
	case h.kind < frameHello || h.kind > frameBye:
		return h, fmt.Errorf("%w: type %d", errProtocol, h.kind)
	case h.kind == frameData && h.length > windowBytes, h.length > maxControl:
		return h, fmt.Errorf("%w: %d bytes in a frame of type %d", errProtocol, h.length, h.kind)
	}
	return h, nil
}

func appendHeader(dst []byte, kind frameType, stream uint32, length int) []byte {
	dst = append(dst, byte(kind), byte(length>>16), byte(length>>8), byte(length))
	return binary.BigEndian.AppendUint32(dst, stream)
}

// hello is who a replica is.
type hello struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Process tells a process from the one that had this ID before it: its clock is another one.
	Process string `json:"process,omitempty"`
	// Advertise is where others can dial it; "" if it does not know.
	Advertise string `json:"advertise,omitempty"`
}

func parseHello(p []byte) (h hello, err error) {
	if err := json.Unmarshal(p, &h); err != nil {
		return h, fmt.Errorf("%w: hello: %w", errProtocol, err)
	}
	if !ValidID(h.ID) || len(h.Name) > 256 || len(h.Advertise) > 256 {
		return h, fmt.Errorf("%w: hello", errProtocol)
	}
	return h, nil
}

func (h hello) encode() []byte {
	b, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	return b
}
