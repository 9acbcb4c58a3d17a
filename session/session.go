package session

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// State is a session's place in its life:
//
//	Live   -> Parked  its client's transport died
//	Parked -> Live    a client resumed it
//	either -> Closed  for one of reason.Closed; terminal
type State uint8

// States of a Session.
const (
	Live State = iota + 1
	Parked
	Closed
)

func (s State) String() string {
	switch s {
	case Live:
		return "live"
	case Parked:
		return "parked"
	case Closed:
		return "closed"
	}
	return "unknown"
}

// Errors of a Session.
var (
	// ErrClosed means that the session has ended.
	ErrClosed = errors.New("session: closed")
	// ErrFull is wrapped when a parked session's log went over a limit: the session is to be closed.
	ErrFull = errors.New("session: log of a parked session is full")
)

// Owner is a client as sessions know it. Owners are compared.
type Owner interface {
	// Handshake grows with each client's handshake: a later one has a greater number.
	Handshake() uint64
}

// Upstream is the link that a session belongs to.
type Upstream interface {
	// SessionsClosed says that sessions of this link have ended on this side, by expiry and the like: the
	// server has to be told. No lock of this package is held.
	SessionsClosed(ended []*Session, why reason.Reason)
	// SetReadPaused says whether a live session's unconfirmed bytes are over the window: the link is not to
	// be read as long as any is. It may be called with a session's lock held, and must not call back.
	SetReadPaused(readPaused bool)
	// SessionParked says that a session has lost its client, and stays for at most d; SessionResumed that a client has it
	// again. They are called with locks held, so that the one cannot overtake the other, and must not call back.
	SessionParked(s *Session, why reason.Reason, d time.Duration)
	SessionResumed(s *Session, away time.Duration, missed int)
}

// Limits bound one session's log.
type Limits struct {
	// MaxPackets and MaxBytes hold while it is parked.
	MaxPackets int
	MaxBytes   int
	// WindowBytes is where a live session's link is no longer read.
	WindowBytes int
	// TakeoversPerMinute bounds the takeovers of one session in the long run; a minute's worth may come at once. 0 is no
	// limit.
	TakeoversPerMinute int
	// ReplayAckRequested says that events with an acknowledgement which may have arrived are sent again
	// (at least once); otherwise they are not (at most once).
	ReplayAckRequested bool
	// RetentionFunc tells what becomes of events while their client is away. Nil keeps them all.
	Retention RetentionFunc
	// Judge tells what clients can decode. With nil they can decode everything, as far as is known.
	Judge Judge
}

// Session is safe for concurrent use. What each packet needs stands first in it, in few lines of the processor's cache.
type Session struct {
	// Immutable.
	registry *Registry
	upstream Upstream
	pid      string // empty if it cannot be resumed
	tag      tag

	mu           sync.Mutex // guards the fields below, up to those that are immutable; never held during I/O
	state        State
	heard        bool        // a client sent something for it
	readPaused   atomic.Bool // SetReadPaused(true) was called; set with mu held
	sent         uint64      // what any client was ever sent
	cursor       *Cursor
	log          buffer.Log
	ackRequested int    // AckRequested packets in the log
	reply        []byte // the CONNECT reply, with the pid
	away         *away  // nil until the log is sifted
	// left is set while it is parked because its client said goodbye. What that was sent about then it may have ignored: sentWhenParked
	// is what it was sent in all. stamped is the last WithOffset packet that was confirmed.
	left                       *ClientDisconnect
	sentWhenParked, withOffset uint64
	doubt                      *doubt // nil while no packet is suspected to be poison
	reads                      reads  // what is known of its clients
	owned                      uint64 // the latest handshake of a client that had the session
	parkedAt                   time.Time
	// takeoversUntil is when the takeovers of late no longer count: each counts for its part of a minute.
	takeoversUntil time.Time
	binding        Binding

	namespace string // immutable

	// Set while parked; guarded by registry.mu.
	parking  *parking
	inFlight bool          // its client had not confirmed all when it was parked
	place    *list.Element // in registry.parked
}

// PID is the session's private id, empty if it cannot be resumed. It is a credential: never log it.
func (s *Session) PID() string { return s.pid }

// Namespace is the session's namespace.
func (s *Session) Namespace() string { return s.namespace }

// Upstream is the link that the session belongs to.
func (s *Session) Upstream() Upstream { return s.upstream }

// State is the session's present state.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Attached is the client that has the session, or nil.
func (s *Session) Attached() Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == nil {
		return nil
	}
	return s.cursor.owner
}

// Heard reports whether a client has sent anything for the session: so it has the pid.
func (s *Session) Heard() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard
}

// SetReply keeps the CONNECT reply for later clients.
func (s *Session) SetReply(reply []byte) {
	s.mu.Lock()
	s.reply = reply
	s.mu.Unlock()
}

// Bind sets what clients must present, beside the pid, to have the session. It is called before the pid is given away.
func (s *Session) Bind(b Binding) {
	s.mu.Lock()
	s.binding = b
	s.mu.Unlock()
}

// Append adds a packet that the server sent. It returns the cursor of the client that is to be woken, if one is
// attached. Errors are ErrClosed and ErrFull; after ErrFull the caller closes the session.
func (s *Session) Append(p *buffer.Packet) (*Cursor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Closed {
		return nil, ErrClosed
	}
	if s.state == Parked {
		s.appendParkedLocked(p)
	} else {
		s.log.Append(p)
	}
	if p.Kind == buffer.AckRequested {
		s.ackRequested++
	}
	if s.state == Parked {
		l := s.registry.limits()
		if s.log.Packets() > l.MaxPackets || s.log.Bytes() > l.MaxBytes {
			return nil, fmt.Errorf("%w: %d packets, %d bytes", ErrFull, s.log.Packets(), s.log.Bytes())
		}
		return nil, nil //nolint:nilnil // a parked session has no cursor, and that is no error
	}
	s.updateReadPauseLocked()
	return s.cursor, nil
}

// scarceWindowBytes is the window while the budget is exceeded: live clients' packets are not dropped, so all that can
// be done is to take in fewer.
const scarceWindowBytes = 16 << 10

// updateReadPauseLocked tells the link when a live session's log passes the window, or comes back to half of it.
func (s *Session) updateReadPauseLocked() {
	window := s.registry.limits().WindowBytes
	if s.registry.budget.Exceeded() {
		window = min(window, scarceWindowBytes)
	}
	readPaused := s.readPaused.Load()
	switch n := s.log.Bytes(); {
	case s.state != Live:
		readPaused = false
	case n >= window:
		readPaused = true
	case n < window/2:
		readPaused = false
	}
	if readPaused != s.readPaused.Load() {
		s.readPaused.Store(readPaused)
		s.upstream.SetReadPaused(readPaused)
	}
}

// trimLocked drops what has been confirmed.
func (s *Session) trimLocked(seq uint64) {
	seq = min(seq, s.log.Last())
	if s.ackRequested > 0 {
		for i := s.log.Trimmed() + 1; i <= seq; i++ {
			if s.log.At(i).Kind() == buffer.AckRequested {
				s.ackRequested--
			}
		}
	}
	for i := seq; i > s.log.Trimmed(); i-- {
		if s.log.At(i).Kind() == buffer.WithOffset {
			s.withOffset = i
			break
		}
	}
	s.log.Trim(seq)
	s.updateReadPauseLocked()
}

// buffered is how many packets the session's log holds, and about how many bytes.
func (s *Session) buffered() (packets, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Packets(), s.log.Bytes()
}
