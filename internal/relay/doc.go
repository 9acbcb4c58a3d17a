// Package relay passes the bytes of a client's WebSocket to the replica that serves the client, and
// back.
package relay
