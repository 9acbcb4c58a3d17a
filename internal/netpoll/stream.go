package netpoll

import (
	"errors"
	"net"
	"sync"
	"time"
)

// readBufferBytes is the size of one read. It is a little over 64 KiB, so that a frame of 64 KiB
// and its header arrive in one read.
const readBufferBytes = 64<<10 + 512

var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, readBufferBytes)
	return &b
}}

// ErrClosed is passed to Handler.Closed when this side closed the Stream.
var ErrClosed = errors.New("netpoll: closed by this side")

// Handler receives the events of a Stream. Its methods are not called concurrently, except for
// Drained. They must not wait: the goroutine that calls them may serve other Streams too.
type Handler interface {
	// Read receives bytes as they arrive. p is valid during the call only; the Handler may change
	// it.
	Read(p []byte)
	// Flush follows one or more calls of Read, and precedes Closed. It may also come while the
	// Stream is paused, or when nothing was read. Forward what was read from Flush, not from Read.
	// The event loop reads many Streams before it flushes them, so writes are batched and their
	// receivers are still awake.
	Flush()
	// Drained reports that all queued bytes are written. By the time it runs, others may be queued.
	Drained()
	// Closed comes once, and Read does not follow it. err is io.EOF after the peer's orderly end,
	// ErrClosed after Close or when Shutdown's linger time is up, and otherwise the network's
	// error.
	Closed(err error)
}

// Stream is a connection with a Handler. It is safe for concurrent use.
type Stream interface {
	// Start begins to read; initial is what was read from the connection before. Closed is called
	// only after Start, even if Close or Shutdown comes earlier.
	Start(initial []byte)
	// Pause stops calls of Handler.Read, except for one already running, until Resume or Shutdown.
	// A paused Stream does not notice the peer's end, unless a write fails.
	Pause()
	// Resume undoes Pause.
	Resume()
	// Write takes all of p and never blocks. It writes what the kernel takes immediately and queues
	// a copy of the rest. It returns how many bytes are now queued. After an error, which
	// Handler.Closed reports, it drops p.
	Write(p []byte) (queued int)
	// Queued returns how many bytes are queued. If there are any, Drained or Closed is still to
	// come.
	Queued() int
	// Delivered returns how many bytes have left this host: it grows while the peer takes any. On
	// systems that do not tell, it counts what the kernel took. Under TLS it is too small by the
	// overhead of encrypted bytes that the kernel still holds.
	Delivered() int64
	// Close ends the connection immediately and drops queued bytes.
	Close()
	// Shutdown ends the connection in an orderly way. It writes what is queued, then a FIN, and
	// closes when the peer has sent its own FIN, or after linger. Reading continues meanwhile, so
	// that the peer's last packets are not lost, and not answered by a reset.
	Shutdown(linger time.Duration)
}

// TrackedConn is a net.Conn whose owner wants to know when it is closed. A Stream that takes the
// socket over closes the inner connection immediately, and calls onClose when it closes its own
// descriptor.
type TrackedConn interface {
	net.Conn
	Unwrap() (inner net.Conn, onClose func())
}

// ErrPeerLost is passed to Handler.Closed if the Stream was relayed by another replica, and the
// connection to that replica ended.
var ErrPeerLost = errors.New("netpoll: the connection to the replica that relayed it ended")

// Pusher is a net.Conn that becomes a Stream by itself, because it is no socket.
type Pusher interface {
	net.Conn
	Push(h Handler) Stream
}

// New makes a Stream of conn and owns conn from then on. It reads nothing before Start. The event
// loop serves the Stream if it can; otherwise goroutines do.
func New(conn net.Conn, h Handler) Stream {
	if p, ok := conn.(Pusher); ok {
		return p.Push(h)
	}
	if s := newLoopStream(conn, h); s != nil {
		return s
	}
	return newGoStream(conn, h)
}
