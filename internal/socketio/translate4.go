package socketio

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// Socket.IO protocol v4, which socket.io 2.x speaks, has the same events and acknowledgements as
// v5. The functions in this file translate what differs:
//
//	              v5                                   v4
//	CONNECT       40{auth}                             none: the server connects "/" by itself
//	              40/admin,{auth}                      40/admin?key=value,
//	its reply     40{"sid":"S"}                        40
//	              40/admin,{"sid":"/admin#S"}          40/admin, or without the comma
//	its refusal   44/admin,{"message":M}               44/admin,"M"
//	later errors  42/admin,["error",D]                 44/admin,D
//	DISCONNECT    41/admin,                            the same, from some servers with a payload

// refusedMessage is the message of a refusal without one.
const refusedMessage = "Connection refused"

// ConnectReply4 returns the reply of protocol v5 to a CONNECT, for a namespace of an Engine.IO
// connection. The socket's id is the one that clients and servers of protocol v4 compute.
func ConnectReply4(namespace, engineSID string) []byte {
	id := engineSID
	if namespace != Root {
		id = namespace + "#" + engineSID
	}
	p := appendHeader([]byte{byte(Connect)}, namespace)
	return append(append(append(p, `{"sid":`...), jsonText(id)...), '}')
}

// ConnectRequest4 returns the CONNECT of protocol v4 for one of v5, for a namespace other than "/".
// query is what AuthQuery returned.
func ConnectRequest4(namespace, query string) []byte {
	if query != "" {
		namespace += "?" + query
	}
	return appendHeader([]byte{byte(Connect)}, namespace)
}

// AuthQuery returns the values of keys in a CONNECT packet's payload as a query, escaped. It leaves
// out what is absent, null, an object or an array.
func AuthQuery(connect []byte, keys []string) string {
	h, err := ParseHeader(connect)
	if err != nil || h.Type != Connect || h.Data == len(connect) || len(keys) == 0 {
		return ""
	}
	data := connect[h.Data:]
	values := make([]string, len(keys))
	found := make([]bool, len(keys))
	_, _ = jsonscan.Scan(data, func(m jsonscan.Member) { // an error means no keys
		if i := slices.Index(keys, string(m.Key)); i >= 0 {
			values[i], found[i] = scalar(m, data)
		}
	})
	var pairs []string
	for i, key := range keys {
		if found[i] {
			pairs = append(pairs, queryEscape(key)+"="+queryEscape(values[i]))
		}
	}
	return strings.Join(pairs, "&")
}

// scalar returns the value of a member as text, if it is a string, a number or a boolean.
func scalar(m jsonscan.Member, data []byte) (text string, ok bool) {
	switch data[m.Value] {
	case '"':
		return m.String(data)
	case '{', '[', 'n':
		return "", false
	}
	return string(data[m.Value:m.End]), true
}

// queryEscape is url.QueryEscape, but a space becomes %20: not every server decodes a plus sign.
func queryEscape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// Refusal returns a CONNECT_ERROR of protocol v5 whose reason is a JSON value: a message, or an
// object that may have one. Anything that is not JSON is a message, and no reason at all is fine.
func Refusal(namespace string, reason []byte) []byte {
	p := appendHeader([]byte{byte(ConnectError)}, namespace)
	message, whole := refusal(bytes.TrimSpace(reason))
	p = append(append(p, `{"message":`...), jsonText(message)...)
	if whole != nil {
		p = append(append(p, `,"data":`...), whole...)
	}
	return append(p, '}')
}

// refusal returns the message of a refusal, and the whole reason if it is more than that.
func refusal(reason []byte) (message string, whole []byte) {
	switch {
	case len(reason) == 0:
		return refusedMessage, nil
	case !json.Valid(reason):
		return string(bytes.ToValidUTF8(reason, []byte("\uFFFD"))), nil
	case reason[0] == '"' && json.Unmarshal(reason, &message) == nil:
		return message, nil
	}
	message = refusedMessage
	_, _ = jsonscan.Scan(reason, func(m jsonscan.Member) { // an error means no message
		if text, ok := m.String(reason); ok && string(m.Key) == "message" {
			message = text
		}
	})
	return message, reason
}

// ErrorReason returns the payload of an ERROR packet of protocol v4. It may be any JSON value, also
// a number, which Header takes for an acknowledgement id.
func ErrorReason(p []byte) []byte {
	i := 1
	if i < len(p) && p[i] == '/' {
		end := bytes.IndexByte(p, ',')
		if end < 0 {
			return nil
		}
		i = end + 1
	}
	return p[min(i, len(p)):]
}

// ErrorEvent returns an "error" event of protocol v5 for an ERROR packet of v4. In v4 servers send
// them to connected sockets too. In v5 such a packet would end the socket.
func ErrorEvent(namespace string, p []byte) []byte {
	e := append(appendHeader([]byte{byte(Event)}, namespace), `["error"`...)
	reason := bytes.TrimSpace(ErrorReason(p))
	switch {
	case len(reason) == 0:
	case json.Valid(reason):
		e = append(append(e, ','), reason...)
	default:
		e = append(append(e, ','), jsonText(string(bytes.ToValidUTF8(reason, []byte("\uFFFD"))))...)
	}
	return append(e, ']')
}

// ReservedEvents returns the names that IsReservedEvent knows.
func ReservedEvents() []string { return slices.Clone(reservedEvents) }

// IsReservedEvent reports whether socket.io-parser refuses an event of this name, from 4.2.4 on. A
// server of protocol v4 may emit some of them, and would take the others for events of its own.
func IsReservedEvent(name []byte) bool { return slices.Contains(reservedEvents, string(name)) }

// WithoutQuery returns a namespace without the query that protocol v4 allows in it.
func WithoutQuery(namespace []byte) []byte {
	name, _, _ := bytes.Cut(namespace, []byte("?"))
	return name
}

// appendHeader appends a namespace as packets name it.
func appendHeader(dst []byte, namespace string) []byte {
	if namespace == Root {
		return dst
	}
	return append(append(dst, namespace...), ',')
}

func jsonText(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // strings always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// ToV4 returns a packet for a client of protocol v4: CONNECT replies without a payload, and
// refusals with their reason alone. Others are the same in both.
func ToV4(p []byte) []byte {
	h, err := ParseHeader(p)
	if err != nil {
		return p
	}
	namespace := string(h.Namespace)
	switch h.Type {
	case Connect:
		return appendHeader([]byte{byte(Connect)}, namespace)
	case ConnectError:
		return append(appendHeader([]byte{byte(ConnectError)}, namespace), reasonV4(p[h.Data:])...)
	case Disconnect, Event, Ack, BinaryEvent, BinaryAck:
	}
	return p
}

// reasonV4 returns the reason in the payload of a CONNECT_ERROR: its data, or its message.
func reasonV4(payload []byte) []byte {
	reason := payload
	found := false
	// An error means that the payload is the reason.
	_, _ = jsonscan.Scan(payload, func(m jsonscan.Member) {
		switch string(m.Key) {
		case "data":
			reason, found = payload[m.Value:m.End], true
		case "message":
			if !found {
				reason = payload[m.Value:m.End]
			}
		}
	})
	return reason
}
