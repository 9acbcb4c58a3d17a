package session

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// State is where a session is in its life. doc.go has a drawing.
//
//	Live   -> Parked  its client's connection ended, or another client takes over
//	Parked -> Live    a client resumed it
//	either -> Closed  for one of the reasons in reason.Closed; terminal
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
	// ErrFull means that a parked session's log exceeds a limit. The caller must close the session.
	ErrFull = errors.New("session: log of a parked session is full")
)

// Owner is a client. It must be comparable.
type Owner interface {
	// Handshake is the number of the client's handshake. A later client has a greater number.
	Handshake() uint64
}

// Upstream is the link that a session belongs to.
type Upstream interface {
	// SessionsClosed reports sessions of this link that were closed on this side, for example
	// because they expired. It must tell the server. It is called without a lock of this package.
	SessionsClosed(closed []*Session, why reason.Reason)
	// SetReadPaused says that one more live session has reached its window of unconfirmed bytes
	// (true), or one fewer (false). The link must not be read while any session pauses it. The
	// session's lock may be held, so SetReadPaused must not call back.
	SetReadPaused(paused bool)
	// SessionParked says that a session is parked for at most d. The registry's and the session's
	// lock are held, so that calls for one session come in order. It must not call back.
	SessionParked(s *Session, why reason.Reason, d time.Duration)
	// SessionResumed says that a client has resumed a session. The same locks are held.
	SessionResumed(s *Session, away time.Duration, missed int)
}

// Limits bound one session's log.
type Limits struct {
	// MaxPackets and MaxBytes apply while the session is parked.
	MaxPackets int
	MaxBytes   int
	// WindowBytes is how many bytes of a live session may be unconfirmed before its link is paused.
	WindowBytes int
	// TakeoversPerMinute limits the takeovers of one session, with a burst of a minute's worth. 0
	// is no limit.
	TakeoversPerMinute int
	// ReplayAckRequested controls events that ask for an acknowledgement and may have arrived. If
	// true, a replay sends them again (at least once); if false, it does not (at most once).
	ReplayAckRequested bool
	// KeyedAtMostOnce applies to clients that resume a keyed session without counting events. If
	// true, they get nothing that was sent before (at most once). If false, they get everything
	// that is not confirmed (at least once).
	KeyedAtMostOnce bool
	// Retention decides which events are kept while their client is away. Nil keeps all of them.
	Retention RetentionFunc
	// Judge decides what clients can decode. With nil, they can decode everything.
	Judge Judge
}

// Session is one namespace of one upstream connection. It is safe for concurrent use. The fields
// that every packet needs come first, so that they share few cache lines.
type Session struct {
	// Immutable.
	registry *Registry
	upstream Upstream
	pid      string // empty if it cannot be resumed
	tag      tag

	mu    sync.Mutex // guards the fields down to namespace
	state State      // changed by Registry.moveLocked only
	heard bool       // a client has sent something in it
	// endedInFlight says that the session ended while packets were in flight, and that its client
	// has not confirmed them since.
	endedInFlight bool
	readPaused    atomic.Bool // SetReadPaused(true) was called; set with mu held
	cursor        *Cursor
	log           sentLog
	reply         []byte      // the CONNECT reply, with the pid
	suspicions    *suspicions // nil for nearly all sessions
	keyed         *keyed      // nil for all but keyed sessions; the pointer is immutable
	owned         uint64      // the latest handshake of a client that had the session
	takeovers     takeoverLimit
	binding       Binding

	namespace string       // immutable
	parked    *parkedState // not nil while Parked; changed with the state
}

// PID is the session's private id. It is empty if the session cannot be resumed. It is a
// credential: never log it.
func (s *Session) PID() string { return s.pid }

// Namespace is the session's namespace.
func (s *Session) Namespace() string { return s.namespace }

// Upstream is the link that the session belongs to.
func (s *Session) Upstream() Upstream { return s.upstream }

// State is the session's current state.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Attached returns the client that has the session, or nil.
func (s *Session) Attached() Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == nil {
		return nil
	}
	return s.cursor.owner
}

// Heard reports whether a client has sent anything in the session, and therefore has the pid.
func (s *Session) Heard() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard
}

// SetReply stores the CONNECT reply, which is repeated to later clients.
func (s *Session) SetReply(reply []byte) {
	s.mu.Lock()
	s.reply = reply
	s.mu.Unlock()
}

// Bind sets what clients must present in addition to the pid to resume the session. It must be
// called before the pid is sent.
func (s *Session) Bind(b Binding) {
	s.mu.Lock()
	s.binding = b
	s.mu.Unlock()
}

// Append adds a packet that the server sent. It returns the cursor of the client to wake, or nil if
// no client is attached. It fails with ErrClosed or ErrFull. After ErrFull the caller must close
// the session.
func (s *Session) Append(p *buffer.Packet) (*Cursor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Closed {
		return nil, ErrClosed
	}
	if s.state == Parked {
		appendParkedLocked(s, p)
	} else {
		s.log.Append(p)
	}
	if p.Kind == buffer.AckRequested {
		s.log.ackRequested++
	}
	if s.state == Parked {
		l := s.registry.limits()
		if s.log.Packets() > l.MaxPackets || s.log.Bytes() > l.MaxBytes {
			return nil, fmt.Errorf("%w: %d packets, %d bytes", ErrFull, s.log.Packets(), s.log.Bytes())
		}
		return nil, nil //nolint:nilnil // a parked session has no cursor
	}
	s.updateReadPauseLocked()
	return s.cursor, nil
}

// scarceWindowBytes is the window while the budget is exceeded. Packets of live sessions cannot be
// dropped, so the only remedy is to read less.
const scarceWindowBytes = 16 << 10

// updateReadPauseLocked tells the link when a live session's log reaches the window, and when it is
// down to half of it.
func (s *Session) updateReadPauseLocked() {
	window := s.registry.limits().WindowBytes
	if s.registry.budget.Exceeded() {
		window = min(window, scarceWindowBytes)
	}
	paused := s.readPaused.Load()
	switch n := s.log.Bytes(); {
	case s.state != Live:
		paused = false
	case n >= window:
		paused = true
	case n < window/2:
		paused = false
	}
	if paused != s.readPaused.Load() {
		s.readPaused.Store(paused)
		s.upstream.SetReadPaused(paused)
	}
}

// trimLocked drops packets up to seq, which the client has received.
func (s *Session) trimLocked(seq uint64) {
	seq = min(seq, s.log.Last())
	if s.keyed != nil {
		s.keyed.countTrimmed(&s.log, seq)
	}
	if s.log.ackRequested > 0 {
		s.log.countAckRequested(seq)
	}
	s.log.noteConfirmed(seq)
	s.log.Trim(seq)
	s.updateReadPauseLocked()
}

// buffered returns how many packets the session's log holds, and about how many bytes.
func (s *Session) buffered() (packets, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Packets(), s.log.Bytes()
}
