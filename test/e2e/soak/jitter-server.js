// The server of jitter.js: it broadcasts numbers.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { once } from "node:events";
import { serve } from "./child.js";

const require = createRequire(import.meta.url);
const { version, recovery, rate } = JSON.parse(process.argv[2]);
const { Server } = require(`socket.io-${version}`);

const http = createServer();
const io = new Server(http, { serveClient: false, ...(recovery ? { connectionStateRecovery: {} } : {}) });
let connections = 0;
let number = 0;
let timer;
io.on("connection", () => connections++);
http.listen({ port: 0, host: "127.0.0.1", backlog: 4096 });
await once(http, "listening");

serve({
  ready: () => http.address().port,
  start() {
    timer = setInterval(() => io.emit("tick", ++number), 1000 / rate);
  },
  stop() {
    clearInterval(timer);
    return number;
  },
  connections: () => connections,
});
