// A real Socket.IO server that takes the commands of bench's own (server.go).
// Arguments: the directory of its package, the ping interval in milliseconds,
// and whether connection state recovery is on.
"use strict";

const { createServer } = require("node:http");
const { createInterface } = require("node:readline");

const [, , directory, pingInterval, recovery] = process.argv;
const { Server } = require(directory);

const httpServer = createServer();
const io = new Server(httpServer, {
  serveClient: false,
  pingInterval: Number(pingInterval),
  ...(recovery === "true" ? { connectionStateRecovery: {} } : {}),
});

let connected = 0;
let ended = 0;
let events = 0;
let number = 0;

io.on("connection", (socket) => {
  if (!socket.recovered) connected++;
  socket.onAny(() => events++);
  socket.on("e", (number, payload) => socket.emit("e", number, payload));
  socket.on("disconnect", () => ended++);
});

// The same text as payloadOf (event.go).
function payloadOf(n) {
  return Array.from({ length: n }, (_, i) =>
    String.fromCharCode(97 + ((i * i + Math.floor(i / 26)) & 255) % 26),
  ).join("");
}

function broadcast(count, payload) {
  io.emit("b", ++number, payload);
  if (count > 1) setImmediate(broadcast, count - 1, payload);
  else console.log("done");
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const [command, count, size] = line.split(" ");
  if (command === "broadcast") broadcast(Number(count), payloadOf(Number(size)));
  else if (command === "stats") console.log(`connected ${connected} ended ${ended} events ${events}`);
  else console.log("unknown command");
});
lines.on("close", () => process.exit());

// The default backlog, 511, makes some of a storm's clients wait for a second.
httpServer.listen({ port: 0, host: "127.0.0.1", backlog: 65535 }, () => {
  console.log(httpServer.address().port);
});
