package session

import (
	"github.com/holdfast/holdfast/buffer"
)

// Cursor is a client's place in a session's log. All but the session's present
// cursor are without effect, so that a client that lost the session to another needs no care.
type Cursor struct {
	s     *Session
	owner Owner
	// Guarded by s.mu.
	sent     uint64
	skipTo   uint64 // AckRequested packets up to here may have arrived, and are not sent again
	replayTo uint64 // what was in the log when the client resumed
	checked  uint64 // sent, at the last Unanswered
}

// Session is the session that the cursor is on.
func (c *Cursor) Session() *Session { return c.s }

// Owner is the client that the cursor belongs to.
func (c *Cursor) Owner() Owner { return c.owner }

// Attached reports whether this is the session's present cursor and the session is open.
func (c *Cursor) Attached() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.cursor == c && c.s.state == Live
}

// Held reports whether the link is not read because of what this client has not confirmed.
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
	// Emit gets a packet, valid during the call only. The offset is zero unless the packet is WithOffset. replayed
	// says that the packet was there before the client. It returns false to read no further. It is called with
	// the session's lock held, and must not call back.
	Emit(p *buffer.Entry, offset Offset, replayed bool) bool
}

// Read gives the next packets, n at most, to e. It returns how many packets it has passed, with those left out because they
// were dropped, or have or may have arrived before; the number of the last; and whether the replay is complete with this.
func (c *Cursor) Read(n int, e Emitter) (passed int, last uint64, replayDone bool) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return 0, 0, false
	}
	replaying := c.sent < c.replayTo
	end := s.log.Last()
	for passed < n && c.sent < end {
		c.sent++
		passed++
		if c.sent <= s.log.Trimmed() {
			continue // the client answered an event that it had from before the reconnection
		}
		p := s.log.At(c.sent)
		if p.Kind() == buffer.Dropped || p.Kind() == buffer.AckRequested && c.sent <= c.skipTo {
			continue
		}
		var offset Offset
		if p.Kind() == buffer.WithOffset {
			offset = Offset{s.tag, c.sent}
		}
		if !e.Emit(p, offset, c.sent <= c.replayTo) {
			break
		}
	}
	s.sent = max(s.sent, c.sent)
	last = c.sent
	if s.state == Closed {
		s.dropSentLocked()
	}
	return passed, last, replaying && c.sent >= c.replayTo
}

// Confirm says that all packets up to seq have arrived at the client.
func (c *Cursor) Confirm(seq uint64) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == c {
		s.trimLocked(min(seq, c.sent))
	}
}

// Acknowledged says that the client answered the event with this acknowledgement id: so it has arrived, and all before
// it. The client may have had it before it resumed: then Read passes over them.
func (c *Cursor) Acknowledged(id int64) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c || s.ackRequested == 0 {
		return
	}
	for i := s.log.Trimmed() + 1; i <= s.sent; i++ {
		if p := s.log.At(i); p.Kind() == buffer.AckRequested && p.AckID() == id {
			s.trimLocked(i)
			return
		}
	}
}

// Unanswered looks for a packet that asks for an acknowledgement, was sent to the client, and is not confirmed. pending reports
// whether there is one, and overdue whether one was there at the last call already.
func (c *Cursor) Unanswered() (pending, overdue bool) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c || s.ackRequested == 0 {
		return false, false
	}
	checked := c.checked
	c.checked = c.sent
	for i := max(s.log.Trimmed(), c.skipTo) + 1; i <= c.sent; i++ {
		if s.log.At(i).Kind() == buffer.AckRequested {
			return true, i <= checked
		}
	}
	return false, false
}

// Forward calls send, which hands something of the client's to the link, unless the session is not Attached. It
// cannot be another client's before send returns: so nothing of a former client's comes behind what a later one
// sends. send must not call back.
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

// Idle frees what the session keeps ready for the next packets.
func (c *Cursor) Idle() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.cursor == c {
		c.s.log.Idle()
	}
}
