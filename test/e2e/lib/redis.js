// A real Redis, from Debian. HOLDFAST_E2E_REDIS=valkey-server runs the same tests with Valkey.
import { spawn, spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { freePort } from "./ports.js";
import { accepts } from "./holdfast.js";
import { until } from "./wait.js";

const SERVER = process.env.HOLDFAST_E2E_REDIS || "redis-server";

/** Why tests with Redis are skipped, or false. */
export const noRedis = spawnSync(SERVER, ["--version"]).status === 0 ? false : `${SERVER} is not installed`;

export class Redis {
  /** args: more arguments of redis-server. password: what clients must know. tls: {cert, key}; then it speaks TLS only. */
  static async start(t, { args = [], password, tls } = {}) {
    const r = new Redis();
    r.port = await freePort();
    // Replication writes a file there.
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-redis-"));
    r.args = password ? ["--requirepass", password, "--masterauth", password, ...args] : [...args];
    if (tls) r.args.push("--port", "0", "--tls-port", `${r.port}`, "--tls-cert-file", tls.cert, "--tls-key-file", tls.key, "--tls-auth-clients", "no");
    r.args.push("--dir", dir);
    r.password = password;
    await r.run();
    t.after(async () => {
      await r.kill();
      await rm(dir, { recursive: true, force: true });
    });
    return r;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}/0`;
  }

  /** Starts it, or restarts it after kill. */
  async run() {
    await this.spawn(["--port", String(this.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", ...this.args]);
  }

  async spawn(args) {
    this.child = spawn(SERVER, args, { stdio: "ignore" });
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
      let text = "";
      socket.on("data", (data) => {
        text += data;
        const answer = this.password ? text.replace(/^\+OK\r\n/, "") : text; // of AUTH
        if (!answer) return;
        socket.destroy();
        resolve(answer);
      });
      const all = this.password ? [["AUTH", this.password], words] : [words];
      for (const list of all) socket.write(`*${list.length}\r\n` + list.map((w) => `$${Buffer.byteLength(w)}\r\n${w}\r\n`).join(""));
    });
  }
}

/** A master, a copy of it, and a Sentinel that replaces the master by the copy if it dies. */
export class Sentinel extends Redis {
  static async start(t, { password, sentinelPassword }) {
    const s = new Sentinel();
    s.master = await Redis.start(t, { password, args: ["--repl-diskless-sync-delay", "0"] });
    s.copy = await Redis.start(t, { password, args: ["--replicaof", "127.0.0.1", String(s.master.port)] });
    await until(async () => /master_link_status:up/.test(await s.copy.command("INFO", "replication")), "the copy to be in sync", 20000);
    s.port = await freePort();
    s.password = sentinelPassword;
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-sentinel-"));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const lines = [
      `port ${s.port}`,
      "bind 127.0.0.1",
      `dir ${dir}`,
      `requirepass ${sentinelPassword}`,
      `sentinel monitor main 127.0.0.1 ${s.master.port} 1`,
      `sentinel auth-pass main ${password}`,
      "sentinel down-after-milliseconds main 500",
      "sentinel failover-timeout main 3000",
    ];
    s.file = path.join(dir, "sentinel.conf");
    await writeFile(s.file, lines.join("\n"));
    await s.spawn([s.file, "--sentinel"]);
    t.after(() => s.kill());
    await until(async () => (await s.command("SENTINEL", "replicas", "main")).includes(String(s.copy.port)), "Sentinel to know the copy", 20000);
    return s;
  }
}

/** Nodes of a Redis Cluster that share all slots. The key of the tests' replicas is at nodes[1]. */
export async function redisCluster(t, { password }) {
  const slots = [[0, 5460], [5461, 10922], [10923, 16383]];
  const nodes = [];
  for (const i of slots.keys()) {
    const bus = await freePort();
    const args = ["--cluster-enabled", "yes", "--cluster-port", String(bus), "--cluster-node-timeout", "3000", "--cluster-require-full-coverage", "no"];
    const node = await Redis.start(t, { password, args });
    node.bus = bus;
    nodes.push(node);
  }
  for (const [i, [from, to]] of slots.entries()) {
    await nodes[i].command("CLUSTER", "ADDSLOTSRANGE", String(from), String(to));
    for (const other of nodes.slice(0, i)) await other.command("CLUSTER", "MEET", "127.0.0.1", String(nodes[i].port), String(nodes[i].bus));
  }
  for (const node of nodes)
    await until(async () => /cluster_state:ok[^]*cluster_slots_ok:16384/.test(await node.command("CLUSTER", "INFO")), "the cluster", 20000);
  return nodes;
}
