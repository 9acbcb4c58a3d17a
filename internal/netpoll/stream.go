package netpoll

import (
	"errors"
	"net"
	"sync"
	"time"
)

// readBufferBytes is one read's size. It is a little over 64 KiB, so that a frame of 64 KiB
// and its header come in one read.
const readBufferBytes = 64<<10 + 512

var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, readBufferBytes)
	return &b
}}

// ErrClosed is what Closed gets when this side closed the stream.
var ErrClosed = errors.New("stream: closed by this side")

// Handler gets what happens on a Stream. Its methods are not called concurrently,
// but for Drained, and must not wait: other streams may be served by the same goroutine.
type Handler interface {
	// Read gets bytes as they arrive. p is valid, and may be changed, during the call only.
	Read(p []byte)
	// Flush follows Read, once for one or several in a row, and before Closed; it may come while the stream is paused, or when
	// nothing was read. What others are to have of what was read, they
	// are to have then: where many streams are read in turn, it goes out in larger pieces, and to receivers that are awake.
	Flush()
	// Drained says that bytes which had to wait are all written. Others may wait by now.
	Drained()
	// Closed comes once, and no Read after it: io.EOF after the peer's orderly end, ErrClosed
	// after Close or when Shutdown's time is up, else the network's error.
	Closed(err error)
}

// PanicHandler is a Handler that is told of its own panics. The stream is closed then, and the process goes on.
type PanicHandler interface {
	Handler
	Panicked(v any)
}

// recoverFor is deferred around calls of a Handler.
func recoverFor(h Handler, closeStream func()) {
	if v := recover(); v != nil {
		panicked(h, closeStream, v)
	}
}

// panicked goes on with a panic that the Handler is not to be told of.
func panicked(h Handler, closeStream func(), v any) {
	ph, ok := h.(PanicHandler)
	if !ok {
		panic(v)
	}
	closeStream()
	ph.Panicked(v)
}

// Stream is a connection with a Handler. It is safe for concurrent use.
type Stream interface {
	// Start begins reading; initial is what was read from the connection before. Closed comes only
	// after Start, which may follow Close or Shutdown.
	Start(initial []byte)
	// Pause stops calls to Handler.Read, but for one under way, until Resume or Shutdown. The peer's end is
	// not seen meanwhile, unless a write fails.
	Pause()
	// Resume undoes Pause.
	Resume()
	// Write takes all of p: it goes to the kernel at once as far as that takes it, and a copy of the rest waits.
	// It returns how many bytes now wait. It does not block. After an error, which Handler.Closed
	// will report, bytes are dropped.
	Write(p []byte) (queued int)
	// Queued is how many bytes wait for the kernel. If there are any, Drained or Closed is still to come.
	Queued() int
	// Delivered is how many bytes have left this host: it grows while the peer takes any. Where the kernel does not
	// tell, what it took counts. With TLS the number is too small by what encryption adds to bytes in the kernel.
	Delivered() int64
	// Close ends the connection at once. Bytes that wait are dropped.
	Close()
	// Shutdown ends the writing side once all that waits is written, and the connection when the peer has ended
	// its side too, or after linger. Reading goes on meanwhile, so that the peer's last packets are neither lost
	// nor answered by a reset.
	Shutdown(linger time.Duration)
}

// Counted is a connection that is counted while it is open. A Stream that goes on with the socket under another descriptor
// closes the connection inside, and calls the function when the socket itself is closed.
type Counted interface {
	net.Conn
	Release() (inner net.Conn, closed func())
}

// New makes a Stream of conn, which it owns from then on. Nothing is read before Start.
func New(conn net.Conn, h Handler) Stream {
	if s := newLoopStream(conn, h); s != nil {
		return s
	}
	return newGoStream(conn, h)
}
