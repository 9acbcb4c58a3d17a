// Free TCP ports below the range that the kernel uses for outgoing connections, so that nothing
// else takes one before the test listens on it.
import net from "node:net";

const LOW = 12000;
const HIGH = 32000;
const used = new Set();

export async function freePort() {
  for (let i = 0; i < 200; i++) {
    const port = LOW + Math.floor(Math.random() * (HIGH - LOW));
    if (used.has(port)) continue;
    if (await canListen(port)) {
      used.add(port);
      return port;
    }
  }
  throw new Error("no free port found");
}

function canListen(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
