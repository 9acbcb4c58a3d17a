package engineio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// patience bounds every wait for something that is to happen.
const patience = 20 * time.Second

// fakeHandler keeps messages to be sent, and a log of what the Socket told it.
type fakeHandler struct {
	onMessage func(data string) // called without the lock

	mu        sync.Mutex
	out       []Packet // to be filled
	filled    uint64   // packets ever
	confirmed uint64
	window    uint64 // packets that may be unconfirmed; 0 is no limit
	confirm   bool   // ask for a confirmation when packets were filled
	later     bool   // ask for one later
	checked   uint64 // filled at the last Unconfirmed
	log       []string
	changed   chan struct{} // closed, and replaced, at every change
}

func newFakeHandler() *fakeHandler { return &fakeHandler{changed: make(chan struct{})} }

func (h *fakeHandler) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noteLocked(format, args...)
}

func (h *fakeHandler) noteLocked(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *fakeHandler) Message(data []byte, binary bool) {
	p := Packet{Message, binary, data}.String()
	if h.onMessage != nil {
		h.onMessage(p)
	}
	h.note("message %s", p)
}

func (h *fakeHandler) Flush() { h.note("flush") }

func (h *fakeHandler) Fill(e *Encoder, maxBytes int) FillResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for n < len(h.out) && e.Len() < maxBytes && !h.fullLocked() {
		if p := h.out[n]; p.Binary {
			e.Binary(p.Data)
		} else {
			e.Text(p.Data, nil, nil)
		}
		h.filled++
		n++
	}
	h.out = h.out[n:]
	return FillResult{More: len(h.out) > 0 && !h.fullLocked(), Confirm: h.confirm && n > 0, ConfirmLater: h.later && n > 0}
}

func (h *fakeHandler) fullLocked() bool { return h.window > 0 && h.filled-h.confirmed >= h.window }

func (h *fakeHandler) Pending() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.out) > 0 && !h.fullLocked()
}

func (h *fakeHandler) Mark() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.filled
}

func (h *fakeHandler) ConfirmPing() { h.note("confirm ping") }

func (h *fakeHandler) Unconfirmed() (pending, overdue bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pending, overdue = h.confirmed < h.filled, h.confirmed < h.checked
	h.checked = h.filled
	return pending, overdue
}

func (h *fakeHandler) Confirm(mark uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirmed = max(h.confirmed, mark)
	h.noteLocked("confirm %d", mark)
}

func (h *fakeHandler) Upgraded() { h.note("upgraded") }

func (h *fakeHandler) Closed(reason Reason) { h.note("closed: %v", reason) }

func (h *fakeHandler) Panicked(v any) { h.note("panicked: %v", v) }

// add gives the handler messages to send.
func (h *fakeHandler) add(messages ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range messages {
		if rest, ok := strings.CutPrefix(m, "b:"); ok {
			h.out = append(h.out, Packet{Message, true, []byte(rest)})
		} else {
			h.out = append(h.out, Packet{Message, false, []byte(m)})
		}
	}
}

// askForConfirmations makes Fill ask for a ping behind every batch.
func (h *fakeHandler) askForConfirmations() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirm = true
}

// askToConfirmLater makes Fill ask for a ping that may come later.
func (h *fakeHandler) askToConfirmLater() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.later = true
}

// took returns the log since the last call, without the flushes.
func (h *fakeHandler) took() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	log := slices.DeleteFunc(h.log, func(s string) bool { return s == "flush" })
	h.log = nil
	return log
}

// wantLog compares the log since the last call, without the flushes. In a bubble it waits for all to settle.
func (h *fakeHandler) wantLog(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := h.took(); !slices.Equal(got, want) {
		t.Errorf("the handler saw %q, want %q", got, want)
	}
}

// await waits until an entry is in the log.
func (h *fakeHandler) await(t *testing.T, entry string) {
	t.Helper()
	h.awaitThat(t, entry, func() bool { return slices.Contains(h.log, entry) })
}

// awaitThat waits until cond holds; it may look at the handler's fields.
func (h *fakeHandler) awaitThat(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		ok, changed, log := cond(), h.changed, h.log
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %v for %s; the handler saw %.2000q", patience, what, log)
		}
	}
}

var testOptions = Options{
	PingInterval: 25 * time.Second, PingTimeout: 20 * time.Second, MaxPayload: 1 << 20,
	UpgradeTimeout: 10 * time.Second, Upgrades: true,
}

var testHandshake = Handshake{SID: "sid", PingInterval: 25000, PingTimeout: 20000, MaxPayload: 1 << 20}

const openText = `0{"sid":"sid","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1048576}`

// wsPeer is the client's end of a WebSocket, or with server set the server's.
type wsPeer struct {
	conn   net.Conn
	format format
	frames chan string   // what came, as text; closed at the end
	gate   chan struct{} // one token per read; nil if the peer reads on by itself
}

// newPeer starts to read.
func newPeer(conn net.Conn, f format) *wsPeer {
	p := &wsPeer{conn: conn, format: f, frames: make(chan string, 1<<16)} // more than a test sends, so that reading goes on
	go p.readLoop()                                                       // ends with the connection
	return p
}

// newLazyPeer reads only what read asks for.
func newLazyPeer(conn net.Conn) *wsPeer {
	p := &wsPeer{conn: conn, format: clientFrames, frames: make(chan string, 1<<16), gate: make(chan struct{})}
	go p.readLoop() // ends with the connection, or when the gate is closed
	return p
}

func (p *wsPeer) readLoop() {
	defer close(p.frames)
	r := frameReader{masked: p.format == serverFrames}
	buf := make([]byte, 32<<10)
	for {
		if p.gate != nil {
			<-p.gate
		}
		n, err := p.conn.Read(buf)
		if _, ferr := r.feed(buf[:n], func(op ws.OpCode, payload []byte) error {
			p.frames <- frameText(op, payload)
			return nil
		}); ferr != nil {
			p.frames <- "bad frame: " + ferr.Error()
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			p.frames <- "EOF"
			return
		case err != nil:
			p.frames <- "error"
			return
		}
	}
}

func frameText(op ws.OpCode, payload []byte) string {
	switch op {
	case ws.OpText:
		return string(payload)
	case ws.OpBinary:
		return fmt.Sprintf("b%x", payload)
	case ws.OpPing:
		return "ping:" + string(payload)
	case ws.OpPong:
		return "pong:" + string(payload)
	case ws.OpClose:
		if len(payload) < 2 {
			return "close:" + string(payload)
		}
		code, reason := ws.ParseCloseFrameData(payload)
		return fmt.Sprintf("close:%d%s", code, reason)
	default:
		return fmt.Sprintf("%x:%s", byte(op), payload)
	}
}

// next returns the next frame.
func (p *wsPeer) next(t *testing.T) string {
	t.Helper()
	select {
	case f, ok := <-p.frames:
		if !ok {
			t.Fatal("no more frames: the connection has ended")
		}
		return f
	case <-time.After(patience):
		t.Fatalf("waited %v for a frame", patience)
	}
	return ""
}

func (p *wsPeer) want(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := p.next(t); got != w {
			t.Fatalf("the peer got %.200q, want %.200q", got, w)
		}
	}
}

// wantNothing says that nothing has come. In a bubble only.
func (p *wsPeer) wantNothing(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case f := <-p.frames:
		t.Fatalf("the peer got %q, want nothing", f)
	default:
	}
}

// write sends frames that an Encoder collects, in one write.
func (p *wsPeer) write(t *testing.T, f func(e *Encoder)) {
	t.Helper()
	e := newEncoder(p.format)
	defer e.free()
	f(e)
	p.writeBytes(t, e.buf)
}

func (p *wsPeer) writeBytes(t *testing.T, b []byte) {
	t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		t.Fatalf("the peer's write: %v", err)
	}
}

// send sends text frames, in one write.
func (p *wsPeer) send(t *testing.T, texts ...string) {
	t.Helper()
	p.write(t, func(e *Encoder) {
		for _, s := range texts {
			e.frame(ws.OpText, 0, []byte(s), nil, nil)
		}
	})
}

func (p *wsPeer) sendFrame(t *testing.T, op ws.OpCode, payload []byte) {
	t.Helper()
	p.write(t, func(e *Encoder) { e.frame(op, 0, payload, nil, nil) })
}

// openPipe returns an open Socket whose transport is a WebSocket, over a net.Pipe. For use in a bubble.
func openPipe(t *testing.T, opts Options) (*Socket, *fakeHandler, *wsPeer) {
	t.Helper()
	h := newFakeHandler()
	s := NewSocket("sid", opts, h)
	ours, theirs := net.Pipe()
	p := newPeer(theirs, clientFrames)
	s.StartWebSocket(ours, nil, nil, testHandshake)
	p.want(t, openText)
	synctest.Wait()
	t.Cleanup(func() {
		s.Abort()
		theirs.Close()
	})
	return s, h, p
}

// loopback returns both ends of a TCP connection.
func loopback(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// openLoopback returns an open Socket whose transport is a WebSocket, over TCP.
func openLoopback(t *testing.T, opts Options) (*Socket, *fakeHandler, *wsPeer) {
	t.Helper()
	h := newFakeHandler()
	s := NewSocket("sid", opts, h)
	ours, theirs := loopback(t)
	p := newPeer(theirs, clientFrames)
	s.StartWebSocket(ours, nil, nil, testHandshake)
	p.want(t, openText)
	t.Cleanup(s.Abort)
	return s, h, p
}

// openPolling returns an open Socket whose transport is polling.
func openPolling(t *testing.T, opts Options) (*Socket, *fakeHandler) {
	t.Helper()
	h := newFakeHandler()
	s := NewSocket("sid", opts, h)
	s.Start()
	t.Cleanup(s.Abort)
	return s, h
}

// pollCall is a poll under way.
type pollCall struct {
	cancel context.CancelFunc
	result chan string // "status body", or "none" if there is nobody to answer; 1, so that Poll always ends
}

func startPoll(t *testing.T, s *Socket, id string) *pollCall {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c := &pollCall{cancel, make(chan string, 1)}
	go func() { // ends with the poll
		a, ok := s.Poll(ctx, id)
		c.result <- answerText(a, ok)
	}()
	return c
}

func answerText(a Answer, ok bool) string {
	if !ok {
		return "none"
	}
	return strings.TrimRight(fmt.Sprintf("%d %s", a.Status, a.Body), " ")
}

func (c *pollCall) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-c.result:
		if got != want {
			t.Errorf("the poll got %.200q, want %.200q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("the poll waits, want %q", want)
	}
}

// wantWaiting says that the poll is not answered. In a bubble only.
func (c *pollCall) wantWaiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-c.result:
		t.Fatalf("the poll got %q, want it to wait", got)
	default:
	}
}

// post sends a POST and returns its answer.
func post(s *Socket, id, body string) string {
	a, ok := s.Post(context.Background(), id, "text/plain;charset=UTF-8", int64(len(body)), strings.NewReader(body))
	return answerText(a, ok)
}

func wantPost(t *testing.T, s *Socket, id, body, want string) {
	t.Helper()
	if got := post(s, id, body); got != want {
		t.Errorf("POST %q got %q, want %q", body, got, want)
	}
}

// Answers that engine.io gives.
const (
	unknownSID = `400 {"code":1,"message":"Session ID unknown"}`
	badRequest = `400 {"code":3,"message":"Bad request"}`
	okAnswer   = "200 ok"
)

func TestInput(t *testing.T) {
	s, h := openPolling(t, testOptions)
	h.onMessage = func(string) { h.note("in") }
	s.Input(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			wantPost(t, s, "a", "4x", okAnswer)
		}()
		select {
		case <-done:
			t.Error("a message was handled meanwhile")
		case <-time.After(20 * time.Millisecond):
		}
		h.note("out")
	})
	h.awaitThat(t, "the message", func() bool { return len(h.log) == 5 })
	if got := fmt.Sprint(h.log); got != "[out flush in message 4x flush]" {
		t.Errorf("the handler saw %s", got)
	}
}

func TestErrorAnswer(t *testing.T) {
	tests := []struct {
		code   int
		status int
		body   string
	}{
		{CodeUnknownTransport, http.StatusBadRequest, `{"code":0,"message":"Transport unknown"}`},
		{CodeUnknownSID, http.StatusBadRequest, `{"code":1,"message":"Session ID unknown"}`},
		{CodeBadHandshakeMethod, http.StatusBadRequest, `{"code":2,"message":"Bad handshake method"}`},
		{CodeBadRequest, http.StatusBadRequest, `{"code":3,"message":"Bad request"}`},
		{CodeForbidden, http.StatusForbidden, `{"code":4,"message":"Forbidden"}`},
		{CodeUnsupportedProtocolVersion, http.StatusBadRequest, `{"code":5,"message":"Unsupported protocol version"}`},
	}
	for _, tt := range tests {
		a := ErrorAnswer(tt.code)
		if a.Status != tt.status || string(a.Body) != tt.body || a.Type != "application/json" || a.Code != tt.code {
			t.Errorf("ErrorAnswer(%d) = %+v, body %s; want %d %s", tt.code, a, a.Body, tt.status, tt.body)
		}
	}
}

func TestReasonString(t *testing.T) {
	for r, want := range map[Reason]string{
		0: "unknown", TransportClose: "transport close", TransportError: "transport error", PingTimeout: "ping timeout",
		ClientClose: "client close", GoingAway: "going away", ParseError: "parse error", ForcedClose: "forced close",
		PollError: "poll error", 100: "unknown",
	} {
		if got := r.String(); got != want {
			t.Errorf("Reason(%d) = %q, want %q", r, got, want)
		}
	}
}
