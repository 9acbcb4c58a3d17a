package session

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// numbers is a client that receives numbered events. It fails if one is missing or duplicated.
type numbers struct {
	t      *testing.T
	next   int
	offset string
}

func (n *numbers) Emit(p *buffer.Entry, offset Offset, _ bool) bool {
	if got := string(p.Data()); got != strconv.Itoa(n.next) {
		n.t.Errorf("got event %s, want %d", got, n.next)
	}
	n.next++
	n.offset = string(offset.AppendTo(nil))
	return true
}

// TestConcurrentUse has links that send without a pause. Meanwhile clients lose their connections,
// return, confirm, and take over from a connection that still writes. Each event must arrive once
// and in order.
func TestConcurrentUse(t *testing.T) {
	const sessions, events = 4, 3000
	w := newWorld(t, Limits{MaxPackets: events + 1, MaxBytes: 1 << 30, WindowBytes: 1 << 12}, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		c := w.open(fmt.Sprint("/", i))
		s := c.s
		wg.Go(func() { // the link
			for n := range events {
				w.append(s, withOffset(strconv.Itoa(n)))
			}
		})
		wg.Go(func() { // clients
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			got := &numbers{t: t}
			for handshake := uint64(2); got.next < events && !t.Failed(); handshake++ {
				for range rng.IntN(20) {
					_, last, _ := c.Read(rng.IntN(30), got)
					if rng.IntN(3) == 0 {
						c.Confirm(last)
					}
				}
				old := c
				var end sync.WaitGroup
				if rng.IntN(2) == 0 { // the connection ends while the next one is there, or not at all
					end.Go(func() { w.Park([]*Cursor{old}, time.Minute, "cut") })
				}
				for {
					r := w.Resume(Claim{PID: s.PID(), Namespace: s.Namespace(), Offset: got.offset}, &client{handshake})
					if r.Takeover != nil {
						w.Park([]*Cursor{old}, time.Minute, "takeover")
						continue
					}
					if c = r.Cursor; c == nil {
						t.Errorf("not resumed: %+v", r)
						return
					}
					break
				}
				end.Wait()
			}
		})
	}
	wg.Wait()
	w.finish()
}

// TestNothingFromAPreviousClientComesLate lets each client of a session send until the next one
// takes over.
func TestNothingFromAPreviousClientComesLate(t *testing.T) {
	w := newWorld(t, roomy, 1)
	c := w.open("/")
	s := c.s
	var wg sync.WaitGroup
	latest := uint64(0) // whose packets came last; the session's lock guards it
	for handshake := uint64(2); handshake < 100; handshake++ {
		from, started := c, make(chan struct{})
		wg.Go(func() {
			close(started)
			who := from.Owner().Handshake()
			for from.Forward(func() {
				if who < latest {
					t.Errorf("a packet of client %d came behind one of client %d", who, latest)
				}
				latest = who
			}) {
			}
		})
		<-started
		w.Park([]*Cursor{c}, time.Minute, "takeover")
		if c = w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{handshake}).Cursor; c == nil {
			t.Fatal("not resumed")
		}
		if !c.Forward(func() { latest = handshake }) {
			t.Fatalf("client %d has the session, and cannot send", handshake)
		}
	}
	w.Park([]*Cursor{c}, time.Minute, "cut")
	wg.Wait()
	w.finish()
}

// TestConcurrentEnds ends sessions in all ways at the same time. Each ends once, and nothing is
// left.
func TestConcurrentEnds(t *testing.T) {
	const sessions = 200
	w := newWorld(t, Limits{MaxPackets: 5, MaxBytes: 1 << 20, WindowBytes: 100}, 3)
	var wg sync.WaitGroup
	for i := range sessions {
		c := w.open(fmt.Sprint("/", i))
		wg.Go(func() {
			for {
				if _, err := c.s.Append(withOffset("event")); err != nil {
					w.Close(c.s, reason.BufferFull)
					if c.s.State() == Closed {
						return
					}
				}
				runtime.Gosched()
			}
		})
		wg.Go(func() { w.Park([]*Cursor{c}, time.Nanosecond*time.Duration(i*1000), "cut") })
		wg.Go(func() {
			r := w.resume(c.s, "")
			if r.Cursor != nil {
				read(r.Cursor, 3)
				w.Close(c.s, reason.ClientDisconnect)
			}
		})
		wg.Go(func() { w.AbortParked(c.s.PID(), c.s.Namespace(), reason.BadOffset) })
	}
	wg.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for w.budget.Packets() > 0 && time.Now().Before(deadline) { // timers may still release logs
		time.Sleep(time.Millisecond)
	}
	w.finish()

	// Timers may still be about to report.
	ended := make(map[string]int)
	for len(ended) < sessions && time.Now().Before(deadline) {
		for _, e := range w.noted() {
			if namespace, what, _ := strings.Cut(e, " "); strings.HasPrefix(what, "ended") {
				ended[namespace]++
			}
		}
		time.Sleep(time.Millisecond)
	}
	for namespace, n := range ended {
		if n != 1 {
			t.Errorf("%s ended %d times", namespace, n)
		}
	}
	if len(ended) != sessions {
		t.Errorf("%d sessions ended, want %d", len(ended), sessions)
	}
}
