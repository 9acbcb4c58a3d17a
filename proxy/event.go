package proxy

import "sync/atomic"

// event fires once and can be waited for. Its channel is allocated only if someone waits, which is
// rare. The zero value has not fired.
type event struct {
	p atomic.Pointer[chan struct{}]
}

// fired is the closed channel that all events share after they have fired.
var fired = func() *chan struct{} {
	c := make(chan struct{})
	close(c)
	return &c
}()

// Fire fires the event. It must not be called twice.
func (e *event) Fire() {
	if c := e.p.Swap(fired); c != nil {
		close(*c)
	}
}

// HasFired reports whether Fire was called.
func (e *event) HasFired() bool { return e.p.Load() == fired }

// Done returns a channel that Fire closes.
func (e *event) Done() <-chan struct{} {
	c := make(chan struct{})
	if e.p.CompareAndSwap(nil, &c) {
		return c
	}
	return *e.p.Load()
}
