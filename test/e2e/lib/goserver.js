// The server of goserver/: googollee/go-socket.io, which speaks Engine.IO 3.
import { execFile, spawn } from "node:child_process";
import { mkdir, rename } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { until } from "./wait.js";

const run = promisify(execFile);
const E2E = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

let built;

/** Builds the server. Returns why it cannot be built, or false. Without network access its modules may be missing. */
async function problem() {
  built ??= (async () => {
    const bin = path.join(E2E, ".bin/goserver");
    await mkdir(path.dirname(bin), { recursive: true });
    const fresh = `${bin}.${process.pid}`;
    await run("go", ["build", "-o", fresh, "."], { cwd: path.join(E2E, "goserver") });
    await rename(fresh, bin);
    return bin;
  })();
  try {
    await built;
    return false;
  } catch (err) {
    return `goserver cannot be built: ${String(err.stderr || err).split("\n")[0]}`;
  }
}

/** {skip} for tests that need it. With CI set they fail instead. */
const why = await problem();
export const noGoServer = process.env.CI ? false : why;

export class GoServer {
  static async start() {
    const server = new GoServer();
    server.output = "";
    server.process = spawn(await built, [], { stdio: ["ignore", "pipe", "inherit"] });
    server.exited = new Promise((resolve) => server.process.once("exit", resolve));
    server.process.stdout.setEncoding("utf8").on("data", (text) => (server.output += text));
    await until(() => /port \d+/.test(server.output), "the Go server to listen");
    server.port = Number(/port (\d+)/.exec(server.output)[1]);
    return server;
  }

  async stop() {
    this.process.kill("SIGKILL");
    await this.exited;
  }
}
