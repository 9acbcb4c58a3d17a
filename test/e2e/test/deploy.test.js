// The files of deploy/ with the real programs: Prometheus with the rules and the dashboard's
// queries, systemd with the unit, probes with the health endpoints. fronts.test.js tests nginx,
// HAProxy and Caddy, and deploy/deploy_test.go the rest.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, symlink, writeFile, mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { accepts, binary, onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { Prometheus, selectors } from "../lib/prometheus.js";
import { freePort } from "../lib/ports.js";
import { Raw, exchange } from "../lib/raw.js";
import { Redis, noRedis } from "../lib/redis.js";
import { stack } from "../lib/stack.js";
import { ROOT, missing, run } from "../lib/tools.js";
import { until } from "../lib/wait.js";

const skip = onlyHoldfast;

/** All queries of the dashboard, with its variables filled in: [{title, expr, legend}]. */
async function dashboardQueries() {
  const { panels, annotations } = JSON.parse(await readFile(path.join(ROOT, "deploy/grafana/holdfast.json"), "utf8"));
  const queries = panels.flatMap((p) => (p.targets ?? []).map((q) => ({ title: p.title, expr: q.expr, legend: q.legendFormat ?? "" })));
  for (const a of annotations.list.filter((a) => a.expr)) queries.push({ title: a.name, expr: a.expr, legend: a.titleFormat });
  for (const q of queries) q.expr = q.expr.replaceAll("$job", "holdfast").replaceAll("$instance", ".*").replace(/\$__(rate_interval|range)/g, "1m");
  return queries;
}

describe("Prometheus", { skip: skip || missing("prometheus") }, () => {
  it("scrapes holdfast, evaluates the rules, and has every metric and label of rules and dashboard", async (t) => {
    const s = await stack(t);
    const target = `127.0.0.1:${s.hf.adminPort}`;
    const prometheus = await Prometheus.start(t, [target]);
    assert.equal(await prometheus.value(`up{instance="${target}"} == 1`), 1);

    // One client recovers, one does not.
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    await s.hit(c);
    await c.main.connected(2);
    const raw = await Raw.open(s.direct);
    await raw.connect({ pid: `${c.socket._pid.slice(0, -1)}_`, offset: "" });
    raw.close();
    await prometheus.value("job:holdfast_recoveries:ratio_rate5m == 0.5");
    await prometheus.value("job:holdfast_recoveries_lost:ratio_rate5m == 0.5");

    const { groups } = await prometheus.api("rules");
    const rules = groups.flatMap((g) => g.rules);
    assert.ok(rules.length > 10);
    await until(async () => (await prometheus.api("rules")).groups.every((g) => g.rules.every((r) => r.health === "ok")), "all rules to be evaluated");

    const queries = await dashboardQueries();
    assert.ok(queries.length > 40);
    for (const match of new Set([...queries.map((q) => q.expr), ...rules.map((r) => r.query)].flatMap(selectors))) {
      const series = await prometheus.api("series", { "match[]": match });
      assert.ok(series.length > 0, `nothing is called ${match}`);
    }
    for (const { title, expr, legend } of queries) {
      const samples = await prometheus.query(expr.replace(/ > 0$/, ""));
      assert.ok(samples.length > 0, `${title}: no sample of ${expr}`);
      for (const [, label] of legend.matchAll(/\{\{(\w+)\}\}/g))
        for (const { metric } of samples) assert.ok(metric[label], `${title}: no ${label} on ${expr}`);
    }

    s.hf.signal("SIGKILL");
    await prometheus.value('ALERTS{alertname="HoldfastDown"}');
  });
});

/** Starts the server that a file of deploy/compose contains, with these modules beside Socket.IO: {port, server, ended}. */
async function composeServer(t, file, { modules = [], env = {} } = {}) {
  const text = await readFile(path.join(ROOT, "deploy/compose", file), "utf8");
  const [, block] = /\n {4}content: \|\n((?: {6}.*\n)+)/.exec(text);
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-compose-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const installed = path.join(ROOT, "test/e2e/node_modules");
  await mkdir(path.join(dir, "node_modules/@socket.io"), { recursive: true });
  await symlink(path.join(installed, "socket.io-4.5.4"), path.join(dir, "node_modules/socket.io"));
  for (const m of modules) await symlink(path.join(installed, m), path.join(dir, "node_modules", m));
  await writeFile(path.join(dir, "server.cjs"), block.replaceAll(/^ {6}/gm, ""));
  const port = await freePort();
  const server = spawn(process.execPath, ["server.cjs"], { cwd: dir, env: { ...process.env, ...env, PORT: `${port}` }, stdio: "inherit" });
  const ended = once(server, "exit");
  t.after(() => server.kill("SIGKILL"));
  await until(() => accepts(port), "the server to listen");
  return { port, server, ended };
}

describe("Compose", { skip }, () => {
  it("has servers that broadcast to each other's clients", { skip: noRedis }, async (t) => {
    const redis = await Redis.start(t);
    const servers = [];
    for (let i = 0; i < 2; i++)
      servers.push(await composeServer(t, "servers.yaml", { modules: ["@socket.io/redis-adapter", "ioredis"], env: { REDIS_HOST: "127.0.0.1", REDIS_PORT: `${redis.port}` } }));
    const s = await stack(t, { upstreamPort: 1, config: { upstream: { url: servers.map((r) => `http://127.0.0.1:${r.port}`) } } });
    const clients = [];
    for (let i = 0; i < 4; i++) {
      clients.push(s.client("4.8.4", { transports: ["websocket"] }));
      await clients[i].main.connected();
    }
    const m = await s.hf.metrics();
    for (const r of servers) assert.equal(m.sum("holdfast_upstream_server_links", { server: `http://127.0.0.1:${r.port}` }), 2);
    const heard = clients.map(() => 0);
    for (const [i, c] of clients.entries()) c.socket.on("echo", (text) => (heard[i] += text === "hello"));
    for (const c of clients) c.socket.emit("echo", "hello");
    await until(() => heard.every((n) => n === 4), () => `all to hear all: ${heard}`);
  });

  it("has a server that runs, and whose clients holdfast can recover", async (t) => {
    const { port, server, ended } = await composeServer(t, "compose.yaml");
    const { code, all } = await runHoldfast(["doctor", `http://127.0.0.1:${port}`], { timeout: 15000 });
    assert.equal(code, 0, all);
    assert.match(all, /socket\.io 4\.5\.4/);
    server.kill("SIGTERM"); // as docker compose down does
    assert.deepEqual(await ended, [0, null]);
  });
});

describe("probes", { skip, concurrency: 2 }, () => {
  it("of all kinds are answered", async (t) => {
    const s = await stack(t);
    const admin = `http://127.0.0.1:${s.hf.adminPort}`;
    const ask = async (...lines) => (await exchange(admin, `${lines.join("\r\n")}\r\n\r\n`, { ms: 1000 })).text;
    for (const where of ["/healthz", "/readyz"]) {
      const kubernetes = await ask(`GET ${where} HTTP/1.1`, "Host: 10.1.2.3:9090", "User-Agent: kube-probe/1.32", "Accept: */*", "Connection: close");
      assert.match(kubernetes, /^HTTP\/1\.1 200 OK\r\n/);
      assert.match(kubernetes, /\r\n\r\nok\n$/);
      const consul = await ask(`GET ${where} HTTP/1.1`, "Host: 10.1.2.3:9090", "User-Agent: Consul Health Check", "Accept: text/plain, text/*, */*", "Connection: close");
      assert.match(consul, /^HTTP\/1\.1 200 OK\r\n/);
      assert.match(consul, /\r\nContent-Type: text\/plain/);
      const head = await ask(`HEAD ${where} HTTP/1.1`, "Host: x", "Connection: close");
      assert.match(head, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n$/);
      assert.match(await ask(`GET ${where} HTTP/1.0`), /^HTTP\/1\.0 200 OK\r\n/, "HAProxy's `option httpchk`, without Host");
    }
  });

  it("OpenMetrics is sent only on request", async (t) => {
    const s = await stack(t);
    const plain = await s.hf.admin("/metrics");
    assert.match(plain.headers.get("content-type"), /^text\/plain; version=0\.0\.4/);
    const open = await s.hf.admin("/metrics", { headers: { accept: "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5" } });
    assert.match(open.headers.get("content-type"), /^application\/openmetrics-text; version=1\.0\.0/);
    assert.match(open.text, /^# EOF\n$/m);
    assert.ok(open.text.endsWith("# EOF\n"));
  });
});

describe("systemd", { skip: skip || missing("systemd-analyze", "systemd") }, () => {
  it("accepts the unit without warnings, and rates it well confined", async (t) => {
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-systemd-"));
    t.after(() => rm(dir, { recursive: true }));
    const unit = path.join(dir, "holdfast.service");
    const text = await readFile(path.join(ROOT, "deploy/systemd/holdfast.service"), "utf8");
    assert.match(text, /ExecStart=\/usr\/local\/bin\/holdfast /);
    await writeFile(unit, text.replaceAll("/usr/local/bin/holdfast", await binary()));
    const verify = run("systemd-analyze", ["verify", "--man=no", "--generators=no", unit]);
    assert.equal(verify.status, 0, verify.output);
    assert.ok(!verify.output.includes("holdfast.service"), verify.output);
    // 0 is best, 10 is a service without any confinement.
    const security = run("systemd-analyze", ["security", "--offline=true", "--threshold=20", "--no-pager", unit]);
    assert.equal(security.status, 0, security.output);
  });
});
