package accept

import "time"

// Pause stops accepting until Resume. Connections wait in the socket's queue meanwhile, or are left
// to another process that has the socket. Calls of Pause and Resume must not overlap.
func (l *Listener) Pause() {
	l.mu.Lock()
	l.resumed = make(chan struct{})
	l.mu.Unlock()
	if l.acceptor != nil {
		l.acceptor.pause()
		return
	}
	if d, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok {
		// It ends an Accept in progress, and fails only if the listener is closed.
		_ = d.SetDeadline(time.Now().Add(-time.Hour))
	}
}

// Resume undoes Pause.
func (l *Listener) Resume() {
	if l.acceptor != nil {
		l.acceptor.resume()
	} else if d, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok {
		_ = d.SetDeadline(time.Time{})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.resumed != nil {
		close(l.resumed)
		l.resumed = nil
	}
}

// awaitResume waits for Resume, after Accept failed because of Pause. Otherwise it returns false.
func (l *Listener) awaitResume() bool {
	l.mu.Lock()
	resumed := l.resumed
	l.mu.Unlock()
	if resumed == nil {
		return false
	}
	<-resumed
	return true
}
