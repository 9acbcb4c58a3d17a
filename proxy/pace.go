package proxy

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
)

const (
	// After mostUnanswered handshakes in a row without an answer of the server's, one may be made each turnPause.
	mostUnanswered = 16
	turnPause      = 50 * time.Millisecond
)

// pace keeps a storm of handshakes from an upstream that takes connections and answers none: a balancer whose servers are
// all down, a server that dies while it starts. After some in a row that had no answer they are made one after the other, with a
// pause between. As soon as one is answered, all go on.
//
// That a handshake has no answer may be its own client's doing. So it does not fail another: each that waits has a turn of
// its own, or runs out of time. And it takes many in a row, with none between that was answered.
//
// It is safe for concurrent use.
type pace struct {
	mu         sync.Mutex  // guards the fields below
	unanswered int         // in a row
	next       time.Time   // when the next may be made
	waiting    list.List   // of chan struct{}, closed when its turn has come
	timer      *time.Timer // for the first of them
}

// pass returns when a handshake may be made, and whether it is by turn. Its error is ctx's.
func (p *pace) pass(ctx context.Context) (byTurn bool, err error) {
	if !p.slow() {
		return false, nil
	}
	turn := p.await()
	if turn == nil {
		return true, nil
	}
	select {
	case <-turn.Value.(chan struct{}):
		return true, nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting.Remove(turn)
		return false, ctx.Err()
	}
}

// slow reports whether handshakes are made by turns.
func (p *pace) slow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unanswered >= mostUnanswered
}

// await puts the caller in the queue. It returns nil if it is its turn.
func (p *pace) await() *list.Element {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause := time.Until(p.next)
	if p.waiting.Len() == 0 && pause <= 0 {
		p.next = time.Now().Add(turnPause)
		return nil
	}
	switch {
	case p.waiting.Len() > 0: // the timer runs
	case p.timer == nil:
		p.timer = time.AfterFunc(pause, p.onTurn)
	default:
		p.timer.Reset(pause)
	}
	return p.waiting.PushBack(make(chan struct{}))
}

func (p *pace) onTurn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting.Len() == 0 {
		return
	}
	p.turnLocked()
	p.next = time.Now().Add(turnPause)
	if p.waiting.Len() > 0 {
		p.timer.Reset(turnPause)
	}
}

// turnLocked lets the next one go.
func (p *pace) turnLocked() { close(p.waiting.Remove(p.waiting.Front()).(chan struct{})) }

// done says what came of a handshake.
func (p *pace) done(err error) {
	answered, telling := outcome(err)
	if !telling {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !answered {
		p.unanswered++
		return
	}
	p.unanswered = 0
	for p.waiting.Len() > 0 {
		p.turnLocked()
	}
}

// outcome reports whether a handshake with this error was answered by the server, and whether the error tells.
func outcome(err error) (answered, telling bool) {
	var rejected *engineio.RejectedError
	var op *net.OpError
	switch {
	case err == nil:
		return true, true
	case errors.As(err, &rejected):
		switch rejected.Status {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout: // a balancer's, or such a server's
			return false, true
		}
		return true, true
	case errors.Is(err, context.Canceled): // the client has gone
		return false, false
	case errors.Is(err, context.DeadlineExceeded): // it took its time: that is slow enough
		return false, false
	case errors.As(err, &op) && op.Op == "dial": // there was no connection: the gate's business
		return false, false
	}
	return false, true
}
