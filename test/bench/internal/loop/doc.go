// Package loop serves all connections of a process in one goroutine, over
// epoll: one read per connection that has something, one write per answer. It
// costs the benchmark's generator and server less than goroutines of their own
// for every connection would, so that what is measured is the proxy between
// them. Linux only.
package loop
