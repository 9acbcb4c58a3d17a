package doctor

import (
	"bytes"
	"encoding/json"

	"github.com/holdfast/holdfast/internal/engineio"
)

// maxDigits bounds the length of a packet's length. It keeps garbage from being taken for one.
const maxDigits = 9

// parseV3 finds the OPEN packet in a polling payload of Engine.IO 3: `97:0{...}` in the text form,
// or 00, the digits of the length as bytes 0 to 9, FF, `0{...}` in the binary form. Servers of
// version 3 do not look at the version that a client asks for, and answer in this way.
func parseV3(payload []byte) (engineio.Handshake, bool) {
	rest, ok := textLength(payload)
	if !ok {
		rest, ok = binaryLength(payload)
	}
	if !ok || len(rest) == 0 || engineio.PacketType(rest[0]) != engineio.Open {
		return engineio.Handshake{}, false
	}
	var open json.RawMessage
	if json.NewDecoder(bytes.NewReader(rest[1:])).Decode(&open) != nil {
		return engineio.Handshake{}, false
	}
	h, err := engineio.ParseHandshake(open)
	return h, err == nil
}

// textLength returns what follows the length of the first packet in the text form.
func textLength(payload []byte) ([]byte, bool) {
	n := bytes.IndexByte(payload[:min(len(payload), maxDigits+1)], ':')
	if n < 1 {
		return nil, false
	}
	for _, c := range payload[:n] {
		if c < '0' || c > '9' {
			return nil, false
		}
	}
	return payload[n+1:], true
}

// binaryLength is textLength for the binary form.
func binaryLength(payload []byte) ([]byte, bool) {
	if len(payload) == 0 || payload[0] != 0 {
		return nil, false
	}
	n := bytes.IndexByte(payload[1:min(len(payload), maxDigits+2)], 0xff)
	if n < 1 {
		return nil, false
	}
	for _, c := range payload[1 : n+1] {
		if c > 9 {
			return nil, false
		}
	}
	return payload[n+2:], true
}
