// Package socketio reads and edits Socket.IO packets as bytes.
//
// It implements the Socket.IO protocol v5, "Packet encoding": the part before
// the JSON payload is scanned, the payload itself is not decoded. Everything here
// is a pure function; nothing knows of connections.
//
// Packets are handled without the leading Engine.IO message type '4'.
package socketio
