package proxy

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/holdfast/holdfast/session"
)

// space is a page's socket for one namespace.
type space struct {
	page     *page
	name     string
	pid, sid string
	offset   string
	last     int       // number of the last event of this sid
	handled  int       // how many events of this sid
	unseen   time.Time // when it last had a connection that brought a CONNECT reply
	replied  int       // number of the connection that the latest CONNECT reply came over
	asked    string    // pid in the CONNECT that waits for its reply, or "-" if it has none
	askedAt  time.Time // when that was sent
	partial  *received // a binary event that misses attachments
	everLeft bool      // it sent a DISCONNECT at any time
	left     bool      // it sent or got a DISCONNECT
	aside    []string  // events that arrived between its CONNECT and the reply, or with what it could not decode
	up       bool      // it is connected, for all that it knows
	shown    bool      // it sent something in this session or resumed it, so it has the reply
	doubtful bool      // it closed its connection cleanly before that: holdfast cannot tell if it has the reply
}

// connected handles a CONNECT reply.
func (s *space) connected(payload string) {
	m := s.page.m
	var reply struct{ SID, PID string }
	m.must(json.Unmarshal([]byte(payload), &reply) == nil && s.asked != "", "reply %q", payload)
	recovered := reply.PID == s.asked
	if s.page.key != "" {
		recovered = reply.SID == s.sid
	}
	if recovered {
		m.must(reply.SID == s.sid, "recovered as %s, was %s", reply.SID, s.sid)
	} else {
		if old := m.socket(s.sid); old != nil && (s.asked != "-" || s.page.key != "") && old.alive && !old.dropped && !s.left {
			away := time.Since(s.unseen)
			excused := m.excuses != nil && (m.excuses() || s.page.split(s))
			m.must(away >= keptFor-m.slack || s.page.stale || s.doubtful || excused, "%s%s did not recover after %v", s.page.name, s.name, away)
		}
		s.last, s.handled = 0, 0
	}
	s.waited()
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
	for range s.page.eager {
		m.sendLocked(s, len(s.page.sent)%4)
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
	s.handled++
	if from.sent[number-1].asks {
		s.answer(number)
	}
	var offset string
	_ = json.Unmarshal(args[len(args)-1], &offset)
	if from.sent[number-1].asks || s.page.key != "" {
		m.must(!strings.HasPrefix(offset, "hf"), "event %.80q has an offset", packet)
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
	s.asked, s.askedAt = "-", time.Now()
	var keys []string
	if s.pid != "" && s.page.key == "" {
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
