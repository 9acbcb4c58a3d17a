package netpoll

import (
	"fmt"
	"slices"
)

// phase is a Stream's place in its life. The two sides of a connection close independently, so the
// order of the middle phases depends on who closes first:
//
//	open         -> writeClosing  Shutdown, with bytes still queued
//	open         -> writeClosed   Shutdown, with none
//	writeClosing -> writeClosed   the queue is written and our FIN is sent
//	writeClosing -> readClosed    the peer's FIN came first; the peer still gets the queue
//	readClosed   -> writeClosed   the queue is written; the end follows
//	these four   -> failed        a write failed; what the peer sent before is still read
//	these five   -> closing       Close, or Shutdown's linger time is up; nothing more is read
//	all of these -> closed        the reader or the loop saw the end and closed the descriptor
//	closed       -> endPending    the loop still has to report the end to a Handler that came later
//	endPending   -> closed        it has
//	open         -> frozen        Freeze: nothing is read or written
//	frozen       -> open          Thaw
//	frozen       -> closing       Close
//	frozen       -> closed        a read that had begun before found the end
type phase uint8

const (
	open phase = iota
	writeClosing
	writeClosed
	readClosed
	failed
	closing
	closed
	endPending
	frozen
)

var phaseNames = [...]string{
	open: "open", writeClosing: "writeClosing", writeClosed: "writeClosed", readClosed: "readClosed",
	failed: "failed", closing: "closing", closed: "closed", endPending: "endPending", frozen: "frozen",
}

func (p phase) String() string { return nameOf(phaseNames[:], p) }

var nextPhases = [...][]phase{
	open:         {writeClosing, writeClosed, failed, closing, closed, frozen},
	writeClosing: {writeClosed, readClosed, failed, closing, closed},
	writeClosed:  {failed, closing, closed},
	readClosed:   {writeClosed, failed, closing, closed},
	failed:       {closing, closed},
	closing:      {closed},
	closed:       {endPending},
	endPending:   {closed},
	frozen:       {open, closing, closed},
}

// moveLocked is the only place where a phase changes. It makes the transition if the drawing has
// it, and reports whether it does. When both sides act at the same time, the second one finds its
// transition gone. The lock of the Stream must be held.
func (p *phase) moveLocked(to phase) bool {
	if !slices.Contains(nextPhases[*p], to) {
		return false
	}
	*p = to
	return true
}

// readState says whether a Stream reads from its connection. It matters only while the phase lets
// reading stop:
//
//	on     -> paused  Pause
//	paused -> on      Resume or Shutdown
//	on     -> full    the Conn that the Stream will be made of holds enough unread bytes
//	full   -> on      some of them were read, or the Stream started
//	full   -> paused  Pause, which stays in force when the Stream starts
//	any    -> on      Close or a failed write: the end must be found
type readState uint8

const (
	readOn readState = iota
	readPaused
	readFull
)

var readStateNames = [...]string{readOn: "on", readPaused: "paused", readFull: "full"}

func (r readState) String() string { return nameOf(readStateNames[:], r) }

var nextReadStates = [...][]readState{
	readOn:     {readPaused, readFull},
	readPaused: {readOn},
	readFull:   {readOn, readPaused},
}

// moveLocked is the only place where a readState changes; see phase.moveLocked.
func (r *readState) moveLocked(to readState) bool {
	if !slices.Contains(nextReadStates[*r], to) {
		return false
	}
	*r = to
	return true
}

// nameOf returns the name of an enum's value.
func nameOf[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%T(%d)", v, v)
}
