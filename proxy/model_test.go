package proxy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
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
	sent   int // number of the last event sent, from 1
}

// space is a page's socket for one namespace.
type space struct {
	page     *page
	name     string
	pid, sid string
	offset   string
	last     int       // number of the last event of this sid
	asked    string    // pid in the CONNECT that waits for its reply, or "-" if it has none
	partial  *received // a binary event that misses attachments
	left     bool      // it sent or got a DISCONNECT
	aside    []string  // events that arrived between its CONNECT and the reply
	shown    bool      // it sent something in this session or resumed it, so it has the reply
	doubtful bool      // it closed its connection cleanly before that: holdfast cannot tell if it has the reply
}

// received is an event as it is encoded, with the number of attachments that are missing.
type received struct {
	packet string
	need   int
}

// socket is the application's end of a session.
type socket struct {
	link    *upstreamLink
	space   string
	page    string
	sid     string
	alive   bool
	sent    []emitted
	got     int // number of the last event from the client
	dropped bool
}

// emitted is an event that the server sent.
type emitted struct {
	asks     bool
	attached bool // the page was connected then and may have received it
}

// upstreamLink is the server's end of a link.
type upstreamLink struct {
	*wire
	page    string
	spaces  map[string]*socket
	dropped map[string]bool // namespaces that the application disconnected; the page may not know yet
	partial *received
}

// must fails the test unless ok. Any goroutine may call it.
func (m *model) must(ok bool, format string, args ...any) {
	if !ok {
		m.t.Errorf(format, args...)
	}
}

// parseEvent parses an event's arguments: ["n", number, ...] or ["c", number, ...]. name is empty for
// anything else.
func parseEvent(packet string) (name string, number int, args []json.RawMessage) {
	at := strings.IndexByte(packet, '[')
	if at < 0 || json.Unmarshal([]byte(packet[at:]), &args) != nil || len(args) < 2 {
		return "", 0, nil
	}
	_ = json.Unmarshal(args[0], &name)
	_ = json.Unmarshal(args[1], &number)
	return name, number, args
}

// split splits a packet into its type, its namespace, and the rest with the ack id or attachments.
func split(packet string) (kind, namespace, rest string) {
	kind = packet[:1]
	rest = packet[1:]
	if kind == "5" {
		_, rest, _ = strings.Cut(rest, "-")
	}
	if !strings.HasPrefix(rest, "/") {
		return kind, "/", rest
	}
	namespace, rest, _ = strings.Cut(rest, ",")
	return kind, namespace, rest
}

func prefix(namespace string) string {
	if namespace == "/" {
		return ""
	}
	return namespace + ","
}

// fromClient is the application's handler for messages from holdfast.
func (m *model) fromClient(l *upstreamLink, message string, binary bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.page == garbagePage {
		return
	}
	if binary {
		m.must(l.partial != nil, "an attachment nobody announced reached the server")
		if l.partial == nil {
			return
		}
		if l.partial.need--; l.partial.need > 0 {
			return
		}
		packet := l.partial.packet
		l.partial = nil
		m.clientEvent(l, packet)
		return
	}
	m.must(l.partial == nil, "half a binary packet reached the server, then %q", message)
	kind, namespace, rest := split(message)
	s := l.spaces[namespace]
	switch kind {
	case "0":
		m.must(s == nil, "a second CONNECT for %s on one link", namespace)
		m.must(!strings.Contains(rest, `"hf`), "the application is shown %q", rest)
		m.sids++
		s = &socket{link: l, space: namespace, page: l.page, sid: fmt.Sprint("s", m.sids), alive: true}
		l.spaces[namespace] = s
		m.sockets = append(m.sockets, s)
		l.write(text("40" + prefix(namespace) + `{"sid":"` + s.sid + `"}`))
	case "1":
		m.must(s != nil && s.alive, "DISCONNECT for %s, which is not connected", namespace)
		if s != nil {
			m.ended(s)
		}
	case "2":
		m.clientEvent(l, message)
	case "5":
		l.partial = &received{message, int(message[1] - '0')}
	}
}

func (m *model) clientEvent(l *upstreamLink, packet string) {
	_, namespace, _ := split(packet)
	s := l.spaces[namespace]
	_, number, _ := parseEvent(packet)
	m.must(s != nil && s.alive || l.dropped[namespace], "%q for a namespace that is not connected", packet)
	if s != nil {
		m.must(number > s.got, "event %d of %s came after %d", number, s.page, s.got)
		s.got = number
	}
}

// ended records that the application saw a socket disconnect.
func (m *model) ended(s *socket) {
	s.alive = false
	if s.dropped {
		return
	}
	p := m.pages[s.page]
	sp := p.spaces[s.space]
	kept := sp != nil && sp.sid == s.sid && !sp.left && !sp.doubtful && !p.stale && (p.conn != nil || time.Since(p.away) < keptFor)
	m.must(!kept, "the server lost %s%s, which could have come back", s.page, s.space)
}

// linkEnded records that a link closed.
func (m *model) linkEnded(l *upstreamLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.page == garbagePage {
		return
	}
	for _, s := range l.spaces {
		if s.alive {
			m.ended(s)
		}
	}
}

// fromServer is the page's handler for messages from holdfast.
func (p *page) fromServer(w *wire, message string, binary bool) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.conn != w {
		return // it has a newer connection, or believes it is offline
	}
	if binary {
		for _, s := range p.spaces {
			if s.partial == nil {
				continue
			}
			if s.partial.need--; s.partial.need == 0 {
				packet := s.partial.packet
				s.partial = nil
				s.handle(packet)
			}
			return
		}
		p.m.must(false, "%s got an attachment that no event announced", p.name)
		return
	}
	kind, namespace, rest := split(message)
	s := p.spaces[namespace]
	if s == nil {
		p.m.must(false, "%s got %q", p.name, message)
		return
	}
	switch kind {
	case "0":
		s.connected(rest)
	case "1":
		s.left = true
	case "2":
		s.handle(message)
	case "5":
		s.partial = &received{message, int(message[1] - '0')}
	default:
		p.m.must(false, "%s got %q", p.name, message)
	}
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
			away := time.Since(s.page.away)
			m.must(away >= keptFor || s.page.stale || s.doubtful, "%s%s did not recover after %v", s.page.name, s.name, away)
		}
		s.last = 0
	}
	s.page.stale = false
	s.shown, s.doubtful = recovered, false
	s.sid, s.pid, s.asked, s.left = reply.SID, reply.PID, "", false
	aside := s.aside
	s.aside = nil
	for _, packet := range aside {
		if recovered { // otherwise they belong to another session and say nothing about this one
			s.handle(packet)
		}
	}
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
	name, number, args := parseEvent(packet)
	from := m.socket(s.sid)
	if name != "n" || from == nil || number > len(from.sent) || number < 1 {
		m.must(false, "%s got %.80q", s.page.name, packet)
		return
	}
	m.must(string(args[2]) == `"`+s.sid+`"`, "%s got an event of another session: %s", s.sid, args[2])
	m.must(number > s.last, "%s%s has event %d twice", s.page.name, s.name, number)
	for missing := s.last + 1; missing < number; missing++ {
		e := from.sent[missing-1]
		m.must(e.asks && e.attached, "%s%s lost event %d: had %d, got %d", s.page.name, s.name, missing, s.last, number)
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

func (m *model) socket(sid string) *socket {
	i := slices.IndexFunc(m.sockets, func(s *socket) bool { return s.sid == sid })
	if i < 0 {
		return nil
	}
	return m.sockets[i]
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

// come opens a new connection, even if the previous one is still open.
func (p *page) come() {
	p.gone()
	w := p.m.dialFront(p.name, func(w *wire, message string, binary bool) { p.fromServer(w, message, binary) }, p.lost)
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.conn = w
	p.wires = append(p.wires, w)
	for _, name := range []string{"/", "/a"} {
		if s := p.spaces[name]; s != nil && !s.left {
			s.connect()
		}
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
	if p.conn != nil {
		p.conn.ignoresPings.Store(true)
		p.conn, p.away = nil, time.Now()
	}
	for _, s := range p.spaces {
		s.partial = nil
		s.asked = ""
		// A real client keeps them for its next connection. If its DISCONNECT was lost with this one, no
		// proxy can tell.
		s.aside = nil
	}
}

// lost records that the page saw a connection end.
func (p *page) lost(w *wire) {
	p.m.mu.Lock()
	current := p.conn == w
	p.m.mu.Unlock()
	if current {
		p.gone()
	}
}
