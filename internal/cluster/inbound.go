package cluster

import (
	"errors"
	"log/slog"
	"net"
	"time"
)

const (
	// maxUnproven limits the connections that have not proved yet that they know the secret.
	maxUnproven = 64
	// acceptPause follows an error of Accept.
	acceptPause = 100 * time.Millisecond
)

// inbound is a connection that another replica dialled. It implements connEvents.
type inbound struct {
	n    *Node
	conn *conn
}

// serve accepts connections of other replicas until the Node is closed.
func (n *Node) serve(ln net.Listener) {
	strangers := make(chan struct{}, maxUnproven)
	for {
		select { // those beyond wait in the kernel's queue
		case strangers <- struct{}{}:
		case <-n.ctx.Done():
			return
		}
		nc, err := ln.Accept()
		if err != nil {
			<-strangers
			if n.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			n.log.Log(slog.LevelWarn, "accept", "a connection to the peer port could not be accepted", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		n.task(func() { // ends with the handshake
			defer func() { <-strangers }()
			n.welcome(nc)
		})
	}
}

// welcome makes the handshake with whoever dialled.
func (n *Node) welcome(nc net.Conn) {
	c, err := connect(n.ctx, nc, n.keys.Load(), n.hello(), false)
	if err != nil {
		n.log.Log(slog.LevelInfo, "stranger", "a connection to the peer port was refused",
			"address", nc.RemoteAddr().String(), "problem", shownError(err))
		return
	}
	if c.peer.ID == n.opts.ID || c.peer.Name != n.opts.Name {
		c.socket.Close() // the dialling side says why
		return
	}
	in := &inbound{n, c}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.socket.Close()
		return
	}
	n.inbound[in] = struct{}{}
	if c.peer.Advertise != "" && n.findLocked(c.peer.ID) == nil { // it may know more than the book here
		n.learnLocked(Entry{ID: c.peer.ID, Addr: c.peer.Advertise}, time.Now())
	}
	c.start(in) // with mu held, so that tick finds only what has started
}

func (in *inbound) opened(s *Stream) {
	go in.n.opts.Serve(s) // ends when the stream is served
}

func (in *inbound) noted(kind byte, about []byte) { in.n.opts.Noted(kind, about) }

func (in *inbound) answered(time.Duration) {}

func (in *inbound) ended(error) {
	in.n.mu.Lock()
	defer in.n.mu.Unlock()
	delete(in.n.inbound, in)
	if p := in.n.findLocked(in.conn.peer.ID); p != nil && p.state != peerUp {
		p.retry()
	}
}
