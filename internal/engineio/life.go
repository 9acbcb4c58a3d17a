package engineio

import (
	"fmt"
	"sync/atomic"
)

// lifeState is where a Socket or a Conn is in its life:
//
//	open    -> closing   Socket.Close; what the Handler still fills is delivered. A Conn skips this.
//	open    -> closed    Abort, Conn.Close, a timeout, or the transport ended
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

// outputState says whether a Socket's WebSocket takes more:
//
//	writable    -> blocked     a write left bytes that wait for the kernel
//	writable    -> extraWaits  only an extra ping waits; it is no sign of life if the kernel takes it
//	blocked, extraWaits -> writable  nothing waits, or another WebSocket is the transport
//	all of these -> left       Leave: nothing more is filled; terminal
type outputState uint8

const (
	outputWritable outputState = iota
	outputBlocked
	outputExtraWaits
	outputLeft
)

var outputStateNames = [...]string{"writable", "blocked", "extraWaits", "left"}

// String implements fmt.Stringer.
func (o outputState) String() string { return nameOf(outputStateNames[:], o) }

// moveLocked is the only place where an outputState changes. It reports whether the transition
// exists.
func (o *outputState) moveLocked(to outputState) bool {
	if *o == outputLeft || to != outputLeft && (*o == outputWritable) == (to == outputWritable) {
		return false
	}
	*o = to
	return true
}

// closeStyle says what the client sees of the end. It is set before Close or Abort:
//
//	orderly -> tooBig  ShowTooBig
//	orderly, tooBig -> broken  ShowBroken; terminal
type closeStyle uint8

const (
	closeOrderly closeStyle = iota // a Close frame, or a CLOSE packet
	closeTooBig                    // the same, with WebSocket close code 1009
	closeBroken                    // like a server that died
)

var closeStyleNames = [...]string{"orderly", "tooBig", "broken"}

// String implements fmt.Stringer.
func (c closeStyle) String() string { return nameOf(closeStyleNames[:], c) }

// moveLocked is the only place where a closeStyle changes. It reports whether the transition
// exists.
func (c *closeStyle) moveLocked(to closeStyle) bool {
	if to <= *c {
		return false
	}
	*c = to
	return true
}
