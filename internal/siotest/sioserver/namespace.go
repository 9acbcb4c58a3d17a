package sioserver

import (
	"errors"
	"sync"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// Namespace is a set of sockets that share broadcasts and handlers. It is safe for
// concurrent use.
type Namespace struct {
	name string // immutable

	mu        sync.RWMutex // guards the fields below
	onConnect []func(*Socket) error
	sockets   map[string]*Socket // by id
	rooms     map[string]map[*Socket]struct{}
	joined    int // sockets so far, for Socket.order
}

func newNamespace(name string) *Namespace {
	return &Namespace{
		name:    name,
		sockets: make(map[string]*Socket),
		rooms:   make(map[string]map[*Socket]struct{}),
	}
}

// OnConnect calls fn for each client that connects from now on. If fn returns nil,
// the client gets the CONNECT reply and then what fn has emitted. An error becomes
// a CONNECT_ERROR.
func (n *Namespace) OnConnect(fn func(*Socket) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onConnect = append(n.onConnect, fn)
}

// ConnectError is an error for a client, with data of the application.
type ConnectError struct {
	Message string
	Data    any
}

func (e *ConnectError) Error() string { return e.Message }

// connectError is the payload of a CONNECT_ERROR.
type connectError struct {
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

func connectErrorOf(err error) connectError {
	if e, ok := errors.AsType[*ConnectError](err); ok {
		return connectError{e.Message, e.Data}
	}
	return connectError{Message: err.Error()}
}

// greet runs the connection handlers until one refuses.
func (n *Namespace) greet(s *Socket) error {
	n.mu.RLock()
	handlers := n.onConnect
	n.mu.RUnlock()
	for _, fn := range handlers {
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}

// Emit sends an event to every socket. It is encoded once.
func (n *Namespace) Emit(event string, args ...any) {
	parts := encodeEvent(n.name, wire.NoID, event, args)
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, s := range n.sockets {
		s.send(parts)
	}
}

// Broadcast emits to a room.
type Broadcast struct {
	nsp  *Namespace
	room string
}

// To selects the sockets that joined a room, or the socket with that id.
func (n *Namespace) To(room string) *Broadcast { return &Broadcast{n, room} }

// Emit sends an event to every socket of the room. It is encoded once.
func (b *Broadcast) Emit(event string, args ...any) {
	parts := encodeEvent(b.nsp.name, wire.NoID, event, args)
	b.nsp.mu.RLock()
	defer b.nsp.mu.RUnlock()
	for s := range b.nsp.rooms[b.room] {
		s.send(parts)
	}
	if s := b.nsp.sockets[b.room]; s != nil { // each is in its own room
		s.send(parts)
	}
}

// Socket returns the socket with an id, or nil.
func (n *Namespace) Socket(id string) *Socket {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.sockets[id]
}

// Len returns the number of sockets.
func (n *Namespace) Len() int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.sockets)
}

func (n *Namespace) add(s *Socket) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.joined++
	s.order = n.joined
	n.sockets[s.ID] = s
}

func (n *Namespace) join(s *Socket, room string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sockets[s.ID] != s {
		return // it has left already
	}
	if n.rooms[room] == nil {
		n.rooms[room] = make(map[*Socket]struct{})
	}
	n.rooms[room][s] = struct{}{}
	s.rooms = append(s.rooms, room)
}

func (n *Namespace) leave(s *Socket, room string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaveLocked(s, room)
}

func (n *Namespace) leaveLocked(s *Socket, room string) {
	delete(n.rooms[room], s)
	if len(n.rooms[room]) == 0 {
		delete(n.rooms, room)
	}
}

// remove takes a socket out of the namespace and its rooms.
func (n *Namespace) remove(s *Socket) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sockets, s.ID)
	for _, room := range s.rooms {
		n.leaveLocked(s, room)
	}
	s.rooms = nil
}
