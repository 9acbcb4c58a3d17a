package proxy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pollingPage is a page that polls as socket.io-client does: one poll and one POST at a time, each
// over its own connection. It keeps what it emits without a connection for the next one.
type pollingPage struct {
	// Immutable.
	name    string
	targets []string // host and port of each replica
	sent    *sentEvents

	mu     sync.Mutex // guards the fields below
	random *rand.Rand
	spaces map[string]*pollingSpace
	engine *pollingEngine // the latest connection
	lines  []string       // what it did, for trace
}

// pollingSpace is a page's socket for one namespace.
type pollingSpace struct {
	pid, offset string
	connected   bool
	epoch       int // number of its connections
	number      int // of the last event
	kept        []string
}

// pollingEngine is one Engine.IO connection.
type pollingEngine struct {
	page    *pollingPage
	sid     string
	queue   []string // packets to post
	posting bool
	closed  chan struct{}
}

func newPollingPage(name string, rigs []*rig, random *rand.Rand, sent *sentEvents) *pollingPage {
	p := &pollingPage{name: name, sent: sent, random: random, spaces: map[string]*pollingSpace{"/": {}, "/admin": {}}}
	for _, r := range rigs {
		p.targets = append(p.targets, strings.TrimPrefix(r.url, "http://"))
	}
	return p
}

func (p *pollingPage) noteLocked(format string, args ...any) {
	p.lines = append(p.lines, time.Now().Format("15:04:05.000000 ")+fmt.Sprintf(format, args...))
}

// trace returns the last things that the page did.
func (p *pollingPage) trace() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-100):], "\n")
}

// run connects again and again until stop.
func (p *pollingPage) run(stop <-chan struct{}) {
	for {
		p.connect(stop)
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// connect opens a connection, and polls until it ends.
func (p *pollingPage) connect(stop <-chan struct{}) {
	answer, err := p.request(http.MethodGet, "", "")
	var open struct{ SID string }
	if err != nil || !strings.HasPrefix(answer, "0") || json.Unmarshal([]byte(answer[1:]), &open) != nil {
		return
	}
	e := &pollingEngine{page: p, sid: open.SID, closed: make(chan struct{})}
	e.connectSpaces()
	for {
		answer, err := p.request(http.MethodGet, e.sid, "")
		if err != nil {
			e.close(err)
		}
		select {
		case <-e.closed:
			return
		case <-stop:
			return
		default:
			e.handle(answer)
		}
	}
}

func (e *pollingEngine) connectSpaces() {
	p := e.page
	p.mu.Lock()
	defer p.mu.Unlock()
	p.engine = e
	p.noteLocked("opened %s", e.sid)
	for _, name := range []string{"/", "/admin"} {
		s, auth := p.spaces[name], ""
		switch {
		case s.pid != "" && s.offset != "":
			auth = fmt.Sprintf(`{"pid":%q,"offset":%q}`, s.pid, s.offset)
		case s.pid != "":
			auth = fmt.Sprintf(`{"pid":%q}`, s.pid)
		}
		e.writeLocked("40" + prefix(name) + auth)
	}
}

// emit sends the page's next event in a namespace.
func (p *pollingPage) emit(namespace string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.spaces[namespace]
	name := epochName{p.name, namespace, s.epoch}
	if !s.connected {
		name.epoch++
	}
	s.number++
	p.sent.sent(name, s.number)
	packet := fmt.Sprintf(`42%s["u",%q,%d,%d]`, prefix(namespace), p.name, s.number, name.epoch)
	if s.connected {
		p.engine.writeLocked(packet)
	} else {
		s.kept = append(s.kept, packet)
	}
}

func (e *pollingEngine) close(why error) {
	e.page.mu.Lock()
	defer e.page.mu.Unlock()
	e.closeLocked(why)
}

func (e *pollingEngine) closeLocked(why error) {
	if e.isClosed() {
		return
	}
	close(e.closed)
	e.page.noteLocked("closed %s: %v", e.sid, why)
	for _, s := range e.page.spaces {
		s.connected = false
	}
}

func (e *pollingEngine) isClosed() bool {
	select {
	case <-e.closed:
		return true
	default:
		return false
	}
}

// writeLocked posts a packet, behind those that wait.
func (e *pollingEngine) writeLocked(packet string) {
	e.queue = append(e.queue, packet)
	e.postLocked()
}

func (e *pollingEngine) postLocked() {
	if e.posting || len(e.queue) == 0 || e.isClosed() {
		return
	}
	e.posting = true
	body := strings.Join(e.queue, "\x1e")
	e.queue = nil
	go func() { // ends with the request
		_, err := e.page.request(http.MethodPost, e.sid, body)
		e.page.mu.Lock()
		defer e.page.mu.Unlock()
		e.posting = false
		if err != nil {
			e.closeLocked(err)
		}
		e.postLocked()
	}()
}

// handle handles the packets of a polling answer.
func (e *pollingEngine) handle(payload string) {
	e.page.mu.Lock()
	defer e.page.mu.Unlock()
	for packet := range strings.SplitSeq(payload, "\x1e") {
		if e.isClosed() {
			return
		}
		switch {
		case packet == "":
			e.closeLocked(errors.New("an empty answer")) // as engine.io-client, which cannot decode it
		case packet == "2":
			e.writeLocked("3")
		case packet[0] == '1':
			e.closeLocked(errors.New("a CLOSE packet"))
		case packet[0] == '4':
			e.messageLocked(packet[1:])
		}
	}
}

func (e *pollingEngine) messageLocked(message string) {
	kind, namespace, rest := split(message)
	s := e.page.spaces[namespace]
	if s == nil { // trials are sent in another one
		return
	}
	switch kind {
	case "0":
		var reply struct{ PID string }
		_ = json.Unmarshal([]byte(rest), &reply) // without a pid the page recovers nothing
		e.page.noteLocked("connected %s, recovered: %v", namespace, reply.PID == s.pid)
		if reply.PID != s.pid {
			s.pid, s.offset = reply.PID, ""
		}
		s.epoch++
		s.connected = true
		for _, packet := range s.kept {
			e.writeLocked(packet)
		}
		s.kept = nil
	case "1":
		e.closeLocked(errors.New("a DISCONNECT packet"))
	case "2":
		var args []json.RawMessage
		var offset string
		if json.Unmarshal([]byte(rest), &args) == nil && len(args) > 0 && json.Unmarshal(args[len(args)-1], &offset) == nil {
			s.offset = offset
		}
	}
}

// The ways in which a request may go wrong. Most go well.
const (
	cutInTheMiddle = iota
	cutAfterIt
	cutInTheAnswer
	halfClosed
	halfClosedLater
	inTwoPieces
	faultKinds
)

var errCut = errors.New("cut")

// request makes a request to any replica, over a connection of its own, and returns the answer's
// body.
func (p *pollingPage) request(method, sid, body string) (answer string, err error) {
	p.mu.Lock()
	place := p.random.IntN(len(p.targets))
	fault := p.random.IntN(faultKinds * 25)
	later := time.Duration(p.random.IntN(15)) * time.Millisecond
	part := p.random.Float64()
	id := strconv.FormatInt(time.Now().UnixMilli(), 36) + "." + strconv.Itoa(p.random.IntN(1e6))
	p.noteLocked("%s %s to %d, fault %d: %.80q", method, id, place, fault, body)
	p.mu.Unlock()
	conn, err := net.Dial("tcp", p.targets[place])
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	query := "EIO=4&transport=polling&t=" + id
	if sid != "" {
		query += "&sid=" + sid
	}
	text := fmt.Sprintf("%s /socket.io/?%s HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, query, len(body), body)
	half := int(part * float64(len(text)))
	write := func(text string) { _, _ = io.WriteString(conn, text) } // reading the answer fails, too
	switch fault {
	case cutInTheMiddle:
		write(text[:half])
		return "", errCut
	case inTwoPieces:
		write(text[:half])
		time.Sleep(later) // a slow network
		write(text[half:])
	default:
		write(text)
	}
	switch fault {
	case cutAfterIt:
		time.Sleep(later) // how far holdfast is then
		return "", errCut
	case halfClosed:
		_ = conn.(*net.TCPConn).CloseWrite() // reading the answer fails, too
	case halfClosedLater:
		defer time.AfterFunc(later, func() { _ = conn.(*net.TCPConn).CloseWrite() }).Stop()
	}
	return readAnswer(conn, method, fault == cutInTheAnswer)
}

func readAnswer(conn net.Conn, method string, cut bool) (answer string, err error) {
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if cut {
		return "", errCut
	}
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return string(b), err
}
