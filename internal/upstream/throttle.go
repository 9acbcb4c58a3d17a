package upstream

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
	// maxUnanswered handshakes in a row without an answer make the throttle active.
	maxUnanswered = 16
	// ticketInterval is the time between two tickets of an active throttle.
	ticketInterval = 50 * time.Millisecond
)

// throttle slows handshakes down while the upstream accepts connections but answers none. Examples
// are a balancer whose servers are all down, and a server that crashes while it starts. After 16
// unanswered handshakes in a row it hands out one ticket every 50 ms. The first answer lets all
// callers proceed.
//
// A missing answer may be the fault of the client that asked. So one caller never fails because of
// another: each waiting caller gets its own ticket or runs out of time. It also takes many
// failures in a row, with no answer in between, before the throttle is active.
//
// It is safe for concurrent use.
type throttle struct {
	mu         sync.Mutex // guards the fields below
	unanswered int        // in a row
	next       time.Time  // when the next ticket is due
	waiting    list.List  // of chan struct{}; closing one is handing out its ticket
	timer      *time.Timer
}

// Wait returns when the caller may make a handshake, and whether it took a ticket for that. The
// error is that of ctx.
func (t *throttle) Wait(ctx context.Context) (ticket bool, err error) {
	if !t.Active() {
		return false, nil
	}
	place := t.enqueue()
	if place == nil {
		return true, nil
	}
	select {
	case <-place.Value.(chan struct{}):
		return true, nil
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiting.Remove(place)
		return false, ctx.Err()
	}
}

// Active reports whether handshakes need a ticket.
func (t *throttle) Active() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unanswered >= maxUnanswered
}

// enqueue puts the caller in the queue. It returns nil if the caller has its ticket already.
func (t *throttle) enqueue() *list.Element {
	t.mu.Lock()
	defer t.mu.Unlock()
	pause := time.Until(t.next)
	if t.waiting.Len() == 0 && pause <= 0 {
		t.next = time.Now().Add(ticketInterval)
		return nil
	}
	switch {
	case t.waiting.Len() > 0: // the timer runs
	case t.timer == nil:
		t.timer = time.AfterFunc(pause, t.onTimer)
	default:
		t.timer.Reset(pause)
	}
	return t.waiting.PushBack(make(chan struct{}))
}

func (t *throttle) onTimer() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting.Len() == 0 {
		return
	}
	t.releaseLocked()
	t.next = time.Now().Add(ticketInterval)
	if t.waiting.Len() > 0 {
		t.timer.Reset(ticketInterval)
	}
}

// releaseLocked hands the first waiting caller its ticket.
func (t *throttle) releaseLocked() { close(t.waiting.Remove(t.waiting.Front()).(chan struct{})) }

// Done records how a handshake ended.
func (t *throttle) Done(err error) {
	answered, conclusive := outcome(err)
	if !conclusive {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !answered {
		t.unanswered++
		return
	}
	t.unanswered = 0
	for t.waiting.Len() > 0 {
		t.releaseLocked()
	}
}

// outcome reports whether the server answered a handshake that ended with err, and whether err is
// conclusive.
func outcome(err error) (answered, conclusive bool) {
	var rejected *engineio.RejectedError
	var op *net.OpError
	switch {
	case err == nil:
		return true, true
	case errors.As(err, &rejected):
		switch rejected.Status {
		// These come from a balancer, or mean the same.
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return false, true
		}
		return true, true
	case errors.Is(err, context.Canceled): // the client is gone
		return false, false
	case errors.Is(err, context.DeadlineExceeded): // the wait itself was slow enough
		return false, false
	case errors.As(err, &op) && op.Op == "dial": // there was no connection: the breaker's concern
		return false, false
	}
	return false, true
}
