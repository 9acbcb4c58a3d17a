package proxy

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

const (
	// firstInFlight limits the unconfirmed bytes until the first confirmation shows how fast the
	// client is.
	firstInFlight = 128 << 10
	// Then the limit is what arrives within confirmWithin, or within the ping timeout divided by
	// confirmShare if that is less.
	confirmWithin = 2 * time.Second
	confirmShare  = 4
)

// sender is what remains to be sent to a client, in order, and what was sent but not confirmed.
// What few clients need, and only for a while, is behind pointers.
type sender struct {
	mu   sync.Mutex  // guards all fields except conn; client.mu comes before it
	conn *clientConn // immutable

	pending []item // pending[head:] remains to be sent
	head    int

	written   []written // sent but not confirmed
	count     uint64    // packets and messages sent in all
	bytes     int       // unconfirmed bytes
	limit     int       // upper bound of bytes
	mark      uint64    // count at the latest call of Mark
	sinceMark int       // bytes sent since then
	markTime  instant.Instant
	confirmed uint64 // everything up to this count has arrived

	confirmSoon bool // a session was parked by a DISCONNECT since the latest Mark
	asked       bool // this Fill wrote an event that asks for an acknowledgement
	idleMark    bool // nothing was sent between the last two marks
	watchNext   bool // the next Fill begins with an Encoder.Watch
	byPong      bool // there was a trial: only pongs confirm
	wrote       bool // the client was sent anything but replies and units of trials

	// Used by Emit while Fill runs.
	enc      *engineio.Encoder
	maxBytes int
	emitted  int // bytes written
	replayed int

	rawBytes int      // of pending messages that belong to no session
	paused   []source // links that are not read because rawBytes reached the window
	window   int
	within   time.Duration // in which the bytes in flight should arrive

	watch   uint64  // number of the latest Encoder.Watch
	replies replies // that the client may not have
	replays *replay // of resumed sessions, until all is written
	lag     *lag    // nil unless something was confirmed a moment ago
	trials  *trials // nil if there were none
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

// source is a link, where messages come from.
type source interface {
	SetReadPaused(paused bool)
}

func (s *sender) init(conn *clientConn, window int, pingTimeout time.Duration) {
	s.conn, s.window = conn, window
	s.within = min(confirmWithin, pingTimeout/confirmShare)
	s.limit = min(firstInFlight, window)
}

// deliver queues the next n packets of a session.
func (s *sender) deliver(cur *session.Cursor, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushLocked(cur, n)
}

// relay queues a copy of a message that belongs to no session.
func (s *sender) relay(data []byte, binary bool, from source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.state != clientClosed {
		if !binary {
			data = s.conn.inDialect(data)
		}
		s.pushRawLocked(slices.Clone(data), binary, from)
		s.wrote = true // the client may be unable to decode this, too
	}
}

// connected queues the reply to a CONNECT that opened a session.
func (s *sender) connected(cur *session.Cursor, reply []byte, from source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.pushRawLocked(s.conn.inDialect(reply), false, from)
	if cur.Session().PID() != "" {
		it.fresh = true
		s.replies.add(cur)
	}
	if s.trials != nil {
		s.trials.connectedLocked()
	}
}

// resume calls attach to resume a session, and queues the reply and the missed packets. attach runs
// with mu held: a packet that arrives right after it must come after the reply. from says where the
// reply came from. end ends the client during a trial.
func (s *sender) resume(start instant.Instant, end aborter, attach func() (session.Resumption, source)) session.Resumption {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, from := attach()
	if r.Cursor == nil {
		return r
	}
	s.pushRawLocked(s.conn.inDialect(r.Reply), false, from)
	if r.Trial != nil {
		if !s.onTrialLocked() {
			s.startTrialsLocked(end)
		}
		s.trials.addLocked(r.Cursor, r.Trial)
	}
	if s.trials != nil {
		s.trials.connectedLocked()
	}
	if r.ToRead == 0 {
		s.conn.deps.metrics.RecoveryDuration.Observe(instant.Since(start).Seconds())
		return r
	}
	s.pushLocked(r.Cursor, r.ToRead)
	s.replays = &replay{r.Cursor, start, s.replays}
	return r
}

// disconnected ends the replay and the trial of a session whose client sent a DISCONNECT. It asks
// the client to confirm what it was sent before. note gets how much that is, and how much of it is
// confirmed. It is called with mu held: a confirmation that comes now must come after it.
func (s *sender) disconnected(cur *session.Cursor, note func(count, confirmed uint64, all bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeReplaysLocked(cur)
	if s.onTrialLocked() {
		s.trials.dropLocked(cur)
	}
	s.confirmSoon = s.confirmSoon || len(s.written) > 0
	note(s.count, s.confirmed, len(s.written) == 0)
}

// onTrialLocked reports whether trials are in progress.
func (s *sender) onTrialLocked() bool { return s.trials != nil && s.trials.state != over }

// startTrialsLocked begins trials. Packets of sessions that wait in the queue wait for them.
func (s *sender) startTrialsLocked(end aborter) {
	ts := &trials{s: s, end: end}
	if s.trials != nil {
		ts.tried = s.trials.tried
	}
	s.trials, s.byPong = ts, true
	pending := s.pending[s.head:]
	s.pending, s.head = nil, 0
	for _, it := range pending {
		if it.cur != nil {
			ts.held = append(ts.held, it)
		} else {
			s.pending = append(s.pending, it)
		}
	}
}

func (s *sender) pushLocked(cur *session.Cursor, n int) {
	if s.onTrialLocked() {
		s.trials.holdBackLocked(cur, n)
		return
	}
	if last := len(s.pending) - 1; last >= s.head && s.pending[last].cur == cur {
		s.pending[last].n += n
		return
	}
	it := s.addLocked()
	it.cur, it.n = cur, n
}

// addLocked appends an empty item to pending, which the caller fills in place.
func (s *sender) addLocked() *item {
	if s.head > 0 && s.head == len(s.pending) {
		s.pending, s.head = s.pending[:0], 0
	}
	if s.head > 32 && s.head > len(s.pending)/2 {
		n := copy(s.pending, s.pending[s.head:])
		clear(s.pending[n:])
		s.pending, s.head = s.pending[:n], 0
	}
	s.pending = append(s.pending, item{})
	return &s.pending[len(s.pending)-1]
}

// pushRawLocked queues a message that belongs to no session, without a copy. If too much is queued,
// it pauses the link that the message came from. A client may have several links.
func (s *sender) pushRawLocked(data []byte, binary bool, from source) *item {
	it := s.addLocked()
	it.data, it.binary = data, binary
	s.rawBytes += len(data)
	if s.rawBytes >= s.window && !slices.Contains(s.paused, from) {
		s.paused = append(s.paused, from)
		from.SetReadPaused(true)
	}
	return it
}

// readLinksLocked resumes the links that pushRawLocked paused.
func (s *sender) readLinksLocked() {
	for _, l := range s.paused {
		l.SetReadPaused(false)
	}
	s.paused = nil
}

// upgrade notes that the client moved to WebSocket.
func (s *sender) upgrade() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replies.upgraded(s.watch + 1) {
		s.watchNext = true
	}
}

// close drops what is queued, and resumes the links that are paused. It returns the cursors of
// queued packets, the replies that the client may not have, and the trials that were in progress.
// Some of the sessions have closed before all was sent, and their logs can be released.
func (s *sender) close() (cursors []*session.Cursor, fresh replies, ts *trials) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trials != nil {
		s.trials.stopTimer()
	}
	if s.lag != nil {
		s.lag.timer.Stop()
	}
	s.conn.deps.safely(func() { cursors = s.queuedLocked() })
	s.pending, s.head, s.written, s.rawBytes = nil, 0, nil, 0
	s.conn.deps.safely(s.readLinksLocked)
	fresh, s.replies = s.replies, replies{}
	return cursors, fresh, s.trials
}

func (s *sender) queuedLocked() (cursors []*session.Cursor) {
	queued := s.pending[s.head:]
	if s.trials != nil {
		queued = slices.Concat(queued, s.trials.held)
	}
	for _, it := range queued {
		if it.cur != nil {
			cursors = append(cursors, it.cur)
		}
	}
	return cursors
}

// replay is a resumed session whose missed packets are being written.
type replay struct {
	cur   *session.Cursor
	start instant.Instant
	next  *replay
}

// takeReplaysLocked removes and returns the replays of a session.
func (s *sender) takeReplaysLocked(cur *session.Cursor) (taken []*replay) {
	for at := &s.replays; *at != nil; {
		if r := *at; r.cur == cur {
			*at = r.next
			taken = append(taken, r)
		} else {
			at = &r.next
		}
	}
	return taken
}

// watches returns the number of the latest WebSocket ping.
func (s *sender) watches() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watch
}

// mayLack reports whether the client may not have the reply that opened a session.
func (s *sender) mayLack(cur *session.Cursor) bool {
	s.mu.Lock()
	f := s.replies.of(cur)
	var reply freshReply
	if f != nil {
		reply = *f
	}
	s.mu.Unlock()
	return f != nil && !reply.arrived(clientOf(cur.Session().Attached()))
}
