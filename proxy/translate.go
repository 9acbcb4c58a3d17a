package proxy

import (
	"bytes"
	"log/slog"
	"regexp"
	"slices"

	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/socketio"
)

const (
	// maxEarly and maxEarlyBytes bound the packets that a server sends ahead of a CONNECT reply.
	maxEarly      = 1000
	maxEarlyBytes = 1 << 20
)

// translator is the engineio.ConnHandler of a link whose server speaks Engine.IO 3. It turns the
// server's Socket.IO packets of protocol 4 into those of protocol 5, and passes them to the link.
// What the logs hold is protocol 5.
type translator struct {
	*link

	// Immutable.
	query  string // in which the handshake told the server about the client's auth
	python bool   // DISCONNECT for "/" ends all namespaces, as in python-socketio 4
	php    bool   // a CONNECT must have no query: phpsocket.io takes it for a part of the name

	forV3 bool // its clients speak Engine.IO 3; immutable once the link is started

	root rootState // guarded by link.mu

	// Guarded by the Conn's input lock.
	early      []message // packets of namespaces whose CONNECT has no reply yet
	earlyBytes int
	holding    int // attachments that follow, and belong to the last packet in early
	dropping   int // attachments that follow, and belong to a dropped packet
}

// rootState says what the server made of "/", which it connects by itself:
//
//	expected  -> connected  its CONNECT came. If no client has asked for it, it is ignored
//	expected  -> refused    its ERROR came: the server connects no other namespace on this link
type rootState uint8

const (
	rootExpected rootState = iota
	rootConnected
	rootRefused
)

// The forms of the sids of python-engineio and of phpsocket.io.
var (
	pythonSID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	phpSID    = regexp.MustCompile(`^[0-9a-f]{24}$`)
)

func newTranslator(l *link, query string) *translator {
	sid := l.conn.Handshake().SID
	return &translator{link: l, query: query, python: pythonSID.MatchString(sid), php: phpSID.MatchString(sid)}
}

// acceptsLocked reports whether a namespace can be connected on this link; link.mu is held. connect
// is the client's CONNECT.
func (t *translator) acceptsLocked(namespace string, connect []byte) bool {
	switch {
	case t.root == rootRefused:
		return false
	case namespace != socketio.Root:
		return true
	}
	return t.root == rootExpected && t.authQuery(connect) == t.query
}

func (t *translator) authQuery(connect []byte) string {
	return socketio.AuthQuery(connect, t.deps.settings().Upstream.Translate.AuthToQuery)
}

// request sends a CONNECT to the server. For "/" there is none.
func (t *translator) request(namespace string, connect []byte) {
	switch {
	case namespace == socketio.Root:
	case t.forV3:
		t.conn.Send(connect, nil)
	case t.php: // handshake.query has what the handshake's query said
		t.conn.Send(socketio.ConnectRequest4(namespace, ""), nil)
	default:
		t.conn.Send(socketio.ConnectRequest4(namespace, t.authQuery(connect)), nil)
	}
}

// Message implements engineio.ConnHandler.
func (t *translator) Message(data []byte, binary bool) {
	switch {
	case t.state.is(linkRaw):
		t.link.Message(data, binary)
	case binary:
		t.attachment(data)
	default:
		t.text(data)
	}
}

func (t *translator) attachment(data []byte) {
	switch {
	case t.dropping > 0:
		t.dropping--
	case t.holding > 0:
		t.holding--
		t.hold(data, true)
	default:
		t.link.Message(data, true)
	}
}

func (t *translator) text(data []byte) {
	var h socketio.Header
	if err := h.Parse(data); err != nil && h.Type != socketio.Connect { // go-socket.io's has an array
		t.drop(&h, "a malformed packet")
		return
	}
	t.dropping, t.holding = 0, 0
	switch h.Type {
	case socketio.Connect:
		t.onConnect(namespaceOf(&h))
	case socketio.ConnectError:
		t.onError(namespaceOf(&h), data)
	case socketio.Disconnect:
		t.onDisconnect(namespaceOf(&h), data[h.Data:])
	case socketio.Event, socketio.BinaryEvent, socketio.Ack, socketio.BinaryAck:
		t.pass(&h, data)
	}
}

// namespaceOf returns a packet's namespace. Servers may repeat the query of the client's CONNECT.
// go-socket.io ends each packet with a line feed.
func namespaceOf(h *socketio.Header) string {
	return string(bytes.TrimSpace(socketio.WithoutQuery(h.Namespace)))
}

// pass handles an event or an acknowledgement.
func (t *translator) pass(h *socketio.Header, data []byte) {
	switch {
	case t.sessions.find(h.Namespace) != nil:
	case t.awaitsReply(string(h.Namespace)):
		// netty-socketio, python-socketio 4 and go-socket.io run connection handlers before they
		// reply, and send what those emit.
		t.holding = h.Attachments
		t.hold(data, false)
		return
	default: // of "/", which no client has asked for, or of a session that has ended
		t.dropping = h.Attachments
		return
	}
	if h.IsEvent() && !t.forV3 {
		if name, ok := socketio.EventName(data[h.Data:]); ok && socketio.IsReservedEvent(name) {
			t.drop(h, "an event with a reserved name, which clients cannot decode")
			return
		}
	}
	t.link.Message(data, false)
}

func (t *translator) drop(h *socketio.Header, what string) {
	t.dropping = h.Attachments
	t.deps.limitedLog.Log(slog.LevelWarn, what, "dropped a packet of the upstream", "what", what, "namespace", string(h.Namespace))
}

func (t *translator) awaitsReply(namespace string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spaces.waiting(namespace) != nil
}

// hold keeps a message until the CONNECT of its namespace has its reply.
func (t *translator) hold(data []byte, binary bool) {
	t.early = append(t.early, message{slices.Clone(data), binary})
	if t.earlyBytes += len(data); len(t.early) > maxEarly || t.earlyBytes > maxEarlyBytes {
		t.deps.limitedLog.Log(slog.LevelWarn, "", "link closed: the server sends events but does not answer a CONNECT")
		t.conn.Close()
	}
}

// releaseEarly handles what was held. What still waits for a reply is held again.
func (t *translator) releaseEarly() {
	early := t.early
	t.early, t.earlyBytes = nil, 0
	for _, m := range early {
		t.Message(m.data, m.binary)
	}
}

// onConnect handles a CONNECT from the server.
func (t *translator) onConnect(namespace string) {
	t.mu.Lock()
	if namespace == socketio.Root && t.root == rootExpected {
		t.root = rootConnected
	}
	asked := t.spaces.waiting(namespace) != nil
	t.mu.Unlock()
	if asked {
		t.link.Message(socketio.ConnectReply4(namespace, t.conn.Handshake().SID), false)
		t.releaseEarly()
	}
}

// onError handles an ERROR from the server. It refuses a CONNECT, or is an error of a connected
// socket.
func (t *translator) onError(namespace string, data []byte) {
	switch {
	case t.refused(namespace, socketio.ErrorReason(data)):
	case t.sessions.get(namespace) != nil:
		t.link.Message(socketio.ErrorEvent(namespace, data), false)
	}
}

// refused handles the refusal of a CONNECT. It returns false if none awaits its reply. A server
// that refuses "/" leaves the CONNECTs for other namespaces unanswered, so they are refused, too.
func (t *translator) refused(namespace string, reason []byte) bool {
	t.mu.Lock()
	asked := t.spaces.waiting(namespace) != nil
	refusesRoot := namespace == socketio.Root && t.root == rootExpected
	if refusesRoot {
		t.root = rootRefused
	}
	t.mu.Unlock()
	switch {
	case refusesRoot:
		t.refuseAll(reason)
	case asked:
		t.refuse(namespace, reason)
	default:
		return false
	}
	return true
}

// refuse refuses a CONNECT.
func (t *translator) refuse(namespace string, reason []byte) {
	t.link.Message(socketio.Refusal(namespace, reason), false)
	t.releaseEarly()
}

// refuseAll refuses all CONNECTs that await their replies.
func (t *translator) refuseAll(reason []byte) {
	t.mu.Lock()
	_, asked := t.spaces.allWaiting()
	t.mu.Unlock()
	for _, namespace := range asked {
		t.refuse(namespace, reason)
	}
}

// onDisconnect handles a DISCONNECT. python-socketio 4 refuses CONNECTs with it, too.
func (t *translator) onDisconnect(namespace string, reason []byte) {
	if t.refused(namespace, reason) {
		return
	}
	if t.sessions.get(namespace) != nil {
		t.link.Message(socketio.AppendDisconnect(nil, namespace), false) // clients accept no payload
	}
	if namespace == socketio.Root && t.python {
		for _, s := range t.sessions.all() {
			t.link.Message(socketio.AppendDisconnect(nil, s.Namespace()), false)
		}
	}
}

// exportLocked describes the translator of a frozen link; link.mu is held.
func (t *translator) exportLocked() handover.Translation {
	x := handover.Translation{Query: t.query, ForV3: t.forV3, Root: int(t.root), Dropping: t.dropping, Holding: t.holding}
	for _, m := range t.early {
		kind := byte(0)
		if m.binary {
			kind = 1
		}
		x.Early = append(x.Early, append([]byte{kind}, m.data...))
	}
	return x
}

// restore continues with the state of a translator in another process.
func (t *translator) restore(x *handover.Translation) {
	t.forV3 = x.ForV3
	t.root = rootState(min(max(x.Root, 0), int(rootRefused)))
	t.dropping, t.holding = x.Dropping, x.Holding
	for _, m := range x.Early {
		if len(m) > 0 {
			t.hold(m[1:], m[0] == 1)
		}
	}
}
