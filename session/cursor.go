package session

import "github.com/holdfast/holdfast/buffer"

// Cursor is a client's place in a session's log. A cursor that has lost its session to another
// client has no effect.
type Cursor struct {
	s     *Session
	owner Owner
	// Guarded by s.mu.
	sent    uint64  // the last packet that Read passed
	checked uint64  // sent, at the last Unanswered
	replay  *replay // nil unless the client resumed
}

// replay is what a Cursor that resumed does differently.
type replay struct {
	to     uint64 // the last packet that was in the log then
	skipTo uint64 // AckRequested packets up to here may have arrived and are not sent again
}

// replayTo returns the last packet that was in the log when the client resumed.
func (c *Cursor) replayTo() uint64 {
	if c.replay == nil {
		return 0
	}
	return c.replay.to
}

// skipTo returns up to where AckRequested packets may have arrived and are not sent again.
func (c *Cursor) skipTo() uint64 {
	if c.replay == nil {
		return 0
	}
	return c.replay.skipTo
}

// Session returns the session that the cursor is on.
func (c *Cursor) Session() *Session { return c.s }

// Owner returns the client that the cursor belongs to.
func (c *Cursor) Owner() Owner { return c.owner }

// Attached reports whether the cursor has the session, and the session is live.
func (c *Cursor) Attached() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.cursor == c && c.s.state == Live
}

// ReadPaused reports whether the link is paused because of what this client has not confirmed.
func (c *Cursor) ReadPaused() bool {
	if !c.s.readPaused.Load() {
		return false
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.cursor == c && c.s.readPaused.Load()
}

// Emitter gets the packets that Cursor.Read reads.
type Emitter interface {
	// Emit takes a packet, which is valid only during the call. The offset is zero unless the
	// packet is WithOffset and its client knows of offsets. replayed says that the packet was in
	// the log before the client resumed. Emit returns false to stop after this packet. The
	// session's lock is held, so it must not call back.
	Emit(p *buffer.Entry, offset Offset, replayed bool) bool
}

// Read passes the next packets to e, at most n. It returns how many sequence numbers it passed, and
// the last of them. These include packets it left out because they were dropped, or may have
// arrived before. replayDone says that this call completed the replay.
func (c *Cursor) Read(n int, e Emitter) (passed int, last uint64, replayDone bool) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return 0, 0, false
	}
	replayTo, skipTo, end := c.replayTo(), c.skipTo(), s.log.Last()
	replaying, keyed := c.sent < replayTo, s.keyed
	for passed < n && c.sent < end {
		c.sent++
		passed++
		if c.sent <= s.log.Trimmed() {
			continue // Acknowledged said that the client had it before it resumed
		}
		p := s.log.At(c.sent)
		var offset Offset
		if kind := p.Kind(); kind == buffer.WithOffset { // almost all packets
			if keyed == nil {
				offset = Offset{s.tag, c.sent}
			}
		} else if kind != buffer.NoOffset && !c.sendsLocked(p, skipTo) {
			continue
		}
		if !e.Emit(p, offset, c.sent <= replayTo) {
			break
		}
	}
	s.log.sent = max(s.log.sent, c.sent)
	last = c.sent
	if s.state == Closed {
		s.endedInFlight = s.endedInFlight || passed > 0
		s.dropSentLocked()
	}
	return passed, last, replaying && c.sent >= replayTo
}

// sendsLocked reports whether a packet that is no ordinary event is sent at c.sent. s.mu is held.
func (c *Cursor) sendsLocked(p *buffer.Entry, skipTo uint64) bool {
	switch p.Kind() {
	case buffer.Dropped:
		return false
	case buffer.AckRequested:
		return c.sent > skipTo
	case buffer.Answer:
		return !c.s.keyed.answersOther(p)
	case buffer.NoOffset, buffer.WithOffset:
	}
	return true
}

// Confirm says that the client has received all packets up to seq.
func (c *Cursor) Confirm(seq uint64) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == c {
		s.trimLocked(min(seq, c.sent))
		s.endedInFlight = s.endedInFlight && seq < c.sent
	}
}

// Acknowledged says that the client answered the event with this acknowledgement id. So the event
// and all packets before it have arrived, perhaps before the client resumed. Read then skips them.
func (c *Cursor) Acknowledged(id int64) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c || s.log.ackRequested == 0 {
		return
	}
	for i := s.log.Trimmed() + 1; i <= s.log.sent; i++ {
		if p := s.log.At(i); p.Kind() == buffer.AckRequested && p.AckID() == id {
			s.trimLocked(i)
			return
		}
	}
}

// Unanswered looks for an AckRequested packet that was sent to the client and is not confirmed.
// pending reports whether there is one, and overdue whether it was there at the last call.
func (c *Cursor) Unanswered() (pending, overdue bool) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c || s.log.ackRequested == 0 {
		return false, false
	}
	checked := c.checked
	c.checked = c.sent
	for i := max(s.log.Trimmed(), c.skipTo()) + 1; i <= c.sent; i++ {
		if s.log.At(i).Kind() == buffer.AckRequested {
			return true, i <= checked
		}
	}
	return false, false
}

// Forward calls send, which passes a packet from the client to the link, if the client has the
// session. No other client can resume the session before send returns, so their packets stay in
// order. send must not call back.
func (c *Cursor) Forward(send func()) bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.cursor != c || c.s.state != Live {
		return false
	}
	c.s.heard = true
	send()
	return true
}

// Idle frees memory that the session keeps for its next packets.
func (c *Cursor) Idle() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.cursor == c {
		c.s.log.Idle()
	}
}

// detach takes the client off its session. It returns false if the client does not have it.
func (c *Cursor) detach() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	had := c.s.cursor == c
	if had {
		c.s.cursor = nil
	}
	return had
}
