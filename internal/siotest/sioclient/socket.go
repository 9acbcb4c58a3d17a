package sioclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// Handler handles an event. Ack is nil if the server asked for no
// acknowledgement; only its first call has an effect. Attachments stay
// placeholders in args: see OnBinary.
type Handler func(args []json.RawMessage, ack func(...any))

// BinaryHandler is a Handler that gets attachments as wire.Resolve returns
// them: []byte where an argument is one, json.RawMessage where there is none.
type BinaryHandler func(args []any, ack func(...any))

// handler is one of the two kinds.
type handler struct {
	plain  Handler
	binary BinaryHandler
}

// Socket is a Client in one namespace. It is safe for concurrent use.
type Socket struct {
	// Immutable.
	c    *Client
	nsp  string
	auth any

	mu           sync.Mutex // guards the fields below
	active       bool       // connects with the client
	link         *link      // on which the socket is, or asked to be, connected
	reply        chan error // 1: the result of the CONNECT; nil: none is outstanding
	connected    bool
	recovered    bool
	id           string
	pid          string
	offset       string
	received     []wire.Packet // events that came before the CONNECT reply
	unsent       []outgoing    // emitted while not connected
	nextID       int64
	acks         map[int64]*pendingAck
	handlers     map[string][]handler
	onRaw        []func(data []byte)
	onDisconnect []func(reason string)
}

// outgoing is an event or acknowledgement, encoded.
type outgoing struct {
	id          int64 // of the acknowledgement asked for, or wire.NoID
	text        []byte
	attachments [][]byte
}

// pendingAck is an acknowledgement that the server owes.
type pendingAck struct {
	sent     bool
	result   chan ackResult               // room for 1, because the sender must not wait; nil if there is
	answered func(args []json.RawMessage) // called instead, and not at all if there is no answer
}

type ackResult struct {
	args []json.RawMessage
	err  error
}

// ID returns the socket's id, or "" while it is not connected.
func (s *Socket) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// PID returns the private session id of the last CONNECT reply, or "".
func (s *Socket) PID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Offset returns what the socket would present as its last offset, or "".
func (s *Socket) Offset() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset
}

// Recovered reports whether the last CONNECT recovered the session.
func (s *Socket) Recovered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recovered
}

// Connected reports whether the socket is connected.
func (s *Socket) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected
}

// On calls fn for each event of this name.
func (s *Socket) On(event string, fn Handler) { s.on(event, handler{plain: fn}) }

// OnBinary is On for events that may have attachments.
func (s *Socket) OnBinary(event string, fn BinaryHandler) { s.on(event, handler{binary: fn}) }

func (s *Socket) on(event string, h handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[event] = append(s.handlers[event], h)
}

// OnRaw calls fn with the JSON payload of each event, name and offset
// included, before its handlers. It is for load tests: where no other handler
// is registered, nothing is decoded. fn must not keep data.
func (s *Socket) OnRaw(fn func(data []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onRaw = append(s.onRaw, fn)
}

// OnDisconnect calls fn each time the socket ceases to be connected, with the
// reason of socket.io-client: "transport close", "ping timeout", "io server
// disconnect" ...
func (s *Socket) OnDisconnect(fn func(reason string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onDisconnect = append(s.onDisconnect, fn)
}

// Emit sends an event, or keeps it until the socket is connected. Arguments are
// encoded as JSON, and []byte as attachments. It panics if one cannot be encoded.
func (s *Socket) Emit(event string, args ...any) {
	s.send(encode(wire.Event, s.nsp, wire.NoID, append([]any{event}, args...)))
}

// EmitVolatile sends an event if the socket is connected, and reports whether
// it was; else the event is dropped, not kept.
func (s *Socket) EmitVolatile(event string, args ...any) bool {
	s.mu.Lock()
	connected, l := s.connected, s.link
	s.mu.Unlock()
	if connected {
		encode(wire.Event, s.nsp, wire.NoID, append([]any{event}, args...)).write(l)
	}
	return connected
}

// EmitVolatileAck is EmitVolatile for an event that asks for an acknowledgement. The connection's
// reader calls answered with the server's answer. It does not call it if the connection ends
// before.
func (s *Socket) EmitVolatileAck(answered func(args []json.RawMessage), event string, args ...any) bool {
	s.mu.Lock()
	connected, l, id := s.connected, s.link, s.nextID
	if connected {
		s.nextID++
		s.acks[id] = &pendingAck{sent: true, answered: answered}
	}
	s.mu.Unlock()
	if connected {
		encode(wire.Event, s.nsp, id, append([]any{event}, args...)).write(l)
	}
	return connected
}

// EmitAck sends an event and returns the server's answer, in which attachments
// stay placeholders. Its error is that of ctx, or wraps ErrDisconnected if the
// connection ends in between. It must not be called from a handler.
func (s *Socket) EmitAck(ctx context.Context, event string, args ...any) ([]json.RawMessage, error) {
	ack := &pendingAck{result: make(chan ackResult, 1)}
	s.mu.Lock()
	id := s.nextID
	s.nextID++
	s.acks[id] = ack
	s.mu.Unlock()
	s.send(encode(wire.Event, s.nsp, id, append([]any{event}, args...)))
	select {
	case r := <-ack.result:
		return r.args, r.err
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.acks, id)
		s.unsent = slices.DeleteFunc(s.unsent, func(o outgoing) bool { return o.id == id })
		return nil, ctx.Err()
	}
}

// Connect connects the socket on the client's present connection.
func (s *Socket) Connect(ctx context.Context) error {
	l := s.c.current()
	if l == nil {
		return fmt.Errorf("%w: no connection", ErrDisconnected)
	}
	s.setActive(true)
	reply := s.connect(l)
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Disconnect leaves the namespace. The connection stays.
func (s *Socket) Disconnect() {
	s.mu.Lock()
	l, connected := s.link, s.connected
	s.active = false
	s.mu.Unlock()
	if connected {
		p := wire.Packet{Type: wire.Disconnect, Namespace: s.nsp, ID: wire.NoID}
		l.writePacket(p.Append(nil), nil)
		s.onEnd("io client disconnect")
	}
}

func (s *Socket) setActive(active bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = active
}

func (s *Socket) isActive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// connect sends CONNECT. The result receives its outcome, at the latest when the
// link ends.
func (s *Socket) connect(l *link) <-chan error {
	reply := make(chan error, 1)
	s.mu.Lock()
	data, err := ConnectPayload(s.pid, s.offset, s.auth)
	switch {
	case err != nil:
	case l.ended():
		err = fmt.Errorf("%w while connecting", ErrDisconnected)
	case s.link != nil:
		err = fmt.Errorf("sioclient: %s is connected, or connecting", s.nsp)
	}
	if err != nil {
		s.mu.Unlock()
		reply <- err
		return reply
	}
	s.link, s.reply = l, reply
	s.mu.Unlock()
	p := wire.Packet{Type: wire.Connect, Namespace: s.nsp, ID: wire.NoID, Data: data}
	l.writePacket(p.Append(nil), nil)
	return reply
}

// send writes a packet, or keeps it until the socket is connected.
func (s *Socket) send(o outgoing) {
	s.mu.Lock()
	if !s.connected {
		s.unsent = append(s.unsent, o)
		s.mu.Unlock()
		return
	}
	l := s.link
	s.markSentLocked(o)
	s.mu.Unlock()
	o.write(l)
}

func (s *Socket) markSentLocked(o outgoing) {
	if ack := s.acks[o.id]; ack != nil {
		ack.sent = true
	}
}

func (o outgoing) write(l *link) {
	l.writePacket(o.text, o.attachments)
}

// onPacket is called by the link's reader.
func (s *Socket) onPacket(l *link, p wire.Packet) error {
	s.mu.Lock()
	current := s.link == l
	s.mu.Unlock()
	if !current {
		return nil // for a socket that has left
	}
	switch p.Type {
	case wire.Connect:
		return s.onConnect(p)
	case wire.ConnectError:
		return s.onConnectError(p)
	case wire.Disconnect:
		s.setActive(false)
		s.onEnd("io server disconnect")
		s.c.closeIfUnused(l)
	case wire.Event, wire.BinaryEvent:
		return s.onEvent(p)
	case wire.Ack, wire.BinaryAck:
		return s.onAck(p)
	}
	return nil
}

// onConnect takes the CONNECT reply, then what had to wait for it.
func (s *Socket) onConnect(p wire.Packet) error {
	var h struct {
		SID string `json:"sid"`
		PID string `json:"pid"`
	}
	if err := json.Unmarshal(p.Data, &h); err != nil || h.SID == "" {
		return fmt.Errorf("%w: CONNECT reply %.60q", wire.ErrMalformed, p.Data)
	}
	s.mu.Lock()
	s.id = h.SID
	s.recovered = h.PID != "" && h.PID == s.pid
	s.pid = h.PID
	received := s.received
	s.received = nil
	l := s.link
	s.mu.Unlock()
	for _, p := range received {
		if err := s.dispatch(p); err != nil {
			return err
		}
	}
	s.mu.Lock()
	for len(s.unsent) > 0 { // more may come meanwhile: keep the order
		unsent := s.unsent
		s.unsent = nil
		for _, o := range unsent {
			s.markSentLocked(o)
		}
		s.mu.Unlock()
		for _, o := range unsent {
			o.write(l)
		}
		s.mu.Lock()
	}
	s.connected = true
	s.answerLocked(nil)
	s.mu.Unlock()
	return nil
}

func (s *Socket) onConnectError(p wire.Packet) error {
	e := &ConnectError{Namespace: s.nsp}
	if err := json.Unmarshal(p.Data, e); err != nil {
		return fmt.Errorf("%w: CONNECT_ERROR %.60q", wire.ErrMalformed, p.Data)
	}
	s.mu.Lock()
	l := s.link
	s.active, s.link = false, nil
	s.answerLocked(e)
	s.mu.Unlock()
	s.c.closeIfUnused(l)
	return nil
}

// answerLocked passes the outcome of the CONNECT to its caller.
func (s *Socket) answerLocked(err error) {
	if s.reply != nil {
		s.reply <- err
		s.reply = nil
	}
}

func (s *Socket) onEvent(p wire.Packet) error {
	s.mu.Lock()
	if !s.connected {
		s.received = append(s.received, p)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	return s.dispatch(p)
}

// dispatch runs the handlers of an event, then keeps its offset.
func (s *Socket) dispatch(p wire.Packet) error {
	s.mu.Lock()
	onRaw := s.onRaw
	handled := len(s.handlers) > 0
	s.mu.Unlock()
	for _, fn := range onRaw {
		fn(p.Data)
	}
	if handled {
		if err := s.runHandlers(p); err != nil {
			return err
		}
	}
	if offset, ok := LastString(p.Data); ok && p.ID == wire.NoID {
		s.mu.Lock()
		if s.pid != "" {
			s.offset = offset
		}
		s.mu.Unlock()
	}
	return nil
}

func (s *Socket) runHandlers(p wire.Packet) error {
	args, err := p.Args()
	if err != nil {
		return err
	}
	var name string
	if json.Unmarshal(args[0], &name) != nil {
		name = string(args[0]) // a number, say
	}
	args = args[1:]
	s.mu.Lock()
	handlers := s.handlers[name]
	s.mu.Unlock()
	if len(handlers) == 0 {
		return nil
	}
	resolved, err := wire.Resolve(args, p.Attachments)
	if err != nil {
		return err
	}
	ack := s.ackFunc(p.ID)
	for _, h := range handlers {
		if h.plain != nil {
			h.plain(args, ack)
		} else {
			h.binary(resolved, ack)
		}
	}
	return nil
}

// ackFunc returns what answers an event, or nil if no answer is asked for.
func (s *Socket) ackFunc(id int64) func(...any) {
	if id == wire.NoID {
		return nil
	}
	var once sync.Once
	return func(args ...any) {
		once.Do(func() {
			s.mu.Lock()
			l := s.link
			s.mu.Unlock()
			if l != nil { // else it is lost, as in socket.io-client
				encode(wire.Ack, s.nsp, id, args).write(l)
			}
		})
	}
}

func (s *Socket) onAck(p wire.Packet) error {
	args, err := p.Args()
	if err != nil {
		return err
	}
	s.mu.Lock()
	ack := s.acks[p.ID]
	delete(s.acks, p.ID)
	s.mu.Unlock()
	switch {
	case ack == nil:
	case ack.answered != nil:
		ack.answered(args)
	default:
		ack.result <- ackResult{args: args}
	}
	return nil
}

// onLinkEnd is called once by each link, for every socket.
func (s *Socket) onLinkEnd(l *link, reason string) {
	s.mu.Lock()
	current := s.link == l
	s.mu.Unlock()
	if current {
		s.onEnd(reason)
	}
}

// onEnd marks the socket as disconnected. Unsent events stay.
func (s *Socket) onEnd(reason string) {
	s.mu.Lock()
	connected := s.connected
	s.connected, s.link, s.id = false, nil, ""
	err := fmt.Errorf("%w: %s", ErrDisconnected, reason)
	s.answerLocked(err)
	for id, ack := range s.acks {
		if ack.sent {
			delete(s.acks, id)
			if ack.result != nil {
				ack.result <- ackResult{err: err}
			}
		}
	}
	callbacks := s.onDisconnect
	s.mu.Unlock()
	if !connected {
		return
	}
	for _, fn := range callbacks {
		fn(reason)
	}
}

// encode encodes an event (typ Event) or acknowledgement (typ Ack).
func encode(typ wire.Type, nsp string, id int64, args []any) outgoing {
	data, attachments, err := wire.Marshal(args)
	if err != nil {
		panic(fmt.Sprintf("sioclient: %v: %v", typ, err))
	}
	if len(attachments) > 0 {
		typ += wire.BinaryEvent - wire.Event // and BinaryAck for Ack
	}
	p := wire.Packet{Type: typ, Namespace: nsp, ID: id, Data: data, Attachments: attachments}
	return outgoing{id: id, text: p.Append(nil), attachments: attachments}
}

// LastString returns the last element of a JSON array if it is a string: what socket.io-client
// takes for an event's offset. It reads no more of data than that.
func LastString(data []byte) (string, bool) {
	const space = " \t\r\n"
	data, ok := bytes.CutSuffix(bytes.TrimRight(data, space), []byte("]"))
	if !ok {
		return "", false
	}
	data = bytes.TrimRight(data, space)
	if len(data) < 2 || data[len(data)-1] != '"' {
		return "", false
	}
	// The first quote from here that no odd number of backslashes precedes.
	start := len(data) - 2
	for ; start >= 0; start-- {
		if data[start] != '"' {
			continue
		}
		slashes := 0
		for start-slashes-1 >= 0 && data[start-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			break
		}
	}
	if start < 0 {
		return "", false
	}
	literal := data[start:]
	if bytes.IndexByte(literal, '\\') < 0 {
		return string(literal[1 : len(literal)-1]), true
	}
	var s string
	err := json.Unmarshal(literal, &s)
	return s, err == nil
}
