// Package upstream connects to the Socket.IO server behind holdfast.
//
// Upstream.Dial is the only way to make an Engine.IO handshake. Three stages admit one, in this order:
//
//  1. throttle: one handshake every 50 ms while the server accepts connections but answers none.
//  2. breaker: one probe at a time while connecting fails.
//  3. slots: upstream.max_concurrent_dials handshakes at a time.
//
// Requests that pass through unchanged use Upstream.RoundTripper, which only tells the breaker of its dials.
package upstream
