package netpoll

// PanicHandler is a Handler to which panics in its own methods are reported. The Stream is then
// closed, and the process continues. Without it a panic ends the process.
type PanicHandler interface {
	Handler
	Panicked(v any)
}

// handled is a Stream that knows its Handler.
type handled interface {
	Stream
	handler() Handler
}

// safely calls do, which calls methods of s's Handler, and recovers a panic in them. It is the
// package's only guard: the event loop and every goroutine call Handlers through it.
func safely(s handled, do func()) {
	defer recoverPanic(s)
	do()
}

// recoverPanic is deferred by safely.
func recoverPanic(s handled) {
	v := recover()
	if v == nil {
		return
	}
	h, ok := s.handler().(PanicHandler)
	if !ok {
		panic(v)
	}
	s.Close()
	h.Panicked(v)
}
