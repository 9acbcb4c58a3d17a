package proxy

import (
	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// fill writes packets from the logs to the client. engineio.Handler describes it.
func (s *sender) fill(e *engineio.Encoder, maxBytes int) engineio.FillResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enc, s.maxBytes, s.replayed, s.asked = e, maxBytes, 0, false
	before := e.Packets()
	if s.watchNext {
		s.watchNext = false
		s.watch++
		e.Watch(s.watch)
	}
	if s.trials != nil && !s.trials.fillLocked() {
		s.enc = nil
		return engineio.FillResult{More: s.trials.state == sending, Confirm: s.wantsConfirmLocked(), ByPong: true}
	}
	s.writeLocked()
	s.enc = nil
	if s.trials != nil {
		s.trials.writtenLocked()
	}
	if s.rawBytes < s.window/2 {
		s.readLinksLocked()
	}
	if n := e.Packets() - before; n > 0 {
		s.conn.deps.metrics.Packets.Out.Add(float64(n))
	}
	if s.replayed > 0 {
		s.conn.deps.metrics.ReplayedPackets.Add(float64(s.replayed))
	}
	return engineio.FillResult{More: s.waitsLocked(), Confirm: s.wantsConfirmLocked(), ConfirmLater: s.asked, ByPong: s.byPong}
}

// writeLocked writes what is queued, as far as the batch and the client take it.
func (s *sender) writeLocked() {
	for s.head < len(s.pending) && s.roomLocked() && !s.fullLocked() {
		it := &s.pending[s.head]
		if it.cur == nil {
			s.writeMessageLocked(it)
		} else if !s.writeSessionLocked(it) {
			break
		}
		s.pending[s.head] = item{}
		s.head++
	}
	if s.head == len(s.pending) {
		s.pending, s.head = s.pending[:0], 0
		if cap(s.pending) > 64 {
			s.pending = nil
		}
	}
}

// wanted reports whether fill would add anything, or ask for a ping.
func (s *sender) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitsLocked() || (s.conn.confirmsByPong() || s.byPong) && s.wantsConfirmLocked()
}

// waitsLocked reports whether something can be sent now.
func (s *sender) waitsLocked() bool {
	if s.trials != nil && !s.trials.settlingLocked() {
		return s.trials.state == sending
	}
	return s.head < len(s.pending) && !s.fullLocked()
}

// keyedPollPackets limits the packets in the answer to a poll of a client with a key. python-engineio
// closes its connection if there are more than 16 (Payload.max_decode_packets). The difference leaves
// room for the attachments of the last packet, and for a ping.
const keyedPollPackets = 10

// roomLocked reports whether the batch takes another packet.
func (s *sender) roomLocked() bool {
	return s.enc.Len() < s.maxBytes && (s.conn.keyed == nil || s.enc.Packets() < keyedPollPackets || s.conn.transport.isWebSocket())
}

// fullLocked reports whether no more may be in flight. While the transport closes there is no
// limit.
func (s *sender) fullLocked() bool { return s.bytes >= s.limit && s.conn.state != clientDraining }

// writeMessageLocked writes a message that belongs to no session.
func (s *sender) writeMessageLocked(it *item) {
	if it.fresh {
		s.watch++
		s.enc.Watch(s.watch)
	}
	if it.binary {
		s.enc.Binary(it.data)
	} else {
		s.enc.Text(it.data, nil, nil)
	}
	s.rawBytes -= len(it.data)
	s.count++ // so that a trial sees when it has arrived
	if it.fresh {
		s.count++ // so that a ping ahead of the reply does not confirm it
		s.replies.written(s.count, s.watch, !s.conn.transport.isWebSocket())
	}
}

// writeSessionLocked writes packets of a session. It returns false if some of the item's packets
// remain.
func (s *sender) writeSessionLocked(it *item) (whole bool) {
	s.emitted = 0
	passed, last, replayDone := it.cur.Read(it.n, s)
	if passed == 0 {
		return true // another client has the session now
	}
	it.n -= passed
	s.wrote = true
	s.count += uint64(passed)
	s.bytes += s.emitted
	s.sinceMark += s.emitted
	if n := len(s.written) - 1; n >= 0 && s.written[n].cur == it.cur && s.written[n].count > s.mark {
		w := &s.written[n]
		w.last, w.count, w.bytes = last, s.count, w.bytes+s.emitted
	} else {
		s.written = append(s.written, written{it.cur, last, s.count, s.emitted})
	}
	if replayDone {
		for _, r := range s.takeReplaysLocked(it.cur) {
			s.conn.deps.metrics.RecoveryDuration.Observe(instant.Since(r.start).Seconds())
		}
	}
	return it.n == 0
}

// Emit implements session.Emitter.
func (s *sender) Emit(p *buffer.Entry, offset session.Offset, replayed bool) bool {
	data := p.Data()
	n := len(data)
	if p.Kind() == buffer.Answer {
		data = clientAnswer(p)
	}
	if offset != (session.Offset{}) {
		head, tail, _ := socketio.SplitArray(data) // kindOf chose WithOffset because this succeeds
		var room [40]byte
		argument := append(room[:0], `,"`...)
		argument = offset.AppendTo(argument)
		argument = append(argument, '"')
		s.enc.Text(head, argument, tail)
		n += len(argument)
	} else {
		s.enc.Text(data, nil, nil)
	}
	for _, a := range p.Attachments() {
		s.enc.Binary(a)
		n += len(a)
	}
	if p.Kind() == buffer.AckRequested {
		s.asked = true
	}
	if replayed {
		s.replayed++
	}
	s.emitted += n
	return s.roomLocked() && (s.bytes+s.emitted < s.limit || s.conn.state == clientDraining)
}
