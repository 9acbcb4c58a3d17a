// Package proxy joins clients, sessions and links: it is holdfast's HTTP entry.
//
// A client is one Engine.IO connection from outside, a link is one Engine.IO connection to the
// upstream server, and a session is one namespace of one link. What is not Engine.IO traffic, or is of
// a kind that holdfast does not speak, passes through unchanged.
//
// Locks, in the order in which they may be held together: a Socket's (package engineio), a client's, a
// link's, those of package session, a Conn's. None is held across a blocking call.
package proxy
