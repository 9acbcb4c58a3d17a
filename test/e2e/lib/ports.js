// Free TCP ports below the range that the kernel uses for outgoing connections, so that nothing
// else takes one before the test listens on it: no outgoing connection, and no other test file that
// runs at the same time.
import { mkdirSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";

const LOW = 12000;
const HIGH = 32000;
const DIR = path.join(os.tmpdir(), "holdfast-e2e-ports"); // a file for each port, with the process that has it
const used = new Set();

export async function freePort() {
  for (let i = 0; i < 200; i++) {
    const port = LOW + Math.floor(Math.random() * (HIGH - LOW));
    if (reserve(port) && (await canListen(port))) return port;
  }
  throw new Error("no free port found");
}

/** Takes a port for as long as this process lives, unless another one has it. */
function reserve(port) {
  if (!used.size) sweep();
  try {
    writeFileSync(path.join(DIR, `${port}`), `${process.pid}`, { flag: "wx" });
    used.add(port);
    return true;
  } catch {
    return false;
  }
}

/** Removes what processes have left that were killed, and later what this one has. */
function sweep() {
  mkdirSync(DIR, { recursive: true });
  for (const name of readdirSync(DIR)) {
    try {
      process.kill(Number(readFileSync(path.join(DIR, name), "utf8")), 0);
    } catch (err) {
      if (err.code === "ESRCH") remove(name);
    }
  }
  process.once("exit", () => used.forEach(remove));
}

function remove(name) {
  try {
    unlinkSync(path.join(DIR, `${name}`));
  } catch {
    // Another process was faster.
  }
}

function canListen(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
