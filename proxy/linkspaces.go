package proxy

import (
	"maps"
	"slices"

	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// maxEndedNamespaces bounds how many ended namespaces a link remembers. After that, the client gets
// another link for new ones.
const maxEndedNamespaces = 1000

// spaceState is what a namespace is on a link. While it is open, link.sessions has its session.
//
//	new        -> connecting    a client's CONNECT was sent
//	connecting -> open          its reply came, and the client takes the session
//	connecting -> new           the server refused it
//	connecting -> disconnected  its reply came, and no client takes the session
//	open       -> ended         the server ended the session
//	open       -> disconnected  a DISCONNECT was sent
//	ended      -> connecting    a client connects it again
//
// Disconnected is terminal: the server may answer the DISCONNECT after another CONNECT, and packets
// of the two sockets could not be told apart.
type spaceState uint8

const (
	spaceNew spaceState = iota
	spaceConnecting
	spaceOpen
	spaceEnded
	spaceDisconnected
)

// connecting is a CONNECT that awaits its reply.
type connecting struct {
	client   *client         // nil if it has sent another CONNECT since, on another link
	binding  session.Binding // of the session that it will open
	sum      uint64          // hash of the packet
	answered bool            // the reply has arrived, but the session is not in link.sessions yet
}

// linkSpace is a namespace of a link that is not just open, or was not always.
type linkSpace struct {
	state    spaceState
	asked    *connecting // not nil while connecting
	dropLate bool        // a session that clients can resume has ended: see link.isLatePacket
}

// linkSpaces are the namespaces of a link. Most are open and nothing else, and are not in the map.
type linkSpaces struct {
	byName map[string]*linkSpace
	asked  int // how many are connecting
}

// get returns a namespace's record. It makes one if there is none.
func (s *linkSpaces) get(namespace string) *linkSpace {
	if s.byName[namespace] == nil {
		if s.byName == nil {
			s.byName = make(map[string]*linkSpace)
		}
		s.byName[namespace] = &linkSpace{}
	}
	return s.byName[namespace]
}

// move is the only place where the state of a namespace changes.
func (s *linkSpaces) move(namespace string, to spaceState) *linkSpace {
	at := s.get(namespace)
	if at.state == spaceDisconnected {
		return at
	}
	if at.state == spaceConnecting && to != spaceConnecting {
		at.asked = nil
		s.asked--
	} else if at.state != spaceConnecting && to == spaceConnecting {
		s.asked++
	}
	at.state = to
	if (to == spaceOpen || to == spaceNew) && !at.dropLate {
		delete(s.byName, namespace)
		if len(s.byName) == 0 {
			s.byName = nil // free the map: most links connect no other namespace
		}
	}
	return at
}

// reconnect makes a namespace that was disconnected one that can be connected again. Clients of
// Engine.IO 3 have one connection to the server at a time.
func (s *linkSpaces) reconnect(namespace string) {
	if at := s.byName[namespace]; at != nil && at.state == spaceDisconnected && namespace != socketio.Root {
		at.state = spaceEnded
	}
}

// ended says that a session ended that clients can resume.
func (s *linkSpaces) ended(namespace string) {
	at := s.get(namespace)
	at.dropLate = true
	if at.state != spaceConnecting { // otherwise its reply has just come
		s.move(namespace, spaceEnded)
	}
}

// connect says that a CONNECT was sent.
func (s *linkSpaces) connect(namespace string, asked *connecting) {
	s.move(namespace, spaceConnecting).asked = asked
}

// waiting returns the CONNECT that awaits its reply, or nil.
func (s *linkSpaces) waiting(namespace string) *connecting {
	if at := s.byName[namespace]; at != nil {
		return at.asked
	}
	return nil
}

// allWaiting returns the CONNECTs that await their replies, and the names of their namespaces.
func (s *linkSpaces) allWaiting() (asked []*connecting, namespaces []string) {
	for namespace, at := range s.byName {
		if at.asked != nil {
			asked, namespaces = append(asked, at.asked), append(namespaces, namespace)
		}
	}
	slices.Sort(namespaces)
	return asked, namespaces
}

// connectable reports whether a CONNECT may be sent for a namespace that is not open.
func (s *linkSpaces) connectable(namespace string) bool {
	at := s.byName[namespace]
	return (at == nil || at.state != spaceConnecting && at.state != spaceDisconnected) && len(s.byName)-s.asked < maxEndedNamespaces
}

// isLate reports whether packets of a namespace that is not open are late ones.
func (s *linkSpaces) isLate(namespace []byte) bool {
	at := s.byName[string(namespace)]
	return at != nil && at.dropLate
}

// all returns the names of the namespaces for which keep returns true.
func (s *linkSpaces) all(keep func(*linkSpace) bool) []string {
	names := slices.Collect(maps.Keys(s.byName))
	return slices.DeleteFunc(names, func(name string) bool { return !keep(s.byName[name]) })
}
