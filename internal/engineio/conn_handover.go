package engineio

import (
	"bytes"
	"errors"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// This file moves a Conn to another process. Only a WebSocket that an event loop serves can be
// moved. A polling Conn has a request in flight, and TLS keeps its state inside crypto/tls.

// Freeze stops a Conn: it reads and writes nothing, and its timers do nothing, until Thaw. It
// returns false if the Conn cannot be moved, and then changes nothing. A read that has begun may
// still reach the handler until netpoll.Barrier returns.
func (c *Conn) Freeze() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.ended() || c.ws == nil || c.h == nil {
		return false
	}
	s, ok := c.ws.stream.(netpoll.Freezer)
	if !ok {
		return false
	}
	c.flushLocked()
	if !s.Freeze() {
		return false
	}
	c.pongs.frozen = true
	return true
}

// Export fills in what another process needs of a frozen Conn. The bytes alias the Conn, and are
// valid until Thaw. Call it after netpoll.Barrier. It returns false if the Conn has ended.
func (c *Conn) Export(l *handover.Link) bool {
	c.input.Lock()
	defer c.input.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.ended() || c.frames.outOfSync {
		return false
	}
	c.flushLocked() // to the stream's queue
	e, ok := c.ws.stream.(netpoll.Freezer).Export()
	if !ok {
		return false
	}
	now, p := time.Now(), &c.pongs
	l.FD, l.Initial, l.Queue = e.FD, e.Initial, e.Queue
	l.Handshake = handover.Handshake{
		SID: c.handshake.SID, PingInterval: c.handshake.PingInterval, PingTimeout: c.handshake.PingTimeout,
		MaxPayload: c.handshake.MaxPayload,
	}
	l.Frames = handover.Frames{
		Partial: c.frames.partial, Message: c.frames.message, Op: uint8(c.frames.messageOp), Fragments: c.frames.fragments,
	}
	l.SincePing, l.SincePong = now.Sub(p.lastSign), now.Sub(p.lastPong)
	l.PongsSentEarly, l.PingMayBeUnread = p.sentEarly, p.mayBeUnread
	l.Version3 = c.protocol == V3
	return true
}

// Thaw undoes Freeze.
func (c *Conn) Thaw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pongs.frozen {
		return
	}
	c.pongs.frozen = false
	c.ws.stream.(netpoll.Freezer).Thaw()
	if c.state.ended() { // while the stream ignored it
		c.ws.shutdown()
		return
	}
	if c.readPaused {
		c.ws.stream.Pause()
	}
	c.pongs.timer.Reset(frozenRetry)
	if c.pongs.mayBeUnread {
		c.armEarlyPongLocked()
	}
}

// frozenRetry is how soon the heartbeat of a Conn that was frozen is looked at.
const frozenRetry = 100 * time.Millisecond

// Restore makes a Conn of what another process exported, some time ago. StartRestored starts it.
func (d *Dialer) Restore(l *handover.Link, elapsed time.Duration) (*Conn, error) {
	c, err := d.restored(l, elapsed)
	if err != nil {
		return nil, err
	}
	s, err := netpoll.Adopt(netpoll.Exported{FD: l.FD, Queue: bytes.Clone(l.Queue)}, (*wsLink)(c))
	if err != nil {
		return nil, err
	}
	c.begin(s, bytes.Clone(l.Initial))
	return c, nil
}

// begin gives a restored Conn its stream.
func (c *Conn) begin(s netpoll.Stream, initial []byte) {
	c.dialed = &dialResult{initial: initial}
	c.ws = (*wsLink)(c)
	c.ws.stream = s
}

// restored is Restore without the stream.
func (d *Dialer) restored(l *handover.Link, elapsed time.Duration) (*Conn, error) {
	c := &Conn{dialer: d, handshake: Handshake{
		SID: l.Handshake.SID, PingInterval: l.Handshake.PingInterval, PingTimeout: l.Handshake.PingTimeout,
		MaxPayload: l.Handshake.MaxPayload,
	}}
	if l.Version3 {
		c.protocol = V3
	}
	if c.silence() <= 0 {
		return nil, errors.New("engineio: a snapshot's link has no heartbeat")
	}
	c.frames = frameReader{
		partial: bytes.Clone(l.Frames.Partial), message: bytes.Clone(l.Frames.Message),
		messageOp: ws.OpCode(l.Frames.Op), fragments: l.Frames.Fragments,
	}
	now := time.Now()
	c.pongs.lastSign, c.pongs.lastPong = now.Add(-l.SincePing-elapsed), now.Add(-l.SincePong-elapsed)
	c.pongs.sentEarly, c.pongs.mayBeUnread = l.PongsSentEarly, l.PingMayBeUnread
	return c, nil
}

// StartRestored starts a Conn that Restore has made. The next read accounts for a message that has
// arrived in part: its handler may Pause the Conn, which is locked here.
func (c *Conn) StartRestored(h ConnHandler) {
	defer recoverPanic(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.h = h
	if c.state.ended() {
		c.reportClosedLocked() // there was no handler before
		return
	}
	lastSign, p := c.pongs.lastSign, &c.pongs
	c.startHeartbeatLocked()
	p.lastSign = lastSign
	p.timer.Reset(max(frozenRetry, c.silence()-time.Since(lastSign)))
	if p.mayBeUnread {
		c.armEarlyPongLocked()
	}
	initial := c.dialed.initial
	c.dialed = nil
	c.ws.stream.Start(initial)
}
