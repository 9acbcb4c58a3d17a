// Package session keeps the identity of a Socket.IO socket while its client is gone.
//
// A Session is one namespace of one upstream connection: a log of the packets that the server sent.
// A client is a Cursor on that log. Live delivery and replay are the same code: a Cursor reads on
// from what its client has.
//
// Socket.IO's protocol document does not describe recovery. What clients see follows the
// session-aware adapter of the reference server, with the exceptions in docs/design.md.
//
// # States
//
//	     New
//	      |
//	      v         Park
//	    Live ----------------> Parked
//	      |  <----------------   |
//	      |        Resume        |
//	Close |                      | Close, Evict, expiry
//	Abort |                      | Abort
//	      +-----> Closed <-------+
//
// Registry.moveLocked changes the state, and nothing else does. Closed is terminal.
//
// These words say how a client and its session part:
//
//   - Close ends a session in order. Its client may still read what the server sent before.
//   - Abort ends a session that cannot continue: its state is in doubt, or its client will not
//     come back for it. The link is told, and the server gets a DISCONNECT.
//   - Detach takes the client off a session. What becomes of the session is decided separately.
//   - Park detaches the client and keeps the session for a time, after which it expires.
//   - Evict closes a parked session to make room: for another parked session, or in memory.
//
// # Parts
//
// Three types are what other packages use:
//
//   - Registry finds sessions by their pids, and performs all changes of state. Its parts are the
//     parked sessions in the order in which they were parked (parkedLRU), those of one client that
//     expire together (parkedGroup), one call of Resume (attempt), and the search for sessions to
//     evict when memory is short (evictor). Ends remembers why sessions were closed.
//   - Session has one session's log and how much of it clients were sent (sentLog). What few
//     sessions need is behind pointers: parkedState while parked, and in it parkedIndex when events
//     may be dropped; suspicions about packets that a client cannot decode; keyed for clients
//     without support for recovery.
//   - Cursor is one client's place in a log.
//
// Exporter and Importer hand parked sessions to another process.
//
// # Who calls what
//
// A link calls Session.Append for what the server sends, and Registry.Close when the server ends a
// namespace or the link ends. A client calls Registry.Resume and the methods of its Cursors, and
// Registry.Park when its connection ends. A Cursor that has lost its session to another client's
// has no effect, so a client need not know that it lost.
//
// # Locks
//
// evictor.mu comes before Registry.mu, and that before Session.mu. Two sessions are never locked
// together. Both of the last two are needed to change a session's state, so either is enough to
// read it. Neither is held during I/O, and Registry.mu is never held while a log is walked.
//
// Session.mu guards the session's parts too, and its current Cursor. Registry.mu guards parkedLRU
// and parkedGroup. Ends has its own lock, which is a leaf.
//
// With a lock held, the package calls only these outside it: Upstream.SetReadPaused, SessionParked
// and SessionResumed, Owner.Handshake, Observer.Dropped and Poisoned, Limits.Retention and Judge,
// the Emitter given to Cursor.Read, and the functions given to Cursor.Forward and Sample. None of
// them may call back.
//
// # Panics
//
// Any of these calls may panic, and the caller recovers. No lock stays locked. The registry's own
// fields are changed before it calls out, so they are always consistent. A session that was being
// parked or resumed is aborted with reason.Internal, because its client and its link may not know
// of it. Sessions that were being closed are closed: all links are told, and all logs released,
// even if one of the calls panics.
//
// After a panic in Append, Cursor.Read or another method of a session, the log itself may be wrong.
// The caller must end the session then. Package proxy ends the link or the client concerned, with
// all its sessions.
package session
