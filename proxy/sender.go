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
	// firstInFlight is how many bytes may be unconfirmed before the first confirmation shows how fast the client is.
	firstInFlight = 128 << 10
	// leastInFlight is what a slow client may have in flight: a ping must not wait for long behind it.
	leastInFlight = 32 << 10
	// confirmBytes is how much may be unconfirmed before a ping is sent ahead of the interval, and
	// confirmSpacing how often that may happen while the client is not held up by it.
	confirmBytes   = 16 << 10
	confirmSpacing = 50 * time.Millisecond
	// maxUnconfirmedBytes is how much may be unconfirmed without a ping on its way, however soon after the last.
	maxUnconfirmedBytes = 4 * confirmBytes
	// What may be in flight is what arrives within confirmWithin, or within the confirmShare-th part of the ping
	// timeout, whichever is less.
	confirmWithin = 2 * time.Second
	confirmShare  = 4
)

// outgoing is what a client is still to be sent, in order, and what it was sent but has not
// confirmed. Guarded by the client's mu.
type sender struct {
	pending []item // pending[head:] waits
	head    int

	written   []written // sent, and not confirmed
	count     uint64    // of packets and messages ever sent
	bytes     int       // of them, unconfirmed
	limit     int       // of bytes
	mark      uint64    // the newest mark
	sinceMark int       // bytes sent since
	ending    bool
	farewell  bool // the client left a session since, and is to confirm what it was sent
	asked     bool // an event with an acknowledgement was sent in this Fill
	idleMark  bool // nothing was sent between the last two marks

	// For Emit, while Fill runs.
	enc      *engineio.Encoder
	maxBytes int
	emitted  int // bytes
	replayed int

	markTime  time.Time
	within    time.Duration // in which the bytes should arrive
	confirmed uint64        // of the packets sent; count's value then

	rawBytes int     // of the pending items without a session
	rawHeld  []*link // that sent some since rawBytes passed the window; held
	window   int

	replays     []replay // sessions just resumed
	lagged      []lagged // the oldest first
	laggedBytes int
	lagTimer    *time.Timer // nil for most

	watch     uint64   // the last number given to an Encoder.Watch
	watchNext bool     // the next batch begins with one
	trials    []*trial // of sessions just resumed, until all have ended; nil for nearly all clients
	held      []item   // what comes after the trials
}

// item is some packets of a session, or one message without a session.
type item struct {
	cur    *session.Cursor
	n      int
	data   []byte
	binary bool
	fresh  bool // a freshReply
}

// written is packets of one session that were sent in a row.
type written struct {
	cur   *session.Cursor
	last  uint64 // sequence number
	count uint64 // outgoing.count after it
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

// add puts an empty item behind those that wait, to be filled where it stands.
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

// pushRaw adds a message of no session, which is not copied. Past the window, its link is held; the client may have several.
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

// cursors are those of sessions that ended but are not all sent; their logs can go with the client.
func (o *sender) cursors() []*session.Cursor {
	var cursors []*session.Cursor
	for _, it := range slices.Concat(o.pending[o.head:], o.held) {
		if it.cur != nil {
			cursors = append(cursors, it.cur)
		}
	}
	return cursors
}

// close forgets all.
func (o *sender) close() {
	o.pending, o.head, o.written, o.rawBytes = nil, 0, nil, 0
	o.unholdRaw()
}

// Fill implements engineio.Handler: it moves packets from the logs to the client.
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
		return engineio.FillResult{Confirm: c.wantsConfirm()}
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
	return engineio.FillResult{More: o.waits(), Confirm: c.wantsConfirm(), ConfirmLater: o.asked}
}

// Unconfirmed implements engineio.Handler. Events that ask for an acknowledgement bear no offset: only their answer, or a ping,
// tells that they have arrived.
func (c *client) Unconfirmed() (pending, overdue bool) {
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		p, o := e.value.Unanswered()
		pending, overdue = pending || p, overdue || o
	}
	return pending, overdue
}

// wantsConfirm says whether a ping is to be sent ahead of the interval; c.mu is held.
func (c *client) wantsConfirm() bool {
	return c.sender.wantConfirm() || c.sender.trialAwaits() || c.sender.sinceMark > 0 && c.holdsLink()
}

// holdsLink: c.mu is held.
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
	return c.sender.waits() || c.parkOnDisconnect && c.wantsConfirm()
}

// waits reports whether there is something that may be sent now.
func (o *sender) waits() bool {
	if len(o.trials) > 0 && !o.trialSettling() {
		return o.trialSends()
	}
	return o.head < len(o.pending) && !o.full()
}

func (o *sender) full() bool { return o.bytes >= o.limit && !o.ending }

// wantConfirm says whether it should be known soon what has arrived.
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

// writeMessage writes a message of no session; c.mu is held.
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
	o.count++ // a trial wants to know when it has arrived
}

// writeSession writes packets of a session; it returns false if some of the item's are left.
func (c *client) writeSession(it *item) (whole bool) {
	o := &c.sender
	o.emitted = 0
	passed, last, replayDone := it.cur.Read(it.n, c)
	if passed == 0 {
		return true // the session is another client's by now
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
		head, tail, _ := socketio.SplitArray(data) // it was Stamped because it can be split
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
	o.bytes -= arrived
	o.written = slices.Delete(o.written, 0, n) // which clears what is behind: a cursor leads to its session and log
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

// adapt fits the bytes that may be in flight to how fast some arrived.
func (o *sender) adapt(arrived int, took time.Duration) {
	telling := arrived >= o.limit/4 // else the client was not kept busy, and its pace is not known
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

// replayDone measures how long a recovery took.
func (c *client) replayDone(cur *session.Cursor) {
	c.sender.replays = slices.DeleteFunc(c.sender.replays, func(r replay) bool {
		if r.cur == cur {
			c.srv.metrics.RecoveryDuration.Observe(time.Since(r.start).Seconds())
		}
		return r.cur == cur
	})
}
