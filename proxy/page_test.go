package proxy

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
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
	sent   []clientEvent // from number 1
	dials  int           // number of its latest connection
	last   *modelReplica // where that led

	transport transport
	key       string // of keyed recovery; it counts what it handles
	eager     int    // events that it sends as soon as it is connected
	seed      uint64 // of what happens to its requests
	faulty    int    // one of so many of them is cut; 0 is none

	delay    time.Duration // until it is back after its decoder has failed; at least a second
	closes   bool          // it closes a connection when its decoder fails; before 4.8 it leaves it open
	tolerant bool          // it decodes packets with a placeholder but without the attachment
	read     []func()      // what was read together, to be handled then
	ignored  *received     // a binary event of trialNamespace that misses attachments
	tried    bool          // there was a trial on this connection, so events are written later than otherwise
	coming   sync.Mutex    // held while it opens a connection
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
		excused := p.m.excuses != nil && p.m.excuses() // a new replica cannot tell yet which handshake was later
		p.m.must(excused || w.number >= after, "%s got event %d of %s over connection %d, after a reply over connection %d", p.name, number, sid, w.number, after)
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
	case "3":
		if name, number, args := parseEvent(message); name == "a" && len(args) == 3 {
			after, _ := strconv.Atoi(string(args[2]))
			p.read = append(p.read, func() { s.answered(number, after) })
		}
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

// come opens a new connection to a Server, even if the previous one is still open.
func (p *page) come(to *modelReplica) {
	p.coming.Lock()
	defer p.coming.Unlock()
	p.gone()
	p.open(to)
}

func (p *page) open(to *modelReplica) {
	p.last = to
	w := p.dial(to)
	p.m.logf("%s connects to %p", p.name, to)
	p.m.mu.Lock()
	p.conn = w
	p.dials++
	w.number, w.to, w.opened = p.dials, to, time.Now()
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

// transport is how a page connects.
type transport int

const (
	byWebSocket transport = iota
	byPolling
	byUpgrade // from polling to WebSocket
	transports
)

// pageNames are the pages of a model.
var pageNames = []string{"p", "q"}

// chooseTransport chooses how a page connects, how its requests fare, and whether it has a key.
func (p *page) chooseTransport(choose func(n int) int) {
	p.transport = transport(choose(int(transports)))
	p.seed = uint64(choose(1 << 20))
	p.faulty = []int{0, 40, 12}[choose(3)]
	p.eager = choose(4)
	if choose(3) == 0 {
		p.key = "the key of page " + p.name
	}
}

func (p *page) dial(to *modelReplica) *wire {
	query := "EIO=4&page=" + p.name
	p.m.mu.Lock()
	if p.key != "" {
		query += "&hf_key=" + url.QueryEscape(p.key) + "&hf_n=" + p.counts()
	}
	seed := p.seed + uint64(p.dials)
	p.m.mu.Unlock()
	if p.transport == byWebSocket {
		return p.m.dialProxy(to, query, p.fromServer, p.handleRead, p.lost)
	}
	return p.m.dialPolling(to, query, seed, p.faulty, p.transport == byUpgrade, p.fromServer, p.handleRead, p.lost)
}

// counts returns what a page with a key has handled, as it tells holdfast.
func (p *page) counts() string {
	var list []string
	for name, s := range p.spaces {
		if s.sid != "" {
			list = append(list, fmt.Sprintf("%s:%d@%s", name, s.handled, s.sid))
		}
	}
	return strings.Join(list, ",")
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
		if from := p.m.socket(s.sid); from != nil && (p.tried || p.m.latency > 0 || p.transport != byWebSocket) {
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
	p.m.logf("%s lost connection %d, current: %v", p.name, w.number, current)
	p.m.mu.Unlock()
	if current {
		p.gone()
		if returns {
			p.comeLater(time.Second)
		}
	}
}
