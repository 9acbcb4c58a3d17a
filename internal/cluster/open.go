package cluster

import (
	"context"
	"fmt"
	"time"
)

// Open opens a stream to the replica with this id. It waits for at most two seconds if the replica
// is not connected. kind and about are what the replica's Serve gets.
func (n *Node) Open(ctx context.Context, id string, kind byte, about []byte) (*Stream, error) {
	return n.OpenWith(ctx, id, kind, about, nil, false)
}

// OpenWith is Open for a stream that begins with first, of MaxFirst bytes at most. They are sent
// together. With end nothing follows, as after CloseWrite.
func (n *Node) OpenWith(ctx context.Context, id string, kind byte, about, first []byte, end bool) (*Stream, error) {
	if n := max(len(about)-MaxAbout, len(first)-MaxFirst); n > 0 {
		return nil, fmt.Errorf("%w: a request has %d bytes too many", ErrUnreachable, n)
	}
	var s *Stream
	err := n.await(ctx, id, func(p *peer) bool {
		s = p.conn.open(kind, about, first, end)
		return s != nil
	})
	return s, err
}

// Await waits until the replica with this id is connected, as Open does.
func (n *Node) Await(ctx context.Context, id string) error {
	return n.await(ctx, id, func(*peer) bool { return true })
}

// await waits until try succeeds with a connected replica, for at most two seconds. n.mu is held
// while try is called.
func (n *Node) await(ctx context.Context, id string, try func(p *peer) bool) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	asked := -1 // lookups when this call asked for one
	for {
		n.mu.Lock()
		p := n.findLocked(id)
		if p != nil && p.state == peerUp && try(p) {
			n.mu.Unlock()
			return nil
		}
		if p == nil && asked < 0 {
			asked = n.lookups
			n.refresh()
		}
		err := n.hopelessLocked(p, id, asked)
		changed := n.changed
		n.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return n.verdict(id)
		}
	}
}

// refresh asks the book soon.
func (n *Node) refresh() {
	select {
	case n.lookup <- struct{}{}:
	default: // it will be asked anyway
	}
}

// hopelessLocked returns why waiting for a replica is useless, or nil. p is its peer, or nil. asked
// is the value of n.lookups when the caller asked the book for it.
func (n *Node) hopelessLocked(p *peer, id string, asked int) error {
	now := time.Now()
	_, gone := n.gone[id]
	switch {
	case n.closed, gone, p != nil && p.state == peerGone:
		return ErrGone
	case p != nil && p.incompatible:
		return ErrIncompatible
	case p != nil && n.deadLocked(p, now) && now.Sub(p.since) > deadAfter:
		return ErrGone
	case p != nil:
		return nil
	case asked == n.lookups:
		return nil // the book has not answered yet
	}
	for _, other := range n.peers { // a peer without an id may be this replica
		if other.id == "" && !other.self && now.Sub(other.since) < openTimeout {
			return nil
		}
	}
	return ErrGone
}

// verdict returns why a replica could not be reached in time.
func (n *Node) verdict(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.findLocked(id)
	switch {
	case p == nil, n.deadLocked(p, time.Now()):
		return ErrGone
	case p.incompatible:
		return ErrIncompatible
	default:
		return ErrUnreachable
	}
}

// deadLocked reports whether nothing listens at a peer's address, and nothing is expected to.
func (n *Node) deadLocked(p *peer, now time.Time) bool {
	if !p.refused || p.state == peerUp {
		return false
	}
	expected := n.opts.Expected != nil && n.opts.Expected(p.id)
	return !expected || now.Sub(p.since) > expectedFor
}
