// Package demo shows in a terminal what holdfast does, and needs only Go. It
// starts a legacy Socket.IO server, holdfast in front of it, and a client whose
// connection it cuts. It tells what happens to the client and what the server
// sees, and compares that with a client without holdfast. Then it keeps serving,
// so that users can try their own clients.
package demo
