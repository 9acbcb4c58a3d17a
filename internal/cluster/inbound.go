package cluster

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"
)

// acceptPause follows an error of Accept.
const acceptPause = 100 * time.Millisecond

// inbound is a connection that another replica dialled. It implements connEvents.
type inbound struct {
	n      *Node
	conn   *conn
	number uint64 // immutable, like the others
}

// serve accepts connections of other replicas until the Node is closed.
func (n *Node) serve(ln net.Listener) {
	var pending unverifiedConns
	for {
		nc, err := ln.Accept()
		if err != nil {
			if n.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			n.log.Log(slog.LevelWarn, "accept", "a connection to the peer port could not be accepted", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		s := pending.admit(nc)
		n.task(func() { // ends with the handshake
			n.handshake(s, &pending)
		})
	}
}

// refusal explains to operators why a connection was refused.
func refusal(err error) string {
	if _, notTLS := errors.AsType[tls.RecordHeaderError](err); notTLS {
		return "it does not speak TLS"
	}
	return shownError(err)
}

// handshake makes the handshake with the side that dialled.
func (n *Node) handshake(s *unverifiedConn, pending *unverifiedConns) {
	c, err := connect(n.ctx, s, n.keys.Load(), n.who, false)
	pending.leave(s)
	if err != nil {
		n.log.Log(slog.LevelInfo, "unverified", "a connection to the peer port was refused",
			"address", s.RemoteAddr().String(), "problem", refusal(err))
		return
	}
	c.socket.Conn = s.Conn // it is authenticated now
	if c.peer.ID == n.opts.ID || c.peer.Name != n.opts.Name {
		c.socket.Close() // the dialling side says why
		return
	}
	c.clock = n.opts.Clock
	in := &inbound{n: n, conn: c}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.socket.Close()
		return
	}
	n.accepted++
	in.number = n.accepted
	n.inbound[in] = struct{}{}
	// It may know more than the book here.
	if c.peer.Advertise != "" && n.findLocked(c.peer.ID) == nil {
		n.learnLocked(Entry{ID: c.peer.ID, Addr: c.peer.Advertise}, time.Now())
	}
	c.start(in) // with mu held, so that tick finds only what has started
}

func (in *inbound) opened(s *Stream) {
	go in.n.opts.Serve(s) // ends when the stream is served
}

func (in *inbound) noted(kind byte, about []byte) {
	in.n.opts.Noted(Sender{in.conn.peer.ID, in.number}, kind, about)
}

func (in *inbound) answered(time.Duration, int64) {}

func (in *inbound) ended(error) {
	in.n.mu.Lock()
	defer in.n.mu.Unlock()
	delete(in.n.inbound, in)
	if p := in.n.findLocked(in.conn.peer.ID); p != nil && p.state != peerUp {
		p.retry()
	}
}
