// Command bench measures what a proxy in front of a Socket.IO server costs:
// holdfast, HAProxy, nginx and a plain copy of bytes in Go, in turn, under the
// same load. README.md says how to run it and how to read what it prints.
//
// Three processes take part: a synthetic Socket.IO server without recovery, the
// proxy, and this one, which generates the load. Server and plain copy are this
// program again, started with a hidden first argument. Server and generator
// have one goroutine each, over epoll, so that the proxy is what a run waits
// for. Linux only: what a process has used is read from /proc.
//
// # How a run goes
//
// A scenario (echo, broadcast, ...) is run against a target (a proxy and the
// server behind it) as a trial: both are started afresh, the clients connect,
// and what the scenario promises is measured. Every event carries its number,
// and is checked: one that is lost, doubled or altered, a connection that ends,
// a server that counts otherwise fails the trial, and a failed trial has no
// figures. Trials are repeated in rounds, each over all targets, so that what
// else the machine does falls on all alike.
package main
