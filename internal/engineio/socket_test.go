package engineio

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// testTimeout limits every wait for something that must happen.
const testTimeout = 20 * time.Second

// fakeHandler holds messages to send, and records the Socket's calls.
type fakeHandler struct {
	onMessage func(data string) // called without the lock
	alive     atomic.Int32      // calls of Alive

	mu        sync.Mutex
	out       []Packet // for Fill
	filled    uint64   // packets so far
	confirmed uint64
	window    uint64  // packets that may be unconfirmed; 0 is no limit
	confirm   bool    // set FillResult.Confirm when packets were filled
	later     bool    // set FillResult.ConfirmLater
	pings     bool    // Fill adds a ping before and behind each packet, and a watch with its number
	checked   uint64  // value of filled at the last Unconfirmed
	memory    *memory // nil is no limit
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
		if h.pings {
			h.noteLocked("ping %d", e.Ping())
			e.Watch(h.filled + 1)
		}
		if p := h.out[n]; p.Binary {
			e.Binary(p.Data)
		} else {
			e.Text(p.Data, nil, nil)
		}
		h.filled++
		n++
	}
	if h.pings && n > 0 {
		h.noteLocked("ping %d", e.Ping())
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

func (h *fakeHandler) Alive() { h.alive.Add(1) }

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

func (h *fakeHandler) Incomplete(bytes int) bool { return h.memory == nil || h.memory.take(bytes) }

func (h *fakeHandler) TooLarge() {}

func (h *fakeHandler) Upgraded() { h.note("upgraded") }

func (h *fakeHandler) Closed(reason Reason) { h.note("closed: %v", reason) }

func (h *fakeHandler) Panicked(v any) { h.note("panicked: %v", v) }

// emit gives the handler messages to send, and wakes the Socket.
func (h *fakeHandler) emit(s *Socket, messages ...string) {
	h.add(messages...)
	s.Wake()
}

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

// askForConfirmations makes Fill ask for a ping after every batch.
func (h *fakeHandler) askForConfirmations() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirm = true
}

// askToConfirmLater makes Fill set ConfirmLater.
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

// wantLog compares the log since the last call, without the flushes. In a bubble it first waits for
// all goroutines.
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

// awaitThat waits until cond is true. cond may read the handler's fields.
func (h *fakeHandler) awaitThat(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(testTimeout)
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
			t.Fatalf("waited %v for %s; the handler saw %.2000q", testTimeout, what, log)
		}
	}
}

var testOptions = Options{
	PingInterval: 25 * time.Second, PingTimeout: 20 * time.Second, MaxPayload: 1 << 20,
	UpgradeTimeout: 10 * time.Second, Upgrades: true,
}

var testHandshake = Handshake{SID: "sid", PingInterval: 25000, PingTimeout: 20000, MaxPayload: 1 << 20}

const openText = `0{"sid":"sid","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1048576}`

// openPipe returns an open Socket whose transport is a WebSocket over a net.Pipe, for use in a
// bubble.
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

// openLoopback returns an open Socket whose transport is a WebSocket over TCP.
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

// pollCall is a running poll.
type pollCall struct {
	cancel context.CancelFunc
	result chan string // "status body", or "none" without an answer; 1, so that Poll always ends
}

// startWaiting starts a poll that nothing answers yet.
func startWaiting(t *testing.T, s *Socket, id string) *pollCall {
	t.Helper()
	c := startPoll(t, s, id)
	c.wantWaiting(t)
	return c
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
	case <-time.After(testTimeout):
		t.Fatalf("the poll waits, want %q", want)
	}
}

// wantWaiting checks that the poll is not answered. It works in a bubble only.
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

// The reference server's answers.
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
