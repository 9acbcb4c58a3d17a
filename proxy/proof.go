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
	unit           int    // its place in trials.units
	seq            uint64 // of the packet
	watch          uint64 // number of the Watch before the last byte of a large message; or 0
	before, behind uint32 // numbers of the pings
}

// writeUnitLocked sends the next unit's packets as those of trialNamespace.
func (ts *trials) writeUnitLocked() {
	u := ts.units[ts.next]
	w := probeWriter{ts: ts, s: ts.s, unit: ts.next}
	before := len(ts.probes)
	for _, seq := range u.packets {
		u.cur.Sample([]uint64{seq}, func(p *buffer.Entry) { w.packet(seq, p) })
	}
	ts.next++
	written := len(ts.probes) > before
	if written {
		ts.tried.noteUnit(u, !ts.s.wrote)
	}
	switch {
	case ts.next < len(ts.units) && (u.Hold == 0 || !written): // the next one follows
	case len(ts.probes) == ts.flown: // nothing is left of the units
		ts.continueLocked()
	default:
		ts.s.count++
		ts.upTo, ts.flown = ts.s.count, len(ts.probes)
		ts.enterLocked(inFlight, 0)
	}
}

// probeWriter writes packets with pings in between. sender.mu is held.
type probeWriter struct {
	ts   *trials
	s    *sender
	unit int
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
	if len(data) > largeBytes && w.s.conn.transport.isWebSocket() {
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
	w.ts.probes = append(w.ts.probes, probe{w.unit, seq, watch, w.last, behind})
	w.last, w.open = behind, false
}

// judge tells the sessions on trial how the client's connection ended. The client is closed. Nil
// trials are none.
func (ts *trials) judge(ending session.Ending) {
	if ts == nil || ending == session.Lost {
		return
	}
	sock := ts.s.conn.sock
	answered, reached := sock.PingsAnswered(), sock.Reached()
	ts.s.mu.Lock()
	defer ts.s.mu.Unlock()
	if ts.state == over {
		if ending == session.LeftOpen {
			ts.tried.failedLate()
		}
		return
	}
	t, failed, proof := ts.proofLocked(ending, answered, reached)
	if ending == session.LeftOpen && ts.tried.units > 1 {
		for _, t := range ts.list {
			t.cur.Slow(instant.Since(ts.tried.began))
		}
	}
	if proof > 0 {
		t.cur.Failed(failed, proof, ending)
		return
	}
	if ending == session.ClosedByClient {
		for _, t := range ts.list {
			t.cur.Inconclusive()
		}
	}
}

// proofLocked returns the packets because of which the client ended its connection, whose they are,
// and how well that is proven. It returns 0 if it is not. answered and reached are numbers of
// pings.
func (ts *trials) proofLocked(ending session.Ending, answered uint32, reached uint64) (t *trial, failed []uint64, proof int) {
	if ending == session.LeftOpen && ts.state == lingering {
		u := ts.latestLocked()
		return u.trial, u.packets, ts.proofOfSignLocked()
	}
	for _, p := range ts.probes {
		if answered < p.before || answered >= p.behind {
			continue
		}
		switch {
		case reached < p.watch: // the rest was in flight
			proof = session.WeakProof
		case ending == session.ClosedByClient:
			proof = session.GoodProof
		default:
			proof = session.FairProof
		}
		return ts.units[p.unit].trial, []uint64{p.seq}, proof
	}
	return nil, nil, 0
}

// proofOfSignLocked returns what the sign of a client proves that has left its connection open.
// Only what was sent over that connection can be the reason, and a client may be slow to come back.
// So the proof is complete if the unit is all that was sent. Two clients that use one key look like
// one that comes back, so that it takes more with a key.
func (ts *trials) proofOfSignLocked() int {
	switch {
	case !ts.tried.first || ts.tried.units > 1:
		return session.FairProof
	case ts.s.conn.keyed != nil:
		return session.GoodProof
	}
	return session.SureProof
}
