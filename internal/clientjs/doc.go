// Package clientjs serves the browser client, as a Socket.IO server does at
// /socket.io/socket.io.js.
//
// A page that loads the client from its server gets the server's version of it, and versions before
// 4.6 cannot recover. A Bundle is the dist folder of a later socket.io-client, served in its place.
package clientjs
