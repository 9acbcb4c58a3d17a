package cluster

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// maxUnverified limits the connections that have not shown the secret yet.
const maxUnverified = 64

// unverifiedConns are the unauthenticated connections to the peer port. All are accepted
// immediately, so a flood does not keep a replica waiting in the kernel's queue. When there are too
// many, one connection of the address that has the most is closed: the oldest that has sent nothing,
// or else the oldest. A replica sends its part of the handshake as soon as it is connected. So it is
// at risk only in a flood from its own address, if maxUnverified others arrive within a round trip.
// Then it dials again.
type unverifiedConns struct {
	mu   sync.Mutex
	list []*unverifiedConn // oldest first
}

// unverifiedConn is a connection that has not proved the secret yet.
type unverifiedConn struct {
	net.Conn
	address string
	heard   atomic.Bool // it has sent something
}

// Read implements net.Conn.
func (s *unverifiedConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard.Store(true)
	}
	return n, err
}

// admit adds a connection, and may close another one.
func (g *unverifiedConns) admit(nc net.Conn) *unverifiedConn {
	s := &unverifiedConn{Conn: nc, address: nc.RemoteAddr().String()}
	if at, err := netip.ParseAddrPort(s.address); err == nil {
		s.address = at.Addr().String()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.list) >= maxUnverified {
		i := g.worstLocked()
		g.list[i].Close() // its handshake fails
		g.list = slices.Delete(g.list, i, i+1)
	}
	g.list = append(g.list, s)
	return s
}

// leave forgets a connection whose handshake is over.
func (g *unverifiedConns) leave(s *unverifiedConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.list, s); i >= 0 {
		g.list = slices.Delete(g.list, i, i+1)
	}
}

// worstLocked returns the index of the connection to close.
func (g *unverifiedConns) worstLocked() int {
	counts := make(map[string]int)
	most := 0
	for _, s := range g.list {
		counts[s.address]++
		most = max(most, counts[s.address])
	}
	oldest := -1
	for i, s := range g.list {
		switch {
		case counts[s.address] < most:
		case !s.heard.Load():
			return i
		case oldest < 0:
			oldest = i
		}
	}
	return oldest
}
