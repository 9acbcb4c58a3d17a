// Several servers behind one holdfast: a list of URLs, or the addresses of a name. Real servers,
// with Socket.IO's Redis adapter where they broadcast.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { createServer } from "node:net";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import WebSocket, { WebSocketServer } from "ws";
import { Switch } from "../lib/balancer.js";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { Client } from "../lib/client.js";
import { combos } from "../lib/combos.js";
import { DNS } from "../lib/dns.js";
import { onlyHoldfast, runHoldfast, toYAML } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { request } from "../lib/raw.js";
import { Redis, noRedis } from "../lib/redis.js";
import { replicas, total } from "../lib/replicas.js";
import { App, ChildApp } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { SLOW, never, until } from "../lib/wait.js";

const skip = onlyHoldfast;
const websocket = { transports: ["websocket"] };

/**
 * A stack with several servers, s.apps. options: {count, version, child: each in its own process, app: options of each,
 * config, hosts: one for each}.
 */
async function farm(t, { count = 3, version = "4.5.4", child = false, app = {}, config = {}, hosts = [] } = {}) {
  const apps = [];
  for (let i = 0; i < count; i++) {
    apps.push(await (child ? ChildApp : App).start(version, { ...(typeof app === "function" ? app(i) : app), ...(hosts[i] && { host: hosts[i] }) }));
    t.after(() => apps[i].stop());
  }
  const s = await stack(t, {
    upstreamPort: apps[0].port,
    config: { ...config, upstream: { url: apps.map((a) => a.url), ...config.upstream } },
  });
  s.apps = apps;
  return s;
}

/** The status page's servers by URL. */
async function servers(s) {
  const list = JSON.parse((await s.hf.admin("/api/status")).text).upstream.servers;
  return new Map(list.map((r) => [r.url, r]));
}

const state = async (s, app) => (await servers(s)).get(app.url)?.state;
const links = async (s, app) => (await servers(s)).get(app.url)?.links;
const ready = async (s) => (await s.hf.admin("/readyz")).status;

/** Opens clients one after another. */
async function clients(s, n, options = websocket) {
  const list = [];
  for (let i = 0; i < n; i++) {
    const c = s.client("4.8.4", options);
    await c.main.connected();
    list.push(c);
  }
  return list;
}

/** The server that has the client's socket. */
const serverOf = (s, c) => s.apps.find((a) => a.sockets.has(`/${c.main.id}`));

/** How many of the clients each server has. */
const spread = (s, list) => s.apps.map((a) => list.filter((c) => serverOf(s, c) === a).length);

describe("several servers", { skip, concurrency: 4 }, () => {
  combos("get equally many clients", { versions: ["4.8.4"], native: false }, async (t, how) => {
    const s = await farm(t);
    const list = await clients(s, 9, how.options);
    assert.deepEqual(spread(s, list), [3, 3, 3]);
    for (const a of s.apps) assert.equal(await links(s, a), 3);
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_upstream_servers", { state: "up" }), 3);
    for (const a of s.apps) assert.equal(m.sum("holdfast_upstream_server_links", { server: a.url }), 3);
    // Those that leave make room.
    const leavers = list.filter((c) => serverOf(s, c) === s.apps[1]).slice(0, 2);
    for (const c of leavers) c.close();
    await until(async () => (await links(s, s.apps[1])) === 1, "the links to end");
    const more = await clients(s, 2, how.options);
    assert.deepEqual(spread(s, more), [0, 2, 0]);
  });

  it("connect to the next server if one is not there, and to that one when it is back", async (t) => {
    const gone = await freePort();
    const s = await farm(t, { count: 2 });
    await s.hf.reload({ upstream: { url: [...s.apps.map((a) => a.url), `http://127.0.0.1:${gone}`] } });
    const list = await clients(s, 6);
    assert.deepEqual(spread(s, list), [3, 3]);
    assert.ok(list.every((c) => c.main.errors.length === 0));
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_upstream_servers", { state: "down" }), 1);
    assert.equal(m.sum("holdfast_upstream_failovers_total"), 1, "only the first client met it");
    assert.match((await servers(s)).get(`http://127.0.0.1:${gone}`).error, /refused/);
    assert.equal(await ready(s), 200);

    const late = await App.start("4.5.4", { port: gone });
    t.after(() => late.stop());
    s.apps.push(late);
    await until(async () => (await state(s, late)) === "up", "the probe");
    assert.equal(late.connections.length, 0, "a probe is no client");
    assert.deepEqual(spread(s, await clients(s, 3)), [0, 0, 3]);
  });

  it("are asked again by clients while none is up, which /readyz says", async (t) => {
    const ports = [await freePort(), await freePort()];
    const s = await stack(t, { upstreamPort: 1, config: { upstream: { url: ports.map((p) => `http://127.0.0.1:${p}`) } } });
    const c = s.client("4.8.4", websocket);
    await until(() => c.main.errors.length > 0, "a failure");
    await until(async () => (await ready(s)) === 503, "/readyz to say so");
    assert.match((await s.hf.admin("/readyz")).text, /none of 2 servers is up/);
    assert.equal((await request(`${s.direct}/socket.io/?EIO=4&transport=polling`)).status, 502);
    const app = await App.start("4.5.4", { port: ports[1] });
    t.after(() => app.stop());
    await c.main.connected();
    assert.equal(await ready(s), 200);
  });

  it("one that is killed ends its own sessions only, live and parked", async (t) => {
    const s = await farm(t, { child: true });
    const list = await clients(s, 6);
    const owner = new Map();
    for (const [i, a] of s.apps.entries()) for (const { id } of await a.call("connections")) owner.set(id, i);
    const byServer = (i) => list.filter((c) => owner.get(c.main.connects[0].id) === i);
    assert.deepEqual([0, 1, 2].map((i) => byServer(i).length), [2, 2, 2]);

    // All lose their connection, and one server dies while they are away.
    for (const c of list) c.manager.reconnection(false);
    s.relay.down();
    await Promise.all(list.map((c) => c.main.disconnected()));
    await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === 6, "parking");
    await s.apps[1].kill();
    await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === 4, "its sessions to end");
    s.relay.up();
    for (const c of list) {
      c.manager.reconnection(true);
      c.socket.connect();
    }
    await Promise.all(list.map((c) => c.main.connected(2)));
    for (const i of [0, 2]) for (const c of byServer(i)) c.main.assertRecovered(1);
    for (const c of byServer(1)) assert.equal(c.main.last.recovered, false);
    const told = () => s.hf.records.filter((r) => r.msg === "not recovered");
    await until(() => told().length >= 2, "the log");
    assert.deepEqual(told().map((r) => r.reason), ["upstream_lost", "upstream_lost"]);

    // Once more, with all of them live.
    const others = list.filter((c) => !byServer(1).includes(c));
    const before = others.map((c) => c.main.connects.length);
    await s.apps[0].kill();
    await Promise.all(byServer(0).map((c) => c.main.connected(3)));
    for (const c of byServer(2)) assert.equal(c.main.connects.length, before[others.indexOf(c)]);
    const sessions = (await s.apps[2].call("connections")).length - (await s.apps[2].call("disconnects")).length;
    assert.equal(sessions, 6, "all are at the last server");
    assert.equal((await s.hf.metrics()).sum("holdfast_upstream_servers", { state: "down" }), 2);
  });

  it("one that hangs gets no clients after the first few", async (t) => {
    const s = await farm(t, { count: 2, child: true, app: { io: { pingInterval: 300, pingTimeout: 500 } }, config: { upstream: { handshake_timeout: "2s" } } });
    await clients(s, 2);
    s.apps[0].signal("SIGSTOP");
    t.after(() => s.apps[0].signal("SIGCONT"));
    await until(async () => (await links(s, s.apps[0])) === 0, "its links to end");
    const impatient = Array.from({ length: 4 }, () => s.client("4.8.4", websocket));
    await until(async () => (await state(s, s.apps[0])) === "down", "clients to find out");
    await Promise.all(impatient.map((c) => c.main.connected()));
    for (const c of await clients(s, 5)) assert.deepEqual(c.main.errors, [], "its first attempt was not sent to the one that hangs");
    s.apps[0].signal("SIGCONT");
    await until(async () => (await state(s, s.apps[0])) === "up", "it to be back");
  });

  combos("keep their clients over drops, the upgrade included", { versions: ["4.8.4"], native: false }, async (t, how) => {
    const s = await farm(t);
    const list = await clients(s, 6, how.options);
    const home = list.map((c) => serverOf(s, c));
    for (let round = 1; round <= 3; round++) {
      await Promise.all(list.map((c) => c.settled()));
      for (const [i, c] of list.entries()) home[i].stream("/", c.main.connects[0].id, 20 * round - 19, 20 * round - 10);
      s.relay.down();
      await Promise.all(list.map((c) => c.main.disconnected(round)));
      for (const [i, c] of list.entries()) home[i].stream("/", c.main.connects[0].id, 20 * round - 9, 20 * round);
      s.relay.up();
      await Promise.all(list.map((c) => c.main.connected(round + 1)));
    }
    for (const c of list) {
      await c.main.stream(1, 60);
      c.main.assertRecovered();
      assert.deepEqual(await c.main.ask("echo", "x"), ["x"]);
    }
    for (const a of s.apps) {
      assert.equal(a.connections.length, 2);
      assert.equal(a.disconnects.length, 0);
    }
  });

  it("a handover keeps the links where they are", { skip: process.platform !== "linux" && "needs Linux" }, async (t) => {
    const s = await farm(t);
    const list = await clients(s, 6);
    const home = list.map((c) => serverOf(s, c));
    const report = async () => {
      const { status, text } = await s.hf.admin("/api/status");
      return status === 200 ? JSON.parse(text) : {}; // the admin listener is away for a moment
    };
    s.hf.signal("SIGUSR2");
    await until(async () => (await report()).handover?.count > 0, () => `the handover\n${s.hf.log.slice(-3000)}`, 15000);
    assert.equal((await report()).handover.result, "ok");
    await Promise.all(list.map((c) => c.main.connected(2)));
    for (const c of list) c.main.assertRecovered(1);
    for (const [i, c] of list.entries()) {
      home[i].stream("/", c.main.id, 1, 3);
      await c.main.stream(1, 3);
    }
    // Links that a client has left beside its session end soon.
    await until(async () => (await Promise.all(s.apps.map((a) => links(s, a)))).every((n) => n === 2), "two links for each server");
    const more = await clients(s, 3);
    assert.deepEqual(spread(s, more), [1, 1, 1]);
    assert.ok(s.apps.every((a) => a.disconnects.length === 0));
  });

  it("are on the status page", { skip: noBrowser }, async (t) => {
    const gone = await freePort();
    const s = await farm(t, { count: 2 });
    const browser = await openBrowser(t);
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${s.hf.adminPort}/`);
    const rows = () => page.locator("#servers tbody tr").allInnerTexts();
    await clients(s, 3);
    await s.hf.reload({ upstream: { url: [...s.apps.map((a) => a.url), `http://127.0.0.1:${gone}`] } });
    await clients(s, 1);
    await until(async () => (await page.locator("#upstream").innerText()) === "2 of 3 servers up", "the count", 15000);
    const texts = await rows();
    assert.equal(texts.length, 3);
    assert.match(texts[0], new RegExp(`^${s.apps[0].url}\\s+up\\s`));
    assert.match(texts[2], new RegExp(`^http://127.0.0.1:${gone}\\s+down\\s.*refused$`));
    assert.match((await s.hf.admin("/")).text, /^servers +1 down, 2 up$/m);
    assert.deepEqual(browser.complaints, []);
  });

  it("polling and upgrade stay on one server, also with many clients at a time", async (t) => {
    const s = await farm(t, { app: (i) => ({ app: (io, app) => io.engine?.on("connection_error", (err) => app.errors.push(err)) }) });
    const list = Array.from({ length: 18 }, (_, i) => s.client("4.8.4", i % 2 ? { transports: ["polling"] } : {}));
    await Promise.all(list.map((c) => c.main.connected()));
    await Promise.all(list.map(async (c, i) => {
      for (let n = 0; n < 20; n++) assert.deepEqual(await c.main.ask("echo", n), [n]);
      if (i % 2 === 0) await c.upgraded();
    }));
    const shares = spread(s, list);
    assert.ok(shares.every((n) => n === 6), `${shares}`);
    for (const a of s.apps) assert.deepEqual(a.errors, []);
    for (const c of list) assert.deepEqual([c.main.disconnects, c.main.errors], [[], []]);
  });

  it("a Unix socket and TCP", async (t) => {
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-"));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const socket = path.join(dir, "app.sock");
    const apps = [await App.start("4.5.4", { path: socket }), await App.start("4.5.4")];
    for (const a of apps) t.after(() => a.stop());
    const s = await stack(t, { upstreamPort: 1, config: { upstream: { url: [`unix://${socket}`, apps[1].url] } } });
    s.apps = apps;
    for (const transport of ["websocket", "polling"]) assert.deepEqual(spread(s, await clients(s, 4, { transports: [transport] })), [2, 2]);
    const pages = await Promise.all(Array.from({ length: 20 }, () => request(`${s.direct}/socket.io/socket.io.js`)));
    assert.ok(pages.every((p) => p.status === 200 && p.body.includes("Socket.IO")));
  });
});

describe("the list of servers", { skip, concurrency: 4 }, () => {
  it("a reload adds and removes servers, and drops no client", async (t) => {
    const s = await farm(t, { count: 3 });
    const [a, b, c] = s.apps;
    await s.hf.reload({ upstream: { url: [a.url, b.url] } });
    const first = await clients(s, 4);
    const record = await s.hf.reload({ upstream: { url: [c.url, b.url] } });
    assert.deepEqual(record.changed, ["upstream.url"]);
    assert.equal(await state(s, a), "leaving");
    assert.equal(await state(s, c), "up");
    const second = await clients(s, 4);
    assert.deepEqual(spread(s, second), [0, 1, 3]);

    // A client of the server that leaves recovers there.
    const stays = first.find((x) => serverOf(s, x) === a);
    a.stream("/", stays.main.id, 1, 5);
    await s.hit(stays);
    await stays.main.connected(2);
    stays.main.assertRecovered(1);
    await stays.main.stream(1, 5);

    const others = [...first, ...second].filter((x) => serverOf(s, x) !== a);
    for (const x of first.filter((x) => !others.includes(x))) x.close();
    await until(async () => (await state(s, a)) === undefined, "it to be forgotten");
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_upstream_servers"), 2);
    assert.ok(!m.text.includes(a.url), "no series of a server that is gone");
    await Promise.all(others.map((x) => x.main.connected(2))); // the cut was for all
    for (const x of others) x.main.assertRecovered(1);

    const bad = await s.hf.reload({ upstream: { url: [b.url, b.url] } });
    assert.equal(bad.msg, "configuration not reloaded: the running one stays in force");
    assert.match(bad.error, /upstream\.url: found .*; allowed: each server once/);
    assert.equal((await servers(s)).size, 2);
  });

  it("one URL can be replaced by another", async (t) => {
    const s = await farm(t, { count: 2, config: {} });
    await s.hf.reload({ upstream: { url: s.apps[0].url } });
    const [old] = await clients(s, 1);
    await s.hf.reload({ upstream: { url: s.apps[1].url } });
    const list = await clients(s, 2);
    assert.deepEqual(spread(s, [old, ...list]), [1, 2]);
    assert.deepEqual(old.main.disconnects, []);
  });

  it("DNS says which servers there are", async (t) => {
    const port = await freePort();
    const apps = [];
    for (const host of ["127.0.0.2", "127.0.0.3", "127.0.0.4"]) {
      const app = await App.start("4.5.4", { port, host });
      app.url = `http://${host}:${port}`;
      t.after(() => app.stop());
      apps.push(app);
    }
    const dns = await DNS.start(t, { "chat.example": ["127.0.0.2", "127.0.0.3"] });
    const s = await stack(t, {
      upstreamPort: port,
      config: { upstream: { url: `http://chat.example:${port}`, discover: "dns", dns_server: dns.address } },
    });
    s.apps = apps;
    const first = await clients(s, 4);
    assert.deepEqual(spread(s, first), [2, 2, 0]);
    dns.records["chat.example"] = ["127.0.0.4", "127.0.0.3"];
    await until(async () => (await state(s, apps[2])) === "up", "the next lookup", 12000);
    assert.equal(await state(s, apps[0]), "leaving");
    assert.deepEqual(spread(s, await clients(s, 4)), [0, 1, 3]);

    dns.failing = true;
    await until(async () => (await s.hf.metrics()).sum("holdfast_upstream_lookup_failures_total") > 0, "a failed lookup", 12000);
    assert.deepEqual(spread(s, await clients(s, 2)), [0, 1, 1]);
    delete dns.records["chat.example"]; // no such name: the last answer stays as well
    dns.failing = false;
    const before = dns.questions;
    await until(() => dns.questions >= before + 2, "a lookup", 12000);
    assert.equal((await servers(s)).get(apps[1].url).state, "up");
    for (const c of first) assert.deepEqual(c.main.disconnects, []);
  });
});

describe("health checks", { skip, concurrency: 4 }, () => {
  it("a server takes itself out, and keeps its clients", async (t) => {
    const healthy = [true, true];
    let checks = 0;
    const s = await farm(t, {
      count: 2,
      app: (i) => ({
        http: (req, res) => {
          checks += i === 0;
          res.writeHead(req.url === "/healthz" && healthy[i] ? 204 : 503).end();
        },
      }),
      config: { upstream: { health: { path: "/healthz", interval: "50ms", timeout: "2s" } } },
    });
    const first = await clients(s, 4);
    healthy[0] = false;
    await until(async () => (await state(s, s.apps[0])) === "unhealthy", "two failures");
    assert.match((await servers(s)).get(s.apps[0].url).error, /health check: status 503/);
    assert.deepEqual(spread(s, await clients(s, 3)), [0, 3]);
    const stays = first.find((c) => serverOf(s, c) === s.apps[0]);
    await s.hit(stays);
    await stays.main.connected(2);
    stays.main.assertRecovered(1);

    healthy[1] = false;
    await until(async () => (await ready(s)) === 503, "no server to be healthy");
    assert.equal((await request(`${s.direct}/socket.io/?EIO=4&transport=polling`)).status, 502);
    healthy[0] = true;
    await until(async () => (await ready(s)) === 200, "one to be healthy");
    assert.deepEqual(spread(s, await clients(s, 2)), [2, 0]);
    const before = s.apps.map((a) => a.engineConnections);
    const seen = checks;
    await until(() => checks >= seen + 3, "more checks");
    assert.deepEqual(s.apps.map((a) => a.engineConnections), before, "a check makes no session");
  });

  it("also with a single server", async (t) => {
    let healthy = true;
    const s = await farm(t, {
      count: 1,
      app: { http: (req, res) => res.writeHead(healthy ? 200 : 500).end() },
      config: { upstream: { health: { path: "/", interval: "50ms" } } },
    });
    await clients(s, 1);
    healthy = false;
    await until(async () => (await ready(s)) === 503, "/readyz to say so");
    healthy = true;
    await until(async () => (await ready(s)) === 200, "/readyz to say so");
  });
});

describe("lazy handshakes with several servers", { skip, concurrency: 4 }, () => {
  it("a server that dies makes holdfast forget its own answers only", async (t) => {
    const s = await farm(t, { count: 2, child: true, config: { upstream: { handshake: "lazy" } } });
    const engine = async (i) => s.apps[i].call("engineConnections");
    const list = await clients(s, 4);
    const before = [await engine(0), await engine(1)];
    assert.equal(before[0] + before[1], 4 + 0, "a client that connects costs one handshake");

    // Only one server gave the answer that is saved. The end of the other server must not discard
    // it.
    const saved = (await s.hf.metrics()).sum("holdfast_lazy_handshakes_total");
    assert.equal(saved, 3, "the first handshake of a kind is made, the others are answered");
    const first = list[0].main.connects[0].id;
    const giver = (await s.apps[0].call("connections")).some((c) => c.id === first) ? 0 : 1;
    await s.apps[1 - giver].kill();
    await until(async () => (await s.hf.metrics()).sum("holdfast_sessions_closed_total", { reason: "upstream_lost" }) === 2, "its sessions to end");
    await until(() => list.every((c) => c.socket.connected), "all to be back");
    assert.ok((await s.hf.metrics()).sum("holdfast_lazy_handshakes_total") >= saved + 2, "they were answered from what is saved");

    // A client that recovers costs the servers nothing.
    const settled = await engine(giver);
    const survivor = list.find((c) => c.main.connects.length === 1);
    await s.hit(survivor);
    await survivor.main.connected(2);
    survivor.main.assertRecovered(1);
    assert.equal(await engine(giver), settled);
  });
});

describe("what passes through to several servers", { skip, concurrency: 4 }, () => {
  it("EIO=3 clients stay with the server of their address", async (t) => {
    const s = await farm(t, { app: { io: { allowEIO3: true } }, config: { trusted_proxies: ["127.0.0.1"] } });
    const list = [];
    for (let i = 0; i < 12; i++) {
      const extraHeaders = { "X-Forwarded-For": `192.0.2.${i}` };
      const polling = i % 3 ? { transports: ["polling"] } : {};
      const c = new Client("2.5.0", s.url, { ...polling, transportOptions: { polling: { extraHeaders }, websocket: { extraHeaders } } });
      s.cleanups.push(() => c.close());
      list.push(c);
    }
    await Promise.all(list.map((c) => c.main.connected()));
    await Promise.all(list.map(async (c) => {
      for (let n = 0; n < 10; n++) assert.deepEqual(await c.main.ask("echo", n), [n]);
    }));
    for (const c of list) assert.deepEqual([c.main.disconnects, c.main.errors], [[], []]);
    const shares = s.apps.map((a) => a.connections.length);
    assert.equal(shares.reduce((x, y) => x + y), 12);
    assert.ok(shares.filter((n) => n > 0).length >= 2, `${shares}`);

    // The server of some of them dies: they move to the others.
    const dead = s.apps.findIndex((a) => a.connections.length > 0);
    await s.apps[dead].stop();
    await until(() => list.every((c) => c.socket.connected) && s.apps.filter((_, i) => i !== dead).reduce((n, a) => n + a.connections.length - a.disconnects.length, 0) === 12, "all to be at the others", 15000);
  });

  it("pages and other WebSockets reach any server that is up", async (t) => {
    const s = await farm(t, {
      app: (i) => ({
        http: (req, res) => res.end(`server ${i}`),
        app: (io, app) => {
          const wss = new WebSocketServer({ noServer: true });
          app.http.on("upgrade", (req, socket, head) => {
            if (req.url === "/ws") wss.handleUpgrade(req, socket, head, (ws) => ws.on("message", (text) => ws.send(`${text} from server ${i}`)));
          });
        },
      }),
    });
    const hello = () =>
      new Promise((resolve, reject) => {
        const ws = new WebSocket(`${s.direct.replace("http", "ws")}/ws`);
        ws.on("open", () => ws.send("hello"));
        ws.on("message", (text) => {
          resolve(String(text));
          ws.close();
        });
        ws.on("error", reject);
      });
    assert.equal(new Set(await Promise.all(Array.from({ length: 40 }, hello))).size, 3);
    const seen = async (n) => {
      const bodies = await Promise.all(Array.from({ length: n }, () => request(`${s.direct}/page`)));
      assert.ok(bodies.every((r) => r.status === 200), JSON.stringify(bodies.map((r) => r.status)));
      return new Set(bodies.map((r) => r.body));
    };
    assert.equal((await seen(60)).size, 3);
    await s.apps[1].stop();
    assert.deepEqual(await seen(60), new Set(["server 0", "server 2"]));
    assert.deepEqual(new Set(await Promise.all(Array.from({ length: 40 }, hello))), new Set(["hello from server 0", "hello from server 2"]));
    const posts = await Promise.all(Array.from({ length: 20 }, () => request(`${s.direct}/page`, { method: "POST", body: "x".repeat(100000) })));
    assert.ok(posts.every((r) => r.status === 200));
  });
});

describe("a broadcast through Redis", { skip: skip || noRedis, concurrency: 2 }, () => {
  for (const version of ["4.5.4", "4.8.4"]) {
    it(`of servers with socket.io ${version} reaches each client once, also those that were away`, async (t) => {
      const redis = await Redis.start(t);
      const s = await farm(t, { version, app: { redis: redis.port } });
      const list = await clients(s, 6);
      assert.deepEqual(spread(s, list), [2, 2, 2]);
      const away = list.slice(0, 3);
      for (const c of away) c.manager.reconnection(false);
      for (let i = 1; i <= 30; i++) {
        if (i === 11) {
          await s.hit(away[0]); // which cuts the others as well
          await Promise.all(away.map((c) => c.main.disconnected()));
        }
        s.apps[i % 3].broadcast("/", "n", i);
        // Redis keeps the order of one server only, so wait for each.
        await until(() => list.every((c) => (away.includes(c) && i > 10) || c.main.numbers.length >= i), `event ${i}`);
      }
      for (const c of away) {
        c.manager.reconnection(true);
        c.socket.connect();
      }
      await Promise.all(away.map((c) => c.main.connected(2)));
      for (const c of away) c.main.assertRecovered(1);
      for (const c of list) {
        await until(() => c.main.numbers.length >= 30, () => `all events; has ${c.main.numbers}`);
        assert.deepEqual([...c.main.numbers].sort((a, b) => a - b), Array.from({ length: 30 }, (_, i) => i + 1));
      }
      await never(() => list.some((c) => c.main.numbers.length > 30), "an event that comes twice");
    });
  }
});

describe("two holdfasts in front of three servers", { skip: skip || noRedis }, () => {
  it("a client keeps its server wherever it comes back, and broadcasts reach it once", { timeout: 60000 * SLOW }, async (t) => {
    const redis = await Redis.start(t);
    const apps = [];
    for (let i = 0; i < 3; i++) {
      apps.push(await App.start("4.5.4", { redis: redis.port }));
      t.after(() => apps[i].stop());
    }
    const pair = await replicas(t, 2, () => 1, { config: { upstream: { url: apps.map((a) => a.url) } } });
    const ways = [];
    const list = [];
    for (let i = 0; i < 6; i++) {
      ways.push(await Switch.start(pair[i % 2].port));
      t.after(() => ways[i].close());
      list.push(new Client("4.8.4", ways[i].url, websocket));
      t.after(() => list[i].close());
      await list[i].main.connected();
    }
    const home = list.map((c) => apps.find((a) => a.sockets.has(`/${c.main.id}`)));
    let n = 0;
    const broadcast = async () => {
      apps[++n % 3].broadcast("/", "n", n);
      await until(() => list.every((c) => c.main.numbers.length >= n), () => `event ${n}: ${list.map((c) => c.main.numbers)}`);
    };
    await broadcast();
    for (let round = 1; round <= 3; round++) {
      for (const [i, way] of ways.entries()) way.moveTo(pair[(i + round) % 2].port);
      await Promise.all(list.map((c) => c.main.connected(round + 1)));
      await broadcast();
      for (const [i, c] of list.entries()) {
        home[i].emit("/", c.main.id, "to you", round);
        assert.deepEqual(await c.main.ask("echo", round), [round]);
      }
    }
    for (const c of list) {
      c.main.assertRecovered(3);
      await c.main.stream(1, n);
      assert.deepEqual(c.main.events.filter(([name]) => name === "to you").map(([, i]) => i), [1, 2, 3]);
    }
    for (const a of apps) assert.equal(a.disconnects.length, 0);
    assert.equal(apps.reduce((sum, a) => sum + a.connections.length, 0), 6);
    assert.ok((await total(pair, "holdfast_relay_resumes_total", { result: "resumed" })) > 0);
  });
});

describe("the command line", { skip, concurrency: 4 }, () => {
  const check = async (upstream) => runHoldfast(["-check", "-config", "c.yaml"], { files: { "c.yaml": toYAML({ upstream }) }, timeout: 15000 });

  it("-check asks each of several servers", async (t) => {
    const app = await App.start("4.5.4");
    t.after(() => app.stop());
    const mute = createServer();
    await new Promise((resolve) => mute.listen(0, "127.0.0.1", resolve));
    t.after(() => mute.close());
    const urls = [app.url, `http://127.0.0.1:${await freePort()}`, `http://127.0.0.1:${mute.address().port}`];
    const { code, stdout } = await check({ url: urls, dial_timeout: "300ms" });
    assert.equal(code, 0);
    const [, report] = stdout.split("# Servers of the upstream, asked just now:\n");
    const lines = report.trim().split("\n");
    assert.match(lines[0], new RegExp(`^#   ${urls[0]}: answers \\(\\d+m?s\\)`));
    assert.match(lines[1], new RegExp(`^#   ${urls[1]}: dial tcp .*refused`));
    assert.match(lines[2], new RegExp(`^#   ${urls[2]}: .*deadline`));
    assert.equal(app.engineConnections, 0);
    assert.doesNotMatch((await check({ url: urls[1] })).stdout, /asked just now/, "a single server is not asked");
  });

  it("mistakes are reported by name", async () => {
    for (const [upstream, want] of [
      [{ url: [] }, /upstream\.url: found ""; allowed: at least one URL/],
      [{ url: ["http://a:1", "http://a:1/"] }, /upstream\.url: found "http:\/\/a:1\/"; allowed: each server once/],
      [{ url: ["http://a:1", "http://b:1/path"] }, /upstream\.url: found "http:\/\/b:1\/path"; allowed: a URL without a path/],
      [{ url: { a: "http://a" } }, /upstream\.url: found a section; allowed: a URL or a list of URLs/],
      [{ url: "http://10.0.0.1:3000", discover: "dns" }, /upstream\.url: .*allowed: a URL with a host name, because upstream\.discover \(dns\) looks it up/],
      [{ url: "http://a", dns_server: "127.0.0.1:53" }, /upstream\.dns_server: .*allowed: "" unless upstream\.discover is dns/],
      [{ url: "http://a", health: { path: "healthz" } }, /upstream\.health\.path: found "healthz"; allowed: a path with a leading slash/],
      [{ url: "http://a", health: { interval: "0" } }, /upstream\.health\.interval: found "0"; allowed: a duration above 0/],
    ]) {
      const { code, stderr } = await check(upstream);
      assert.equal(code, 2, stderr);
      assert.match(stderr, want);
    }
  });
});
