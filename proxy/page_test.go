package proxy

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/session"
)

// page is a client application across all its connections. It knows what a browser tab would know.
type page struct {
	m      *model
	name   string
	conn   *wire // nil while it is away
	away   time.Time
	wires  []*wire // all its connections
	stale  bool    // it stalled, so holdfast may have closed its connection since
	spaces map[string]*space
	sent   int           // number of the last event sent, from 1
	dials  int           // number of its latest connection
	last   *modelReplica // where that led

	delay    time.Duration // until it is back after its decoder has failed; at least a second
	closes   bool          // it closes a connection when its decoder fails; before 4.8 it leaves it open
	tolerant bool          // it decodes packets with a placeholder but without the attachment
	read     []func()      // what was read together, to be handled then
	ignored  *received     // a binary event of trialNamespace that misses attachments
	tried    bool          // there was a trial on this connection, so events are written later than otherwise
	coming   sync.Mutex    // held while it opens a connection
}

// space is a page's socket for one namespace.
type space struct {
	page     *page
	name     string
	pid, sid string
	offset   string
	last     int       // number of the last event of this sid
	unseen   time.Time // when it last had a connection that brought a CONNECT reply
	replied  int       // number of the connection that the latest CONNECT reply came over
	asked    string    // pid in the CONNECT that waits for its reply, or "-" if it has none
	partial  *received // a binary event that misses attachments
	left     bool      // it sent or got a DISCONNECT
	aside    []string  // events that arrived between its CONNECT and the reply, or with what it could not decode
	up       bool      // it is connected, for all that it knows
	shown    bool      // it sent something in this session or resumed it, so it has the reply
	doubtful bool      // it closed its connection cleanly before that: holdfast cannot tell if it has the reply
}

// received is an event as it is encoded, with the number of attachments that are missing.
type received struct {
	packet string
	need   int
}

// fromServer is the page's handler for messages from holdfast.
func (p *page) fromServer(w *wire, message string, binary bool) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	switch {
	case p.conn != w: // it has a newer connection, or believes it is offline
		p.late(w, message, binary)
	case binary:
		p.attachment()
	default:
		p.text(message)
	}
}

// late checks what arrives over a connection that the page has left: nothing that the server sent
// after the page had its session over a newer one.
func (p *page) late(w *wire, message string, binary bool) {
	if binary {
		return
	}
	_, namespace, _ := split(message)
	name, number, args := parseEvent(message)
	if name != "n" || len(args) < 3 || namespace == trialNamespace {
		return
	}
	var sid string
	_ = json.Unmarshal(args[2], &sid)
	if s := p.m.socket(sid); s != nil && number <= len(s.sent) {
		after := s.sent[number-1].after
		p.m.must(w.number >= after, "%s got event %d of %s over connection %d, after a reply over connection %d", p.name, number, sid, w.number, after)
	}
}

func (p *page) attachment() {
	if p.ignored != nil {
		if packet, whole := p.ignored.add(); whole {
			p.ignored = nil
			if !p.decodes(packet) {
				p.fail()
			}
		}
		return
	}
	for _, s := range p.spaces {
		if s.partial == nil {
			continue
		}
		if packet, whole := s.partial.add(); whole {
			s.partial = nil
			if !p.decodes(packet) {
				p.fail()
				return
			}
			p.read = append(p.read, func() { s.handle(packet) })
		}
		return
	}
	p.m.must(false, "%s got an attachment that no event announced", p.name)
}

// add notes that an attachment has arrived.
func (r *received) add() (packet string, whole bool) {
	r.need--
	return r.packet, r.need == 0
}

// What some pages cannot decode, and what none can.
const (
	misplaced = `{"_placeholder":true,"num":7}`
	notJSON   = ",NaN" // with a comma, which no offset contains
)

func (p *page) decodes(packet string) bool {
	return !strings.Contains(packet, notJSON) && (p.tolerant || !strings.Contains(packet, misplaced))
}

func (p *page) text(message string) {
	if strings.Contains(message, notJSON) {
		p.fail()
		return
	}
	kind, namespace, rest := split(message)
	if namespace == trialNamespace { // it is not connected there
		p.tried = true
		if kind == "5" {
			p.ignored = &received{message, int(message[1] - '0')}
		}
		return
	}
	s := p.spaces[namespace]
	if s == nil {
		p.m.must(false, "%s got %q", p.name, message)
		return
	}
	switch kind {
	case "0":
		p.read = append(p.read, func() { s.connected(rest) })
	case "1":
		p.read = append(p.read, func() { s.left = true })
	case "2":
		p.read = append(p.read, func() { s.handle(message) })
	case "5":
		s.partial = &received{message, int(message[1] - '0')}
	default:
		p.m.must(false, "%s got %q", p.name, message)
	}
}

// handleRead handles what was read together. socket.io-client decodes all of it first.
func (p *page) handleRead(w *wire) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.conn == w {
		p.handleReadLocked()
	}
}

func (p *page) handleReadLocked() {
	read := p.read
	p.read = nil
	for _, handle := range read {
		handle()
	}
}

// fail does what socket.io-client does when it cannot decode a packet. m.mu must be held.
func (p *page) fail() {
	w := p.conn
	for _, s := range p.spaces {
		s.up = false
	}
	p.tried = true // any event may have come behind that packet
	p.handleReadLocked()
	if p.closes {
		for _, s := range p.spaces {
			s.doubtful = !s.shown
		}
		w.ignoresPings.Store(true)
		w.write(frame{ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, "")})
	}
	p.offline()
	p.comeLater(max(p.delay, time.Second))
}

// comeLater opens a connection after d, unless there is one then.
func (p *page) comeLater(d time.Duration) {
	time.AfterFunc(d, func() {
		p.coming.Lock()
		defer p.coming.Unlock()
		p.m.mu.Lock()
		needed := p.conn == nil && !p.m.over
		p.m.mu.Unlock()
		if needed {
			p.open(p.last)
		}
	})
}

// connected handles a CONNECT reply.
func (s *space) connected(payload string) {
	m := s.page.m
	var reply struct{ SID, PID string }
	m.must(json.Unmarshal([]byte(payload), &reply) == nil && s.asked != "", "reply %q", payload)
	recovered := reply.PID == s.asked
	if recovered {
		m.must(reply.SID == s.sid, "recovered as %s, was %s", reply.SID, s.sid)
	} else {
		if old := m.socket(s.sid); old != nil && s.asked != "-" && old.alive && !old.dropped && !s.left {
			away := time.Since(s.unseen)
			excused := m.excuses != nil && (m.excuses() || s.page.split(s))
			m.must(away >= keptFor-m.slack || s.page.stale || s.doubtful || excused, "%s%s did not recover after %v", s.page.name, s.name, away)
		}
		s.last = 0
	}
	s.page.stale = false
	s.replied = s.page.conn.number
	s.shown, s.doubtful, s.up = recovered, false, true
	s.sid, s.pid, s.asked, s.left = reply.SID, reply.PID, "", false
	aside := s.aside
	s.aside = nil
	for _, packet := range aside {
		if recovered { // otherwise they belong to another session and say nothing about this one
			s.handle(packet)
		}
	}
}

// split reports whether a page has sessions at several replicas: it recovers those of one.
func (p *page) split(s *space) bool {
	for _, other := range p.spaces {
		if other != s && other.pid != "" && session.OwnerOf(other.pid) != session.OwnerOf(s.pid) {
			return true
		}
	}
	return false
}

// handle handles a complete event, which must be the next one of its socket.
func (s *space) handle(packet string) {
	m := s.page.m
	if m.parkOnDisconnect && s.left { // as in socket.io-client
		if s.asked != "" {
			s.aside = append(s.aside, packet)
		}
		return
	}
	if !s.up {
		s.aside = append(s.aside, packet)
		return
	}
	name, number, args := parseEvent(packet)
	from := m.socket(s.sid)
	if name != "n" || from == nil || number > len(from.sent) || number < 1 {
		m.must(false, "%s got %.80q", s.page.name, packet)
		return
	}
	m.must(string(args[2]) == `"`+s.sid+`"`, "%s got an event of another session: %s", s.sid, args[2])
	m.must(number > s.last, "%s%s has event %d twice", s.page.name, s.name, number)
	for missing := s.last + 1; missing < number; missing++ {
		m.must(m.mayMiss(from.sent[missing-1]), "%s%s lost event %d: had %d, got %d", s.page.name, s.name, missing, s.last, number)
	}
	s.last = max(s.last, number)
	var offset string
	_ = json.Unmarshal(args[len(args)-1], &offset)
	if asks := from.sent[number-1].asks; asks {
		m.must(!strings.HasPrefix(offset, "hf"), "an event with an acknowledgement has an offset")
	} else {
		m.must(strings.HasPrefix(offset, "hf"), "event %.80q without an offset", packet)
		s.offset = offset
	}
}

// connect sends a CONNECT, which asks for recovery if there was a session.
func (s *space) connect() { s.page.conn.write(text(s.connectPacket(""))) }

// connectPacket returns the CONNECT. auth is added to the keys of the client library.
func (s *space) connectPacket(auth string) string {
	s.partial = nil
	s.asked = "-"
	var keys []string
	if s.pid != "" {
		s.asked = s.pid
		keys = append(keys, `"pid":"`+s.pid+`"`)
		if s.offset != "" {
			keys = append(keys, `"offset":"`+s.offset+`"`)
		}
	}
	if auth != "" {
		keys = append(keys, auth)
	}
	payload := ""
	if len(keys) > 0 {
		payload = "{" + strings.Join(keys, ",") + "}"
	}
	return "40" + prefix(s.name) + payload
}

// come opens a new connection to a Server, even if the previous one is still open.
func (p *page) come(to *modelReplica) {
	p.coming.Lock()
	defer p.coming.Unlock()
	p.gone()
	p.open(to)
}

func (p *page) open(to *modelReplica) {
	p.last = to
	w := p.m.dialProxy(to, p.name, func(w *wire, message string, binary bool) { p.fromServer(w, message, binary) }, p.handleRead, p.lost)
	p.m.mu.Lock()
	p.conn = w
	p.dials++
	w.number, w.to = p.dials, to
	p.wires = append(p.wires, w)
	for _, name := range []string{"/", "/a"} {
		if s := p.spaces[name]; s != nil && !s.left {
			s.connect()
		}
	}
	p.m.mu.Unlock()
	if w.closed() { // before it was p.conn
		p.lost(w)
	}
}

// connected reports whether holdfast may believe that the page is connected. m.mu must be held.
func (p *page) connected() bool {
	p.wires = slices.DeleteFunc(p.wires, (*wire).closed)
	return len(p.wires) > 0
}

// gone records that the page believes it is offline.
func (p *page) gone() {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for _, w := range p.wires { // those too that it left open after something that it could not decode
		w.ignoresPings.Store(true)
	}
	p.offline()
}

// offline is gone with m.mu held, and leaves the connection as it is.
func (p *page) offline() {
	if p.conn != nil {
		for _, s := range p.spaces {
			if s.replied == p.conn.number {
				s.unseen = time.Now()
			}
		}
		p.conn, p.away = nil, time.Now()
	}
	for _, s := range p.spaces {
		if from := p.m.socket(s.sid); from != nil && p.tried {
			for i := range from.sent {
				from.sent[i].attached = true
			}
		}
	}
	p.read, p.ignored, p.tried = nil, nil, false
	for _, s := range p.spaces {
		s.partial = nil
		s.asked, s.up = "", false
		if p.m.parkOnDisconnect {
			// A real client keeps them for its next connection. If its DISCONNECT was lost with
			// this one, no proxy can tell.
			s.aside = nil
		}
	}
}

// lost records that the page saw a connection end.
func (p *page) lost(w *wire) {
	p.m.mu.Lock()
	current, returns := p.conn == w, p.m.draining
	p.m.mu.Unlock()
	if current {
		p.gone()
		if returns {
			p.comeLater(time.Second)
		}
	}
}
