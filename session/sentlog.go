package session

import "github.com/holdfast/holdfast/buffer"

// sentLog is a session's log, and how much of it clients were sent. The session's lock guards it.
type sentLog struct {
	sent uint64 // the last packet that any client was sent
	buffer.Log
	ackRequested   int    // AckRequested packets in the log
	confirmedEvent uint64 // the last WithOffset packet that was confirmed
}

// countAckRequested updates ackRequested before packets up to seq are trimmed.
func (l *sentLog) countAckRequested(seq uint64) {
	for i := l.Trimmed() + 1; i <= seq; i++ {
		if l.At(i).Kind() == buffer.AckRequested {
			l.ackRequested--
		}
	}
}

// noteConfirmed updates confirmedEvent before packets up to seq are trimmed. It is inlined: it runs
// for every confirmation.
func (l *sentLog) noteConfirmed(seq uint64) {
	for i := seq; i > l.Trimmed(); i-- {
		if l.At(i).Kind() == buffer.WithOffset {
			l.confirmedEvent = i
			return
		}
	}
}

// hasOffsets reports whether a packet after from, up to to, has an offset.
func (l *sentLog) hasOffsets(from, to uint64) bool {
	for i := max(from, l.Trimmed()) + 1; i <= min(to, l.Last()); i++ {
		if l.At(i).Kind() == buffer.WithOffset {
			return true
		}
	}
	return false
}

// dropObsolete drops an event that the client no longer needs.
func (l *sentLog) dropObsolete(seq uint64) {
	if seq <= l.sent {
		l.DropLate(seq)
	} else {
		l.Drop(seq)
	}
}

// dropPoison drops a packet that the client cannot decode. Its number stays.
func (l *sentLog) dropPoison(seq uint64) {
	if l.At(seq).Kind() == buffer.AckRequested {
		l.ackRequested--
	}
	l.Drop(seq)
}
