package proxy

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// application serves the links of one replica.
type application struct {
	m     *model
	from  *modelReplica
	mu    sync.Mutex // guards links
	links map[string]*pollLink
}

// pollLink is the transport of an upstreamLink that polls, until holdfast upgrades it.
type pollLink struct {
	l       *upstreamLink
	queued  chan struct{} // 1: there is something in queue
	probing chan struct{} // closed when a poll must not wait any longer

	mu       sync.Mutex // guards the fields below
	queue    []frame
	switched bool // to the WebSocket
}

func (m *model) newLink(from *modelReplica, page string) *upstreamLink {
	return &upstreamLink{m: m, from: from, page: page, spaces: make(map[string]*socket), dropped: make(map[string]bool)}
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sid, page := r.URL.Query().Get("sid"), r.URL.Query().Get("page")
	a.mu.Lock()
	p := a.links[sid]
	a.mu.Unlock()
	upgrade := r.Header.Get("Upgrade") != ""
	a.m.logf("the application gets %s %s of %s, upgrade: %v", r.Method, sid, page, upgrade)
	switch {
	case sid == "" && upgrade:
		a.serveWebSocket(w, r, page)
	case sid == "":
		a.openPolling(w, page)
	case p == nil || p.l.closed():
		http.Error(w, `{"code":1,"message":"Session ID unknown"}`, http.StatusBadRequest)
	case upgrade:
		p.upgrade(w, r)
	case r.Method == http.MethodPost:
		p.posted(w, r, a.m)
	default:
		p.polled(w, r)
	}
}

const linkHandshake = `0{"sid":"%s","upgrades":[%s],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`

func (a *application) serveWebSocket(w http.ResponseWriter, r *http.Request, page string) {
	m, l := a.m, a.m.newLink(a.from, page)
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return // holdfast has ended the dial: a redial does so when its client leaves
	}
	l.wire = m.newWire(conn, false)
	m.mu.Lock()
	m.links = append(m.links, l)
	m.mu.Unlock()
	l.write(text(fmt.Sprintf(linkHandshake, "u", "")))
	l.readLoop(&limited{l.wire, conn}, func(message string, binary bool) { m.fromClient(l, message, binary) }, func() {})
	m.linkEnded(l)
}

// openPolling answers a handshake.
func (a *application) openPolling(w http.ResponseWriter, page string) {
	m, l := a.m, a.m.newLink(a.from, page)
	p := &pollLink{l: l, queued: make(chan struct{}, 1), probing: make(chan struct{})}
	l.wire = &wire{jitter: m.newJitter(), out: make(chan []byte, 4096), done: make(chan struct{}), poll: p}
	m.mu.Lock()
	m.links = append(m.links, l)
	m.wires = append(m.wires, l.wire)
	m.mu.Unlock()
	a.mu.Lock()
	sid := fmt.Sprint("u", len(a.links))
	a.links[sid] = p
	a.mu.Unlock()
	go func() {
		<-l.done
		m.linkEnded(l)
	}()
	_, _ = fmt.Fprintf(w, linkHandshake, sid, `"websocket"`)
}

func (p *pollLink) write(frames []frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.switched {
		p.l.queue(p.l.compileAll(frames))
		return
	}
	p.queue = append(p.queue, frames...)
	select {
	case p.queued <- struct{}{}:
	default:
	}
}

func (*pollLink) cut(*modelReplica) {} // done ends what waits

func (p *pollLink) take() (frames []frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	frames, p.queue = p.queue, nil
	return frames
}

// polled answers a poll.
func (p *pollLink) polled(w http.ResponseWriter, r *http.Request) {
	select {
	case <-p.queued:
	case <-p.probing:
	case <-p.l.done:
	case <-r.Context().Done():
		p.l.close()
	}
	frames := p.take()
	if len(frames) == 0 {
		frames = []frame{text("6")}
	}
	p.l.m.logf("the application answers %s with %.200q", r.URL.Query().Get("sid"), encodePayload(frames))
	_, _ = io.WriteString(w, encodePayload(frames))
}

func (p *pollLink) posted(w http.ResponseWriter, r *http.Request, m *model) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m.must(!p.isSwitched(), "a POST after UPGRADE")
	decodePayload(string(body), func(packet string, binary bool) {
		switch {
		case binary:
			m.fromClient(p.l, packet, true)
		case packet == "1":
			p.l.close()
		default:
			p.l.packet(packet, func(message string, binary bool) { m.fromClient(p.l, message, binary) })
		}
	})
	_, _ = io.WriteString(w, "ok")
}

func (p *pollLink) isSwitched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.switched
}

// upgrade serves the WebSocket of an upgrade.
func (p *pollLink) upgrade(w http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	l, m := p.l, p.l.m
	expect := func(want string) bool {
		f, err := ws.ReadFrame(conn)
		if err == nil && f.Header.Masked {
			ws.Cipher(f.Payload, f.Header.Mask, 0)
		}
		return err == nil && string(f.Payload) == want
	}
	if !expect("2probe") {
		conn.Close()
		return
	}
	go func() { // after the answer, as the reference server does
		time.Sleep(100 * time.Millisecond)
		close(p.probing)
	}()
	_, _ = conn.Write(l.compile(text("3probe")))
	if !expect("5") {
		conn.Close()
		return
	}
	p.mu.Lock()
	l.queue(l.compileAll(p.queue))
	p.queue, p.switched = nil, true
	p.mu.Unlock()
	m.logf("the link %s has upgraded", r.URL.Query().Get("sid"))
	l.setConn(conn)
	l.readLoop(&limited{l.wire, conn}, func(message string, binary bool) { m.fromClient(l, message, binary) }, func() {})
}

// encodePayload encodes frames as packets of a payload.
func encodePayload(frames []frame) string {
	var packets []string
	for _, f := range frames {
		switch f.op {
		case ws.OpBinary:
			packets = append(packets, "b"+base64.StdEncoding.EncodeToString(f.payload))
		case ws.OpClose:
			packets = append(packets, "1")
		default:
			packets = append(packets, string(f.payload))
		}
	}
	return strings.Join(packets, "\x1e")
}

// decodePayload calls fn with each packet of a payload.
func decodePayload(payload string, fn func(packet string, binary bool)) {
	for packet := range strings.SplitSeq(payload, "\x1e") {
		data, binary := strings.CutPrefix(packet, "b")
		if binary {
			b, _ := base64.StdEncoding.DecodeString(data)
			data = string(b)
		}
		fn(data, binary)
	}
}
