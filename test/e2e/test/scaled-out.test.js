// deploy/compose/scaled-out with the real programs: nginx without stickiness, three replicas of
// holdfast, Redis, and three Socket.IO servers with the Redis adapter. Only addresses are replaced.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { accepts, Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { Client } from "../lib/client.js";
import { Redis, noRedis } from "../lib/redis.js";
import { allUp, freePorts, SECRET, total } from "../lib/replicas.js";
import { freePort } from "../lib/ports.js";
import { missing, ROOT } from "../lib/tools.js";
import { SLOW, sleep, until } from "../lib/wait.js";

const DIR = path.join(ROOT, "deploy/compose/scaled-out");
const skip = onlyHoldfast || noRedis || missing("nginx");

function run(t, command, args, options) {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"], ...options });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return child;
}

async function start(t) {
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-scaled-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const redis = await Redis.start(t);

  await mkdir(path.join(dir, "node_modules/@socket.io"), { recursive: true });
  for (const [name, as] of [["socket.io-4.5.4", "socket.io"], ["@socket.io/redis-adapter"], ["ioredis"]])
    await symlink(path.join(ROOT, "test/e2e/node_modules", name), path.join(dir, "node_modules", as ?? name));
  await copyFile(path.join(DIR, "server.cjs"), path.join(dir, "server.cjs"));
  const servers = await freePorts(3);
  for (const port of servers) {
    const env = { ...process.env, PORT: `${port}`, REDIS_URL: `redis://127.0.0.1:${redis.port}` };
    run(t, process.execPath, ["server.cjs"], { cwd: dir, env });
    await until(() => accepts(port), "a server");
  }

  await writeFile(path.join(dir, "secret"), `${SECRET}\n`);
  const list = [];
  for (const port of await freePorts(3)) {
    const env = {
      HOLDFAST_UPSTREAM_URL: servers.map((p) => `http://127.0.0.1:${p}`).join(","),
      HOLDFAST_UPSTREAM_DISCOVER: "none",
      HOLDFAST_CLUSTER_LISTEN: `127.0.0.1:${port}`,
      HOLDFAST_CLUSTER_PEERS: redis.url,
      HOLDFAST_CLUSTER_SECRET_FILE: path.join(dir, "secret"),
    };
    const listen = await freePort();
    Object.assign(env, { HOLDFAST_LISTEN: `127.0.0.1:${listen}`, HOLDFAST_TRUSTED_PROXIES: "127.0.0.1" });
    const adminPort = await freePort();
    env.HOLDFAST_ADMIN_LISTEN = `127.0.0.1:${adminPort}`;
    const hf = await Holdfast.start(servers[0], { listen: `127.0.0.1:${listen}` }, { args: ["-config", path.join(DIR, "holdfast.yaml")], env, ready: false });
    hf.adminPort = adminPort;
    t.after(() => hf.kill());
    await until(async () => (await hf.admin("/readyz")).status === 200, () => `holdfast\n${hf.log}`);
    list.push(hf);
  }
  await allUp(list, 2);

  const port = await freePort();
  const conf = (await readFile(path.join(DIR, "nginx.conf"), "utf8"))
    .replace("server holdfast:8080;", list.map((hf) => `server 127.0.0.1:${hf.port};`).join(" "))
    .replace("listen 80;", `listen 127.0.0.1:${port};`);
  await writeFile(path.join(dir, "site.conf"), conf);
  const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((p) => `${p}_temp_path ${dir}/${p};`).join(" ");
  await writeFile(
    path.join(dir, "main.conf"),
    `daemon off; master_process off; pid ${dir}/pid; error_log stderr crit; events { worker_connections 512; }
     http { access_log off; ${temp} include ${dir}/site.conf; }`,
  );
  run(t, "nginx", ["-p", dir, "-e", "stderr", "-c", path.join(dir, "main.conf")]);
  await until(() => accepts(port), "nginx");
  return { list, redis, url: `http://127.0.0.1:${port}` };
}

describe("the example of deploy/compose", { skip }, () => {
  it("clients recover at any replica, and broadcasts of all servers reach each of them once", { timeout: 60000 * SLOW }, async (t) => {
    const { list, url } = await start(t);
    const kinds = [["polling"], ["polling", "websocket"], ["websocket"]];
    const clients = Array.from({ length: 9 }, (_, i) => new Client(i % 2 ? "4.6.2" : "4.8.4", url, { transports: kinds[i % 3] }));
    t.after(() => clients.forEach((c) => c.close()));
    for (const c of clients) await c.main.connected();
    const servers = new Set((await Promise.all(clients.map((c) => c.main.ask("where")))).flat());
    assert.equal(servers.size, 3, "all servers have clients");
    for (const c of clients) {
      c.heard = [];
      c.socket.on("echo", (text) => c.heard.push(text));
    }
    let sent = 0;
    for (let round = 1; round <= 3; round++) {
      // Each client in turn is cut, and misses what a client of another server says.
      for (const [i, c] of clients.entries()) {
        const other = clients[(i + 1) % clients.length];
        c.manager.engine.transport.ws?.terminate?.() ?? c.manager.engine.transport.onError?.("cut by the test");
        await c.main.disconnected(round);
        other.socket.emit("echo", ++sent);
        await c.main.connected(round + 1);
      }
    }
    const want = Array.from({ length: sent }, (_, i) => i + 1);
    for (const c of clients) {
      await until(() => c.heard.length >= sent, () => `all broadcasts, had ${c.heard}`);
      c.main.assertRecovered(3);
    }
    await sleep(200);
    for (const c of clients) assert.deepEqual(c.heard.toSorted((a, b) => a - b), want);
    assert.ok((await total(list, "holdfast_relay_resumes_total", { result: "resumed" })) > 3);
    assert.ok((await total(list, "holdfast_forwarded_requests_total")) > 20);
    assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed" }), 0);
  });
});
