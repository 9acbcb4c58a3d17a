package proxy

import (
	"context"
	"sync"
	"time"
)

// primaryState is whether a client has a primary link:
//
//	none    -> open     the link of the client's handshake; or of a session that it resumed, if the
//	                    server speaks Engine.IO 3
//	lazy    -> open     the same
//	none    -> lazy     its handshake was answered from the cache
//	any     -> dialing  it needs a link, or another one; meanwhile it may still have the old one
//	dialing -> open     the new link is there
//	dialing -> none     the dial failed
//	open    -> none     it resumed and the link was unused, or the link ended
//	any     -> closed   the client is closed; terminal
type primaryState uint8

const (
	primaryNone primaryState = iota
	primaryLazy
	primaryDialing
	primaryOpen
	primaryClosed
)

// moveLocked is the only place where a primaryState changes. It reports whether the transition
// exists.
func (s *primaryState) moveLocked(to primaryState) bool {
	switch {
	case *s == primaryClosed:
		return false
	case to == primaryLazy && *s != primaryNone, to == primaryOpen && *s == primaryOpen:
		return false
	}
	*s = to
	return true
}

// primary is a client's primary link: the link of its own handshake. Fresh namespaces are connected
// there. If the client resumes instead, it detaches from an unused primary link, and dials another
// if it needs one later.
type primary struct {
	mu       sync.Mutex // guards the fields below
	state    primaryState
	link     *link              // nil while there is none
	stopDial context.CancelFunc // not nil while dialing
}

// get returns the primary link, or nil.
func (p *primary) get() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// is reports whether the state is s.
func (p *primary) is(s primaryState) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == s
}

// set makes l the primary link. It returns false if the client is closed.
func (p *primary) set(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.state.moveLocked(primaryOpen) {
		return false
	}
	p.link = l
	return true
}

// adopt makes l, the link of a session that the client has resumed, its primary link, if it has
// none and the link accepts the client. To a server that speaks Engine.IO 3, another handshake of
// the same client would be another user.
func (p *primary) adopt(l *link, accepts func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if (p.state == primaryNone || p.state == primaryLazy) && accepts() {
		p.state.moveLocked(primaryOpen)
		p.link = l
	}
}

// setLazy says that there is no link until the client sends something for it.
func (p *primary) setLazy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.moveLocked(primaryLazy)
}

// clear removes l as the primary link. It returns false if l was not the primary link.
func (p *primary) clear(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l {
		return false
	}
	p.link = nil
	if p.state == primaryOpen {
		p.state.moveLocked(primaryNone)
	}
	return true
}

// takeUnused removes and returns the primary link if nothing is on it, or returns nil.
func (p *primary) takeUnused() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.link
	if l == nil || !l.unused() {
		return nil
	}
	p.link = nil
	if p.state == primaryOpen {
		p.state.moveLocked(primaryNone)
	}
	return l
}

// beginDial begins to dial another primary link. Closing the client ends the context. ok is false
// if the client is closed.
func (p *primary) beginDial(timeout time.Duration) (ctx context.Context, cancel context.CancelFunc, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.state.moveLocked(primaryDialing) {
		return nil, nil, false
	}
	ctx, cancel = context.WithTimeout(context.Background(), timeout)
	p.stopDial = cancel
	return ctx, cancel, true
}

// beginAsk is beginDial for a question to another replica, which leaves the primary link as it is.
func (p *primary) beginAsk(timeout time.Duration) (ctx context.Context, cancel context.CancelFunc, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == primaryClosed {
		return nil, nil, false
	}
	ctx, cancel = context.WithTimeout(context.Background(), timeout)
	p.stopDial = cancel
	return ctx, cancel, true
}

// endAsk ends what beginAsk began. ok is false if the client is closed.
func (p *primary) endAsk() (ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopDial = nil
	return p.state != primaryClosed
}

// endDial ends what beginDial began. It takes the old primary link off the client and returns it.
// ok is false if the client is closed.
func (p *primary) endDial() (old *link, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopDial = nil
	if !p.state.moveLocked(primaryNone) {
		return nil, false
	}
	old, p.link = p.link, nil
	return old, true
}

// close cancels a dial, and returns the primary link. There will be none any more.
func (p *primary) close() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.moveLocked(primaryClosed)
	if p.stopDial != nil {
		p.stopDial()
	}
	l := p.link
	p.link = nil
	return l
}
