package proxy

import (
	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// upstreamEvent returns an event that asks for an acknowledgement as the server gets it from a
// client with a key: with its own id.
func upstreamEvent(cur *session.Cursor, p *packet) (data []byte, ok bool) {
	id, ok := cur.UpstreamAckID(p.h.AckID)
	if !ok || id == p.h.AckID {
		return p.data, ok
	}
	return socketio.AppendWithAckID(nil, p.data, &p.h, id), true
}

// clientAnswer returns an answer as a client with a key gets it: with its own id.
func clientAnswer(p *buffer.Entry) []byte {
	data, id := p.Data(), session.ClientAckID(p.AckID())
	if id == p.AckID() {
		return data
	}
	h, err := socketio.ParseHeader(data)
	if err != nil {
		return data // it parsed before
	}
	return socketio.AppendWithAckID(nil, data, &h, id)
}
