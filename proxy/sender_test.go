package proxy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// senderRig is a sender without a client: its Socket asks it directly.
type senderRig struct {
	engineio.Handler // nil: the tests need no other methods

	t      *testing.T
	conn   clientConn
	sender sender
	link   fakeSource
}

const testWindow = 128 << 10

func newSenderRig(t *testing.T) *senderRig {
	r := &senderRig{t: t}
	report := &reporter{metrics: metrics.New(prometheus.NewRegistry())}
	budget := buffer.NewBudget(0)
	r.conn.deps = &deps{reporter: report, budget: budget}
	r.conn.deps.registry = session.NewRegistry(session.Limits{MaxPackets: 1000, MaxBytes: 1 << 20, WindowBytes: 1 << 20}, 10, budget, silentObserver{})
	r.conn.sock = engineio.NewSocket("sid", engineio.Options{PingInterval: time.Minute, PingTimeout: time.Minute, MaxPayload: 1 << 20}, r)
	r.sender.init(&r.conn, testWindow, time.Minute)
	return r
}

func (r *senderRig) Fill(e *engineio.Encoder, maxBytes int) engineio.FillResult {
	return r.sender.fill(e, maxBytes)
}
func (r *senderRig) Pending() bool            { return r.sender.wanted() }
func (r *senderRig) Mark() uint64             { return r.sender.newMark() }
func (r *senderRig) Confirm(mark uint64)      { r.sender.confirm(mark) }
func (r *senderRig) ConfirmPing()             {}
func (r *senderRig) Alive()                   {}
func (r *senderRig) Unconfirmed() (_, _ bool) { return r.sender.unconfirmed() }
func (r *senderRig) Closed(engineio.Reason)   {}

// Handshake implements session.Owner.
func (r *senderRig) Handshake() uint64 { return 1 }

// open opens a session without a pid, so that its packets get no offset.
func (r *senderRig) open(namespace string) *session.Cursor {
	r.t.Helper()
	cur := r.conn.deps.registry.New(&r.link, namespace, r, false)
	r.conn.sessions.set(namespace, cur)
	return cur
}

// deliver appends a packet to a session's log and queues it.
func (r *senderRig) deliver(cur *session.Cursor, packet string) {
	r.t.Helper()
	if _, err := cur.Session().Append(&buffer.Packet{Data: []byte(packet)}); err != nil {
		r.t.Fatal(err)
	}
	r.sender.deliver(cur, 1)
}

// poll returns the messages of the answer to a poll. It also confirms the answer before.
func (r *senderRig) poll(id string) []string {
	r.t.Helper()
	a, ok := r.conn.sock.Poll(r.t.Context(), id)
	if !ok || a.Status != 200 {
		r.t.Fatalf("poll %s: %d, %v", id, a.Status, ok)
	}
	return strings.Split(strings.ReplaceAll(string(a.Body), "\x1e4", "\x1e")[1:], "\x1e")
}

// fakeSource is a link that counts how often it is paused.
type fakeSource struct{ paused int }

func (s *fakeSource) SetReadPaused(paused bool) {
	if paused {
		s.paused++
	} else {
		s.paused--
	}
}

func (*fakeSource) SessionsClosed([]*session.Session, reason.Reason)             {}
func (*fakeSource) SessionParked(*session.Session, reason.Reason, time.Duration) {}
func (*fakeSource) SessionResumed(*session.Session, time.Duration, int)          {}

// silentObserver is a session.Observer.
type silentObserver struct{}

func (silentObserver) Parked(*session.Session, reason.Reason)                     {}
func (silentObserver) Closed(*session.Session, reason.Reason, session.State, int) {}
func (silentObserver) Dropped(session.Retention, int)                             {}
func (silentObserver) Poisoned(*session.Session, *buffer.Entry)                   {}
func (silentObserver) Panicked(v any, _ []*session.Session)                       { panic(v) }

// Packets of several sessions, replies, and messages that belong to none leave in the order in
// which they came.
func TestSenderKeepsTheOrder(t *testing.T) {
	r := newSenderRig(t)
	a, b := r.open("/a"), r.open("/b")
	r.sender.connected(a, []byte(`0/a,{"sid":"x"}`), &r.link)
	r.deliver(a, `2/a,["1"]`)
	r.deliver(b, `2/b,["2"]`)
	r.sender.relay([]byte("raw"), false, &r.link)
	r.deliver(a, `2/a,["3"]`)
	r.deliver(a, `2/a,["4"]`)
	want := []string{`0/a,{"sid":"x"}`, `2/a,["1"]`, `2/b,["2"]`, "raw", `2/a,["3"]`, `2/a,["4"]`}
	if got := r.poll("1"); !slices.Equal(got, want) {
		t.Errorf("the client got %q, want %q", got, want)
	}
}

// The sender limits what is in flight until it is confirmed, or the transport closes.
func TestSenderLimitsWhatIsInFlight(t *testing.T) {
	r := newSenderRig(t)
	cur := r.open("/")
	const packets, size = 20, 16 << 10
	for range packets {
		r.deliver(cur, strings.Repeat("x", size))
	}
	fill := func() {
		for r.sender.wanted() {
			r.sender.fill(&engineio.Encoder{}, size)
		}
	}
	fill()
	if got := r.sender.bytes; got < testWindow || got > testWindow+size {
		t.Fatalf("%d bytes are in flight, want about %d", got, testWindow)
	}
	r.sender.confirm(r.sender.newMark())
	if r.sender.bytes != 0 || !r.sender.wanted() {
		t.Fatalf("after the confirmation %d bytes are in flight, more is wanted: %v", r.sender.bytes, r.sender.wanted())
	}
	r.conn.state.moveLocked(clientDraining)
	fill()
	if got := r.sender.count; got != packets {
		t.Errorf("%d packets were sent while the transport closes, want %d", got, packets)
	}
}

// Messages of no session pause their link while many wait. Each link is paused once.
func TestSenderPausesLinksOfWaitingMessages(t *testing.T) {
	r := newSenderRig(t)
	var other fakeSource
	message := make([]byte, testWindow/2)
	for _, from := range []*fakeSource{&r.link, &other, &r.link} {
		r.sender.relay(message, true, from)
	}
	if r.link.paused != 1 || other.paused != 1 {
		t.Fatalf("the links are paused %d and %d times, want once each", r.link.paused, other.paused)
	}
	for r.sender.wanted() {
		r.sender.fill(&engineio.Encoder{}, 1)
	}
	if r.link.paused != 0 || other.paused != 0 {
		t.Errorf("with nothing left the links are paused %d and %d times, want none", r.link.paused, other.paused)
	}
}

func TestClosedSenderQueuesNothing(t *testing.T) {
	r := newSenderRig(t)
	cur := r.open("/")
	r.sender.relay(make([]byte, testWindow), true, &r.link)
	r.deliver(cur, "2[]")
	r.conn.state.moveLocked(clientClosed)
	cursors, _, _ := r.sender.close()
	if !slices.Equal(cursors, []*session.Cursor{cur}) {
		t.Errorf("cursors of queued packets: %v, want one", cursors)
	}
	r.sender.relay(make([]byte, testWindow), true, &r.link)
	if r.link.paused != 0 || r.sender.wanted() {
		t.Errorf("the link is paused %d times, something is queued: %v", r.link.paused, r.sender.wanted())
	}
}

func TestSentMessagesDoNotGrowTheQueue(t *testing.T) {
	s := &newSenderRig(t).sender
	s.relay([]byte("x"), false, nil)
	for range 10_000 { // one message always waits
		s.relay([]byte("x"), false, nil)
		s.fill(&engineio.Encoder{}, 1)
	}
	if n := len(s.pending) - s.head; n != 1 {
		t.Fatalf("%d wait, want 1", n)
	}
	if room := cap(s.pending); room > 256 {
		t.Errorf("one message waits in a queue with room for %d", room)
	}
}

// Confirmed entries must not stay reachable, because each refers to a session and its log.
func TestConfirmedEntriesAreForgotten(t *testing.T) {
	r := newSenderRig(t)
	cur, s := r.open("/"), &r.sender
	s.written = []written{{cur: cur, count: 1}, {cur: cur, count: 2}, {cur: cur, count: 1000}}
	s.confirm(2)
	if n := len(s.written); n != 1 {
		t.Fatalf("%d entries are left, want 1", n)
	}
	for i, w := range s.written[:3][1:] {
		if w.cur != nil {
			t.Errorf("entry %d behind the last still has its cursor", i)
		}
	}
}
