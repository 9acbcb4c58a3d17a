// Command bench measures the cost of a proxy in front of a Socket.IO server. It
// puts the same load on holdfast, HAProxy, nginx and a plain byte copy in Go, in
// turn. README.md says how to run it and how to read the results.
//
// Three processes take part: a synthetic Socket.IO server without recovery, the
// proxy, and this one, which generates the load. Server and plain copy are this
// program again, started with a hidden first argument. Server and generator
// use one goroutine with epoll each, so that the proxy is the bottleneck. It needs
// Linux, because it reads resource usage from /proc.
//
// # How a run goes
//
// A scenario (echo, broadcast, ...) is run against a target (a proxy and the server behind it) as a
// trial: it starts both, connects the clients and measures. Every event carries a number and is
// checked. A trial fails if an event is lost, duplicated or altered, a connection ends, or the
// server's count is wrong. A failed trial has no figures. Trials are repeated in rounds over all
// targets, so that other load on the machine affects all of them alike.
package main
