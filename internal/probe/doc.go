// Package probe is `holdfast probe URL`: it acts as a client against a deployed holdfast, through whatever
// stands before it, cuts its own connection and proves that it gets the same session back. Where it does not, it says
// in words what is wrong and what to do.
//
// It behaves as socket.io-client in a browser does: the same requests, in the same order, with cookies kept. It sends
// nothing to the application but CONNECT and DISCONNECT, so the application sees sockets come and go, and no event.
//
// A conn is an Engine.IO connection, over polling, WebSocket or upgraded from one to the other. A check tries one way
// to connect. What goes wrong is a *problem, with a Code from a closed list that docs/probe.md describes.
package probe
