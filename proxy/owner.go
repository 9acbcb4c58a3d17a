package proxy

import "github.com/holdfast/holdfast/session"

// Package session knows links and clients only as interfaces. The registry gets no other Upstream
// than *link, and no other Owner than *client. Only these two functions convert them back.

// linkOf returns the link that a session belongs to.
func linkOf(s *session.Session) *link { return s.Upstream().(*link) }

// clientOf returns the client behind an Owner, or nil if there is none.
func clientOf(o session.Owner) *client {
	c, _ := o.(*client)
	return c
}
