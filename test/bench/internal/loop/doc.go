// Package loop serves all connections of a process in one goroutine, over epoll: one read per
// connection that has something, one write per answer. It costs the benchmark's generator and
// server less than a goroutine per connection, so that the benchmark measures the proxy between
// them. Linux only.
package loop
