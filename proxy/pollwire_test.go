package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// pollWire is the transport of a wire that polls. Each request may reach another replica, as behind
// a balancer without stickiness, and may be cut at any byte.
type pollWire struct {
	m      *model
	w      *wire
	route  func(choose func(n int) int) *modelReplica // chooses where a request goes
	query  string
	sid    string
	faulty int // one of so many requests is cut; 0 is none

	// Tokens: who takes one may poll, or post. An upgrade takes both.
	poll, post chan struct{}
	queued     chan struct{} // 1: there is something in queue
	upgraded   chan struct{} // closed when the WebSocket is the transport
	reader     io.Reader     // of the WebSocket; set before that

	mu       sync.Mutex // guards the fields below
	random   *rand.Rand
	requests int // so far
	queue    []frame
	switched bool // to the WebSocket
	inFlight map[net.Conn]*modelReplica
}

var errModelCut = errors.New("the model cut a request")

func (m *model) newPolling(to *modelReplica, query string, seed uint64, faulty int) *pollWire {
	w := &wire{client: true, jitter: m.newJitter(), out: make(chan []byte, 4096), done: make(chan struct{})}
	q := &pollWire{
		m: m, w: w, route: m.route, query: query, faulty: faulty, random: rand.New(rand.NewPCG(seed, 2)),
		poll: make(chan struct{}, 1), post: make(chan struct{}, 1), queued: make(chan struct{}, 1), upgraded: make(chan struct{}),
		inFlight: make(map[net.Conn]*modelReplica),
	}
	if q.route == nil {
		q.route = func(func(n int) int) *modelReplica { return to }
	}
	w.poll = q
	m.mu.Lock()
	m.wires = append(m.wires, w)
	m.mu.Unlock()
	return q
}

func (q *pollWire) chance(n int) bool { return n > 0 && q.choose(n) == 0 }

func (q *pollWire) choose(n int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.random.IntN(n)
}

// dialPolling opens a session of Engine.IO by polling. Its handshake goes to a given replica.
func (m *model) dialPolling(to *modelReplica, query string, seed uint64, faulty int, upgrades bool, fn func(w *wire, message string, binary bool), read, lost func(*wire)) *wire {
	q := m.newPolling(to, query, seed, faulty)
	w := q.w
	answer, err := q.exchange(to, http.MethodGet, q.newID(), "")
	if err == nil {
		q.sid, err = sidOf(answer)
	}
	if err != nil {
		if !errors.Is(err, errModelCut) && !w.closed() {
			m.t.Error(err)
		}
		w.close()
		return w
	}
	q.poll <- struct{}{}
	q.post <- struct{}{}
	go q.postLoop() // they end with the connection
	go func() {
		handle := func(message string, binary bool) { fn(w, message, binary) }
		q.pollLoop(handle, func() { read(w) })
		lost(w)
	}()
	if upgrades {
		go q.upgrade()
	}
	return w
}

func sidOf(answer string) (string, error) {
	_, rest, found := strings.Cut(answer, `0{"sid":"`)
	sid, _, ended := strings.Cut(rest, `"`)
	if !found || !ended {
		return "", fmt.Errorf("the answer to a handshake is %.200q", answer)
	}
	return sid, nil
}

// write queues frames for the next POST, or for the WebSocket.
func (q *pollWire) write(frames []frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.switched {
		q.w.queue(q.w.compileAll(frames))
		return
	}
	q.queue = append(q.queue, frames...)
	select {
	case q.queued <- struct{}{}:
	default:
	}
}

func (q *pollWire) take() (frames []frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames, q.queue = q.queue, nil
	return frames
}

func (q *pollWire) postLoop() {
	for {
		select {
		case <-q.queued:
		case <-q.w.done:
			return
		}
		select {
		case <-q.post:
		case <-q.upgraded:
			return
		case <-q.w.done:
			return
		}
		if frames := q.take(); len(frames) > 0 {
			if _, err := q.request(http.MethodPost, encodePayload(frames)); err != nil {
				q.w.close()
				return
			}
		}
		q.post <- struct{}{}
	}
}

// pollLoop calls fn with each message until the connection ends, and read after each answer.
func (q *pollWire) pollLoop(fn func(message string, binary bool), read func()) {
	w, closing := q.w, false
	for !w.ignoresPings.Load() {
		select {
		case <-q.poll:
		case <-q.upgraded:
			w.readLoop(q.reader, fn, read)
			return
		case <-w.done:
			return
		}
		answer, err := q.request(http.MethodGet, "")
		if err != nil {
			w.close()
			return
		}
		decodePayload(answer, func(packet string, binary bool) {
			switch {
			case binary:
				fn(packet, true)
			case packet == "1":
				closing = true
			default:
				w.packet(packet, fn)
			}
		})
		read()
		if closing {
			w.close()
			return
		}
		q.poll <- struct{}{}
	}
	<-w.done // the page has left it
}

func (q *pollWire) newID() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.requests++
	return fmt.Sprintf("P%dx", q.requests)
}

// request makes a request to any replica. A proxy in between may repeat one that was cut.
func (q *pollWire) request(method, body string) (answer string, err error) {
	id := q.newID()
	for range 3 {
		to := q.route(q.choose)
		answer, err = q.exchange(to, method, id, body)
		q.m.logf("%s %s %s at %p %.120q: %.120q %v", q.sid, method, id, to, body, answer, err)
		if !errors.Is(err, errModelCut) || q.w.closed() || !q.chance(2) {
			break
		}
		time.Sleep(time.Duration(q.choose(20)) * time.Millisecond)
	}
	return answer, err
}

// exchange makes one request. It fails with errModelCut if the request was cut.
func (q *pollWire) exchange(to *modelReplica, method, id, body string) (string, error) {
	q.w.jitter.sleep()
	defer q.w.jitter.sleep()
	conn, err := to.port.dial()
	if err != nil {
		return "", errModelCut
	}
	defer conn.Close()
	if !q.track(conn, to) {
		return "", errModelCut
	}
	defer q.untrack(conn)
	query := q.query + "&transport=polling&t=" + id
	if q.sid != "" {
		query += "&sid=" + q.sid
	}
	head := fmt.Sprintf("%s /socket.io/?%s HTTP/1.1\r\nHost: proxy\r\nContent-Length: %d\r\n\r\n", method, query, len(body))
	cut := q.chance(q.faulty)
	if cut && method == http.MethodPost && !q.chance(3) { // otherwise after the body
		all := head + body
		_, _ = io.WriteString(conn, all[:len(head)+q.choose(len(body))])
		return "", errModelCut
	}
	go func() { // an answer may come before that
		_, _ = io.WriteString(conn, head)
		q.w.jitter.sleep()
		_, _ = io.WriteString(conn, body)
	}()
	r := io.Reader(&limited{q.w, conn})
	if cut {
		r = q.cutAnswer(conn, r)
	}
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return "", errModelCut
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", errModelCut
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s with %d", method, resp.StatusCode)
	}
	return string(b), nil
}

// cutAnswer cuts a request at some byte of its answer, or while it waits.
func (q *pollWire) cutAnswer(conn net.Conn, r io.Reader) io.Reader {
	if q.chance(3) {
		time.AfterFunc(time.Duration(q.choose(50))*time.Millisecond, func() { conn.Close() })
		return r
	}
	return io.LimitReader(r, int64(1+q.choose(400)))
}

// track notes a request in progress. It reports whether there may be one.
func (q *pollWire) track(conn net.Conn, to *modelReplica) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.w.closed() {
		return false
	}
	q.inFlight[conn] = to
	return true
}

func (q *pollWire) untrack(conn net.Conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.inFlight, conn)
}

// cut ends the requests in progress to a replica, or all if it is nil.
func (q *pollWire) cut(to *modelReplica) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for conn, at := range q.inFlight {
		if to == nil || at == to {
			conn.Close()
		}
	}
}

// writeHalf begins a POST and never ends it.
func (q *pollWire) writeHalf(body string) {
	conn, err := q.exchangeHalf(body)
	if err == nil {
		conn.Close()
	}
}

func (q *pollWire) exchangeHalf(body string) (net.Conn, error) {
	to := q.route(q.choose)
	conn, err := to.port.dial()
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "POST /socket.io/?%s&transport=polling&t=%s&sid=%s HTTP/1.1\r\nHost: proxy\r\nContent-Length: %d\r\n\r\n%s",
		q.query, q.newID(), q.sid, len(body)+1, body)
	return conn, err
}

// upgradeSteps are where an upgrade may be cut: before the WebSocket's handshake is answered, after
// it, behind the probe, behind its answer, when polling has paused, behind UPGRADE, and never.
const upgradeSteps = 7

// upgrade upgrades to a WebSocket, which is cut at any step.
func (q *pollWire) upgrade() {
	w, step := q.w, upgradeSteps-1
	time.Sleep(time.Duration(q.choose(40)) * time.Millisecond)
	if q.faulty > 0 && q.chance(3) {
		step = q.choose(upgradeSteps)
	}
	to := q.route(q.choose)
	conn, err := to.port.dial()
	if err != nil || !q.track(conn, to) {
		return
	}
	if step == 0 {
		time.AfterFunc(time.Duration(q.choose(3))*time.Millisecond, func() { conn.Close() })
	}
	br, _, err := ws.Dialer{}.Upgrade(conn, &url.URL{Scheme: "ws", Host: "proxy", Path: "/socket.io/", RawQuery: q.query + "&transport=websocket&sid=" + q.sid})
	if br == nil {
		br = bufio.NewReader(conn)
	}
	if err == nil && step > 1 {
		err = q.probe(conn, br, step)
	}
	if err != nil || step <= 2 {
		conn.Close() // the page continues to poll
		q.untrack(conn)
		return
	}
	q.finishUpgrade(conn, br, step)
	q.m.logf("%s upgraded, step %d", q.sid, step)
	if step != upgradeSteps-1 {
		conn.Close()
		w.close() // the page would notice that with its heartbeat
	}
}

// probe sends the probe and awaits its answer.
func (q *pollWire) probe(conn net.Conn, br *bufio.Reader, step int) error {
	if _, err := conn.Write(q.w.compile(text("2probe"))); err != nil || step == 2 {
		return err
	}
	f, err := ws.ReadFrame(br)
	if err == nil && string(f.Payload) != "3probe" {
		err = errors.New("not the answer to a probe")
	}
	return err
}

// finishUpgrade waits until no request is in progress, and makes the WebSocket the transport.
func (q *pollWire) finishUpgrade(conn net.Conn, br *bufio.Reader, step int) {
	w := q.w
	for _, token := range []chan struct{}{q.poll, q.post} {
		if step == 3 {
			return
		}
		select {
		case <-token:
		case <-w.done:
			conn.Close()
			return
		}
	}
	if step == 4 || w.ignoresPings.Load() { // or the page has left it meanwhile
		conn.Close()
		return
	}
	early, _ := br.Peek(br.Buffered()) // returns what is buffered, without an error
	q.reader = io.MultiReader(strings.NewReader(string(early)), &limited{w, conn})
	q.mu.Lock()
	w.queue(w.compile(text("5")))
	w.queue(w.compileAll(q.queue))
	q.switched, q.queue = true, nil
	q.mu.Unlock()
	w.setConn(conn)
	close(q.upgraded)
}
