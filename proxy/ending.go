package proxy

import "sync/atomic"

// ending is something that comes about once, and can be waited for. It is a channel that is closed, which is made only if
// somebody waits: most clients and links have nobody who does. The zero value has not come about.
type ending struct {
	p atomic.Pointer[chan struct{}]
}

// past is the channel of what has come about.
var past = func() *chan struct{} {
	c := make(chan struct{})
	close(c)
	return &c
}()

// happen is to be called once.
func (e *ending) happen() {
	if c := e.p.Swap(past); c != nil {
		close(*c)
	}
}

// happened reports whether happen was called.
func (e *ending) happened() bool { return e.p.Load() == past }

// wait returns a channel that is closed by happen.
func (e *ending) wait() <-chan struct{} {
	c := make(chan struct{})
	if e.p.CompareAndSwap(nil, &c) {
		return c
	}
	return *e.p.Load()
}
