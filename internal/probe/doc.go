// Package probe implements `holdfast probe URL`. It acts as a client of a deployed holdfast,
// through every proxy in between. It cuts its own connection and verifies that it gets the same
// session back. If not, it reports the cause and the remedy.
//
// It behaves like socket.io-client in a browser: the same requests in the same order, with cookies.
// It sends only CONNECT and DISCONNECT, so the application sees sockets come and go, but no event.
//
// A conn is an Engine.IO connection over polling, over WebSocket, or upgraded from one to the
// other. A check tries one way to connect. A failure is a *problem with a Code; docs/probe.md lists
// them all.
package probe
