package engineio

import "encoding/base64"

const (
	// maxPostPackets is how many packets python-engineio takes in one POST.
	maxPostPackets = 16
	// maxPost3 is the largest POST in version 3, whose servers announce no limit. netty-socketio
	// takes 64 KiB by default.
	maxPost3 = 60 << 10
)

// postQueue holds the packets that a polling Conn has to post, as bodies within the server's
// limits. The Conn's mu guards it.
type postQueue struct {
	v3       bool // bodies have the binary form of version 3
	maxBytes int  // of a body

	bodies [][]byte // that wait, oldest first
	last   int      // packets in the last body
	bytes  int      // of all bodies, and of the one being posted
	taken  int64    // bytes that were posted
}

// add adds a packet.
func (q *postQueue) add(t PacketType, data []byte) {
	if q.v3 {
		q.addEncoded(appendBinaryForm3(nil, textForm3, []byte{byte(t)}, data))
		return
	}
	q.addEncoded(appendPacket(nil, t, data))
}

// addBinary adds a binary message.
func (q *postQueue) addBinary(data []byte) {
	if q.v3 {
		q.addEncoded(appendBinaryForm3(nil, binaryForm3, []byte{binaryMessage3}, data))
		return
	}
	q.addEncoded(base64.StdEncoding.AppendEncode([]byte{'b'}, data))
}

// addMessage adds a text message, directly followed by its attachments.
func (q *postQueue) addMessage(text []byte, attachments [][]byte) {
	q.add(Message, text)
	if len(attachments) > 0 && q.v3 {
		// netty-socketio 1.7 ignores what follows the text of a binary event in its body, the
		// attachments included. They begin a body.
		q.last = maxPostPackets
	}
	for _, a := range attachments {
		q.addBinary(a)
	}
}

// addEncoded adds a packet to the last body if it fits, or begins another.
func (q *postQueue) addEncoded(packet []byte) {
	q.bytes += len(packet)
	if last := len(q.bodies) - 1; last >= 0 && q.last < maxPostPackets && len(q.bodies[last])+1+len(packet) <= q.maxBytes {
		if !q.v3 {
			q.bytes++
			q.bodies[last] = append(q.bodies[last], separator)
		}
		q.bodies[last] = append(q.bodies[last], packet...)
		q.last++
		return
	}
	q.bodies = append(q.bodies, packet)
	q.last = 1
}

// next takes the oldest body, or returns nil if none waits.
func (q *postQueue) next() []byte {
	if len(q.bodies) == 0 {
		return nil
	}
	body := q.bodies[0]
	q.bodies[0] = nil
	q.bodies = q.bodies[1:]
	return body
}

// posted notes that the POST of a body was answered, or failed.
func (q *postQueue) posted(body []byte) {
	q.bytes -= len(body)
	q.taken += int64(len(body))
}

// takeAll takes all bodies.
func (q *postQueue) takeAll() [][]byte {
	bodies := q.bodies
	q.bodies, q.bytes = nil, 0
	return bodies
}

// contentType returns the content type of a POST.
func (q *postQueue) contentType() string {
	if q.v3 {
		return binaryType3
	}
	return "text/plain;charset=UTF-8"
}
