// Package wire is what the built-in legacy server and the small client have
// in common: the codec of Socket.IO v5 packets, and a reader and an encoder of
// WebSocket messages.
//
// It is no part of the proxy and shares no code with it on purpose: the proxy
// is tested against these two, and a mistake should not be made on both sides.
package wire
