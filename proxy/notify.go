package proxy

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// notifier tells the server when a client is away and when it is back. It sends events that look as
// if the client had sent them. A nil notifier sends nothing.
type notifier struct {
	parked, resumed []byte   // event names as JSON; nil disables the event
	reserved        []string // the same names as text, and others that clients must not use
}

// newNotifier returns a notifier. forV3 says that the upstream may run Socket.IO 2, to which some
// names mean events of its own. Clients for JavaScript refuse to send those.
func newNotifier(n config.Notify, forV3 bool) *notifier {
	if n.Parked == "" && n.Resumed == "" && !forV3 {
		return nil
	}
	quoted := func(name string) []byte {
		if name == "" {
			return nil
		}
		return jsonString(name)
	}
	reserved := slices.DeleteFunc([]string{n.Parked, n.Resumed}, func(name string) bool { return name == "" })
	if forV3 {
		reserved = append(reserved, socketio.ReservedEvents()...)
	}
	return &notifier{quoted(n.Parked), quoted(n.Resumed), reserved}
}

// jsonString returns text as a JSON string. Go's own quoting (%q) uses escapes that JSON does not
// have.
func jsonString(text string) []byte {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	return b
}

// notification returns an EVENT packet with one argument. name and argument are JSON.
func notification(namespace string, name []byte, argument string) []byte {
	p := []byte{byte(socketio.Event)}
	if namespace != socketio.Root {
		p = append(append(p, namespace...), ',')
	}
	p = append(append(append(p, '['), name...), ',')
	return append(append(p, argument...), ']')
}

// flush sends the events that SessionParked queued for a client that is gone. Usually the end of a
// client's batch flushes its links, but this client has no further batch.
func (n *notifier) flush(cursors []*session.Cursor) {
	if n == nil {
		return
	}
	for _, cur := range cursors {
		linkOf(cur.Session()).conn.Flush()
	}
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// forged reports whether the server may mistake a client's event for one of holdfast's. args are
// the event's arguments. An event whose name cannot be read counts as forged: some servers convert
// any value to a string, or read more than JSON.
func (n *notifier) forged(args []byte) bool {
	if n == nil {
		return false
	}
	name, ok := socketio.EventName(args)
	return !ok || slices.Contains(n.reserved, string(name))
}

// suspect reports whether the server may read a message as a forged event, although holdfast does
// not handle it as a packet. Any message that starts like an event is suspect, unless it is a
// well-formed event with another name. Servers parse leniently: socket.io accepts white space as
// digits, and Python accepts the digits of any script as a packet type.
func (n *notifier) suspect(data []byte) bool {
	if n == nil || n.parked == nil && n.resumed == nil {
		return false
	}
	first, _ := utf8.DecodeRune(data)
	switch socketio.Type(first) { //nolint:exhaustive // the others may be events
	case socketio.Connect, socketio.Disconnect, socketio.Ack, socketio.ConnectError, socketio.BinaryAck:
		return false
	}
	if !unicode.IsDigit(first) {
		return false
	}
	h, err := socketio.ParseHeader(data)
	return err != nil || !h.IsEvent() || n.forged(data[h.Data:])
}
