// Package knownclients recognizes Socket.IO clients that cannot resume a session.
//
// Only some clients support connection state recovery. The others gain nothing from a pid and from
// offsets, and some break: an offset is one more argument for their handlers. Nothing in the
// protocol distinguishes them before they reconnect. So this package looks at their handshake: the
// User-Agent of their HTTP library, and the way they write the query.
//
// socket.io-client for JavaScript writes the application's parameters first, then EIO, then
// transport, then t, which always has a letter. It runs in browsers, in Node.js and in React
// Native, so it can have any User-Agent, or none. Clients that are not in the table count as able
// to resume.
package knownclients
