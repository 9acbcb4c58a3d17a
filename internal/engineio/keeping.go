package engineio

import (
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// keepTrial is how long a server's first idle connection is watched.
	keepTrial = 200 * time.Millisecond
	// keepAgain is how long after a connection that the server closed it is watched again.
	keepAgain = time.Minute
)

// keeping says whether a server keeps the connections that its answers promise to keep.
// netty-socketio promises it, and closes each. A request that crosses the end of its connection is
// lost, and with it the Conn. So no connection is used twice before one was watched.
//
// A nil keeping keeps. It is safe for concurrent use.
type keeping struct {
	mu    sync.Mutex // guards the fields below
	state keepState
	until time.Time // when a server that closes is watched again
}

// keepState says whether a server keeps idle connections:
//
//	unknown  -> watching  a request was answered
//	watching -> keeps     the connection stayed open
//	watching -> closes    it did not
//	keeps    -> unknown   an idle connection was closed early after all
//	closes   -> watching  a minute later
type keepState uint8

const (
	keepUnknown keepState = iota
	keepWatching
	keepKeeps
	keepCloses
)

var keepStateNames = [...]string{"unknown", "watching", "keeps", "closes"}

// String implements fmt.Stringer.
func (k keepState) String() string { return nameOf(keepStateNames[:], k) }

var nextKeepStates = [...][]keepState{
	keepUnknown:  {keepWatching},
	keepWatching: {keepKeeps, keepCloses},
	keepKeeps:    {keepUnknown},
	keepCloses:   {keepWatching},
}

// moveLocked is the only place where a keepState changes. It reports whether the transition exists.
func (k *keepState) moveLocked(to keepState) bool {
	if !slices.Contains(nextKeepStates[*k], to) {
		return false
	}
	*k = to
	return true
}

// take reports whether an idle connection may be used again. If that is unknown, it may take over
// conn to find out.
func (k *keeping) take(conn net.Conn) (keep, taken bool) {
	if k == nil {
		return true, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.state == keepKeeps:
		return true, false
	case k.state == keepWatching, k.state == keepCloses && time.Now().Before(k.until):
		return false, false
	}
	k.state.moveLocked(keepWatching)
	go k.watch(conn) // ends after keepTrial
	return false, true
}

// watch finds out whether the server closes an idle connection.
func (k *keeping) watch(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(keepTrial)) // a connection that is broken is closed
	_, err := conn.Read(make([]byte, 1))
	timeout, ok := err.(net.Error) //nolint:errorlint // a net.Conn does not wrap it
	k.mu.Lock()
	defer k.mu.Unlock()
	if ok && timeout.Timeout() {
		k.state.moveLocked(keepKeeps)
		return
	}
	k.state.moveLocked(keepCloses)
	k.until = time.Now().Add(keepAgain)
}

// closedEarly says that the server closed a connection that was idle for less than maxIdle.
func (k *keeping) closedEarly() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.moveLocked(keepUnknown)
}
