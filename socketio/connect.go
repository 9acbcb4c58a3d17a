package socketio

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Recovery is what a socket.io-client (4.6 and later) adds to the auth payload
// of its CONNECT when it reconnects. Both are empty if the client added none.
type Recovery struct {
	PID    string // private id of the socket, from the CONNECT reply
	Offset string // last argument of the last event it handled
	// ForeignOffset says that there is an "offset" key which is not of our making,
	// such as an application's own: it was left in the packet.
	ForeignOffset bool
}

// take keeps m's value if m is the library's own pid or offset, and so has to be cut out.
func (r *Recovery) take(m member, data []byte, isPID, isOffset func(string) bool) bool {
	switch m.key {
	case "pid":
		s, ok := m.stringValue(data)
		if !ok || !isPID(s) {
			return false
		}
		r.PID = s
		return true
	case "offset":
		s, ok := m.stringValue(data)
		if !ok || !isOffset(s) {
			r.ForeignOffset = true
			return false
		}
		r.Offset = s
		return true
	}
	return false
}

// TakeRecovery cuts the pid and the offset out of a CONNECT packet's payload.
// Only string values that isPID or isOffset accept are cut: a key of the same name that the
// application put there stays. The other members are kept byte for byte, without the white space
// between them. A payload that becomes empty is left out, as the client would have.
//
// rest aliases packet if nothing was cut. Errors wrap ErrMalformed.
func TakeRecovery(packet []byte, isPID, isOffset func(string) bool) (rest []byte, r Recovery, err error) {
	h, err := ParseHeader(packet)
	if err != nil {
		return nil, r, err
	}
	data := packet[h.Data:]
	if h.Type != Connect || !mayHaveRecovery(data) {
		return packet, r, nil
	}
	members, err := scanObject(data)
	if err != nil {
		return nil, r, err
	}
	out := make([]byte, 0, len(packet))
	out = append(out, packet[:h.Data]...)
	kept := 0
	for _, m := range members {
		if r.take(m, data, isPID, isOffset) {
			continue
		}
		if kept == 0 {
			out = append(out, '{')
		} else {
			out = append(out, ',')
		}
		out = append(out, data[m.start:m.end]...)
		kept++
	}
	if kept == len(members) {
		return packet, r, nil
	}
	if kept > 0 {
		out = append(out, '}')
	}
	return out, r, nil
}

// mayHaveRecovery spares most first CONNECTs the scan. A backslash may hide a key.
func mayHaveRecovery(data []byte) bool {
	return bytes.Contains(data, []byte(`"pid"`)) || bytes.Contains(data, []byte(`"offset"`)) ||
		bytes.IndexByte(data, '\\') >= 0
}

// AddPID puts the private id, which must need no escaping in JSON, into a CONNECT reply's payload, after the
// keys that are there. ok is false, and out is reply, if there are none (every server sends a sid), or
// a pid is among them: then the server recovers connections itself.
func AddPID(reply []byte, pid string) (out []byte, ok bool) {
	h, err := ParseHeader(reply)
	if err != nil || h.Type != Connect || h.Data == len(reply) {
		return reply, false
	}
	members, err := scanObject(reply[h.Data:])
	if err != nil || len(members) == 0 {
		return reply, false
	}
	for _, m := range members {
		if m.key == "pid" {
			return reply, false
		}
	}
	end := h.Data + members[len(members)-1].end
	out = make([]byte, 0, len(reply)+len(pid)+len(`,"pid":""`))
	out = append(out, reply[:end]...)
	out = append(out, `,"pid":"`...)
	out = append(out, pid...)
	out = append(out, '"')
	return append(out, reply[end:]...), true
}

// member is one `"key":value` of an object, by its place in the JSON text.
type member struct {
	key        string
	start, end int // of key and value together
	value      int // where the value starts
}

func (m member) stringValue(data []byte) (string, bool) {
	if data[m.value] != '"' {
		return "", false
	}
	var s string
	if json.Unmarshal(data[m.value:m.end], &s) != nil {
		return "", false
	}
	return s, true
}

// scanObject finds the members of the JSON object that data is.
func scanObject(data []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%w: payload is not an object", ErrMalformed)
	}
	var members []member
	for dec.More() {
		start := skip(data, int(dec.InputOffset()), ',')
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		key, isString := t.(string)
		if !isString {
			return nil, fmt.Errorf("%w: payload has a key that is no string", ErrMalformed)
		}
		value := skip(data, int(dec.InputOffset()), ':')
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		members = append(members, member{key: key, start: start, end: int(dec.InputOffset()), value: value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if rest := bytes.TrimSpace(data[dec.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("%w: text after the payload", ErrMalformed)
	}
	return members, nil
}

// skip passes over white space and the separator from data[i:] on.
func skip(data []byte, i int, separator byte) int {
	for i < len(data) && (isSpace(data[i]) || data[i] == separator) {
		i++
	}
	return i
}
