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
//	drainingPolls -> drainingPosts  the poll in progress has ended; no further POST starts. Until
//	                                then a POST may cause the answer that ends the poll.
//	drainingPosts -> done           the POST in progress has ended, and UPGRADE is sent; terminal
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

// upgrade moves a polling Conn to WebSocket. The goroutine that runs it owns it. Its state is that
// of the pollingLink.
type upgrade struct {
	conn    *Conn
	socket  net.Conn // a WebSocket on which the server has answered the probe
	initial []byte   // read after the answer
}

func (u *upgrade) run() {
	c := u.conn
	if err := u.probe(); err != nil {
		c.mu.Lock()
		c.poll.failUpgradeLocked()
		c.mu.Unlock()
		u.reportFailed(err)
		return
	}
	if !u.moveTransport() {
		u.socket.Close()
		u.reportFailed(errUpgradeTimeout)
		return
	}
	c.h.Drained()
}

// reportFailed calls Dialer.UpgradeFailed, unless the Conn has ended.
func (u *upgrade) reportFailed(err error) {
	if f := u.conn.dialer.UpgradeFailed; f != nil && !u.conn.state.ended() {
		f(err)
	}
}

// probe opens a WebSocket to upgrade to, and waits for the answer to a probe.
func (u *upgrade) probe() error {
	c := u.conn
	ctx, cancel := context.WithTimeout(c.poll.ctx, c.dialer.Timeout)
	defer cancel()
	r := c.dialed.request
	r.RawQuery, r.head = laterQuery(r.RawQuery, "websocket", c.handshake.SID, ""), ""
	d, err := openWebSocket(ctx, c.dialer, r)
	if err != nil {
		return err
	}
	c.frames = frameReader{}
	e := newEncoder(clientFrames)
	e.packet(Ping, []byte("probe"), nil, nil)
	_, err = d.conn.Write(e.buf) // a few bytes on a new connection do not block
	e.free()
	if err == nil {
		u.initial, err = d.readUntil((*wsLink)(c), func(p Packet) (bool, error) {
			return p.Type == Pong && string(p.Data) == "probe", nil
		})
	}
	if err = d.finish(err); err != nil {
		return err
	}
	u.socket = d.conn
	return nil
}

// moveTransport makes the WebSocket the transport. It returns false if polling continues, or the
// Conn has ended.
func (u *upgrade) moveTransport() bool {
	c, l := u.conn, u.conn.poll
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.afterFunc(c.dialer.Timeout, func(c *Conn) { c.poll.failUpgradeLocked() }).Stop()
	l.drainLocked(upgradeDrainingPolls, &l.polling)
	l.drainLocked(upgradeDrainingPosts, &l.posting)
	alive := false
	c.withoutLock(func() { alive = u.alive() })
	if c.state.ended() {
		return false
	}
	if !alive {
		l.failUpgradeLocked()
	}
	if l.upgrade == upgradeFailed {
		l.resumeLocked()
		return false
	}
	u.adoptLocked()
	return true
}

// alive reports whether the server has not ended the WebSocket since the probe: some servers allow
// little time for an upgrade.
func (u *upgrade) alive() bool {
	var buf [512]byte
	// With a deadline in the past, Read would not even try.
	u.socket.SetReadDeadline(time.Now().Add(time.Millisecond))
	n, err := u.socket.Read(buf[:])
	u.socket.SetReadDeadline(time.Time{})
	u.initial = append(u.initial, buf[:n]...)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	var r frameReader
	_, err = r.feed(slices.Clone(u.initial), func(op ws.OpCode, _ []byte) error {
		if op == ws.OpClose {
			return ErrServerClosed
		}
		return nil
	})
	return err == nil
}

func (u *upgrade) adoptLocked() {
	c, l := u.conn, (*wsLink)(u.conn)
	l.stream = netpoll.New(u.socket, l)
	e := newEncoder(clientFrames)
	e.packet(Upgrade, nil, nil, nil)
	l.stream.Write(e.buf)
	e.free()
	c.poll.upgrade.moveLocked(upgradeDone)
	c.ws = l
	c.poll.sendOverLocked(l.stream)
	c.poll.closeConnections()
	if c.readPaused {
		l.stream.Pause()
	}
	l.stream.Start(u.initial)
}

// failUpgradeLocked gives up an upgrade that is not done yet.
func (l *pollingLink) failUpgradeLocked() {
	l.upgrade.moveLocked(upgradeFailed)
	l.changedLocked()
}

// drainLocked moves to a draining state, and waits until the goroutine that the state stops has
// ended. It returns early if the upgrade failed or the Conn ended.
func (l *pollingLink) drainLocked(state upgradeState, running *bool) {
	if !l.upgrade.moveLocked(state) {
		return
	}
	l.changedLocked()
	for *running && l.upgrade == state && !l.conn.state.ended() {
		l.changed.Wait()
	}
}

// resumeLocked continues as if no upgrade had been tried.
func (l *pollingLink) resumeLocked() {
	if !l.polling {
		l.startPollsLocked()
	}
	l.startPostsLocked()
}

// sendOverLocked sends the packets that waited for a POST over a WebSocket.
func (l *pollingLink) sendOverLocked(stream netpoll.Stream) {
	e := newEncoderFor(clientFrames, l.conn.protocol)
	for _, body := range l.queue.takeAll() {
		// This package encoded the bodies, so they decode.
		_ = l.decode(body, func(p Packet) bool {
			if p.Binary {
				e.Binary(p.Data)
			} else {
				e.packet(p.Type, p.Data, nil, nil)
			}
			return true
		})
	}
	if e.packets > 0 {
		stream.Write(e.buf)
	}
	e.free()
}
