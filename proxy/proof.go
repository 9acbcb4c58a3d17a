package proxy

import (
	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// A client that cannot decode a message closes its connection, and answers no more pings. So the
// units of a trial are sent with pings in between: the client answers the ping before the message,
// and not the one behind it. By polling both pings and the message come in one answer, which the
// client handles as a whole. Over WebSocket they come in one piece, unless the message is large.

// largeBytes is the size of a message that may take long to arrive. Over WebSocket its last byte is
// watched.
const largeBytes = 4 << 10

// decodedPacket follows binary packets: a decoder that misses an attachment fails at the next text.
var decodedPacket = []byte("2" + trialNamespace + `,["decoded"]`)

// probe is one or more messages of a unit between two pings.
type probe struct {
	seq            uint64 // of the packet
	watch          uint64 // number of the Watch before the last byte of a large message; or 0
	before, behind uint32 // numbers of the pings
}

// writeUnitLocked sends the next unit's packets as those of trialNamespace.
func (ts *trials) writeUnitLocked(t *trial) {
	w := probeWriter{s: ts.s, t: t}
	before := len(t.probes)
	for _, seq := range t.Units[t.unit] {
		t.cur.Sample([]uint64{seq}, func(p *buffer.Entry) { w.packet(seq, p) })
	}
	t.unit++
	switch {
	case t.unit < len(t.Units) && (t.Hold == 0 || len(t.probes) == before):
		// The next one follows.
	case len(t.probes) == 0: // nothing is left of the units
		ts.nextUnitLocked(t)
	default:
		ts.s.count++
		t.upTo, t.wrote = ts.s.count, instant.Now()
		ts.enterLocked(t, inFlight, 0)
	}
}

// probeWriter writes packets with pings in between. sender.mu is held.
type probeWriter struct {
	s    *sender
	t    *trial
	last uint32 // number of the last ping; 0 before the first
	open bool   // messages were written since
}

func (w *probeWriter) packet(seq uint64, p *buffer.Entry) {
	data := p.Data()
	h, err := socketio.ParseHeader(data)
	if err != nil {
		return
	}
	w.message(seq, socketio.AppendReaddressed(nil, data, &h, trialNamespace), false)
	for _, a := range p.Attachments() {
		w.message(seq, a, true)
	}
	if h.IsBinary() {
		w.message(seq, decodedPacket, false)
	}
	w.ping(seq, 0)
}

func (w *probeWriter) message(seq uint64, data []byte, binary bool) {
	if w.last == 0 {
		w.last = w.s.enc.Ping()
	}
	if len(data) > largeBytes && w.s.conn.websocket.Load() {
		w.ping(seq, 0)
		w.s.watch++
		w.s.enc.Watched(data, binary, w.s.watch)
		w.open = true
		w.ping(seq, w.s.watch)
		return
	}
	if binary {
		w.s.enc.Binary(data)
	} else {
		w.s.enc.Text(data, nil, nil)
	}
	w.open = true
}

// ping ends a probe, if there is anything in it.
func (w *probeWriter) ping(seq, watch uint64) {
	if !w.open {
		return
	}
	behind := w.s.enc.Ping()
	w.t.probes = append(w.t.probes, probe{seq, watch, w.last, behind})
	w.last, w.open = behind, false
}

// judge tells the session on trial whether a unit ended the client's connection. The client is
// closed. Nil trials are none.
func (ts *trials) judge(ending session.Ending) {
	t := ts.last()
	if t == nil || ending == session.Lost {
		return
	}
	choke, proof := t.proof(ts.s.conn, ending)
	switch {
	case proof > 0:
		t.cur.Failed(choke, proof, ending)
	case ending == session.ClosedByClient:
		t.cur.Inconclusive()
	}
}

// last returns the trial that was under way when the client was closed, or nil.
func (ts *trials) last() *trial {
	if ts == nil {
		return nil
	}
	ts.s.mu.Lock()
	defer ts.s.mu.Unlock()
	if ts.s.trials != ts {
		return nil
	}
	return ts.currentLocked()
}

// proof returns the packets because of which the client ended its connection, and how well that is
// proven. It returns 0 if it is not. A client that leaves its connection open answered all pings,
// came back over another one, and answers even then.
func (t *trial) proof(c *clientConn, ending session.Ending) (choke []uint64, proof int) {
	if t.phase == lingering {
		if ending != session.Overtaken || t.sign == nil || !t.sign.given.HasFired() || !t.alone {
			return nil, 0
		}
		if t.unit > 1 {
			return t.Units[t.unit-1], session.FairProof // it may have been slow to come back because of an earlier one
		}
		return t.Units[0], session.GoodProof
	}
	answered := c.sock.PingsAnswered()
	for _, p := range t.probes {
		switch {
		case answered < p.before || answered >= p.behind:
		case c.sock.Reached() < p.watch: // the rest was on its way
			return []uint64{p.seq}, session.WeakProof
		case ending == session.Overtaken:
			return []uint64{p.seq}, session.FairProof
		default:
			return []uint64{p.seq}, session.GoodProof
		}
	}
	return nil, 0
}
