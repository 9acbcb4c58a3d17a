// Package netpoll makes a net.Conn push what it reads and take writes without
// ever blocking the writer.
//
// Proxying many mostly idle connections, what costs is memory per connection and system
// calls per message. So a Stream has no read buffer of its own, and writes from the goroutine that
// has something to say; bytes wait in the Stream only while the kernel takes no more.
//
// On Linux plain sockets are served by an event loop (loop_linux.go), and Handlers are called from it: one
// that waits holds up all other connections of its loop. Everything else has a goroutine that reads, and
// one that writes while there is something to write (gostream.go).
//
// On Linux connections can also begin in the loop: Accept and Dial make Conns, on which a handshake is read and written
// as on any net.Conn, and which then become Streams at no cost.
package netpoll
