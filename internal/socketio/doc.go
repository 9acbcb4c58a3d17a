// Package socketio reads and edits Socket.IO packets as bytes.
//
// It implements Socket.IO protocol v5, "Packet encoding". It scans the part before
// the JSON payload and does not decode the payload. All functions are pure.
//
// Packets do not include the leading Engine.IO message type '4'.
package socketio
