package socketio

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// Decodability says which clients can decode a packet. Each bit is a rule that the packet breaks,
// of some version of socket.io-parser or of some configuration. Clients without these rules can
// decode the packet.
type Decodability uint8

// What clients may refuse. Decodable packets are fine as far as is known here; a client may have
// rules of its own.
const (
	Decodable             Decodability = 0
	TooManyAttachments    Decodability = 1 << iota // more than jsMaxAttachments
	FarTooManyAttachments                          // too many also for clients that raise the limit
	MisplacedAttachment                            // placeholders and attachments do not match
	BadEventName                                   // a reserved name, or no name
	OddText                                        // that is decoded somehow, or too deep
	Undecodable           Decodability = 1 << 7    // breaks the protocol: no client can decode it
)

const (
	// jsMaxAttachments is what socket.io-parser takes from 4.2.6 on, unless told otherwise.
	jsMaxAttachments = 10
	// raisedMaxAttachments is what a client that raises the limit may be taken to allow if it takes
	// a few more.
	raisedMaxAttachments = 32
	// goMaxNesting is how deep encoding/json goes. JavaScript goes deeper.
	goMaxNesting = 10000
	// jsMaxNesting is how deep a binary packet's payload may surely be. socket.io-parser walks it
	// recursively.
	jsMaxNesting = 1000
)

// reservedEvents are names that socket.io-parser refuses from 4.2.4 on.
var reservedEvents = []string{"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}

// CheckDecodable checks a packet against the rules of socket.io-parser 4.2, which all clients that
// recover connections use. It decodes the whole payload, so it is not for the live path.
func CheckDecodable(p []byte) Decodability {
	h, err := ParseHeader(p)
	if err != nil {
		return OddText // it is passed on as it came: what it is cannot be told
	}
	data := p[h.Data:]
	switch {
	case h.Type == Disconnect, len(data) == 0:
		return Decodable
	case !utf8.Valid(p):
		return OddText // a WebSocket must not carry it; by polling it is decoded somehow
	case !json.Valid(data):
		if nestedBeyond(data, goMaxNesting) {
			return OddText
		}
		return Undecodable
	}
	var d Decodability
	if h.IsBinary() {
		d = checkAttachments(&h, data)
	}
	if h.IsEvent() {
		d |= checkName(data)
	}
	if d&Undecodable != 0 {
		return Undecodable
	}
	return d
}

// LooksOdd reports whether a text packet may break a rule of some client, at a glance. It finds what
// servers are known to send: numbers that JSON does not have, and names of events. It is cheap, and
// misses other malformed JSON.
func LooksOdd(p []byte) bool {
	if bytes.Contains(p, []byte("NaN")) || bytes.Contains(p, []byte("Infinity")) {
		return true
	}
	h, err := ParseHeader(p)
	if err != nil || !h.IsEvent() || h.Data == len(p) {
		return err != nil
	}
	name, ok := EventName(p[h.Data:])
	return !ok || slices.Contains(reservedEvents, string(name))
}

// checkAttachments checks a binary packet. The payload is valid JSON.
func checkAttachments(h *Header, data []byte) (d Decodability) {
	if h.Attachments > jsMaxAttachments {
		d |= TooManyAttachments
	}
	if h.Attachments > raisedMaxAttachments {
		d |= FarTooManyAttachments
	}
	if nestedBeyond(data, jsMaxNesting) {
		return d | OddText
	}
	if h.Attachments == 0 || misplaced(data, h.Attachments) {
		d |= MisplacedAttachment
	}
	return d
}

// checkName checks the name of an event. The payload is valid JSON.
func checkName(data []byte) Decodability {
	name, ok := EventName(data)
	switch {
	case bytes.Equal(bytes.TrimSpace(data[1:]), []byte("]")):
		return Undecodable // an event without arguments
	case !ok, slices.Contains(reservedEvents, string(name)):
		return BadEventName
	}
	return Decodable
}

// nestedBeyond reports whether there are more opening brackets than depth, including those in
// strings.
func nestedBeyond(data []byte, depth int) bool {
	return bytes.Count(data, []byte("["))+bytes.Count(data, []byte("{")) > depth
}

// misplaced reports whether a valid payload has a placeholder for an attachment that does not
// exist.
func misplaced(data []byte, attachments int) bool {
	// Any character may be escaped.
	if !bytes.Contains(data, []byte("_placeholder")) && !bytes.Contains(data, []byte(`\u`)) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // JavaScript takes numbers of any size
	var v any
	return d.Decode(&v) == nil && misplacedIn(v, attachments)
}

func misplacedIn(v any, attachments int) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return misplacedIn(e, attachments) })
	case map[string]any:
		if v["_placeholder"] == true {
			return !isIndex(v["num"], attachments)
		}
		for _, e := range v {
			if misplacedIn(e, attachments) {
				return true
			}
		}
	}
	return false
}

// isIndex reports whether v is a number from 0 to less than n.
func isIndex(v any, n int) bool {
	number, ok := v.(json.Number)
	if !ok {
		return false
	}
	f, err := number.Float64()
	return err == nil && f >= 0 && f < float64(n)
}

// AppendReaddressed appends packet p, of the given Header, as one of another namespace.
func AppendReaddressed(dst, p []byte, h *Header, namespace string) []byte {
	dst = append(dst, byte(h.Type))
	if h.IsBinary() {
		dst = append(dst, p[1:bytes.IndexByte(p, '-')+1]...)
	}
	dst = append(dst, namespace...)
	dst = append(dst, ',')
	i := h.Data // the acknowledgement id stands in front of it
	for h.HasAck() && i > 1 && isDigit(p[i-1]) {
		i--
	}
	return append(dst, p[i:]...)
}
