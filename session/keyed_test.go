package session

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// keyedModel is a keyed session with the application behind it and the client before it. Packets
// are numbers, so the client sees what it lacks and what it has twice.
type keyedModel struct {
	*world
	s   *Session
	cur *Cursor // nil while parked
	n   int     // the last packet appended

	atMostOnce, counts bool

	wire      []int  // written to the connection, and not received
	has       []int  // in the order in which the client handled them, since its session began
	before    int    // how many of has came over earlier connections
	confirmed int    // the last packet that it confirmed
	dropped   []bool // by number: as volatile, while the client was away
	seqs      map[int]uint64
	handshake uint64
}

// TestKeyedModel cuts the connection of a keyed client at any packet. With at-least-once it may
// never have a gap, with at-most-once never a duplicate, and with a count neither. Only what it had
// not confirmed may come twice.
func TestKeyedModel(t *testing.T) { rapid.Check(t, checkKeyedModel) }

func checkKeyedModel(t *rapid.T) {
	m := &keyedModel{
		atMostOnce: rapid.Bool().Draw(t, "at most once"), counts: rapid.Bool().Draw(t, "counts"), handshake: 1,
		dropped: []bool{false}, seqs: make(map[int]uint64),
	}
	limits := roomy
	limits.KeyedAtMostOnce = m.atMostOnce
	limits.ReplayAckRequested = !m.atMostOnce
	if rapid.Bool().Draw(t, "volatile") {
		limits.Retention = func(_ string, packet []byte) (Retention, []byte) {
			if n, _ := strconv.Atoi(string(packet)); n%3 == 0 {
				return DropVolatile, nil
			}
			return Keep, nil
		}
	}
	m.world = newWorld(t, limits, 10)
	m.cur = m.open("/")
	m.s = m.cur.s
	m.s.SetKey(Key{Digest: "key"})
	t.Repeat(map[string]func(*rapid.T){
		"append": func(t *rapid.T) {
			m.n++
			m.dropped = append(m.dropped, m.cur == nil && limits.Retention != nil && m.n%3 == 0)
			p := withOffset(strconv.Itoa(m.n))
			if rapid.Bool().Draw(t, "asks") {
				p, m.dropped[m.n] = ackRequested(int64(m.n), strconv.Itoa(m.n)), false
			}
			m.append(m.s, p)
		},
		"write":   func(t *rapid.T) { m.write(rapid.IntRange(1, 3).Draw(t, "packets")) },
		"receive": func(t *rapid.T) { m.receive(t, rapid.IntRange(0, len(m.wire)).Draw(t, "packets")) },
		"confirm": func(*rapid.T) { m.confirm() },
		"cut": func(t *rapid.T) {
			if m.cur == nil {
				t.Skip("parked")
			}
			m.cut(t)
		},
		"return": func(t *rapid.T) {
			if m.cur != nil {
				t.Skip("live")
			}
			m.resume(t)
		},
	})
	if m.cur == nil {
		m.resume(t)
	}
	m.write(m.n)
	m.receive(t, len(m.wire))
	for n := 1; n <= m.n; n++ {
		if !m.atMostOnce && !m.dropped[n] && !slices.Contains(m.has, n) {
			t.Errorf("it lacks %d of %d: %v", n, m.n, m.has)
		}
	}
	m.finish()
}

func (m *keyedModel) write(n int) {
	if m.cur == nil {
		return
	}
	for range n {
		var r received
		_, seq, _ := m.cur.Read(1, &r)
		for _, data := range r.data {
			number, _ := strconv.Atoi(data)
			m.wire = append(m.wire, number)
			m.seqs[number] = seq
		}
	}
}

// receive handles packets, each of which must be the next one, or one that comes again.
func (m *keyedModel) receive(t *rapid.T, n int) {
	for _, number := range m.wire[:n] {
		twice := slices.Contains(m.has, number)
		switch {
		case twice && (m.atMostOnce || m.counts):
			t.Errorf("%d came twice: %v", number, m.has)
		case twice && number <= m.confirmed:
			t.Errorf("%d came twice, although it was confirmed: %v", number, m.has)
		}
		for missing := 1; missing < number && (!m.atMostOnce || m.counts); missing++ {
			if !m.dropped[missing] && !slices.Contains(m.has, missing) {
				t.Errorf("%d came without %d: %v", number, missing, m.has)
			}
		}
		m.has = append(m.has, number)
	}
	m.wire = m.wire[n:]
}

// confirm confirms what the client has received over its connection, and so all before.
func (m *keyedModel) confirm() {
	if m.cur == nil || len(m.has) == m.before {
		return
	}
	m.cur.Confirm(m.seqs[m.has[len(m.has)-1]])
	m.confirmed = m.has[len(m.has)-1]
}

func (m *keyedModel) cut(t *rapid.T) {
	m.receive(t, rapid.IntRange(0, len(m.wire)).Draw(t, "arrives"))
	m.Park([]*Cursor{m.cur}, time.Minute, "cut")
	m.cur, m.wire = nil, nil
	if m.s.registry.limits().Retention != nil { // those in flight are judged, too
		for n := 1; n <= m.n; n++ {
			if n%3 == 0 {
				m.dropped[n] = true
			}
		}
	}
}

func (m *keyedModel) resume(t *rapid.T) {
	m.handshake++
	m.before = len(m.has)
	claim := Claim{PID: m.s.PID(), Namespace: "/", Counted: m.counts, Handled: uint64(len(m.has))}
	r := m.Resume(claim, &client{m.handshake})
	if r.Cursor == nil {
		t.Fatalf("not resumed: %+v, with %v", r, m.has)
	}
	m.cur = r.Cursor
}

func TestCountThatCannotBeRight(t *testing.T) {
	for _, tt := range []struct {
		name    string
		count   uint64
		refused reason.Reason
		want    []string
	}{
		{"more than was sent", 5, reason.BadOffset, nil},
		{"less than was confirmed", 1, reason.BadOffset, nil},
		{"all that was sent", 4, "", []string{"5"}},
		{"all that was confirmed", 2, "", []string{"3", "4", "5"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, roomy, 10)
			defer w.finish()
			c := w.openKeyed()
			for i := range 5 {
				w.append(c.s, withOffset(fmt.Sprint(i+1)))
			}
			read(c, 4)
			c.Confirm(2)
			w.Park([]*Cursor{c}, time.Minute, "cut")
			r := w.Resume(Claim{PID: c.s.PID(), Namespace: "/", Counted: true, Handled: tt.count}, &client{2})
			if r.Refused != tt.refused {
				t.Fatalf("refused %q, want %q", r.Refused, tt.refused)
			}
			if tt.refused == "" {
				equal(t, "sent again", read(r.Cursor, 9).data, tt.want)
			}
		})
	}
}

// After a client has once returned without a count, it is unknown what it has counted.
func TestCountAfterAReturnWithoutOne(t *testing.T) {
	w := newWorld(t, roomy, 10)
	defer w.finish()
	c := w.openKeyed()
	w.append(c.s, withOffset("1"))
	read(c, 1)
	w.Park([]*Cursor{c}, time.Minute, "cut")
	c = w.Resume(Claim{PID: c.s.PID(), Namespace: "/"}, &client{2}).Cursor
	equal(t, "sent again", read(c, 9).data, []string{"1"})
	w.Park([]*Cursor{c}, time.Minute, "cut")
	r := w.Resume(Claim{PID: c.s.PID(), Namespace: "/", Counted: true, Handled: 1}, &client{3})
	if r.Refused != reason.BadOffset {
		t.Errorf("a count that may include one event twice: %+v", r)
	}
}

func TestAnswersForPreviousClients(t *testing.T) {
	w := newWorld(t, roomy, 10)
	defer w.finish()
	c := w.openKeyed()
	answer := func(to int64) *buffer.Packet {
		return &buffer.Packet{Kind: buffer.Answer, AckID: to, Data: []byte(fmt.Sprint("3", to, "[]"))}
	}
	first, ok := c.UpstreamAckID(1)
	if !ok || first != 1 {
		t.Errorf("the first client's id: %d, %v", first, ok)
	}
	w.append(c.s, answer(first)) // answered, and not delivered
	w.Park([]*Cursor{c}, time.Minute, "cut")
	c = w.Resume(Claim{PID: c.s.PID(), Namespace: "/"}, &client{2}).Cursor
	second, ok := c.UpstreamAckID(1)
	if !ok || second == first || ClientAckID(second) != 1 {
		t.Errorf("the second client's id: %d, %v", second, ok)
	}
	w.append(c.s, answer(first)) // answered too late
	w.append(c.s, answer(second))
	if got := read(c, 9).data; len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprint("3", second)) {
		t.Errorf("the second client got %q", got)
	}
	if _, ok := c.UpstreamAckID(ackIDsPerEpoch); ok {
		t.Error("an id that no client uses is accepted")
	}
}

func TestKeyedEventsHaveNoOffset(t *testing.T) {
	w := newWorld(t, roomy, 10)
	defer w.finish()
	c := w.openKeyed()
	w.append(c.s, withOffset("1"))
	equal(t, "offsets", read(c, 1).offsets, []string{""})
	if c.s.Key().Digest != "key" || w.open("/a").s.Keyed() {
		t.Error("wrong keys")
	}
}
