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

// socket is what a client keeps of a namespace over its connections.
type socket struct {
	namespace string
	auth      any // nil or a JSON object
	sid       string
	pid       string // a credential: never shown
	offset    string
}

// packet is a Socket.IO packet of the socket's namespace, but for its type: payload may be empty.
func (s *socket) packet(typ socketio.Type, payload []byte) []byte {
	b := []byte{byte(typ)}
	if s.namespace != socketio.Root {
		b = append(append(b, s.namespace...), ',')
	}
	return append(b, payload...)
}

// reply is the answer to a CONNECT.
type reply struct {
	SID string `json:"sid"`
	PID string `json:"pid"`
}

// connect sends the CONNECT with what the socket has, and waits for the answer. The socket is not changed.
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
					"Does a middleware of the server's wait for something, such as -auth or an event? Does a proxy in between hold requests back?",
				}
			}
			return reply{}, err
		}
		h, err := socketio.ParseHeader(p)
		if err != nil || string(h.Namespace) != s.namespace {
			continue // of no concern here
		}
		switch h.Type { //nolint:exhaustive // events may come first
		case socketio.Connect:
			var r reply
			if err := json.Unmarshal(p[h.Data:], &r); err != nil || r.SID == "" {
				return r, &problem{CodeOldServer, "the answer to CONNECT has no sid", "The server speaks an older protocol (Socket.IO 2); recovery needs Socket.IO 3 or later."}
			}
			return r, nil
		case socketio.ConnectError:
			return reply{}, refusal(s.namespace, p[h.Data:])
		}
	}
}

// refusal puts a CONNECT_ERROR into words.
func refusal(namespace string, payload []byte) *problem {
	var e struct{ Message string }
	if json.Unmarshal(payload, &e) != nil || e.Message == "" {
		e.Message = "without a word"
	}
	p := &problem{code: CodeConnectRefused, detail: fmt.Sprintf("the server refuses the namespace %s: %q", namespace, e.Message)}
	if strings.Contains(strings.ToLower(e.Message), "invalid namespace") {
		p.remedy = "Name one that the server has: -namespace."
	} else {
		p.remedy = "This is the application's own check: give what it wants with -auth '{\"token\":\"...\"}', -header or -query."
	}
	return p
}

// listen takes events until none has come for a while, keeps the last offset as socket.io-client does, and returns how many
// there were.
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
