package sioserver

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// connState is the state of an Engine.IO session:
//
//	open    -> closing  the server closes it, and no poll waits to be told
//	open    -> closed   its transport ended, or a packet was malformed
//	closing -> closed   the client was told, or did not ask in time
type connState uint8

const (
	connOpen    connState = iota + 1
	connClosing           // packets are no longer accepted
	connClosed            // terminal
)

func (s connState) String() string {
	return [...]string{"invalid", "open", "closing", "closed"}[s]
}

var nextConnStates = map[connState][]connState{
	connOpen:    {connClosing, connClosed},
	connClosing: {connClosed},
}

// moveLocked is the only place the state changes. Callers have checked it.
func (c *conn) moveLocked(to connState) {
	if !slices.Contains(nextConnStates[c.state], to) {
		panic(fmt.Sprintf("legacy: session moved from %v to %v", c.state, to))
	}
	c.state = to
}

const (
	// noopInterval is how often a waiting poll is answered during an upgrade.
	noopInterval = 100 * time.Millisecond
	// pollGrace is how long a closing session waits for a poll to tell.
	pollGrace = 30 * time.Second
)

// conn is an Engine.IO session.
type conn struct {
	// Immutable.
	srv       *Server
	sid       string
	handshake Handshake // without Auth, which each namespace has of its own

	inMu sync.Mutex   // one inbound payload at a time; held during callbacks
	dec  wire.Decoder // guarded by inMu

	mu       sync.Mutex // guards the fields below; see the package comment
	state    connState
	sockets  map[string]*Socket // by namespace
	queue    []part             // what waits for a poll; empty once ws carries the session
	poll     *poll              // waits for packets
	post     *post              // is being received or handled
	ws       *wsConn            // carries the session
	probe    *wsConn            // may carry it soon
	noop     *time.Timer        // runs from the probe's ping to the end of the upgrade
	upgrade  *time.Timer        // ends an upgrade that takes too long
	connect  *time.Timer        // ends a session without CONNECT
	beat     *time.Timer        // fires at or before the earlier of the next two
	pingDue  time.Time          // zero while a pong is awaited
	deadline time.Time          // zero: none yet
}

// newConn opens a session, on ws if that is not nil, else on polling.
func newConn(srv *Server, sid string, h Handshake, w *wsConn) *conn {
	now := time.Now()
	c := &conn{
		srv: srv, sid: sid, handshake: h,
		state:   connOpen,
		sockets: make(map[string]*Socket, 1),
		ws:      w,
		pingDue: now.Add(srv.opts.PingInterval),
	}
	c.mu.Lock() // the timers may fire immediately
	defer c.mu.Unlock()
	c.beat = time.AfterFunc(srv.opts.PingInterval, c.onBeat)
	c.connect = time.AfterFunc(srv.opts.ConnectTimeout, func() { c.close("forced server close") })
	return c
}

// send queues packets, or hands them to the poll that waits. It never blocks.
func (c *conn) send(parts ...part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendLocked(parts)
}

func (c *conn) sendLocked(parts []part) {
	switch {
	case c.state != connOpen:
	case c.ws != nil:
		c.ws.send(parts...)
	case c.poll != nil:
		c.answerLocked(parts...)
	default:
		c.queue = append(c.queue, parts...)
	}
}

// answerLocked ends the poll that waits. c.queue is empty while one does.
func (c *conn) answerLocked(parts ...part) {
	c.poll.answer <- parts
	c.poll = nil
}

// onBeat is the heartbeat, as in engine.io 6.2: a ping comes pingInterval
// after the handshake or the last pong; any packet puts the end off.
func (c *conn) onBeat() {
	c.mu.Lock()
	now := time.Now()
	switch {
	case c.state == connClosed:
		c.mu.Unlock()
		return
	case !c.deadline.IsZero() && !now.Before(c.deadline): // in closing, no poll came
		c.mu.Unlock()
		c.end("ping timeout", closePart)
		return
	case c.state == connOpen && !c.pingDue.IsZero() && !now.Before(c.pingDue):
		c.pingDue = time.Time{}
		c.deadline = now.Add(c.srv.opts.PingTimeout)
		c.sendLocked([]part{pingPart})
	}
	next := c.pingDue
	if next.IsZero() || !c.deadline.IsZero() && c.deadline.Before(next) {
		next = c.deadline
	}
	c.beat.Reset(next.Sub(now))
	c.mu.Unlock()
}

// touch postpones the end of the session because a packet has arrived. It reports
// whether the session still accepts packets.
func (c *conn) touch(pong bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return false
	}
	now := time.Now()
	// c.beat fires no later than this: nothing to reset.
	c.deadline = now.Add(c.srv.opts.PingInterval + c.srv.opts.PingTimeout)
	if pong {
		c.pingDue = now.Add(c.srv.opts.PingInterval)
		c.beat.Reset(c.srv.opts.PingInterval)
	}
	return true
}

// engineError is why an Engine.IO packet ends the session.
type engineError struct {
	reason string // as given to OnDisconnect
	last   part   // to a waiting poll
}

// receivePayload handles the body of a POST.
func (c *conn) receivePayload(body []byte) {
	messages := make([]message, 0, 4)
	for packet := range bytes.SplitSeq(body, []byte{separator}) {
		if len(packet) == 0 || packet[0] != 'b' {
			messages = append(messages, message{data: packet})
			continue
		}
		data, err := base64.StdEncoding.AppendDecode(nil, packet[1:])
		if err != nil {
			messages = append(messages, message{}) // malformed: see receive
			break
		}
		messages = append(messages, message{data: data, binary: true})
	}
	c.receive(messages, true)
}

// message is an inbound Engine.IO packet: text with its type, or an attachment.
type message struct {
	data   []byte
	binary bool
}

// receive handles packets that came together. As in socket.io, all are checked before the first
// takes effect: a CONNECT counts only for later payloads.
func (c *conn) receive(messages []message, polling bool) {
	c.inMu.Lock()
	defer c.inMu.Unlock()
	var todo []wire.Packet
	for _, m := range messages {
		if !c.touch(!m.binary && len(m.data) > 0 && m.data[0] == '3') {
			return // the session is over, and its work is done
		}
		var p wire.Packet
		var complete bool
		var err error
		var end *engineError
		switch {
		case m.binary:
			p, complete, err = c.dec.Binary(m.data)
		case len(m.data) == 0 || m.data[0] < '0' || m.data[0] > '6':
			end = &engineError{"parse error", closePart}
		case m.data[0] == '1' && polling:
			end = &engineError{"transport close", noopPart}
		case m.data[0] == '2': // only a server may ping
			end = &engineError{"transport error", closePart}
		case m.data[0] == '4':
			p, complete, err = c.dec.Text(m.data[1:])
		}
		if end != nil {
			c.end(end.reason, end.last)
			return
		}
		if err != nil || complete && !c.acceptable(p) {
			c.close("forced close")
			return
		}
		if complete {
			todo = append(todo, p)
		}
	}
	for _, p := range todo {
		c.handle(p)
	}
}

// acceptable reports whether a packet suits the state of its namespace.
func (c *conn) acceptable(p wire.Packet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, connected := c.sockets[p.Namespace]
	return connected != (p.Type == wire.Connect) && p.Type != wire.ConnectError
}

// handle acts on one packet. c.inMu is held.
func (c *conn) handle(p wire.Packet) {
	if p.Type == wire.Connect {
		c.onConnect(p)
		return
	}
	c.mu.Lock()
	s := c.sockets[p.Namespace]
	c.mu.Unlock()
	if s == nil {
		return // disconnected since the packet was judged
	}
	switch p.Type {
	case wire.Disconnect:
		s.end("client namespace disconnect")
	case wire.Event, wire.BinaryEvent:
		s.onEvent(p)
	case wire.Ack, wire.BinaryAck:
		s.onAck(p)
	default: // Connect and ConnectError are dealt with above
	}
}

// onConnect asks the application whether a client may join a namespace.
func (c *conn) onConnect(p wire.Packet) {
	nsp := c.srv.namespace(p.Namespace)
	if nsp == nil {
		c.send(encodeObject(wire.ConnectError, p.Namespace,
			connectError{Message: "Invalid namespace"})...)
		return
	}
	s := newSocket(c, nsp, p.Data)
	nsp.add(s)
	c.mu.Lock()
	over := c.state != connOpen
	if !over {
		c.sockets[p.Namespace] = s
	}
	c.mu.Unlock()
	if over {
		nsp.remove(s)
		return
	}

	if err := nsp.greet(s); err != nil {
		s.refuse(connectErrorOf(err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.openLocked()
}

// onWebSocketMessage is called by a WebSocket's reader.
func (c *conn) onWebSocketMessage(w *wsConn, op ws.OpCode, data []byte) {
	c.mu.Lock()
	carries, probes := c.ws == w, c.probe == w
	c.mu.Unlock()
	switch {
	case carries:
		c.receive([]message{{data, op == ws.OpBinary}}, false)
	case !probes: // its session is over: let it close
	case op == ws.OpText && string(data) == "2probe":
		c.onProbe(w)
	case op == ws.OpText && len(data) > 0 && data[0] == '5':
		c.onUpgrade(w)
	default:
		c.dropProbe(w)
	}
}

// onWebSocketEnd is called once by a WebSocket's reader.
func (c *conn) onWebSocketEnd(w *wsConn, reason string) {
	c.mu.Lock()
	carries := c.ws == w
	c.mu.Unlock()
	if carries {
		c.end(reason, closePart)
		return
	}
	c.dropProbe(w)
}

// startProbe reports whether w may try to take over from polling.
func (c *conn) startProbe(w *wsConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == connClosed || c.ws != nil || c.probe != nil {
		return false
	}
	c.probe = w
	c.upgrade = time.AfterFunc(c.srv.opts.UpgradeTimeout, func() { c.dropProbe(w) })
	return true
}

// onProbe answers the probe, and from then on polls, so that the client can
// stop polling.
func (c *conn) onProbe(w *wsConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probe != w {
		return
	}
	w.send(probePart)
	if c.noop != nil {
		c.noop.Reset(noopInterval)
		return
	}
	c.noop = time.AfterFunc(noopInterval, c.onNoop)
}

func (c *conn) onNoop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noop == nil {
		return // stopped while it fired
	}
	if c.poll != nil {
		c.answerLocked(noopPart)
	}
	c.noop.Reset(noopInterval)
}

// onUpgrade makes the WebSocket carry the session. A poll that waits is
// refused like those that come later: which came first is chance here, where
// the two connections have a goroutine each. (engine.io answers `1`.)
func (c *conn) onUpgrade(w *wsConn) {
	c.mu.Lock()
	if c.probe != w {
		c.mu.Unlock()
		return
	}
	c.stopProbeLocked()
	if c.poll != nil {
		c.answerLocked() // nothing: refused
	}
	c.ws = w
	w.send(c.queue...)
	c.queue = nil
	closing := c.state == connClosing
	c.mu.Unlock()
	if closing {
		c.end("forced close", closePart)
	}
}

// dropProbe ends an attempt to upgrade. Polling continues.
func (c *conn) dropProbe(w *wsConn) {
	c.mu.Lock()
	if c.probe == w {
		c.stopProbeLocked()
		w.close(ws.CompiledClose)
	}
	c.mu.Unlock()
}

func (c *conn) stopProbeLocked() {
	c.probe = nil
	c.upgrade.Stop()
	if c.noop != nil {
		c.noop.Stop()
		c.noop = nil
	}
}

// close ends the session from the server's side: immediately over WebSocket or through a
// waiting poll, otherwise when the client polls next.
func (c *conn) close(reason string) {
	c.mu.Lock()
	if c.state != connOpen {
		c.mu.Unlock()
		return
	}
	if c.ws != nil || c.poll != nil {
		c.mu.Unlock()
		c.end(reason, closePart)
		return
	}
	c.moveLocked(connClosing)
	c.pingDue = time.Time{}
	c.deadline = time.Now().Add(pollGrace)
	c.beat.Reset(pollGrace)
	c.connect.Stop()
	c.mu.Unlock()
	c.endSockets(reason)
}

// end closes the session. Last is what a waiting poll is told.
func (c *conn) end(reason string, last part) {
	c.mu.Lock()
	if c.state == connClosed {
		c.mu.Unlock()
		return
	}
	c.moveLocked(connClosed)
	c.beat.Stop()
	c.connect.Stop()
	if c.poll != nil {
		c.answerLocked(last)
	}
	if c.post != nil {
		c.post.abortLocked()
	}
	if w := c.probe; w != nil {
		c.stopProbeLocked()
		w.close(ws.CompiledClose)
	}
	if c.ws != nil {
		c.ws.close(ws.CompiledClose)
	}
	c.queue = nil
	c.mu.Unlock()
	c.srv.remove(c)
	c.endSockets(reason)
}

// endSockets ends what is connected on the session.
func (c *conn) endSockets(reason string) {
	for _, s := range c.connected() {
		s.end(reason)
	}
}

// disconnectAll is Socket.Disconnect(true).
func (c *conn) disconnectAll() {
	for _, s := range c.connected() {
		s.Disconnect(false)
	}
	c.close("forced server close")
}

// connected returns the session's sockets, oldest first.
func (c *conn) connected() []*Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.sockets), func(a, b *Socket) int {
		return cmp.Compare(a.order, b.order)
	})
}

// transport names what carries the session.
func (c *conn) transport() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ws != nil {
		return WebSocket
	}
	return Polling
}

// poll is a GET that waits for packets.
type poll struct {
	// An empty answer refuses the poll. It has room for one, because the sender must not wait:
	// it forgets the poll afterwards.
	answer chan []part
}

// post is a POST whose answer is outstanding.
type post struct {
	control   *http.ResponseController
	receiving bool // the body is still arriving; guarded by conn.mu
	aborted   bool // no answer, the connection ends; guarded by conn.mu
}

// abortLocked ends a POST whose body still arrives. Others are answered.
func (p *post) abortLocked() {
	if !p.receiving || p.aborted {
		return
	}
	p.aborted = true
	// Wakes the reader of the body; errors mean that it is not waiting.
	_ = p.control.SetReadDeadline(time.Now())
}
