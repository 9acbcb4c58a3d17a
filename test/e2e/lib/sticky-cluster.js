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
  // longer to use it than here.
  http.prependListener("request", (req, res) => {
    const { end } = res;
    if (process.env.NETWORK && !req.url.includes("sid=")) res.end = (...args) => setTimeout(() => end.apply(res, args), 50);
  });
  io.on("connection", (socket) => socket.on("worker", (i, ack) => ack(cluster.worker.id)));
} else {
  const http = createServer();
  cluster.setupPrimary({ serialization: "advanced" });
  setupMaster(http, { loadBalancingMethod: "round-robin" });
  const workers = Array.from({ length: 3 }, () => cluster.fork());
  await Promise.all(workers.map((w) => new Promise((resolve) => w.once("online", resolve))));
  // They say "online" before they have loaded anything.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  http.listen(0, "127.0.0.1", () => process.send({ port: http.address().port }));
  process.on("disconnect", () => process.exit());
}
