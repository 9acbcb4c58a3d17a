package upstream

import (
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/handover"
)

// Restore makes a connection of what another process has handed over, some time ago. Its server need
// not be in the list any more: it then leaves with its last link.
func (u *Upstream) Restore(l *handover.Link, elapsed time.Duration) (*engineio.Conn, error) {
	s := u.adopt(l.Server)
	c, err := s.dialer.Restore(l, elapsed)
	if err != nil {
		s.release()
		return nil, err
	}
	return c, nil // its Dialer calls release
}

// adopt returns the server with this URL, and counts a link.
func (u *Upstream) adopt(url string) *Server {
	t := targetOf(url)
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.servers[t]
	if s == nil {
		s = u.newServer(t)
		s.since = time.Now()
		u.servers[t] = s
	}
	s.links++
	u.updateLocked(s)
	return s
}
