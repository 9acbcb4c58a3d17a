package proxy

import (
	"fmt"
	"time"
)

// clientEvent is an event, or an answer, that a page sent.
type clientEvent struct {
	conn     int    // number of the connection
	sid      string // the session
	asks     bool   // it asks for an acknowledgement
	arrived  bool
	answered bool // the page has the acknowledgement
}

// said notes that a page sends something in a session. It returns the number, which is in it.
func (s *space) said(asks bool) int {
	p := s.page
	p.sent = append(p.sent, clientEvent{conn: p.conn.number, sid: s.sid, asks: asks})
	s.shown = true
	return len(p.sent)
}

// answer acknowledges an event.
func (s *space) answer(id int) {
	if conn := s.page.conn; conn != nil && !s.left {
		conn.write(text(fmt.Sprintf(`43%s%d["c",%d,"%s"]`, prefix(s.name), id, s.said(false), s.sid)))
	}
}

// arrived checks what reached the application: once, in order, and without a gap. What a page sends
// may be lost with its connection, but then everything behind it is lost, too.
func (m *model) arrived(s *socket, number int) {
	sent := m.pages[s.page].sent
	if number < 1 || number > len(sent) {
		m.must(false, "%s never sent event %d", s.page, number)
		return
	}
	m.must(number > s.got, "event %d of %s came after %d", number, s.page, s.got)
	s.got = number
	e := &sent[number-1]
	m.must(e.sid == s.sid, "event %d of %s, which it sent as %s, came for %s", number, s.page, e.sid, s.sid)
	e.arrived = true
	for i, earlier := range sent[:number-1] {
		if earlier.conn == e.conn && earlier.sid == e.sid && !earlier.arrived {
			m.must(false, "%s lost event %d to the server, although %d of the same connection came", s.page, i+1, number)
			sent[i].arrived = true // it is reported once
		}
	}
}

// acknowledged handles an answer of a page.
func (m *model) acknowledged(l *upstreamLink, packet string) {
	_, namespace, rest := split(packet)
	id := ackID(rest)
	s := l.spaces[namespace]
	_, number, args := parseEvent(packet)
	m.must(s != nil && s.alive || l.dropped[namespace], "%q for a namespace that is not connected", packet)
	if s == nil {
		return
	}
	m.must(id >= 1 && id <= len(s.sent) && s.sent[id-1].asks && len(args) == 3, "answer %q to nothing", packet)
	m.must(!s.answers[id], "a second answer to event %d of %s", id, s.sid)
	if s.answers == nil {
		s.answers = make(map[int]bool)
	}
	s.answers[id] = true
	m.arrived(s, number)
}

// answered handles an acknowledgement from the server. after is how many events the server had sent
// before.
func (s *space) answered(number, after int) {
	p, m := s.page, s.page.m
	if number < 1 || number > len(p.sent) || !p.sent[number-1].asks {
		m.must(false, "%s got an answer to event %d, which asks for none", p.name, number)
		return
	}
	e := &p.sent[number-1]
	m.must(e.sid == s.sid, "%s got an answer as %s, for which it asked as %s", p.name, s.sid, e.sid)
	e.answered = true
	from := m.socket(s.sid)
	if from == nil || !s.up || s.left || m.fleet == nil || m.leftOut() > 0 {
		return
	}
	for missing := s.last + 1; missing <= after; missing++ {
		lost := from.sent[missing-1]
		m.must(lost.asks || lost.poison, "%s%s got an answer before event %d", p.name, s.name, missing)
	}
}

// unheard returns what the application, or a page, should have got from the other by now.
func (m *model) unheard() (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range pageNames {
		p := m.pages[name]
		for _, sp := range p.spaces {
			s := m.socket(sp.sid)
			if p.conn == nil || s == nil || !s.alive || sp.left {
				continue
			}
			for i, e := range p.sent {
				last := e.conn == p.conn.number
				switch {
				case e.sid != s.sid:
				case last && !e.arrived:
					list = append(list, fmt.Sprintf("the server did not get event %d of %s%s", i+1, p.name, sp.name))
				case e.asks && e.arrived && !e.answered && !sp.everLeft && m.fleet != nil && (last || p.key == ""):
					list = append(list, fmt.Sprintf("%s%s did not get the answer to event %d", p.name, sp.name, i+1))
				}
			}
		}
	}
	return list
}

// twice returns the pages with a key that have two sockets in a namespace.
func (m *model) twice() (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	count := make(map[string]int)
	for _, s := range m.sockets {
		if p := m.pages[s.page]; p != nil && p.key != "" && s.alive {
			count[s.page+s.space]++
			if count[s.page+s.space] == 2 {
				list = append(list, s.page+s.space+" has two sockets")
			}
		}
	}
	return list
}

// patience is how long a page may wait for the reply to its CONNECT: two seconds for a replica that
// does not answer, and what else it may wait for. A trial takes longer.
const (
	patience      = 2500 * time.Millisecond
	trialPatience = 10 * time.Second
)

// waited checks how long the reply to a CONNECT took.
func (s *space) waited() {
	p, m := s.page, s.page.m
	took := time.Since(s.askedAt)
	excused := p.stale || p.conn.hasStalled || m.excuses == nil || m.excuses()
	limit := patience
	if p.tried {
		limit = trialPatience
	}
	m.must(excused || took <= limit, "%s%s waited %v for the reply to its CONNECT", p.name, s.name, took)
}
