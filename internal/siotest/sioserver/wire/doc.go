// Package wire is shared by the built-in legacy server and the small client: the
// codec of Socket.IO v5 packets, and a reader and an encoder of WebSocket messages.
//
// It deliberately shares no code with the proxy. The proxy is tested against these
// two, and the same mistake should not be made on both sides.
package wire
