// A real Redis, from Debian.
import { spawn, spawnSync } from "node:child_process";
import net from "node:net";
import { freePort } from "./ports.js";
import { accepts } from "./holdfast.js";
import { until } from "./wait.js";

/** Why tests with Redis are skipped, or false. */
export const noRedis = spawnSync("redis-server", ["--version"]).status === 0 ? false : "redis-server is not installed";

export class Redis {
  /** args: more arguments of redis-server. */
  static async start(t, { args = [] } = {}) {
    const r = new Redis();
    r.port = await freePort();
    r.args = args;
    await r.run();
    t.after(() => r.kill());
    return r;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}/0`;
  }

  /** Starts it, again after kill. */
  async run() {
    const args = ["--port", String(this.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", ...this.args];
    this.child = spawn("redis-server", args, { stdio: "ignore" });
    await until(() => accepts(this.port), "Redis");
  }

  signal(name) {
    process.kill(this.child.pid, name);
  }

  async kill() {
    if (this.child.exitCode !== null || this.child.signalCode) return;
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }

  /** Sends one command, and returns the answer as it is. */
  command(...words) {
    return new Promise((resolve, reject) => {
      const socket = net.connect(this.port, "127.0.0.1");
      socket.setTimeout(3000, () => socket.destroy(new Error("Redis does not answer")));
      socket.on("error", reject);
      socket.once("data", (data) => {
        socket.destroy();
        resolve(data.toString());
      });
      socket.write(`*${words.length}\r\n` + words.map((w) => `$${Buffer.byteLength(w)}\r\n${w}\r\n`).join(""));
    });
  }
}
