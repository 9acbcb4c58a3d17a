package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/siotest/sioclient"
	"github.com/holdfast/holdfast/internal/socketio"
)

// socket is the state of a namespace that a client keeps across connections.
type socket struct {
	namespace string
	auth      any // nil or a JSON object
	sid       string
	pid       string // a credential: never printed
	offset    string
}

// packet returns a Socket.IO packet in the socket's namespace. payload may be empty.
func (s *socket) packet(typ socketio.Type, payload []byte) []byte {
	b := []byte{byte(typ)}
	if s.namespace != socketio.Root {
		b = append(append(b, s.namespace...), ',')
	}
	return append(b, payload...)
}

// reply is the payload of the reply to a CONNECT.
type reply struct {
	SID string `json:"sid"`
	PID string `json:"pid"`
}

// connect sends a CONNECT with the socket's state, and waits for the reply. It does not change the
// socket.
func (s *socket) connect(ctx context.Context, c *conn) (reply, error) {
	payload, err := sioclient.ConnectPayload(s.pid, s.offset, s.auth)
	if err != nil {
		return reply{}, err
	}
	if err := c.send(ctx, s.packet(socketio.Connect, payload)); err != nil {
		return reply{}, err
	}
	for {
		p, err := c.receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return reply{}, &problem{
					CodeUnanswered, "the handshake is answered, but the CONNECT to the namespace is not",
					"Does a middleware of the server wait for something, such as -auth or an event? Does a proxy in between hold requests back?",
				}
			}
			return reply{}, err
		}
		h, err := socketio.ParseHeader(p)
		if err != nil || string(h.Namespace) != s.namespace {
			continue // another namespace's
		}
		switch h.Type { //nolint:exhaustive // events may come first
		case socketio.Connect:
			var r reply
			if err := json.Unmarshal(p[h.Data:], &r); err != nil || r.SID == "" {
				return r, &problem{CodeOldServer, "the reply to CONNECT has no sid", "The server uses an older protocol (Socket.IO 2). Set upstream.protocol: 3, so that holdfast translates."}
			}
			return r, nil
		case socketio.ConnectError:
			return reply{}, refusal(s.namespace, p[h.Data:])
		}
	}
}

// refusal describes a CONNECT_ERROR.
func refusal(namespace string, payload []byte) *problem {
	var e struct{ Message string }
	if json.Unmarshal(payload, &e) != nil || e.Message == "" {
		e.Message = "no message"
	}
	p := &problem{code: CodeConnectRefused, detail: fmt.Sprintf("the server refuses the namespace %s: %q", namespace, e.Message)}
	if strings.Contains(strings.ToLower(e.Message), "invalid namespace") {
		p.remedy = "Set a namespace that the server has with -namespace."
	} else {
		p.remedy = "The application refuses the client: pass what it requires with -auth '{\"token\":\"...\"}', -header or -query."
	}
	return p
}

// listen reads events until none arrives for quiet, and returns how many there were. It keeps the
// last offset as socket.io-client does.
func (s *socket) listen(ctx context.Context, c *conn, quiet time.Duration) (events int) {
	for {
		wait, cancel := context.WithTimeout(ctx, quiet)
		p, err := c.receive(wait)
		cancel()
		if err != nil || ctx.Err() != nil {
			return events
		}
		h, err := socketio.ParseHeader(p)
		if err != nil || string(h.Namespace) != s.namespace || !h.IsEvent() {
			continue
		}
		events++
		if offset, ok := sioclient.LastString(p[h.Data:]); ok && !h.HasAck() {
			s.offset = offset
		}
	}
}
