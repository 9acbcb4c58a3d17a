package proxy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// notifier tells the server when a client is away and when it is back, by events that look like the client's own. A nil
// notifier tells nothing.
type notifier struct {
	parked, resumed []byte   // the names as JSON, empty for none
	reserved        []string // the names
}

func newNotifier(n config.Notify) *notifier {
	if n.Parked == "" && n.Resumed == "" {
		return nil
	}
	quoted := func(name string) []byte {
		if name == "" {
			return nil
		}
		return jsonString(name)
	}
	reserved := slices.DeleteFunc([]string{n.Parked, n.Resumed}, func(name string) bool { return name == "" })
	return &notifier{quoted(n.Parked), quoted(n.Resumed), reserved}
}

// jsonString is text as JSON. Go's own quoting (%q) writes escapes that JSON does not have.
func jsonString(text string) []byte {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always can be
	}
	return b
}

// notification is an EVENT packet with one argument.
func notification(namespace string, name []byte, argument string) []byte {
	p := []byte{byte(socketio.Event)}
	if namespace != socketio.Root {
		p = append(append(p, namespace...), ',')
	}
	p = append(append(append(p, '['), name...), ',')
	return append(append(p, argument...), ']')
}

// flushNotified sends what SessionParked has queued for the sessions of a client that has gone: no batch of its follows.
func (s *Server) flushNotified(cursors []*session.Cursor) {
	if s.notify == nil {
		return
	}
	for _, cur := range cursors {
		linkOf(cur.Session()).conn.Flush()
	}
}

// SessionParked implements session.Upstream.
func (l *link) SessionParked(s *session.Session, why reason.Reason, d time.Duration) {
	defer l.recoverPanic()
	if n := l.srv.notify; n != nil && n.parked != nil {
		l.conn.Send(notification(s.Namespace(), n.parked, fmt.Sprintf(`{"reason":%s,"expires_in":%s}`, jsonString(string(why)), seconds(d))), nil)
	}
}

// SessionResumed implements session.Upstream.
func (l *link) SessionResumed(s *session.Session, away time.Duration, missed int) {
	defer l.recoverPanic()
	if n := l.srv.notify; n != nil && n.resumed != nil {
		l.conn.Send(notification(s.Namespace(), n.resumed, fmt.Sprintf(`{"away":%s,"missed":%d}`, seconds(away), missed)), nil)
	}
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// forged reports whether an event of a client's, by its arguments, may be taken for one of holdfast's. That is also one
// whose name cannot be read: some servers make a text of anything that stands there, or read more than JSON.
func (n *notifier) forged(args []byte) bool {
	if n == nil {
		return false
	}
	name, ok := socketio.EventName(args)
	return !ok || slices.Contains(n.reserved, string(name))
}

// suspect reports whether a client's message, which is not handled as a packet, may be a forged event to the server: it
// begins as an event does, and is not the plain form of one with another name. Servers read more than that: socket.io
// takes white space for digits, Python any script's digits for a packet's type.
func (n *notifier) suspect(data []byte) bool {
	if n == nil {
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

// refuseForged counts an event of a client's that the server must not see.
func (c *client) refuseForged() {
	c.srv.metrics.EventsDropped.Forged.Inc()
	const what = "an event with a name of holdfast's own, or none that can be read, was dropped"
	c.srv.limitedLog.Log(slog.LevelInfo, what, what, "client", c.seq)
}
