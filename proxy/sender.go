package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

const (
	// firstInFlight limits the unconfirmed bytes until the first confirmation shows how fast the
	// client is.
	firstInFlight = 128 << 10
	// leastInFlight is the lowest limit, for slow clients. It is small, because a ping must not
	// wait long behind data.
	leastInFlight = 32 << 10
	// A ping is sent ahead of the interval once confirmBytes were written since the last one, and
	// confirmSpacing has passed.
	confirmBytes   = 16 << 10
	confirmSpacing = 50 * time.Millisecond
	// After maxUnconfirmedBytes it is sent however recent the last one was.
	maxUnconfirmedBytes = 4 * confirmBytes
	// The limit on bytes in flight is what arrives within confirmWithin, or within the ping timeout
	// divided by confirmShare if that is less.
	confirmWithin = 2 * time.Second
	confirmShare  = 4
)

// sender is what remains to be sent to a client, in order, and what was sent but not confirmed. The
// client's mu guards it.
type sender struct {
	pending []item // pending[head:] remains to be sent
	head    int

	written   []written // sent but not confirmed
	count     uint64    // packets and messages sent in all
	bytes     int       // unconfirmed bytes
	limit     int       // upper bound of bytes
	mark      uint64    // count at the latest call of Mark
	sinceMark int       // bytes sent since then
	ending    bool      // the transport is closing, so limit does not apply
	farewell  bool      // a session was parked by a DISCONNECT since: ask for a confirmation
	asked     bool      // this Fill wrote an event that asks for an acknowledgement
	idleMark  bool      // nothing was sent between the last two marks
	upgraded  bool      // the client just moved to WebSocket, which confirms what it polled
	watchNext bool      // the next Fill begins with an Encoder.Watch
	byPong    bool      // there was a trial: only pongs confirm

	// Used by Emit while Fill runs.
	enc      *engineio.Encoder
	maxBytes int
	emitted  int // bytes written
	replayed int

	markTime  time.Time
	within    time.Duration // in which the bytes in flight should arrive
	confirmed uint64        // everything up to this count has arrived

	rawBytes int     // of pending messages that belong to no session
	rawHeld  []*link // links paused because rawBytes reached the window
	window   int

	replays     []replay // of resumed sessions, until all is written
	lagged      []lagged // oldest first
	laggedBytes int
	lagTimer    *time.Timer // usually nil

	watch  uint64   // number of the latest Encoder.Watch
	trials []*trial // of resumed sessions, until all have ended; usually nil
	held   []item   // to be sent after the trials
}

// item is n packets of a session, or one message that belongs to no session.
type item struct {
	cur    *session.Cursor
	n      int
	data   []byte
	binary bool
	fresh  bool // the message is a CONNECT reply with a new pid: see freshReply
}

// written is a run of packets of one session that were sent.
type written struct {
	cur   *session.Cursor
	last  uint64 // sequence number of the last packet
	count uint64 // sender.count after it
	bytes int
}

func (o *sender) init(window int, pingTimeout time.Duration) {
	o.window = window
	o.within = min(confirmWithin, pingTimeout/confirmShare)
	o.limit = min(firstInFlight, window)
}

func (o *sender) push(cur *session.Cursor, n int) {
	if len(o.trials) > 0 {
		o.holdBack(cur, n)
		return
	}
	if last := len(o.pending) - 1; last >= o.head && o.pending[last].cur == cur {
		o.pending[last].n += n
		return
	}
	it := o.add()
	it.cur, it.n = cur, n
}

// add appends an empty item to pending, which the caller fills in place.
func (o *sender) add() *item {
	if o.head > 0 && o.head == len(o.pending) {
		o.pending, o.head = o.pending[:0], 0
	}
	if o.head > 32 && o.head > len(o.pending)/2 {
		n := copy(o.pending, o.pending[o.head:])
		clear(o.pending[n:])
		o.pending, o.head = o.pending[:n], 0
	}
	o.pending = append(o.pending, item{})
	return &o.pending[len(o.pending)-1]
}

// pushRaw queues a message that belongs to no session, without a copy. If too much is queued, it
// pauses the link that the message came from. A client may have several links.
func (o *sender) pushRaw(data []byte, binary bool, from *link) {
	it := o.add()
	it.data, it.binary = data, binary
	o.rawBytes += len(data)
	if o.rawBytes >= o.window && !slices.Contains(o.rawHeld, from) {
		o.rawHeld = append(o.rawHeld, from)
		from.SetReadPaused(true)
	}
}

func (o *sender) unholdRaw() {
	for _, l := range o.rawHeld {
		l.SetReadPaused(false)
	}
	o.rawHeld = nil
}

// cursors returns the cursors of queued packets. Some sessions have closed before all was sent, and
// their logs can be released with the client.
func (o *sender) cursors() []*session.Cursor {
	var cursors []*session.Cursor
	for _, it := range slices.Concat(o.pending[o.head:], o.held) {
		if it.cur != nil {
			cursors = append(cursors, it.cur)
		}
	}
	return cursors
}

// close drops everything, and resumes the links that are paused.
func (o *sender) close() {
	o.pending, o.head, o.written, o.rawBytes = nil, 0, nil, 0
	o.unholdRaw()
}

// Fill implements engineio.Handler. It writes packets from the logs to the client.
func (c *client) Fill(e *engineio.Encoder, maxBytes int) engineio.FillResult {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.sender
	o.enc, o.maxBytes, o.replayed, o.asked = e, maxBytes, 0, false
	before := e.Packets()
	if o.watchNext {
		o.watchNext = false
		o.watch++
		e.Watch(o.watch)
	}
	if len(o.trials) > 0 && !c.fillTrial() {
		o.enc = nil
		return engineio.FillResult{Confirm: c.wantsConfirm(), ByPong: true}
	}
	for o.head < len(o.pending) && e.Len() < maxBytes && !o.full() {
		it := &o.pending[o.head]
		if it.cur == nil {
			c.writeMessage(it)
		} else if !c.writeSession(it) {
			break
		}
		o.pending[o.head] = item{}
		o.head++
	}
	if o.head == len(o.pending) {
		o.pending, o.head = o.pending[:0], 0
		if cap(o.pending) > 64 {
			o.pending = nil
		}
	}
	o.enc = nil
	if len(o.trials) > 0 {
		c.trialSettled()
	}
	if o.rawBytes < o.window/2 {
		o.unholdRaw()
	}
	if n := e.Packets() - before; n > 0 {
		c.srv.metrics.Packets.Out.Add(float64(n))
	}
	if o.replayed > 0 {
		c.srv.metrics.ReplayedPackets.Add(float64(o.replayed))
	}
	return engineio.FillResult{More: o.waits(), Confirm: c.wantsConfirm(), ConfirmLater: o.asked, ByPong: o.byPong}
}

// Unconfirmed implements engineio.Handler. Events that ask for an acknowledgement have no offset.
// Only their answer, or a ping, shows that they have arrived.
func (c *client) Unconfirmed() (pending, overdue bool) {
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		p, o := e.value.Unanswered()
		pending, overdue = pending || p, overdue || o
	}
	return pending, overdue
}

// wantsConfirm reports whether to send a ping ahead of the interval; c.mu is held.
func (c *client) wantsConfirm() bool {
	return c.sender.wantConfirm() || c.sender.trialAwaits() || c.sender.sinceMark > 0 && c.holdsLink()
}

// holdsLink reports whether a link is paused because of what this client has not confirmed; c.mu is
// held.
func (c *client) holdsLink() bool {
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		if e.value.ReadPaused() {
			return true
		}
	}
	return false
}

// Pending implements engineio.Handler.
func (c *client) Pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sender.waits() || (c.parkOnDisconnect || c.sender.byPong) && c.wantsConfirm()
}

// waits reports whether something can be sent now.
func (o *sender) waits() bool {
	if len(o.trials) > 0 && !o.trialSettling() {
		return o.trialSends()
	}
	return o.head < len(o.pending) && !o.full()
}

func (o *sender) full() bool { return o.bytes >= o.limit && !o.ending }

// wantConfirm reports whether so much was sent that the client should confirm it soon.
func (o *sender) wantConfirm() bool {
	switch {
	case o.farewell:
		return true
	case o.sinceMark >= min(o.limit/2, maxUnconfirmedBytes):
		return true
	case o.sinceMark >= confirmBytes:
		return time.Since(o.markTime) >= confirmSpacing
	}
	return false
}

// writeMessage writes a message that belongs to no session; c.mu is held.
func (c *client) writeMessage(it *item) {
	if it.fresh {
		c.writeReply(it)
		return
	}
	c.sender.writeRaw(it)
}

func (o *sender) writeRaw(it *item) {
	if it.binary {
		o.enc.Binary(it.data)
	} else {
		o.enc.Text(it.data, nil, nil)
	}
	o.rawBytes -= len(it.data)
	o.count++ // so that a trial sees when it has arrived
}

// writeSession writes packets of a session. It returns false if some of the item's packets remain.
func (c *client) writeSession(it *item) (whole bool) {
	o := &c.sender
	o.emitted = 0
	passed, last, replayDone := it.cur.Read(it.n, c)
	if passed == 0 {
		return true // another client has the session now
	}
	it.n -= passed
	o.count += uint64(passed)
	o.bytes += o.emitted
	o.sinceMark += o.emitted
	if n := len(o.written) - 1; n >= 0 && o.written[n].cur == it.cur && o.written[n].count > o.mark {
		w := &o.written[n]
		w.last, w.count, w.bytes = last, o.count, w.bytes+o.emitted
	} else {
		o.written = append(o.written, written{it.cur, last, o.count, o.emitted})
	}
	if replayDone {
		c.replayDone(it.cur)
	}
	return it.n == 0
}

// Emit implements session.Emitter.
func (c *client) Emit(p *buffer.Entry, offset session.Offset, replayed bool) bool {
	o := &c.sender
	data := p.Data()
	n := len(data)
	if p.Kind() == buffer.WithOffset {
		head, tail, _ := socketio.SplitArray(data) // kindOf chose WithOffset because this succeeds
		var stamp [40]byte
		s := append(stamp[:0], `,"`...)
		s = offset.AppendTo(s)
		s = append(s, '"')
		o.enc.Text(head, s, tail)
		n += len(s)
	} else {
		o.enc.Text(data, nil, nil)
	}
	for _, a := range p.Attachments() {
		o.enc.Binary(a)
		n += len(a)
	}
	if p.Kind() == buffer.AckRequested {
		o.asked = true
	}
	if replayed {
		o.replayed++
	}
	o.emitted += n
	return o.enc.Len() < o.maxBytes && (o.ending || o.bytes+o.emitted < o.limit)
}

// Mark implements engineio.Handler.
func (c *client) Mark() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.sender
	o.idleMark = o.mark == o.count && len(o.written) == 0
	o.mark = o.count
	o.markTime = time.Now()
	o.sinceMark = 0
	o.farewell = false
	return o.mark
}

// ConfirmPing implements engineio.Handler.
func (c *client) ConfirmPing() { c.srv.metrics.ConfirmPings.Inc() }

// Confirm implements engineio.Handler.
func (c *client) Confirm(mark uint64) {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.sender
	n, arrived := 0, 0
	before := o.confirmed
	for n < len(o.written) && o.written[n].count <= mark {
		w := &o.written[n]
		c.confirm(w, w.count-min(before, w.count))
		before = w.count
		arrived += w.bytes
		n++
	}
	o.upgraded = false
	o.bytes -= arrived
	o.written = slices.Delete(o.written, 0, n) // clears the tail, so that no cursor keeps a session alive
	o.confirmed = max(o.confirmed, mark)
	if c.fresh != nil {
		c.repliesConfirmed(mark)
	}
	c.confirmDisconnectsLocked()
	if len(o.trials) > 0 {
		c.trialConfirmed()
	}
	if mark == o.mark && arrived > 0 {
		took := time.Since(o.markTime)
		c.srv.metrics.ConfirmDuration.Observe(took.Seconds())
		o.adapt(arrived, took)
	}
	if o.idleMark && len(o.written) == 0 && o.head == len(o.pending) {
		o.written, o.pending, o.head = nil, nil, 0
		for e := c.sessions.first.Load(); e != nil; e = e.next {
			e.value.Idle()
		}
	}
}

// adapt sets the limit on bytes in flight according to how fast some arrived.
func (o *sender) adapt(arrived int, took time.Duration) {
	telling := arrived >= o.limit/4 // with less in flight the client was partly idle
	if !telling && took <= o.within {
		return
	}
	fits := int(float64(arrived) / max(took.Seconds(), 1e-6) * o.within.Seconds())
	o.limit = min(max(fits, leastInFlight), 2*o.limit, o.window)
}

// replay is a resumed session whose missed packets are being written.
type replay struct {
	cur   *session.Cursor
	start time.Time
}

func (o *sender) resumed(cur *session.Cursor, start time.Time) {
	o.replays = append(o.replays, replay{cur, start})
}

// replayDone records how long a recovery took.
func (c *client) replayDone(cur *session.Cursor) {
	c.sender.replays = slices.DeleteFunc(c.sender.replays, func(r replay) bool {
		if r.cur == cur {
			c.srv.metrics.RecoveryDuration.Observe(time.Since(r.start).Seconds())
		}
		return r.cur == cur
	})
}
