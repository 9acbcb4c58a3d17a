package engineio

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// upgradeState is how far a polling Conn has come with its upgrade to WebSocket. It implements the
// client side of Engine.IO protocol v4, "Upgrade":
//
//	none          -> probing        Start, if the server offers the upgrade
//	probing       -> drainingPolls  the server answered the probe; no further poll starts
//	drainingPolls -> drainingPosts  the poll under way has ended; no further POST starts. Until
//	                                then a POST may cause the answer that ends the poll.
//	drainingPosts -> done           the POST under way has ended, and UPGRADE is sent; terminal
//	probing, draining... -> failed  an error or a timeout; polling continues; terminal
type upgradeState uint8

const (
	upgradeNone upgradeState = iota
	upgradeProbing
	upgradeDrainingPolls
	upgradeDrainingPosts
	upgradeDone
	upgradeFailed
)

var upgradeStateNames = [...]string{"none", "probing", "drainingPolls", "drainingPosts", "done", "failed"}

// String implements fmt.Stringer.
func (u upgradeState) String() string { return nameOf(upgradeStateNames[:], u) }

// stopsPolls reports whether no further poll may start.
func (u upgradeState) stopsPolls() bool { return u >= upgradeDrainingPolls && u <= upgradeDone }

// stopsPosts reports whether no further POST may start.
func (u upgradeState) stopsPosts() bool { return u == upgradeDrainingPosts || u == upgradeDone }

// moveLocked is the only place where an upgradeState changes. It reports whether the transition
// exists: a timeout may come when the upgrade is done.
func (u *upgradeState) moveLocked(to upgradeState) bool {
	ok := to == *u+1 && to != upgradeFailed ||
		to == upgradeFailed && *u >= upgradeProbing && *u <= upgradeDrainingPosts
	if ok {
		*u = to
	}
	return ok
}

var errUpgradeTimeout = errors.New("engineio: the server did not end its poll in time, or ended the WebSocket")

// upgradeTransport moves the Conn to WebSocket.
func (c *Conn) upgradeTransport() {
	p, err := c.probe()
	if err != nil {
		c.failUpgrade()
		c.reportUpgradeFailed(err)
		return
	}
	if !c.moveTo(p) {
		p.conn.Close()
		c.reportUpgradeFailed(errUpgradeTimeout)
		return
	}
	c.h.Drained()
}

func (c *Conn) failUpgrade() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failUpgradeLocked()
}

func (c *Conn) failUpgradeLocked() {
	c.poll.upgrade.moveLocked(upgradeFailed)
	c.poll.changedLocked()
}

// reportUpgradeFailed calls Dialer.UpgradeFailed, unless the Conn has ended.
func (c *Conn) reportUpgradeFailed(err error) {
	if f := c.dialer.UpgradeFailed; f != nil && !c.state.ended() {
		f(err)
	}
}

// moveTo makes a WebSocket that answered the probe the transport.
func (c *Conn) moveTo(p *probedSocket) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.afterFunc(c.dialer.Timeout, (*Conn).failUpgradeLocked).Stop()
	c.drainLocked(upgradeDrainingPolls, &c.poll.polling)
	c.drainLocked(upgradeDrainingPosts, &c.poll.posting)
	alive := false
	c.withoutLock(func() { alive = p.alive() })
	if c.state.ended() {
		return false
	}
	if !alive {
		c.failUpgradeLocked()
	}
	if c.poll.upgrade == upgradeFailed {
		c.resumePollingLocked()
		return false
	}
	c.adoptWebSocketLocked(p)
	return true
}

// drainLocked moves to a draining state, and waits until the goroutine that the state stops has
// ended. It returns early if the upgrade failed or the Conn ended.
func (c *Conn) drainLocked(state upgradeState, running *bool) {
	if !c.poll.upgrade.moveLocked(state) {
		return
	}
	c.poll.changedLocked()
	for *running && c.poll.upgrade == state && !c.state.ended() {
		c.poll.changed.Wait()
	}
}

func (c *Conn) adoptWebSocketLocked(p *probedSocket) {
	p.link.stream = netpoll.New(p.conn, p.link)
	e := newEncoder(clientFrames)
	e.packet(Upgrade, nil, nil, nil)
	p.link.stream.Write(e.buf)
	e.free()
	c.poll.upgrade.moveLocked(upgradeDone)
	c.ws = p.link
	c.flushBodiesLocked()
	c.poll.closeConnections()
	if c.readPaused {
		c.ws.stream.Pause()
	}
	c.ws.stream.Start(p.initial)
}

// resumePollingLocked continues as if no upgrade had been tried.
func (c *Conn) resumePollingLocked() {
	if !c.poll.polling {
		c.startPollLoopLocked()
	}
	c.startPostLocked()
}

// flushBodiesLocked sends the bodies that waited for a POST over the WebSocket.
func (c *Conn) flushBodiesLocked() {
	e := newEncoderFor(clientFrames, c.protocol)
	for _, body := range c.poll.bodies {
		// This package encoded the bodies, so they decode.
		_ = c.decodePayload(body, func(p Packet) bool {
			if p.Binary {
				e.Binary(p.Data)
			} else {
				e.packet(p.Type, p.Data, nil, nil)
			}
			return true
		})
	}
	c.poll.bodies, c.poll.bytes = nil, 0
	if e.packets > 0 {
		c.ws.stream.Write(e.buf)
	}
	e.free()
}

// probedSocket is a WebSocket on which the server answered a probe.
type probedSocket struct {
	conn    net.Conn
	link    *wsLink // has no stream yet
	initial []byte  // read after the answer
}

// alive reports whether the server has not ended the WebSocket since the probe: some servers allow
// little time for an upgrade.
func (p *probedSocket) alive() bool {
	var buf [512]byte
	p.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // with one in the past, Read would not even try
	n, err := p.conn.Read(buf[:])
	p.conn.SetReadDeadline(time.Time{})
	p.initial = append(p.initial, buf[:n]...)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	var r frameReader
	_, err = r.feed(slices.Clone(p.initial), func(op ws.OpCode, _ []byte) error {
		if op == ws.OpClose {
			return ErrServerClosed
		}
		return nil
	})
	return err == nil
}

// probe opens a WebSocket to upgrade to, and waits for the answer to a probe.
func (c *Conn) probe() (*probedSocket, error) {
	ctx, cancel := context.WithTimeout(c.poll.ctx, c.dialer.Timeout)
	defer cancel()
	query := laterQuery(c.dialed.request.RawQuery, "websocket", c.handshake.SID, "")
	d, err := c.openWebSocket(ctx, query)
	if err != nil {
		return nil, err
	}
	c.frames = frameReader{}
	p := &probedSocket{conn: d.conn, link: (*wsLink)(c)}
	e := newEncoder(clientFrames)
	e.packet(Ping, []byte("probe"), nil, nil)
	_, err = d.conn.Write(e.buf) // a few bytes on a new connection do not block
	e.free()
	if err == nil {
		p.initial, err = d.readUntil(p.link, func(p Packet) (bool, error) {
			return p.Type == Pong && string(p.Data) == "probe", nil
		})
	}
	if err = d.finish(err); err != nil {
		return nil, err
	}
	return p, nil
}
