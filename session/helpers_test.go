package session

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) { steady.VerifyTestMain(m) }

// tester is the common part of testing.TB and rapid.T.
type tester interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// client is an Owner with a handshake number.
type client struct{ handshake uint64 }

func (c *client) Handshake() uint64 { return c.handshake }

// link is an Upstream that records what it is told.
type link struct {
	t tester

	mu      sync.Mutex
	pausing int      // sessions that pause it
	pauses  int      // how often it was paused
	ended   []string // "reason: namespace namespace", one for each call
	moves   []string // sessions parked and resumed
}

func (l *link) SessionsClosed(ended []*Session, why reason.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(ended))
	for _, s := range ended {
		names = append(names, s.Namespace())
	}
	slices.Sort(names)
	l.ended = append(l.ended, string(why)+": "+strings.Join(names, " "))
}

func (l *link) SetReadPaused(readPaused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if readPaused {
		if l.pausing++; l.pausing == 1 {
			l.pauses++
		}
		return
	}
	if l.pausing--; l.pausing < 0 {
		l.t.Error("SetReadPaused(false) without SetReadPaused(true)")
	}
}

func (l *link) SessionParked(s *Session, why reason.Reason, d time.Duration) {
	l.moved(fmt.Sprintf("%s parked: %s, for %v", s.Namespace(), why, d))
}

func (l *link) SessionResumed(s *Session, away time.Duration, missed int) {
	l.moved(fmt.Sprintf("%s resumed after %v, missed %d", s.Namespace(), away, missed))
}

func (l *link) moved(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moves = append(l.moves, what)
}

func (l *link) readPaused() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pausing
}

// told returns the calls of SessionsClosed since the last call of told.
func (l *link) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ended := l.ended
	l.ended = nil
	return ended
}

// world is a Registry with a link and an Observer.
type world struct {
	*Registry
	t    tester
	link *link

	mu      sync.Mutex
	events  []string
	dropped [KeepLatest + 1]int
	all     []*Cursor
}

// roomy are limits that no test reaches unless it is about them.
var roomy = Limits{MaxPackets: 1000, MaxBytes: 1 << 20, WindowBytes: 1 << 19}

func newWorld(t tester, limits Limits, maxParked int) *world {
	w := &world{t: t, link: &link{t: t}}
	w.Registry = NewRegistry(limits, maxParked, buffer.NewBudget(0), w)
	return w
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf(format, args...))
}

func (w *world) Parked(s *Session, why reason.Reason) { w.note("%s parked: %s", s.Namespace(), why) }

func (w *world) Closed(s *Session, why reason.Reason, was State, buffered int) {
	w.note("%s ended: %s, was %v, %d packets", s.Namespace(), why, was, buffered)
}

func (w *world) Panicked(v any, sessions []*Session) {
	w.note("panicked: %v, with %d sessions", v, len(sessions))
}

func (w *world) Dropped(why Retention, events int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped[why] += events
}

func (w *world) Poisoned(s *Session, p *buffer.Entry) {
	w.note("%s poisoned: %s", s.Namespace(), p.Data())
}

// noted returns what the Observer was told since the last call of noted.
func (w *world) noted() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

// open returns client 1's cursor on a session that can be resumed.
func (w *world) open(namespace string) *Cursor {
	c := w.New(w.link, namespace, &client{1}, true)
	w.mu.Lock()
	w.all = append(w.all, c)
	w.mu.Unlock()
	return c
}

// openKeyed is open for a keyed session.
func (w *world) openKeyed() *Cursor {
	c := w.open("/")
	c.s.SetKey(Key{Digest: "key"})
	return c
}

// parked returns a parked session with packets "1", "2" and so on.
func (w *world) parked(packets int) *Session {
	c := w.open("/")
	w.Park([]*Cursor{c}, time.Minute, "cut")
	for i := range packets {
		if _, err := c.s.Append(withOffset(fmt.Sprint(i + 1))); err != nil {
			w.t.Errorf("Append: %v", err)
		}
	}
	return c.s
}

func (w *world) append(s *Session, p *buffer.Packet) *Cursor {
	w.t.Helper()
	cur, err := s.Append(p)
	if err != nil {
		w.t.Errorf("Append: %v", err)
	}
	return cur
}

// resume resumes a session as client 2.
func (w *world) resume(s *Session, offset string) Resumption {
	return w.Resume(Claim{PID: s.PID(), Namespace: s.Namespace(), Offset: offset}, &client{2})
}

// mustResume is resume where it must succeed.
func (w *world) mustResume(s *Session, offset string) *Cursor {
	w.t.Helper()
	r := w.resume(s, offset)
	if r.Cursor == nil {
		w.t.Fatalf("Resume with offset %q: %+v", offset, r)
	}
	return r.Cursor
}

// finish ends all sessions and checks that nothing of them remains.
func (w *world) finish() {
	w.t.Helper()
	w.mu.Lock()
	all := w.all
	w.mu.Unlock()
	for _, c := range all {
		w.Close(c.s, reason.UpstreamLost)
		c.s.mu.Lock()
		last := c.s.cursor
		c.s.mu.Unlock()
		if last != nil {
			w.Park([]*Cursor{last}, time.Minute, "finish") // its client has gone
		}
	}
	if live, parked := w.Counts(); live != 0 || parked != 0 {
		w.t.Errorf("%d sessions live and %d parked after all ended", live, parked)
	}
	if n := w.link.readPaused(); n != 0 {
		w.t.Errorf("the link is paused by %d sessions after all ended", n)
	}
	if b := w.budget; b.Bytes() != 0 || b.Packets() != 0 {
		w.t.Errorf("%d bytes and %d packets in memory after all ended", b.Bytes(), b.Packets())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = nil
}

// mustResumeAs is mustResume by owner, without an offset.
func (w *world) mustResumeAs(s *Session, owner Owner) *Cursor {
	w.t.Helper()
	r := w.Resume(Claim{PID: s.PID(), Namespace: s.Namespace()}, owner)
	if r.Cursor == nil {
		w.t.Fatalf("Resume: %+v", r)
	}
	return r.Cursor
}

func withOffset(data string) *buffer.Packet {
	return &buffer.Packet{Kind: buffer.WithOffset, Data: []byte(data)}
}

func noOffset(data string) *buffer.Packet {
	return &buffer.Packet{Kind: buffer.NoOffset, Data: []byte(data)}
}

func ackRequested(id int64, data string) *buffer.Packet {
	return &buffer.Packet{Kind: buffer.AckRequested, AckID: id, Data: []byte(data)}
}

// received is an Emitter that records packets and their offsets.
type received struct {
	data    []string
	offsets []string
	replays int
	stop    int // Emit returns false after so many, if not 0
}

func (r *received) Emit(p *buffer.Entry, offset Offset, replayed bool) bool {
	r.data = append(r.data, string(p.Data()))
	r.offsets = append(r.offsets, string(offset.AppendTo(nil)))
	if replayed {
		r.replays++
	}
	return len(r.data) != r.stop
}

// read reads at most n packets.
func read(c *Cursor, n int) *received {
	var r received
	c.Read(n, &r)
	return &r
}

func equal(t tester, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func wantState(t *testing.T, when string, s *Session, want State) {
	t.Helper()
	if got := s.State(); got != want {
		t.Fatalf("%s: %v, want %v", when, got, want)
	}
}

// wantPackets checks how many packets the logs of all sessions hold.
func wantPackets(w *world, want int) {
	w.t.Helper()
	if got := w.budget.Packets(); got != int64(want) {
		w.t.Errorf("%d packets are held, want %d", got, want)
	}
}
