// Package netpoll provides connections that push. A Stream calls its Handler with the bytes that
// arrive, and takes writes without ever blocking the writer.
//
// A proxy of many mostly idle connections pays for memory per connection and for system calls per
// message. So a Stream has no read buffer of its own, and Write goes to the kernel from the
// goroutine that has something to send.
//
// # Two implementations
//
// New returns one of two kinds of Stream, which behave the same:
//
//   - A loopStream (loopstream_linux.go, loopread_linux.go) is a plain TCP or Unix socket that the
//     event loop serves. It has no goroutine.
//   - A goStream (gostream.go) is anything else: TLS, other systems, and everything when Setup has
//     switched the event loop off. It uses package net and ordinary system calls only.
//
// # Goroutines
//
// The event loop (loop_linux.go) has one goroutine per loop, and one loop for every two CPUs. They
// run as long as the process. A goStream has a reader for its whole life, and a writer while bytes
// are queued; both end with the connection. Handlers are called from these goroutines, so they must
// not wait.
//
// # What the loop does
//
// A loop waits in epoll for the descriptors of its connections and listeners. Each is a target in a
// slot. The event carries the slot's index and generation, so that a late event does not reach the
// slot's next owner. For each event the loop reads into one shared buffer, passes the bytes to
// Handler.Read, and remembers to call Handler.Flush after up to 64 Streams. A Stream that needs
// attention without an event (Resume, Close) is scheduled. It is put on the loop's list of tasks,
// and an eventfd wakes the loop.
//
// # The life of a Stream
//
// Its phase (phase.go) goes from open to closed. Shutdown closes the writing side in an orderly
// way, and Close ends the connection immediately. The peer or a failed write may end it too. In
// each case the reader or the loop finds the end, closes the descriptor and calls Handler.Closed,
// once. Its readState says whether it reads at all: Pause gives backpressure to the peer.
//
// On Linux a connection can also begin in the loop. Accept and Dial make Conns, on which a
// handshake is read and written as on any net.Conn (conn_linux.go). New then makes a Stream of the
// Conn at no cost (handover_linux.go), and Detach makes a connection of package net of it.
//
// # Writes
//
// Write makes one non-blocking attempt. What the kernel does not take is copied to the Stream's
// queue. The loop writes it when epoll reports the socket writable. A goStream's writer writes it
// with blocking calls. The caller learns how many bytes are queued and decides when that is too
// much; Drained says when the queue is empty. Under TLS nothing tells whether a write would block,
// so all bytes go through the queue.
//
// # Locks
//
// Where several are held together, they are taken in this order: a Conn's mu, a Stream's mu, a
// loop's mu. A listener's mu comes before a loop's. None is held while a Handler is called or while
// a system call waits.
//
// # Panics
//
// All calls of Handlers go through safely (panic.go). It closes the Stream and tells a
// PanicHandler, and the loop serves the other connections. An Acceptor and the functions given to a
// Conn recover their own panics.
package netpoll
