// Package upstream connects to the Socket.IO server behind holdfast, or to several.
//
// An Upstream is a pool of Servers. Upstream.Dial is the only way to make an Engine.IO handshake.
// It picks the server with the fewest links among those that are up (upstream.go, state.go). If
// that one cannot be reached, it tries up to two others. Each Server admits handshakes in three
// stages, in this order:
//
//  1. throttle: one handshake every 50 ms while the server accepts connections but answers none.
//  2. breaker: one probe at a time while connecting fails.
//  3. slots: upstream.max_concurrent_dials handshakes at a time.
//
// Requests that pass through unchanged use Upstream.RoundTripper, which only tells the breaker of
// its dials.
//
// Which servers there are comes from the configuration, which SetURLs changes, or from DNS
// (discover.go). Whether a server is up follows from its connections, its answers to handshakes,
// its health checks, and probes while it is down (watch.go). With a single URL and none of these, a
// Server is asked only when a client needs it, and nothing runs in the background.
package upstream
