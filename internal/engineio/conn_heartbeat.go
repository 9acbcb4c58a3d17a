package engineio

import "time"

// ponger is the state of a Conn's heartbeat. The Conn's mu guards it.
type ponger struct {
	timer *time.Timer // fires when the server has been silent for too long; nil before Start
	// lastSign is when the last ping came, in version 3 the last pong, or when reading was resumed.
	lastSign time.Time
	// lastPong is when the last pong was sent. An interval later the server's next ping is due. In
	// version 3 it is when the last ping was sent.
	lastPong time.Time

	clock *time.Timer // sends a ping in each interval, in version 3; nil in version 4

	// While reading is paused, a ping may wait behind unread data. Its pong is sent early, when the
	// ping must be due. When the ping is read, it gets no second one.
	earlyTimer  *time.Timer
	sentEarly   int  // pongs sent before their pings were read
	mayBeUnread bool // reading has been paused since lastPong

	// What the server had taken when the timer last fired with bytes queued and reading paused; or
	// unknown.
	takenAtCheck int64

	frozen bool // the timers do nothing; see Conn.Freeze
}

// stopLocked stops the timers. It reports whether they were started.
func (p *ponger) stopLocked() (started bool) {
	for _, t := range []*time.Timer{p.earlyTimer, p.clock, p.timer} {
		if t != nil {
			t.Stop()
		}
	}
	return p.timer != nil
}

// answeredEarlyLocked reports whether a ping that was just read already has its pong.
func (p *ponger) answeredEarlyLocked() bool {
	if p.sentEarly == 0 {
		return false
	}
	p.sentEarly--
	return true
}

// pingDueLocked reports whether the server must have sent another ping since the last pong.
func (p *ponger) pingDueLocked(interval time.Duration) bool {
	return time.Until(p.lastPong.Add(interval)) <= 0
}

// stuckLocked reports whether the server has taken nothing since the last call, though bytes were
// queued then and now.
func (p *ponger) stuckLocked(queued int, taken int64) bool {
	before := p.takenAtCheck
	p.takenAtCheck = unknown
	if queued == 0 {
		return false
	}
	p.takenAtCheck = taken
	return taken == before
}

// silence is how long a live server can go without a ping.
func (c *Conn) silence() time.Duration {
	return c.handshake.interval() + c.handshake.timeout()
}

func (c *Conn) startHeartbeatLocked() {
	c.pongs.lastSign = time.Now()
	c.pongs.takenAtCheck = unknown
	c.pongs.timer = c.afterFunc(c.silence(), (*Conn).onSilenceLocked)
	if c.protocol == V3 {
		first := c.pongs.lastPong.Add(c.handshake.interval()) // lastPong is when OPEN came
		c.pongs.clock = c.afterFunc(max(0, time.Until(first)), (*Conn).onClockLocked)
	}
}

// onClockLocked sends a ping, in version 3. It does not wait for the pong of the previous one,
// which may be unread: python-engineio ends a connection whose ping is 5 seconds late.
func (c *Conn) onClockLocked() {
	if c.state.ended() {
		return
	}
	if c.pongs.frozen {
		c.pongs.clock.Reset(frozenRetry)
		return
	}
	c.pongs.lastPong = time.Now()
	c.pongs.clock.Reset(c.handshake.interval())
	c.sendPacketLocked(Ping)
}

// armEarlyPongLocked schedules a pong for the ping that must be unread by then.
func (c *Conn) armEarlyPongLocked() {
	due := max(0, time.Until(c.pongs.lastPong.Add(c.handshake.interval()+c.pongMargin())))
	if c.pongs.earlyTimer == nil {
		c.pongs.earlyTimer = c.afterFunc(due, (*Conn).onEarlyPongLocked)
	} else {
		c.pongs.earlyTimer.Reset(due)
	}
}

// pongMargin is how long after a ping is due its pong is sent early. By then the server has sent
// the ping, even if it is a little late.
func (c *Conn) pongMargin() time.Duration { return c.handshake.timeout() / 4 }

func (c *Conn) onEarlyPongLocked() {
	p := &c.pongs
	if c.state.ended() || !p.mayBeUnread || p.frozen {
		return
	}
	if p.pingDueLocked(c.handshake.interval()) {
		p.sentEarly++
		c.sendPongLocked()
		p.mayBeUnread = c.readPaused
	}
	if p.mayBeUnread {
		c.armEarlyPongLocked()
	}
}

// onPong handles a pong. Version 4 has none.
func (c *Conn) onPong() {
	if c.protocol == V3 {
		c.mu.Lock()
		c.pongs.lastSign = time.Now()
		c.mu.Unlock()
	}
}

// onPing answers a ping, unless its pong was sent early. In version 3 servers do not ping, but
// netty-socketio does; a pong would mean nothing to it.
func (c *Conn) onPing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.pongs
	p.lastSign = time.Now()
	if c.protocol == V3 || p.answeredEarlyLocked() {
		return
	}
	c.sendPongLocked()
	p.mayBeUnread = c.readPaused
}

func (c *Conn) sendPongLocked() {
	if c.state.ended() {
		return
	}
	c.pongs.lastPong = time.Now()
	c.sendPacketLocked(Pong)
}

// sendPacketLocked sends a packet without data.
func (c *Conn) sendPacketLocked(t PacketType) {
	if c.ws == nil {
		c.poll.queue.add(t, nil)
		c.poll.startPostsLocked()
		return
	}
	c.encoderLocked().packet(t, nil, nil, nil)
	c.flushLocked()
}

// onSilenceLocked closes the Conn if the server must be dead. Otherwise it arms the timer again.
// While reading is paused, pings may be there, unread. The only sign of a dead server is then that
// it takes nothing of what is queued.
func (c *Conn) onSilenceLocked() {
	if c.state.ended() || c.pongs.frozen {
		return
	}
	left := c.silence() - time.Since(c.pongs.lastSign)
	stuck := false
	if c.readPaused {
		left = c.silence()
		stuck = c.pongs.stuckLocked(c.progressLocked())
	} else {
		c.pongs.takenAtCheck = unknown
	}
	if stuck || left <= 0 {
		c.endLocked(ErrSilent, (*wsLink).close)
		return
	}
	c.pongs.timer.Reset(left)
}

// progressLocked returns how many bytes wait for the server, and how many it has taken so far.
func (c *Conn) progressLocked() (queued int, taken int64) {
	if c.ws != nil {
		return c.ws.stream.Queued(), c.ws.stream.Delivered()
	}
	return c.poll.queue.bytes, c.poll.queue.taken
}
