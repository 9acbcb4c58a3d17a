// Package session keeps a Socket.IO socket's identity alive while its client is gone.
//
// A Session is one namespace of one upstream connection. It is a log of the packets that the
// server sent; a client is a Cursor on it. Live delivery and replay are the same: a Cursor reads on from where
// its client is. A Session is parked when its client's transport dies, and resumed by the next client that
// presents its pid and an offset it was given.
//
// Recovery is not in the Socket.IO v5 protocol document. What clients see follows the reference
// server's session-aware adapter, but for what docs/design.md says of order and of clients without an offset.
//
// Locks: the Registry's is taken before a Session's. With one held, only these outside this package are called:
// Upstream.SetReadPaused, SessionParked and SessionResumed, Owner.Handshake, Observer.Dropped, Limits.Retention, and the Emitter
// given to Cursor.Read. None of them may call back.
package session
