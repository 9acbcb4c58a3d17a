// A cluster of Socket.IO servers behind @socket.io/sticky, which chooses the worker once for a TCP
// connection.
import cluster from "node:cluster";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { setupMaster, setupWorker } = require("@socket.io/sticky");

if (cluster.isWorker) {
  const { Server } = require("socket.io-4.5.4");
  const http = createServer((req, res) => res.end("page"));
  const io = new Server(http, { allowEIO3: true });
  setupWorker(io);
  // The primary process learns of a sid a little after the client. On a network the client takes
  // longer to use it than here: so the answer waits until the primary has read what this worker told
  // it.
  const waiting = [];
  process.on("message", (m) => m.type === "seen" && waiting.shift()());
  http.prependListener("request", (req, res) => {
    const { end } = res;
    if (!process.env.NETWORK || req.url.includes("sid=")) return;
    res.end = (...args) => {
      waiting.push(() => end.apply(res, args));
      setImmediate(() => process.send({ type: "told" }));
    };
  });
  io.on("connection", (socket) => socket.on("worker", (i, ack) => ack(cluster.worker.id)));
  process.send({ type: "ready" });
} else {
  const http = createServer();
  cluster.setupPrimary({ serialization: "advanced" });
  setupMaster(http, { loadBalancingMethod: "round-robin" });
  let ready = 0;
  cluster.on("message", (worker, m) => {
    if (m.type === "told") worker.send({ type: "seen" });
    if (m.type === "ready" && ++ready === 3) http.listen(0, "127.0.0.1", () => process.send({ port: http.address().port }));
  });
  for (let i = 0; i < 3; i++) cluster.fork();
  process.on("disconnect", () => process.exit());
}
