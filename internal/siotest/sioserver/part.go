package sioserver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// part is one Engine.IO packet for a client, encoded once for all transports
// and receivers. Its bytes never change.
type part struct {
	frame  []byte // a whole WebSocket frame
	header int    // length of the frame's header
	binary bool
}

// The Engine.IO packets that never differ.
var (
	closePart = controlPart("1")
	pingPart  = controlPart("2")
	probePart = controlPart("3probe")
	noopPart  = controlPart("6")
)

func controlPart(s string) part { return newPart([]byte(s), nil, ws.OpText) }

// newPart makes a packet of prefix and data.
func newPart(prefix, data []byte, op ws.OpCode) part {
	buf := make([]byte, wire.MaxFrameHeader, wire.MaxFrameHeader+len(prefix)+len(data))
	buf = append(append(buf, prefix...), data...)
	frame, header := wire.PutFrameHeader(buf, op)
	return part{frame: frame, header: header, binary: op == ws.OpBinary}
}

func (p part) payload() []byte { return p.frame[p.header:] }

// encodePacket encodes a Socket.IO packet and its attachments.
func encodePacket(p wire.Packet) []part {
	buf := make([]byte, wire.MaxFrameHeader, wire.MaxFrameHeader+len(p.Namespace)+len(p.Data)+32)
	buf = p.Append(append(buf, '4'))
	frame, header := wire.PutFrameHeader(buf, ws.OpText)
	parts := make([]part, 0, 1+len(p.Attachments))
	parts = append(parts, part{frame: frame, header: header})
	for _, a := range p.Attachments {
		parts = append(parts, newPart(nil, a, ws.OpBinary))
	}
	return parts
}

// encodeArgs encodes an event (typ Event) or an acknowledgement (typ Ack).
// Arguments that JSON cannot express are the caller's mistake, and panic.
func encodeArgs(typ wire.Type, nsp string, id int64, args []any) []part {
	data, attachments, err := wire.Marshal(args)
	if err != nil {
		panic(fmt.Sprintf("legacy: %v: %v", typ, err))
	}
	if len(attachments) > 0 {
		typ += wire.BinaryEvent - wire.Event // and BinaryAck for Ack
	}
	return encodePacket(wire.Packet{
		Type: typ, Namespace: nsp, ID: id, Data: data, Attachments: attachments,
	})
}

// encodeEvent is encodeArgs for an event and its name.
func encodeEvent(nsp string, id int64, event string, args []any) []part {
	return encodeArgs(wire.Event, nsp, id, append([]any{event}, args...))
}

// encodeObject encodes a CONNECT or CONNECT_ERROR packet.
func encodeObject(typ wire.Type, nsp string, object any) []part {
	data, err := json.Marshal(object)
	if err != nil {
		panic(fmt.Sprintf("legacy: %v: %v", typ, err))
	}
	return encodePacket(wire.Packet{Type: typ, Namespace: nsp, ID: wire.NoID, Data: data})
}

// separator stands between the packets of a payload.
const separator = 0x1e

// appendPayload appends the polling form of the packets to dst.
func appendPayload(dst []byte, parts []part) []byte {
	for i, p := range parts {
		if i > 0 {
			dst = append(dst, separator)
		}
		if p.binary {
			dst = append(dst, 'b')
			dst = base64.StdEncoding.AppendEncode(dst, p.payload())
		} else {
			dst = append(dst, p.payload()...)
		}
	}
	return dst
}
