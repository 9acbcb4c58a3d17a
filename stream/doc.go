// Package stream makes a net.Conn push what it reads and take writes without
// ever blocking the writer.
//
// Proxying many mostly idle connections, what costs is memory per connection and system
// calls per message. So a Stream borrows a read buffer only while there is something to
// read, writes from the goroutine that has something to say, and starts a writer of its
// own only when the kernel takes no more.
package stream
