package sioserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

var (
	// ErrAckTimeout is what an ack callback gets instead of an answer in time.
	ErrAckTimeout = errors.New("legacy: acknowledgement timed out")
	// ErrDisconnected is what it gets when its socket is gone.
	ErrDisconnected = errors.New("legacy: socket disconnected")
)

// Handshake is what a client sent when it connected.
type Handshake struct {
	Query   url.Values
	Headers http.Header     // with Host
	Auth    json.RawMessage // of the CONNECT packet; {} if it had none
	Address string          // of the client
	Time    time.Time
}

// socketState is the state of a Socket:
//
//	connecting   -> connected     the connection handlers agree
//	either       -> disconnected  refused, DISCONNECT, or the session is over
type socketState uint8

const (
	socketConnecting   socketState = iota + 1 // what is sent waits for the CONNECT reply
	socketConnected                           // in both directions
	socketDisconnected                        // terminal
)

func (s socketState) String() string {
	return [...]string{"invalid", "connecting", "connected", "disconnected"}[s]
}

var nextSocketStates = map[socketState][]socketState{
	socketConnecting: {socketConnected, socketDisconnected},
	socketConnected:  {socketDisconnected},
}

// Handler handles an event. Ack is nil if the client asked for no
// acknowledgement; only its first call has an effect.
type Handler func(args []json.RawMessage, ack func(...any))

// BinaryHandler is a Handler that gets attachments as wire.Resolve returns
// them: []byte where an argument is one, json.RawMessage where there is none.
type BinaryHandler func(args []any, ack func(...any))

// Socket is one client in one namespace. It is safe for concurrent use.
type Socket struct {
	// Immutable.
	ID        string
	Namespace string
	Handshake Handshake
	nsp       *Namespace
	conn      *conn

	order int      // of joining; guarded by nsp.mu until it has joined
	rooms []string // guarded by nsp.mu

	state socketState // guarded by conn.mu
	held  []part      // sent while connecting; guarded by conn.mu

	mu           sync.Mutex // guards the fields below; a leaf
	handlers     map[string][]handler
	onDisconnect []func(reason string)
	ended        bool
	reason       string // of the end
	nextID       int64
	acks         map[int64]*pendingAck
}

// pendingAck is an acknowledgement that the client owes.
type pendingAck struct {
	fn    func(args []json.RawMessage, err error)
	timer *time.Timer // nil: no timeout
}

func newSocket(c *conn, nsp *Namespace, auth json.RawMessage) *Socket {
	s := &Socket{
		ID:        c.srv.newID(),
		Namespace: nsp.name,
		Handshake: c.handshake,
		nsp:       nsp,
		conn:      c,
		state:     socketConnecting,
		handlers:  make(map[string][]handler),
	}
	s.Handshake.Auth = auth
	if auth == nil {
		s.Handshake.Auth = json.RawMessage("{}")
	}
	return s
}

// setStateLocked is the only place the state changes. conn.mu must be held,
// and callers have checked the state.
func (s *Socket) setStateLocked(to socketState) {
	if !slices.Contains(nextSocketStates[s.state], to) {
		panic(fmt.Sprintf("legacy: socket moved from %v to %v", s.state, to))
	}
	s.state = to
}

// openLocked sends the CONNECT reply and what waited for it. conn.mu is held.
func (s *Socket) openLocked() {
	if s.state != socketConnecting {
		return
	}
	s.setStateLocked(socketConnected)
	s.conn.connect.Stop()
	s.conn.sendLocked(append(encodeObject(wire.Connect, s.Namespace, struct {
		SID string `json:"sid"`
	}{s.ID}), s.held...))
	s.held = nil
}

// send queues packets for the client. It never blocks, and drops them if the
// socket is disconnected.
func (s *Socket) send(parts []part) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	switch s.state {
	case socketConnecting:
		s.held = append(s.held, parts...)
	case socketConnected:
		s.conn.sendLocked(parts)
	default: // disconnected
	}
}

// On calls fn for each event of this name. Attachments stay placeholders in args:
// see OnBinary.
func (s *Socket) On(event string, fn Handler) { s.on(event, handler{plain: fn}) }

// OnBinary is On for events that may have attachments.
func (s *Socket) OnBinary(event string, fn BinaryHandler) { s.on(event, handler{binary: fn}) }

// handler is one of the two kinds.
type handler struct {
	plain  Handler
	binary BinaryHandler
}

func (s *Socket) on(event string, h handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[event] = append(s.handlers[event], h)
}

// OnDisconnect calls fn when the socket ends, or immediately if it already has. The reason is
// that of socket.io: "transport close", "client namespace disconnect" ...
func (s *Socket) OnDisconnect(fn func(reason string)) {
	s.mu.Lock()
	if !s.ended {
		s.onDisconnect = append(s.onDisconnect, fn)
		s.mu.Unlock()
		return
	}
	reason := s.reason
	s.mu.Unlock()
	fn(reason)
}

// Emit sends an event. Arguments are encoded as JSON, and []byte as
// attachments; what cannot be encoded is a mistake, and panics.
func (s *Socket) Emit(event string, args ...any) {
	s.send(encodeEvent(s.Namespace, wire.NoID, event, args))
}

// EmitAck sends an event and calls fn once: with the client's answer, in which
// attachments stay placeholders, with ErrAckTimeout, or with ErrDisconnected.
// A timeout of 0 is none.
func (s *Socket) EmitAck(event string, timeout time.Duration, fn func([]json.RawMessage, error), args ...any) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		fn(nil, ErrDisconnected)
		return
	}
	id := s.nextID
	s.nextID++
	ack := &pendingAck{fn: fn}
	if s.acks == nil {
		s.acks = make(map[int64]*pendingAck)
	}
	s.acks[id] = ack
	if timeout > 0 {
		ack.timer = time.AfterFunc(timeout, func() { s.settle(id, nil, ErrAckTimeout) })
	}
	s.mu.Unlock()
	s.send(encodeEvent(s.Namespace, id, event, args))
}

// EmitRaw sends the text of a Socket.IO packet as it is, without Engine.IO's
// leading '4'. It is for tests, and for load: nothing is encoded.
func (s *Socket) EmitRaw(packet []byte) {
	s.send([]part{newPart([]byte{'4'}, packet, ws.OpText)})
}

// Join adds the socket to a room of its namespace.
func (s *Socket) Join(room string) { s.nsp.join(s, room) }

// Leave takes the socket out of a room.
func (s *Socket) Leave(room string) { s.nsp.leave(s, room) }

// Connected reports whether the socket has not ended.
func (s *Socket) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

// Transport names the transport in use, Polling or WebSocket.
func (s *Socket) Transport() string { return s.conn.transport() }

// Disconnect ends the socket, or with closeConn every socket of its
// connection, and the connection.
func (s *Socket) Disconnect(closeConn bool) {
	if closeConn {
		s.conn.disconnectAll()
		return
	}
	s.conn.mu.Lock()
	s.openLocked() // in a connection handler: first the CONNECT reply
	if s.state == socketConnected {
		s.conn.sendLocked(encodePacket(wire.Packet{
			Type: wire.Disconnect, Namespace: s.Namespace, ID: wire.NoID,
		}))
	}
	s.conn.mu.Unlock()
	s.end("server namespace disconnect")
}

// refuse replies to CONNECT with CONNECT_ERROR.
func (s *Socket) refuse(payload connectError) {
	s.conn.mu.Lock()
	refused := s.state == socketConnecting
	if refused {
		s.detachLocked()
		s.conn.sendLocked(encodeObject(wire.ConnectError, s.Namespace, payload))
	}
	s.conn.mu.Unlock()
	if refused {
		s.finish("refused")
	}
}

// end ends the socket. Only the first call has an effect. It runs callbacks.
func (s *Socket) end(reason string) {
	s.conn.mu.Lock()
	ends := s.state != socketDisconnected
	if ends {
		s.detachLocked()
	}
	s.conn.mu.Unlock()
	if ends {
		s.finish(reason)
	}
}

// detachLocked takes the socket off its connection. conn.mu is held, and the
// caller calls finish after it.
func (s *Socket) detachLocked() {
	s.setStateLocked(socketDisconnected)
	s.held = nil
	delete(s.conn.sockets, s.Namespace)
}

// finish leaves the namespace, settles what is outstanding and calls back.
func (s *Socket) finish(reason string) {
	s.nsp.remove(s)
	s.mu.Lock()
	s.ended, s.reason = true, reason
	callbacks, acks := s.onDisconnect, s.acks
	s.onDisconnect, s.acks = nil, nil
	s.mu.Unlock()
	for _, ack := range acks {
		if ack.timer != nil {
			ack.timer.Stop()
		}
		ack.fn(nil, ErrDisconnected)
	}
	for _, fn := range callbacks {
		fn(reason)
	}
}

// settle calls back for an acknowledgement, if it is still outstanding.
func (s *Socket) settle(id int64, args []json.RawMessage, err error) {
	s.mu.Lock()
	ack := s.acks[id]
	delete(s.acks, id)
	s.mu.Unlock()
	if ack == nil {
		return
	}
	if ack.timer != nil {
		ack.timer.Stop()
	}
	ack.fn(args, err)
}

// onAck handles an ACK or BINARY_ACK.
func (s *Socket) onAck(p wire.Packet) {
	args, err := p.Args()
	if err != nil {
		s.conn.close("forced close")
		return
	}
	s.settle(p.ID, args, nil)
}

// onEvent handles an EVENT or BINARY_EVENT.
func (s *Socket) onEvent(p wire.Packet) {
	args, err := p.Args()
	if err != nil {
		s.conn.close("forced close")
		return
	}
	name := eventName(args[0])
	args = args[1:]
	s.mu.Lock()
	handlers := s.handlers[name]
	s.mu.Unlock()

	var resolved []any
	if len(p.Attachments) > 0 {
		if resolved, err = wire.Resolve(args, p.Attachments); err != nil {
			s.conn.close("forced close")
			return
		}
	}
	ack := s.ackFunc(p.ID)
	for _, h := range handlers {
		if h.plain != nil {
			h.plain(args, ack)
			continue
		}
		if resolved == nil {
			resolved = make([]any, len(args))
			for i, arg := range args {
				resolved[i] = arg
			}
		}
		h.binary(resolved, ack)
	}
}

// eventName is the name that the first argument of an event is for JavaScript.
func eventName(arg json.RawMessage) string {
	var name string
	if json.Unmarshal(arg, &name) != nil {
		return string(arg)
	}
	return name
}

// ackFunc returns what answers an event, or nil if no answer is asked for.
func (s *Socket) ackFunc(id int64) func(...any) {
	if id == wire.NoID {
		return nil
	}
	var once sync.Once
	return func(args ...any) {
		once.Do(func() { s.send(encodeArgs(wire.Ack, s.Namespace, id, args)) })
	}
}
