package socketio

import (
	"bytes"
	"fmt"

	"github.com/holdfast/holdfast/internal/jsonscan"
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
func (r *Recovery) take(m jsonscan.Member, data []byte, isPID, isOffset func(string) bool) bool {
	switch string(m.Key) {
	case "pid":
		s, ok := m.String(data)
		if !ok || !isPID(s) {
			return false
		}
		r.PID = s
		return true
	case "offset":
		s, ok := m.String(data)
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
	out := make([]byte, 0, len(packet))
	out = append(out, packet[:h.Data]...)
	kept := 0
	members, err := jsonscan.Scan(data, func(m jsonscan.Member) {
		if r.take(m, data, isPID, isOffset) {
			return
		}
		if kept == 0 {
			out = append(out, '{')
		} else {
			out = append(out, ',')
		}
		out = append(out, data[m.Start:m.End]...)
		kept++
	})
	switch {
	case err != nil:
		return nil, r, fmt.Errorf("%w: payload: %w", ErrMalformed, err)
	case kept == members:
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

// AddPID puts the private id, which must need no escaping in JSON, into a CONNECT reply's payload, at the place that
// PIDPlace gave.
func AddPID(reply []byte, place int, pid string) []byte {
	out := make([]byte, 0, len(reply)+len(pid)+len(`,"pid":""`))
	out = append(out, reply[:place]...)
	out = append(out, `,"pid":"`...)
	out = append(out, pid...)
	out = append(out, '"')
	return append(out, reply[place:]...)
}

// PIDPlace is where a private id can be added to a CONNECT reply's payload: after the keys that are there. ok is false
// if there are none (every server sends a sid), or a pid is among them: then the server recovers connections itself.
func PIDPlace(reply []byte) (place int, ok bool) {
	h, err := ParseHeader(reply)
	if err != nil || h.Type != Connect || h.Data == len(reply) {
		return 0, false
	}
	taken := false
	members, err := jsonscan.Scan(reply[h.Data:], func(m jsonscan.Member) {
		place = h.Data + m.End
		taken = taken || string(m.Key) == "pid"
	})
	return place, err == nil && members > 0 && !taken
}
