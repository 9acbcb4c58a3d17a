package socketio

import (
	"bytes"
	"fmt"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// Recovery is what socket.io-client (4.6 and later) adds to the auth payload of
// its CONNECT when it reconnects. PID and Offset are empty if it added nothing.
type Recovery struct {
	PID    string // private id of the socket, from the CONNECT reply
	Offset string // last argument of the last event it handled
	// ForeignOffset says that the payload has an "offset" key that is not
	// holdfast's, such as the application's own. It stays in the packet.
	ForeignOffset bool
}

// take stores m's value if m is a pid or an offset of holdfast's. It then returns
// true, and the caller must cut m out.
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

// TakeRecovery cuts the pid and the offset out of a CONNECT packet's payload. It
// cuts only string values that isPID or isOffset accept, so an application's own
// key of the same name stays. It keeps the other members byte for byte, but not
// the white space between them. It omits an empty payload, as the client does.
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

// mayHaveRecovery avoids the scan for most first CONNECTs. A backslash may hide a key.
func mayHaveRecovery(data []byte) bool {
	return bytes.Contains(data, []byte(`"pid"`)) || bytes.Contains(data, []byte(`"offset"`)) ||
		bytes.IndexByte(data, '\\') >= 0
}

// AddPID inserts a pid, which must not need escaping in JSON, into a CONNECT
// reply's payload, at the place that PIDPlace returned.
func AddPID(reply []byte, place int, pid string) []byte {
	out := make([]byte, 0, len(reply)+len(pid)+len(`,"pid":""`))
	out = append(out, reply[:place]...)
	out = append(out, `,"pid":"`...)
	out = append(out, pid...)
	out = append(out, '"')
	return append(out, reply[place:]...)
}

// PIDPlace returns where a pid can be inserted into a CONNECT reply's payload: after
// the existing keys. ok is false if there are no keys (every server sends a sid), or
// if there is a pid: then the server recovers connections itself.
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
