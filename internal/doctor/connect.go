package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/socketio"
	sessions "github.com/holdfast/holdfast/session"
)

// quiet is how long the doctor waits for events after the reply to CONNECT.
const quiet = 300 * time.Millisecond

// reply is the payload of the reply to a CONNECT, and how many events followed. Servers of
// Socket.IO 2 reply without a SID.
type reply struct {
	SID    string `json:"sid"`
	PID    string `json:"pid"`
	events int
}

func isHoldfastPID(pid string) bool { return sessions.IsPID(pid) }

// inNamespace returns an Engine.IO message with a Socket.IO packet.
func inNamespace(typ socketio.Type, namespace string, payload []byte) string {
	if namespace == socketio.Root {
		return string(engineio.Message) + string(typ) + string(payload)
	}
	return string(engineio.Message) + string(typ) + namespace + "," + string(payload)
}

func disconnectPacket(namespace string) string {
	return strings.TrimSuffix(inNamespace(socketio.Disconnect, namespace, nil), ",")
}

// connect sends a CONNECT, and waits for the reply and for events that follow it. Without a reply
// it returns a Finding that says why.
func connect(ctx context.Context, s session, o Options) (reply, *Finding) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := s.send(ctx, inNamespace(socketio.Connect, o.Namespace, o.Auth)); err != nil {
		return reply{}, connectProblem(err)
	}
	for {
		p, h, err := nextPacket(ctx, s)
		if err != nil {
			return reply{}, connectProblem(err)
		}
		if string(h.Namespace) != o.Namespace {
			continue
		}
		switch h.Type { //nolint:exhaustive // events may come first
		case socketio.Connect:
			var r reply
			if len(p) > h.Data && json.Unmarshal(p[h.Data:], &r) != nil {
				return r, connectProblem(errParser)
			}
			r.events = listen(ctx, s)
			return r, nil
		case socketio.ConnectError:
			return reply{}, connectRefused(o.Namespace, p[h.Data:])
		}
	}
}

// errParser means that what arrived is not a packet of the default parser.
var errParser = errors.New("doctor: not a packet of the default parser")

// errClosed means that the server has closed the connection properly.
var errClosed = errors.New("doctor: closed by the server")

// nextPacket returns the next Socket.IO packet, and answers pings.
func nextPacket(ctx context.Context, s session) ([]byte, socketio.Header, error) {
	for {
		p, err := s.next(ctx)
		if err != nil {
			return nil, socketio.Header{}, err
		}
		switch p.Type { //nolint:exhaustive // the others need no answer
		case engineio.Ping:
			if err := s.send(ctx, string(engineio.Pong)); err != nil {
				return nil, socketio.Header{}, err
			}
		case engineio.Close:
			return nil, socketio.Header{}, errClosed
		case engineio.Message:
			h, err := socketio.ParseHeader(p.Data)
			if p.Binary || err != nil {
				return nil, socketio.Header{}, errParser
			}
			return p.Data, h, nil
		}
	}
}

// listen counts the events that arrive until none does for a while.
func listen(ctx context.Context, s session) (events int) {
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	for {
		_, h, err := nextPacket(ctx, s)
		switch {
		case err == nil && h.IsEvent():
			events++
		case errors.Is(err, errParser): // an attachment
		case err != nil:
			return events
		}
	}
}

func connectProblem(err error) *Finding {
	f := &Finding{Topic: "namespace", Result: Fail}
	u, refused := errors.AsType[*unexpected](err)
	switch {
	case errors.Is(err, errParser):
		f.Code, f.Detail, f.Advice = CodeOtherParser, "the server does not answer in the form of socket.io's default parser",
			"holdfast relays the connections of other parsers, such as socket.io-msgpack-parser, as they are, and recovers none. "+
				"Use the default parser on both sides if you can."
	case refused && u.unknownSession():
		f.Code, f.Detail, f.Advice = CodeSessionUnknown, "the server did not know the session that it had just opened", lostAdvice
	case errors.Is(err, context.DeadlineExceeded):
		f.Code, f.Detail, f.Advice = CodeUnanswered, "the handshake is answered, the CONNECT to the namespace is not",
			"A middleware of the server may wait for something: give what your clients send with -auth, -header or -query."
	default:
		f.Code, f.Detail, f.Advice = CodeOtherParser, "the server closed the connection when it got the CONNECT ("+plain(err)+")",
			"Its log may say why. Servers with another parser than the default do this: holdfast relays their connections as they are, and recovers none."
	}
	return f
}

func connectRefused(namespace string, payload []byte) *Finding {
	var e struct{ Message string }
	if json.Unmarshal(payload, &e) != nil || e.Message == "" {
		e.Message = "no message"
	}
	f := &Finding{"namespace", Fail, CodeConnectRefused, fmt.Sprintf("the server refuses the namespace %s: %q", namespace, e.Message), ""}
	if strings.Contains(strings.ToLower(e.Message), "invalid namespace") {
		f.Advice = "Give one that it has with -namespace."
	} else {
		f.Advice = "A middleware refuses the client. Give what your clients send with -auth '{\"token\":\"...\"}', -header or -query. " +
			"holdfast passes it on, so your clients are not affected."
	}
	return f
}
