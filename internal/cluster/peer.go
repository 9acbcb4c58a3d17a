package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"time"
)

// peerState is the state of the connection to another replica:
//
//	unknown -> dialling  its address was learned
//	dialling -> up       it answered
//	up -> suspect        the connection ended, or fell silent; it is dialled again
//	suspect -> up        it answered again
//	up, suspect, dialling -> gone  it sent a bye frame, or no book lists it and it cannot be reached for goneAfter
//	gone -> unknown      the book lists its address again
//	gone -> up           it answered after all
//
// If its address answers with another id, the old id is gone, and the peer is that other replica.
type peerState uint8

const (
	peerUnknown peerState = iota
	peerDialling
	peerUp
	peerSuspect
	peerGone
)

var peerStateNames = [...]string{"unknown", "dialling", "up", "suspect", "gone"}

// String implements fmt.Stringer.
func (s peerState) String() string { return peerStateNames[s] }

var nextPeerStates = [...]uint8{
	peerUnknown:  1 << peerDialling,
	peerDialling: 1<<peerUp | 1<<peerGone,
	peerUp:       1<<peerSuspect | 1<<peerGone,
	peerSuspect:  1<<peerUp | 1<<peerGone,
	peerGone:     1<<peerUnknown | 1<<peerUp,
}

// peer is another replica, by its address. n.mu guards the fields below addr and wake.
type peer struct {
	n    *Node
	addr string
	wake chan struct{} // 1: dial now

	id           string // "" until it answered
	process      string // of the replica with this id
	state        peerState
	since        time.Time // when state began
	conn         *conn     // while up
	self         bool      // the address is this replica's own
	listed       bool      // the book's last answer had it
	listedAt     time.Time
	refused      bool // the last attempt was refused: nothing listens there
	incompatible bool // it speaks another version
	forgotten    bool // it is gone because it was silent, and no book lists it
	attempts     int
	problem      string // of the last attempt
	roundTrip    time.Duration
	clock        clockSample // of the process
}

// clockSample compares a replica's clock with the time since the Node was made: the clock is ahead
// by ahead. The error is half of the round trip at most.
type clockSample struct {
	ahead     int64 // in microseconds
	roundTrip time.Duration
	at        time.Time // zero if there is none
}

// clockAge is how long the best sample is used before a worse one replaces it: clocks drift.
const clockAge = time.Minute

// moveLocked is the only place where a peer's state changes. It reports whether the transition
// exists.
func (p *peer) moveLocked(to peerState) bool {
	if nextPeerStates[p.state]>>to&1 == 0 {
		return false
	}
	p.state, p.since = to, time.Now()
	p.n.changedLocked()
	return true
}

// retry makes run dial now.
func (p *peer) retry() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

const (
	firstPause = 50 * time.Millisecond
	// longestPause is the time between two attempts to reach a replica that does not answer.
	longestPause = time.Second
	// selfPause is the time between two checks of an address that turned out to be this replica's
	// own.
	selfPause = 30 * time.Second
)

// run dials until the peer is removed or the Node is closed.
func (p *peer) run() {
	pause := firstPause
	for {
		c, err := p.dial()
		switch {
		case p.n.ctx.Err() != nil:
			if c != nil {
				c.socket.Close()
			}
			return
		case err == nil && p.connected(c):
			pause = firstPause
		default:
			p.failed(err)
			pause = min(2*pause, longestPause)
		}
		if p.removed() {
			return
		}
		wait := pause
		if p.isSelf() {
			wait = selfPause
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-p.wake:
		case <-p.n.ctx.Done():
		}
		t.Stop()
	}
}

func (p *peer) dial() (*conn, error) {
	n := p.n
	n.mu.Lock()
	p.moveLocked(peerDialling)
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(n.ctx, handshakeTimeout)
	defer cancel()
	nc, err := n.opts.Dial(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	return connect(ctx, nc, n.keys.Load(), n.who, true)
}

// connected serves a connection until it ends. It returns false if the connection cannot be used.
func (p *peer) connected(c *conn) bool {
	n := p.n
	ended := make(chan error, 1)
	n.mu.Lock()
	p.attempts++
	p.refused, p.incompatible, p.problem = false, false, ""
	switch {
	case c.peer.ID == n.opts.ID:
		p.self, p.problem = true, "this is the replica itself"
	case c.peer.Name != n.opts.Name:
		p.problem = fmt.Sprintf("it belongs to the cluster %q", c.peer.Name)
	}
	if p.problem != "" || n.closed {
		n.changedLocked()
		n.mu.Unlock()
		c.socket.Close()
		return false
	}
	if p.id != c.peer.ID {
		n.forgetLocked(p)
	}
	if p.id != c.peer.ID || p.process != c.peer.Process {
		p.clock = clockSample{}
	}
	p.id, p.process, p.self, p.forgotten, p.conn = c.peer.ID, c.peer.Process, false, false, c
	delete(n.gone, p.id)
	c.start(&dialled{p, ended}) // before others may open streams
	c.ping()
	p.moveLocked(peerUp)
	n.mu.Unlock()
	n.opts.Log.Info("connected to another replica", "peer", c.peer.ID, "address", p.addr)
	n.opts.Observer.Returned(c.peer.ID)
	err := <-ended
	p.lost(c, err)
	return true
}

// lost notes the end of a connection that was up.
func (p *peer) lost(c *conn, err error) {
	n := p.n
	why, to := "closed", peerSuspect
	switch {
	case c.peerStops():
		why, to = "goodbye", peerGone
	case errors.Is(err, errSilent):
		why = "silent"
	}
	n.mu.Lock()
	var others []*conn
	if n.findLocked(p.id) == p {
		others = n.othersLocked(p)
	}
	p.conn = nil
	p.moveLocked(to)
	closed := n.closed
	n.mu.Unlock()
	if closed {
		return
	}
	for _, other := range others {
		other.close(errNotes)
	}
	n.opts.Observer.PeerLost(why)
	n.opts.Log.Info("connection to another replica ended", "peer", c.peer.ID, "address", p.addr, "why", why, "error", err)
}

// errNotes ends the connections to other addresses of a replica when the one that carried the notes
// has ended. The replica may have accepted them earlier than that one. It would take notes on them
// for outdated ones. They are dialled again.
var errNotes = errors.New("cluster: the connection that carried the notes has ended")

// othersLocked returns the connections to other addresses of a peer's replica.
func (n *Node) othersLocked(p *peer) (others []*conn) {
	for _, other := range n.peers {
		if other != p && other.id == p.id && other.state == peerUp {
			others = append(others, other.conn)
		}
	}
	return others
}

// failed notes a failed attempt. A nil error means that connected has noted it.
func (p *peer) failed(err error) {
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		p.attempts++
		p.refused = errors.Is(err, syscall.ECONNREFUSED)
		p.incompatible = isIncompatible(err)
		p.problem = shownError(err)
		n.changedLocked()
	}
	if !p.self && p.state != peerGone {
		n.log.Log(slog.LevelWarn, p.addr, "another replica cannot be reached", "address", p.addr, "problem", p.problem)
	}
}

// isIncompatible reports whether the other side refused the version of the protocol.
func isIncompatible(err error) bool {
	const noApplicationProtocol = tls.AlertError(120)
	var alert tls.AlertError
	return errors.As(err, &alert) && alert == noApplicationProtocol || strings.Contains(err.Error(), "no application protocol")
}

// shownError explains an error of a dial to operators.
func shownError(err error) string {
	var alert tls.AlertError
	var notTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &notTLS):
		return "no replica answers there, but something that does not speak TLS"
	case isIncompatible(err):
		return "it speaks another version of the peer protocol"
	case errors.Is(err, errStranger), errors.As(err, &alert), strings.Contains(err.Error(), "remote error: tls"):
		return "it has another cluster.secret"
	case errors.Is(err, context.DeadlineExceeded):
		return "it did not answer in time"
	}
	return err.Error()
}

func (p *peer) isSelf() bool {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	return p.self
}

// expireLocked declares a peer gone that no book lists and that cannot be reached.
func (p *peer) expireLocked(now time.Time) {
	if !p.listed && p.state != peerUp && now.Sub(p.listedAt) > goneAfter && now.Sub(p.since) > goneAfter {
		p.forgotten = p.moveLocked(peerGone) && !p.refused
	}
}

// removed removes a peer that is gone and that no book lists.
func (p *peer) removed() bool {
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || p.state == peerGone && !p.listed {
		n.forgetLocked(p)
		delete(n.peers, p.addr)
		n.changedLocked()
		return true
	}
	return false
}

// dialled is a connection that this replica dialled. It implements connEvents.
type dialled struct {
	p    *peer
	done chan error // 1: ended is called once
}

func (d *dialled) opened(s *Stream)   { _ = s.Close() } // never: only the dialling side opens streams
func (d *dialled) noted(byte, []byte) {}
func (d *dialled) ended(err error)    { d.done <- err }
func (d *dialled) answered(took time.Duration, clock int64) {
	n, p := d.p.n, d.p
	n.mu.Lock()
	p.roundTrip = took
	if now := time.Now(); clock != 0 && (p.clock.at.IsZero() || took <= p.clock.roundTrip || now.Sub(p.clock.at) > clockAge) {
		p.clock = clockSample{clock - (now.Sub(n.made) - took/2).Microseconds(), took, now}
	}
	n.mu.Unlock()
	n.opts.Observer.RoundTrip(took)
}

// noteAloneLocked logs when the book has led to no replica but this one.
func (n *Node) noteAloneLocked() {
	if n.lookups == 0 {
		return
	}
	for _, p := range n.peers {
		if !p.self { // there is another one, or may be
			n.alone = false
			return
		}
	}
	if n.alone {
		return
	}
	n.alone = true
	level := slog.LevelInfo // others may start later
	if n.opts.Fixed {
		level = slog.LevelWarn
	}
	n.opts.Log.Log(n.ctx, level, "cluster.peers leads to no replica but this one")
}
