package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/buffer"
)

// TestPoisonModel plays a client that cannot decode some packets, over a network that fails. It
// buffers events as socket.io-client does. It must receive everything else once and in order.
func TestPoisonModel(t *testing.T) { rapid.Check(t, checkPoison) }

// FuzzPoisonModel is TestPoisonModel with choices made by the fuzzer.
func FuzzPoisonModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkPoison)) }

// tab is a client with all its connections.
type tab struct {
	*world
	rt        *rapid.T
	closes    bool // it closes a connection when its decoder fails; before 4.8 it leaves it open
	spaces    []*tabSpace
	wire      []flying // on the present connection
	failed    bool     // its decoder failed on this connection
	handshake uint64
	opened    int // connections in all
}

// tabSpace is one namespace of a tab.
type tabSpace struct {
	s       *Session
	cur     *Cursor // nil while there is no connection
	trial   *Trial
	emitted int
	want    []string
	got     []string
	aside   []flying
	offset  string
	replied bool // the CONNECT reply was handled
}

// flying is a packet on its way, or a ping that confirms all before it.
type flying struct {
	to     *tabSpace
	data   string
	offset string
	ping   bool
	seq    uint64 // what the pong confirms
}

func checkPoison(rt *rapid.T) {
	limits := judging()
	w := newWorld(rt, limits, 10)
	c := &tab{world: w, rt: rt, closes: rapid.Bool().Draw(rt, "4.8"), handshake: 1}
	for i := range rapid.IntRange(1, 2).Draw(rt, "namespaces") {
		cur := w.open(fmt.Sprint("/", i))
		c.spaces = append(c.spaces, &tabSpace{s: cur.s, cur: cur, replied: true})
	}
	for range rapid.IntRange(1, 60).Draw(rt, "steps") {
		c.step()
	}
	c.opened = 0
	for n := 0; !c.settled(); n++ {
		if n > 100 {
			rt.Fatalf("not settled after %d connections", c.opened)
		}
		c.goOn(true)
	}
	for _, sp := range c.spaces {
		equal(rt, sp.s.namespace+" received", sp.got, sp.want)
	}
	w.finish()
}

func (c *tab) settled() bool {
	for _, sp := range c.spaces {
		if sp.cur == nil || len(sp.got) < len(sp.want) {
			return false
		}
	}
	return true
}

func (c *tab) draw(most int, what string) int { return rapid.IntRange(0, most).Draw(c.rt, what) }

func (c *tab) step() {
	switch c.draw(5, "action") {
	case 0, 1:
		c.emit(c.spaces[c.draw(len(c.spaces)-1, "space")])
	case 2, 3:
		c.goOn(false)
	case 4:
		if c.connected() {
			c.end(Lost)
		}
	case 5:
		if c.connected() {
			c.end([]Ending{ClosedByClient, Overtaken}[c.draw(1, "ending")])
		}
	}
}

func (c *tab) emit(sp *tabSpace) {
	sp.emitted++
	data := fmt.Sprint(sp.emitted)
	switch c.draw(7, "kind") {
	case 0:
		c.append(sp.s, withOffset(data+" doubtful, poison"))
	case 1:
		c.append(sp.s, withOffset(data+" broken, poison"))
	case 2:
		c.append(sp.s, ackRequested(int64(sp.emitted), data+" doubtful, poison"))
	case 3:
		data += " unusual"
		c.append(sp.s, &buffer.Packet{Kind: buffer.WithOffset, Data: []byte(data)})
		sp.want = append(sp.want, data)
	default:
		c.append(sp.s, withOffset(data))
		sp.want = append(sp.want, data)
	}
}

func (c *tab) connected() bool {
	return slices.ContainsFunc(c.spaces, func(sp *tabSpace) bool { return sp.cur != nil })
}

// end ends the connection.
func (c *tab) end(ending Ending) {
	var cursors []*Cursor
	for _, sp := range c.spaces {
		if sp.cur != nil {
			cursors = append(cursors, sp.cur)
		}
		sp.cur, sp.trial, sp.replied = nil, nil, false
	}
	c.rt.Logf("ends: %d", ending)
	c.wire, c.failed = nil, false
	c.ParkEnded(cursors, time.Minute, "test", ending)
}

// goOn lets a client or the network do something by itself. Nothing fails if calm.
func (c *tab) goOn(calm bool) {
	switch {
	case c.failed:
		c.end(c.failure(calm))
	case !c.connected():
		c.come(calm)
	default:
		c.send()
		c.receive(calm)
	}
}

// failure is how a connection ends after its decoder failed.
func (c *tab) failure(calm bool) Ending {
	if !calm && c.draw(2, "how it fails") == 0 {
		return Lost
	}
	if c.closes {
		return ClosedByClient
	}
	return Overtaken
}

// send puts packets on the wire.
func (c *tab) send() {
	for _, sp := range c.spaces {
		if sp.cur == nil {
			continue
		}
		r := read(sp.cur, c.draw(4, "sent"))
		for i := range r.data {
			c.wire = append(c.wire, flying{to: sp, data: r.data[i], offset: r.offsets[i]})
		}
		if c.draw(2, "ping") == 0 {
			c.wire = append(c.wire, flying{to: sp, ping: true, seq: sp.cur.sent})
		}
	}
}

// receive handles packets that arrive in one chunk.
func (c *tab) receive(calm bool) {
	n := len(c.wire)
	if !calm {
		n = c.draw(n, "received")
	}
	chunk := c.wire[:n]
	c.wire = c.wire[n:]
	for i, p := range chunk {
		switch {
		case p.ping:
			p.to.cur.Confirm(p.seq)
		case !decodable(p.data):
			c.failed = true
			c.rt.Logf("fails at %s %q", p.to.s.namespace, p.data)
			for _, q := range chunk[:i] {
				if !q.ping {
					q.to.aside = append(q.to.aside, q)
				}
			}
			return // a client before 4.8 still answers pings; see proxy/lag.go
		}
	}
	for _, p := range chunk {
		p.to.handle(p)
	}
}

func decodable(data string) bool { return !strings.Contains(data, "poison") }

func (sp *tabSpace) handle(p flying) {
	if p.ping {
		return
	}
	sp.got = append(sp.got, p.data)
	sp.s.registry.observer.(*world).t.(*rapid.T).Logf("%s handles %q", sp.s.namespace, p.data)
	if p.offset != "" {
		sp.offset = p.offset
	}
}

// come opens a connection and goes through the trials, as package proxy does.
func (c *tab) come(calm bool) {
	c.handshake++
	c.opened++
	late := -1 // the namespace whose auth takes a while
	if !calm && len(c.spaces) > 1 {
		late = c.draw(2, "late") - 1
	}
	for i, sp := range c.spaces {
		if i != late {
			c.resume(sp)
		}
	}
	if !calm && c.draw(3, "reply lost") == 0 {
		c.end(Lost)
		return
	}
	c.replies()
	if !c.onTrial() && late >= 0 {
		c.resume(c.spaces[late])
		c.replies()
		late = -1
	}
	if !c.onTrial() {
		return
	}
	if !calm && c.draw(3, "pong lost") == 0 {
		c.end(Lost)
		return
	}
	for _, sp := range c.spaces {
		if sp.cur != nil {
			sp.cur.ReplyHandled()
		}
	}
	c.trials(late, calm)
}

func (c *tab) resume(sp *tabSpace) {
	r := c.Resume(Claim{PID: sp.s.PID(), Namespace: sp.s.namespace, Offset: sp.offset}, &client{c.handshake})
	if r.Cursor == nil {
		c.rt.Fatalf("Resume: %+v", r)
	}
	sp.cur, sp.trial = r.Cursor, r.Trial
	c.rt.Logf("%s resumed after %q: trial %+v", sp.s.namespace, sp.offset, r.Trial)
}

// replies handles the CONNECT replies, and what was buffered.
func (c *tab) replies() {
	for _, sp := range c.spaces {
		if sp.cur != nil && !sp.replied {
			sp.replied = true
			for _, p := range sp.aside {
				sp.handle(p)
			}
			sp.aside = nil
		}
	}
}

func (c *tab) onTrial() bool {
	return slices.ContainsFunc(c.spaces, func(sp *tabSpace) bool { return sp.trial != nil })
}

func (c *tab) trials(late int, calm bool) {
	resync, tried := false, 0
	for _, sp := range c.inOrder() {
		t := sp.trial
		if !c.try(sp, t, &tried, calm) {
			return
		}
		missing := late >= 0 && c.spaces[late] != sp && t.Siblings > 0
		resync = resync || t.Resync || missing && t.Buffered && len(t.Units) == 0
	}
	for _, sp := range c.spaces {
		if sp.cur != nil && sp.trial != nil && !resync {
			sp.cur.Passed(sp.trial)
		}
		sp.trial = nil
	}
	if resync {
		c.end(Lost)
	} else if late >= 0 {
		c.resume(c.spaces[late])
		c.replies()
		if c.onTrial() {
			c.end(Lost)
		}
	}
}

// inOrder returns the namespaces on trial. Those that failed before come first.
func (c *tab) inOrder() []*tabSpace {
	var first, second []*tabSpace
	for _, sp := range c.spaces {
		switch {
		case sp.trial == nil:
		case sp.trial.Narrowed:
			first = append(first, sp)
		default:
			second = append(second, sp)
		}
	}
	return append(first, second...)
}

// try sends a trial's units. It returns false if the connection ended. tried counts the units.
func (c *tab) try(sp *tabSpace, t *Trial, tried *int, calm bool) bool {
	for _, unit := range t.Units {
		*tried++
		var choke []uint64
		for _, seq := range unit {
			sp.cur.Sample([]uint64{seq}, func(p *buffer.Entry) {
				if choke == nil && !decodable(string(p.Data())) {
					choke = []uint64{seq}
				}
			})
		}
		if !calm && c.draw(3, "cut in the trial") == 0 {
			c.end(Lost)
			return false
		}
		if choke == nil {
			continue
		}
		if c.closes {
			sp.cur.Failed(choke, GoodProof, ClosedByClient)
			c.end(ClosedByClient)
			return false
		}
		if t.Hold > 0 { // otherwise it is not known that it failed
			proof := FairProof
			if *tried == 1 {
				proof = SureProof
			}
			sp.cur.Failed(unit, proof, LeftOpen)
			c.end(LeftOpen)
			return false
		}
	}
	return true
}
