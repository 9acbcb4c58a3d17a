package proxy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// socket is the application's end of a session.
type socket struct {
	link    *upstreamLink
	space   string
	page    string
	sid     string
	alive   bool
	sent    []emitted
	answers map[int]bool // events that the page answered
	got     int          // number of the last event from the client
	dropped bool
}

// emitted is an event that the server sent.
type emitted struct {
	asks     bool
	attached bool // the page was connected then and may have received it
	poison   bool // the page cannot decode it
	faults   int  // model.faults then
	after    int  // number of the connection that the page's latest CONNECT reply came over: no older one may get it
}

// upstreamLink is the server's end of a link.
type upstreamLink struct {
	*wire
	m       *model
	from    *modelReplica
	page    string
	spaces  map[string]*socket
	dropped map[string]bool // namespaces that the application disconnected; the page may not know yet
	partial *received
	over    bool // linkEnded was called
}

// must fails the test unless ok. Any goroutine may call it.
func (m *model) must(ok bool, format string, args ...any) {
	if !ok {
		m.logf("FAIL: "+format, args...)
		m.t.Errorf(format, args...)
	}
}

// parseEvent parses an event's arguments: ["n", number, ...] or ["c", number, ...]. name is empty
// for anything else.
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
	if l.page == garbagePage || l.over {
		return
	}
	if binary {
		m.must(l.partial != nil, "an attachment that was not announced reached the server")
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
	m.logf("the application gets %q of %s over %p", message, l.page, l)
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
		m.must(s != nil && s.alive || l.dropped[namespace], "DISCONNECT for %s, which is not connected", namespace)
		if s != nil {
			m.ended(s)
		}
	case "2":
		m.clientEvent(l, message)
	case "3":
		m.acknowledged(l, message)
	case "5":
		l.partial = &received{message, int(message[1] - '0')}
	}
}

func (m *model) clientEvent(l *upstreamLink, packet string) {
	_, namespace, _ := split(packet)
	s := l.spaces[namespace]
	name, number, args := parseEvent(packet)
	if name == "ghost" { // see fleet.ghost
		m.must(s == nil || string(args[2]) != `"`+s.sid+`"`, "%s sent over a connection that another one has replaced", l.page)
		return
	}
	m.must(s != nil && s.alive || l.dropped[namespace], "%q for a namespace that is not connected", packet)
	if s == nil {
		return
	}
	m.arrived(s, number)
	if _, _, rest := split(packet); rest[0] != '[' { // it asks for an acknowledgement
		l.write(text(fmt.Sprintf(`43%s%d["a",%d,%d]`, prefix(namespace), ackID(rest), number, len(s.sent))))
	}
}

// ackID returns the acknowledgement id in front of a packet's data.
func ackID(rest string) int {
	id, _ := strconv.Atoi(rest[:strings.IndexByte(rest, '[')])
	return id
}

// ended records that the application saw a socket disconnect.
func (m *model) ended(s *socket) {
	s.alive = false
	m.logf("the server lost %s of %s%s", s.sid, s.page, s.space)
	if s.dropped {
		return
	}
	p := m.pages[s.page]
	sp := p.spaces[s.space]
	if m.excuses != nil && m.excuses() {
		return
	}
	kept := sp != nil && sp.sid == s.sid && !sp.left && !sp.doubtful && !p.stale && (p.conn != nil || time.Since(sp.unseen) < keptFor-m.slack)
	m.must(!kept, "the server lost %s%s, which could have come back", s.page, s.space)
}

// linkEnded records that a link closed.
func (m *model) linkEnded(l *upstreamLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.page == garbagePage {
		return
	}
	l.over = true
	for _, s := range l.spaces {
		if s.alive {
			m.ended(s)
		}
	}
}

// mayMiss reports whether a page may miss an event: one that it cannot decode, or that asks for an
// acknowledgement and may have been written to a connection that ended. Pages of a fleet close so
// many connections that two in a row may end over the same packet of a trial, as if the page could
// not decode it. One such packet may be left out in a run, if it is counted.
func (m *model) mayMiss(e emitted) bool {
	if e.poison || e.asks && (e.attached || e.faults != m.faults) {
		return true
	}
	m.missed++
	return m.missed <= min(1, m.leftOut())
}

// leftOut returns how many packets the replicas of a fleet have left out.
func (m *model) leftOut() int {
	n := 0.0
	for _, r := range m.fleet {
		n += testutil.ToFloat64(r.metrics.PoisonPackets)
	}
	return int(n)
}

func (m *model) socket(sid string) *socket {
	i := slices.IndexFunc(m.sockets, func(s *socket) bool { return s.sid == sid })
	if i < 0 {
		return nil
	}
	return m.sockets[i]
}
