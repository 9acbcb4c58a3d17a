// A small Socket.IO server, one of several: Redis carries broadcasts between them.
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const Redis = require("ioredis");

const publisher = new Redis(process.env.REDIS_URL);
const http = createServer();
const io = new Server(http, { adapter: createAdapter(publisher, publisher.duplicate()) });
io.on("connection", (socket) => {
  socket.on("echo", (text) => io.emit("echo", text)); // to all clients, of all servers
  socket.on("where", (answer) => answer(process.pid));
});
http.listen(process.env.PORT || 3000);
process.on("SIGTERM", () => process.exit(0));
