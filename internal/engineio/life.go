package engineio

import (
	"fmt"
	"sync/atomic"
)

// lifeState is where a Socket or a Conn is in its life:
//
//	open    -> closing   Socket.Close; what the Handler still fills is delivered. A Conn skips this.
//	open    -> closed    Abort, Conn.Close, a timeout, or the peer or the network ended the transport
//	closing -> closed    everything is delivered, or one of the above happened first
//	closed  -> reported  the handler's Closed is called, once; terminal
type lifeState uint8

const (
	stateOpen lifeState = iota
	stateClosing
	stateClosed
	stateReported
)

var lifeStateNames = [...]string{"open", "closing", "closed", "reported"}

// String implements fmt.Stringer.
func (s lifeState) String() string { return nameOf(lifeStateNames[:], s) }

// life holds a lifeState. It changes under a lock, and is read without one for each message.
type life struct{ v atomic.Uint32 }

func (l *life) get() lifeState { return lifeState(l.v.Load()) }

// ended reports whether the state is closed or reported.
func (l *life) ended() bool { return l.get() >= stateClosed }

// moveLocked is the only place where the state changes. It reports whether the transition exists.
// The mu of the owner must be held.
func (l *life) moveLocked(to lifeState) bool {
	from := l.get()
	ok := to == from+1 || from == stateOpen && to == stateClosed
	if ok {
		l.v.Store(uint32(to))
	}
	return ok
}

// nameOf returns the name of an enum's value.
func nameOf[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%T(%d)", v, uint8(v))
}
