// Servers that speak Engine.IO 3 only: socket.io 1.x and 2.x. recovery.test.js and order.test.js
// run against them, too: HOLDFAST_E2E_SERVER=2.5.1 node run.js recovery order
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { Client, TRANSPORTS } from "../lib/client.js";
import { GoServer, noGoServer } from "../lib/goserver.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { request } from "../lib/raw.js";
import { App, ChildApp, V2 } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { never, until } from "../lib/wait.js";

const parallel = { concurrency: 6, skip: onlyHoldfast };
const MODERN = ["3.1.3", "4.0.2", "4.5.4", "4.6.2", "4.8.4"];
const ALL = Object.keys(TRANSPORTS);
const translate = { upstream: { protocol: 3, translate: { auth_to_query: ["token", "role", "deny"] } } };

/** A path to a server of version 2.x that holdfast translates for. */
const path2 = (t, server, options = {}) =>
  stack(t, { server, ...options, config: { ...translate, ...options.config } });

/** A modern client on it that has connected. */
async function modern(t, server, version, transport, options = {}) {
  const s = await path2(t, server, options);
  const c = s.client(version, { transports: TRANSPORTS[transport] ?? ["polling", "websocket"], ...options.client });
  await c.main.connected();
  if (transport === "default") await c.upgraded();
  return { s, c, id: c.main.id };
}

/** One test for each transport. */
function each(transports, name, fn) {
  for (const transport of transports) it(`${name} (${transport})`, (t) => fn(t, transport));
}

describe("modern clients before socket.io 1.x and 2.x", parallel, () => {
  const pairs = MODERN.map((version) => ["2.5.1", version, version === "4.8.4" ? ALL : ["default"]]);
  pairs.push(...V2.filter((server) => server !== "2.5.1").map((server) => [server, "4.8.4", ["polling", "default"]]));
  for (const [server, version, transports] of pairs) {
    each(transports, `connect, emit, ack, send binary: server ${server}, client ${version}`, async (t, transport) => {
      const { s, c, id } = await modern(t, server, version, transport, { client: { auth: { token: "a&b" }, query: { user: "ü 1" } } });
      assert.equal(s.app.connections.length, 1);
      const { query, id: serverID } = s.app.connections[0];
      assert.equal(serverID, id);
      assert.deepEqual([query.token, query.user, query.EIO], ["a&b", "ü 1", "3"]);
      await talk(s, c, id);
      c.socket.disconnect();
      await until(() => s.app.disconnects.length === 1, "the server to see the end");
      assert.match(s.app.disconnects[0].reason, /^client namespace/);
    });
  }

  for (const [server, version, transports] of [...V2.map((server) => [server, "4.8.4", ALL]), ["2.5.1", "4.6.2", ["default"]]]) {
    each(transports, `recover, and the server sees nothing: server ${server}, client ${version}`, async (t, transport) => {
      const { s, c, id } = await modern(t, server, version, transport);
      s.app.stream("/", id, 1, 3);
      await c.main.stream(1, 3);
      const before = s.app.footprint();
      for (let i = 1; i <= 3; i++) {
        if (transport === "default") await c.upgraded(); // or it might notice only by its heartbeat
        s.relay.down();
        await c.main.disconnected(i);
        s.app.stream("/", id, 10 * i - 6, 10 * i + 3, (n) => (n % 3 ? ["ü"] : [Buffer.alloc(100, n)]));
        s.relay.up();
        await c.main.connected(i + 1);
        await c.main.stream(1, 10 * i + 3);
      }
      c.main.assertRecovered(3);
      assert.deepEqual(s.app.footprint(), before);
      assert.equal(s.app.engineConnections, 1, "a returning client's handshake must not be repeated");
      assert.deepEqual(await c.main.ask("visit"), [1, [id, "everyone"].sort()]);
    });
  }

  each(ALL, "recover by a key, which the server does not see", async (t, transport) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.5.4", transport, {
      client: { query: { hf_key: "0123456789abcdef0123" } },
      config: { recovery: { keyed: { query: "hf_key" } } },
    });
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    await until(async () => (await s.hf.metrics()).sum("holdfast_buffered_packets") === 0, "the client to confirm");
    for (let i = 1; i <= 3; i++) {
      if (transport === "default") await c.upgraded();
      s.relay.down();
      await c.main.disconnected(i);
      s.app.stream("/", id, 10 * i - 6, 10 * i + 3);
      s.relay.up();
      assert.equal((await c.main.connected(i + 1)).id, id);
      await until(() => c.main.numbers.includes(10 * i + 3), "what it missed");
      await until(async () => (await s.hf.metrics()).sum("holdfast_buffered_packets") === 0, "the client to confirm");
    }
    await c.main.stream(1, 33);
    assert.deepEqual(await c.main.ask("visit"), [1, [id, "everyone"].sort()]);
    assert.equal("hf_key" in s.app.connections[0].query, false);
    assert.equal(s.app.engineConnections, 1);
    assert.equal(s.app.disconnects.length, 0);
  });

  it("come back too late, and get a fresh session", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket", { config: { recovery: { max_disconnection_duration: "200ms" } } });
    s.relay.down();
    await c.main.disconnected();
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    assert.equal(s.app.disconnects[0].reason, "transport close");
    s.relay.up();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
    assert.equal(c.main.last.recovered, false);
    assert.equal(s.app.footprint().connections, 2);
  });
});

/** Everything that a client and a server can say to each other. */
async function talk(s, c, id) {
  const [text, bin, deep] = await c.main.ask("echo", "€😀", Buffer.from([1, 2, 3]), { b: [Buffer.from("x")] });
  assert.equal(text, "€😀");
  assert.deepEqual([...bin], [1, 2, 3]);
  assert.equal(Buffer.from(deep.b[0]).toString(), "x");
  assert.equal(s.app.receivedArgs("echo").at(-1)[0], "€😀");

  s.app.stream("/", id, 1, 20, (i) => (i % 4 ? ["ü"] : [Buffer.from([i]), { b: Buffer.alloc(2000, i) }]));
  await c.main.stream(1, 20);
  if (c.main.events.length) assert.equal(c.main.events.find(([name, i]) => name === "n" && i === 1)[2], "ü");
  const answers = [];
  c.socket.on("question", (...args) => args.pop()("yes", Buffer.from("b")));
  s.app.socket(id).emit("question", 1, (...args) => answers.push(args));
  await until(() => answers.length === 1, "the answer");
  assert.deepEqual(answers, [["yes", Buffer.from("b")]]);
}

describe("namespaces of a translated server", parallel, () => {
  each(ALL, "share one connection, and recover together", async (t, transport) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", transport, { client: { auth: { token: "main" } } });
    const admin = c.of("/admin", { role: "boss, too" });
    const { id: adminID } = await admin.connected();
    assert.equal(adminID, `/admin#${id}`);
    const seen = s.app.connections.find((x) => x.nsp === "/admin");
    assert.deepEqual([seen.id, seen.query.role, seen.query.token], [adminID, "boss, too", "main"]);
    const before = s.app.footprint();
    s.relay.down();
    await c.main.disconnected();
    s.app.stream("/", id, 1, 5);
    s.app.stream("/admin", adminID, 1, 7);
    s.relay.up();
    await c.main.connected(2);
    await admin.connected(2);
    await c.main.stream(1, 5);
    await admin.stream(1, 7);
    c.main.assertRecovered(1);
    admin.assertRecovered(1);
    assert.deepEqual(s.app.footprint(), before);

    // A fresh one joins on the same connection: another handshake would be another user.
    const chat = c.of("/chat");
    assert.equal((await chat.connected()).id, `/chat#${id}`);
    assert.equal(s.app.engineConnections, 1);
    admin.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the server to see the end of /admin");
    admin.socket.connect();
    await admin.connected(3);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  each(["websocket", "polling"], "connect without \"/\", whose events are dropped", async (t, transport) => {
    const s = await path2(t, "2.5.1", { app: (io) => io.of("/").on("connection", (socket) => socket.emit("welcome", "/")) });
    const c = s.client("4.8.4", { transports: TRANSPORTS[transport], nsp: "/admin", auth: { role: "x" } });
    const { id } = await c.main.connected();
    assert.deepEqual(s.app.connections.map((x) => [x.nsp, x.query.role]), [["/", "x"], ["/admin", "x"]]);
    s.app.io.emit("news");
    s.app.stream("/admin", id, 1, 3);
    await c.main.stream(1, 3);
    assert.deepEqual(c.main.events.map((e) => e[0]), ["n", "n", "n"]);
    // A later CONNECT of "/" needs another connection: a server of 2.x has no CONNECT for "/".
    const main = c.of("/");
    await main.connected();
    assert.deepEqual(main.events.map((e) => e[0]), ["welcome"]);
    assert.equal(s.app.engineConnections, 2);
    assert.equal((await main.ask("echo", 1))[0], 1);
    assert.equal((await c.main.ask("echo", 2))[0], 2);
  });

  it("asked for together, the other first, share a connection", async (t) => {
    const s = await path2(t, "2.5.1", { app: (io) => io.of("/").on("connection", (socket) => socket.emit("welcome", "/")) });
    const c = s.client("4.8.4", { transports: ["websocket"], nsp: "/admin" });
    const main = c.of("/");
    await c.main.connected();
    await main.connected();
    await until(() => main.events.length === 1, "the welcome");
    assert.equal(s.app.engineConnections, 1);
  });

  it("that are disconnected and connected again get a connection of their own for \"/\"", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket");
    const admin = c.of("/admin");
    await admin.connected();
    c.socket.disconnect();
    c.socket.connect();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
    assert.equal(admin.connects.length, 1);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    assert.equal((await admin.ask("echo", 2))[0], 2);
  });
});

describe("refusals of a translated server", parallel, () => {
  each(["websocket", "polling"], "by a middleware, until the client has what it wants", async (t, transport) => {
    const s = await path2(t, "2.5.1");
    const c = s.client("4.8.4", { transports: TRANSPORTS[transport], auth: { deny: "yes" } });
    await until(() => c.main.errors.length === 1, "the refusal");
    assert.equal(c.main.errors[0].message, "Connection refused"); // its server sends the data only
    assert.deepEqual(c.main.errors[0].data, { code: 17 });
    c.socket.auth = { token: "right" };
    c.socket.connect();
    await c.main.connected();
    assert.equal(s.app.connections.at(-1).query.token, "right");
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("of one namespace", async (t) => {
    const { c } = await modern(t, "2.5.1", "4.8.4", "websocket");
    const admin = c.of("/admin", { deny: 1 });
    const none = c.of("/none");
    await until(() => admin.errors.length === 1 && none.errors.length === 1, "the refusals");
    assert.deepEqual(admin.errors[0].data, { code: 17 });
    assert.equal(none.errors[0].message, "Invalid namespace");
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("of \"/\" refuse all: the server answers no other CONNECT then", async (t) => {
    const s = await path2(t, "2.5.1");
    const c = s.client("4.8.4", { transports: ["websocket"], nsp: "/admin", query: { deny: 1 } });
    await until(() => c.main.errors.length === 1, "the refusal");
    assert.deepEqual(c.main.errors[0].data, { code: 17 });
  });

  each(["websocket", "polling"], "of the handshake", async (t, transport) => {
    const s = await path2(t, "2.5.1", {
      io: { allowRequest: (req, fn) => (/token=right/.test(req.url) ? fn(null, true) : fn("not you", false)) },
    });
    const c = s.client("4.8.4", { transports: TRANSPORTS[transport], auth: { token: "wrong" } });
    await until(() => c.main.errors.length === 1, "the refusal");
    assert.equal(c.main.errors[0].message, "not you");
    c.socket.auth = { token: "right" };
    c.socket.connect();
    await c.main.connected();
  });
});

describe("what only protocol 4 has", parallel, () => {
  it("errors of a connected socket become events", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket");
    s.app.socket(id).error({ code: 5 });
    s.app.stream("/", id, 1, 1);
    await c.main.stream(1, 1);
    assert.deepEqual(c.main.events[0].slice(0, 2), ["error", { code: 5 }]);
    assert.equal(c.main.disconnects.length, 0);
  });

  it("events with reserved names are dropped, in both directions", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket");
    s.app.io.emit("disconnect", 1);
    s.app.io.emit("connect_error", Buffer.from("x"));
    s.app.stream("/", id, 1, 1);
    await c.main.stream(1, 1);
    c.manager.engine.write('2["disconnect","forged"]');
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(c.main.disconnects.length, 0);
    await s.hf.says(/reserved name/);
  });

  it("the server's disconnect() is one", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket");
    s.app.socket(id).disconnect();
    assert.equal(await c.main.disconnected(), "io server disconnect");
    await never(() => c.main.connects.length > 1, "a reconnection");
  });

  it("disconnect(true) ends the connection, and the client comes back", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket");
    s.app.socket(id).disconnect(true);
    await until(() => c.main.disconnects.length === 1, "the end");
    assert.match(c.main.disconnects[0], /io server disconnect|transport close/);
  });
});

describe("connections to a translated server", parallel, () => {
  for (const server of ["1.7.4", "2.5.1"]) {
    each(ALL, `poll if it takes no WebSockets: server ${server}`, async (t, transport) => {
      const { s, c, id } = await modern(t, server, "4.8.4", transport, { io: { transports: ["polling"] } });
      await talk(s, c, id);
      s.relay.down();
      await c.main.disconnected();
      s.app.stream("/", id, 21, 30, (n) => ["ü".repeat(n)]);
      s.relay.up();
      await c.main.connected(2);
      await c.main.stream(1, 30);
      c.main.assertRecovered(1);
      assert.equal(c.main.events.find(([name, i]) => name === "n" && i === 30)[2], "ü".repeat(30));
      const [text] = await c.main.ask("echo", "x".repeat(300000) + "é");
      assert.equal(text.length, 300001);
    });
  }

  it("stay alive by timed pings, with and without a client", async (t) => {
    const { s, c, id } = await modern(t, "2.5.1", "4.8.4", "websocket", { io: { pingInterval: 300 } });
    await s.app.heartbeats(4);
    s.relay.down();
    await c.main.disconnected();
    await s.app.heartbeats(4);
    s.app.stream("/", id, 1, 3);
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 3);
    c.main.assertRecovered(1);
    assert.equal(s.app.disconnects.length, 0);
  });

  it("end when the server falls silent", async (t) => {
    const { s, c } = await modern(t, "2.5.1", "4.8.4", "websocket", { upstreamRelay: true, io: { pingInterval: 300, pingTimeout: 400 } });
    s.upRelay.blackhole();
    await c.main.disconnected();
    await s.hf.says(/no heartbeat from the server/);
  });

  it("end with the server, and clients come back when it does", async (t) => {
    const port = await freePort();
    const s = await stack(t, { upstreamPort: port, config: translate });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await never(() => c.main.connects.length > 0, "a connection");
    let app = await ChildApp.start("2.5.1", { port });
    s.cleanups.push(() => app.stop());
    await c.main.connected(1, 15000);
    await app.kill();
    await c.main.disconnected();
    app = await ChildApp.start("2.5.1", { port });
    await c.main.connected(2, 15000);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("answer browsers as engine.io 3 does", async (t) => {
    const s = await path2(t, "2.5.1");
    const headers = { origin: "https://app.example" };
    const open = await request(`${s.direct}/socket.io/?EIO=4&transport=polling`, { headers });
    assert.equal(open.headers["access-control-allow-origin"], "https://app.example");
    assert.equal(open.headers["access-control-allow-credentials"], "true");
    const { sid, upgrades, maxPayload } = JSON.parse(open.body.slice(1));
    assert.deepEqual([upgrades, maxPayload], [["websocket"], 1000000]);
    const preflight = await request(`${s.direct}/socket.io/?EIO=4&transport=polling&sid=${sid}`, {
      method: "OPTIONS",
      headers: { ...headers, "access-control-request-headers": "x-token" },
    });
    assert.equal(preflight.status, 200);
    assert.equal(preflight.headers["access-control-allow-headers"], "x-token");
    assert.equal(s.app.engineConnections, 0, "a handshake alone is no connection to the server");
  });
});

describe("old and modern clients on one server", parallel, () => {
  for (const [server, old] of [["1.7.4", "1.7.4"], ["2.0.4", "2.0.4"], ["2.5.1", "2.5.0"]]) {
    each(["websocket", "polling"], `talk to each other: server ${server}`, async (t, transport) => {
      const { s, c } = await modern(t, server, "4.8.4", transport);
      const o = new Client(old, s.url, { transports: TRANSPORTS[transport] });
      s.cleanups.push(() => o.close());
      await o.main.connected();
      s.app.io.emit("n", 1, "ü", Buffer.from("b"));
      await o.main.stream(1, 1);
      await c.main.stream(1, 1);
      assert.equal((await o.main.ask("echo", "é"))[0], "é");
      assert.equal(s.app.connections.length, 2);
    });
  }
});

describe("clients of socket.io 1.x and 2.x with a key", parallel, () => {
  const keyed = { config: { recovery: { keyed: { query: "hf_key" } } } };

  /** A client with a key that has connected. */
  async function old(t, server, version, transport, options = {}) {
    const s = await stack(t, { server, ...keyed, ...options, io: { ...(server >= "3" && { allowEIO3: true }), ...options.io } });
    const query = { hf_key: randomBytes(16).toString("hex"), ...options.query };
    const c = s.client(version, { transports: TRANSPORTS[transport] ?? ["polling", "websocket"], query, ...options.client });
    await c.main.connected();
    if (transport === "default") await c.upgraded();
    c.counts = [];
    c.socket.on("n", (...args) => c.counts.push(args.length));
    return { s, c, id: c.main.id, query };
  }

  /** Takes the client off the network, calls fn(), and brings it back. */
  async function away(s, c, fn) {
    const n = c.main.connects.length;
    await c.main.ask("visit"); // by then it has confirmed what it has: see recovery.keyed.redeliver
    await s.lose(c);
    await fn?.();
    s.relay.up();
    await c.main.connected(n + 1);
  }

  const pairs = [
    ["1.7.4", "1.7.4", ALL],
    ["2.0.4", "2.0.4", ["default"]],
    ["2.4.1", "2.5.0", ["default"]],
    ["2.5.1", "2.5.0", ALL],
    ["3.1.2", "2.5.0", ["default"]],
    ["4.8.4", "2.5.0", ALL],
    ["4.8.4", "1.7.4", ["polling"]],
  ];
  for (const [server, version, transports] of pairs) {
    each(transports, `recover with their id: server ${server}, client ${version}`, async (t, transport) => {
      const { s, c, id } = await old(t, server, version, transport);
      const [seen] = s.app.connections;
      assert.equal(seen.id, id);
      assert.equal(seen.query.hf_key, undefined);
      await talk(s, c, id);
      assert.deepEqual(c.counts.filter((n) => n !== 2 && n !== 3), []);
      const before = s.app.footprint();
      for (let i = 2; i <= 4; i++) {
        await away(s, c, () => s.app.stream("/", id, 10 * i + 1, 10 * i + 10, (n) => (n % 3 ? ["ü€😀"] : [Buffer.alloc(100, n)])));
        await c.main.stream(1, 10 * i + 10);
        assert.equal(c.main.id, id);
        if (transport === "default") await c.upgraded();
      }
      assert.deepEqual(s.app.footprint(), before);
      assert.equal(s.app.engineConnections, 1);
      assert.deepEqual((await c.main.ask("visit"))[1], [id, "everyone"].sort());
      assert.equal((await c.main.ask("echo", "ü€"))[0], "ü€");
    });
  }

  each(ALL, "recover in several namespaces", async (t, transport) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", transport);
    const admin = c.of("/admin");
    const { id: adminID } = await admin.connected();
    assert.equal(adminID, `/admin#${id}`);
    const before = s.app.footprint();
    await away(s, c, () => {
      s.app.stream("/", id, 1, 5);
      s.app.stream("/admin", adminID, 1, 7);
    });
    await admin.connected(2);
    await c.main.stream(1, 5);
    await admin.stream(1, 7);
    assert.equal(admin.id, `/admin#${id}`);
    assert.deepEqual(s.app.footprint(), before);
    const chat = c.of("/chat");
    await chat.connected();
    assert.equal(chat.id, `/chat#${id}`);
    admin.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the server to see the end of /admin");
    admin.socket.connect();
    await admin.connected(3);
    assert.equal((await admin.ask("echo", 1))[0], 1);
    assert.equal(s.app.engineConnections, 1);
  });

  each(ALL, "miss nothing under load, and have twice at most what was in flight", async (t, transport) => {
    // A client that is cut in the middle of its upgrade notices only by its heartbeat.
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", transport, {
      config: { ...keyed.config, engineio: { ping_interval: "500ms", ping_timeout: "1s" } },
    });
    const runs = [[]]; // the numbers of each connection
    c.socket.on("connect", () => runs.push([]));
    c.socket.on("n", (i) => runs.at(-1).push(i));
    const ticker = s.app.ticker("/", id, { every: 3, burst: 2 });
    for (let i = 1; i <= 12; i++) {
      await until(() => runs.at(-1).length > 10, "events");
      await s.hit(c);
      await c.main.connected(c.main.disconnects.length + 1);
    }
    const last = ticker.stop();
    await until(() => c.main.numbers.includes(last), "the last event");
    assert.equal(c.main.id, id);
    assert.equal(s.app.disconnects.length, 0);
    let seen = 0;
    for (const run of runs.filter((r) => r.length)) {
      assert.ok(run[0] <= seen + 1, `a gap: ${run[0]} after ${seen}`);
      // By polling a whole answer is in flight, with everything that was missed before.
      if (transport === "websocket") assert.ok(run[0] > seen - 500, `${run[0]} after ${seen}: more than was in flight`);
      run.forEach((n, i) => assert.equal(n, run[0] + i, "the order within a connection"));
      seen = run.at(-1);
    }
    assert.equal(seen, last);
  });

  each(["websocket", "polling"], "take base64, long texts of any characters, and a thousand events at the same time", async (t, transport) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", transport, { client: { forceBase64: true } });
    await talk(s, c, id);
    const text = "ü€😀\u2028".repeat(50000);
    const [back, bin] = await c.main.ask("echo", text, Buffer.alloc(200000, 7));
    assert.equal(back, text);
    assert.equal(Buffer.compare(Buffer.from(bin), Buffer.alloc(200000, 7)), 0);
    await away(s, c, () => {
      s.app.stream("/", id, 21, 1020, (n) => [n % 10 ? "😀".repeat(n % 7) : Buffer.alloc(n % 5, n)]);
      s.app.socket(id).volatile.emit("volatile", 1);
      s.app.socket(id).compress(false).emit("n", 1021, "é");
    });
    await c.main.stream(1, 1021);
    assert.equal(c.main.id, id);
    assert.equal((await c.main.ask("echo", "ü"))[0], "ü");
  });

  it("keep the query of a namespace", async (t) => {
    const s = await stack(t, { server: "2.5.1", ...keyed });
    const c = s.client("2.5.0", { transports: ["websocket"], query: { hf_key: "0123456789abcdef" } });
    await c.main.connected();
    const admin = c.manager.socket("/admin", { query: { hf_key: "0123456789abcdef", role: "a&b,c", hf_n: "/:1" } });
    await until(() => admin.connected, "/admin");
    assert.equal(s.app.connections.at(-1).query.role, "a&b,c");
    const chat = c.manager.socket("/chat", { query: { hf_key: "0123456789abcdef" } });
    await until(() => chat.connected, "/chat");
    for (const { query } of s.app.connections) assert.deepEqual(Object.keys(query).filter((name) => name.startsWith("hf_")), [], "the key is not passed on");
    const none = c.of("/none");
    const errors = [];
    none.socket.on("error", (err) => errors.push(err));
    await until(() => errors.length === 1, "the refusal");
    assert.equal(errors[0], "Invalid namespace");
  });

  each(["websocket", "polling"], "are told of the server's refusals", async (t, transport) => {
    const s = await stack(t, { server: "2.5.1", ...keyed });
    const c = s.client("2.5.0", { transports: TRANSPORTS[transport], query: { hf_key: "0123456789abcdef", deny: 1 } });
    const errors = [];
    c.socket.on("error", (err) => errors.push(err));
    await until(() => errors.length === 1, "the refusal");
    assert.deepEqual(errors[0], { code: 17 });
  });

  each(["websocket", "polling"], "come back too late, and get a fresh session", async (t, transport) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", transport, {
      config: { recovery: { ...keyed.config.recovery, max_disconnection_duration: "200ms" } },
    });
    await away(s, c, () => until(() => s.app.disconnects.length === 1, "the session to expire"));
    assert.notEqual(c.main.id, id);
    assert.equal(s.app.footprint().connections, 2);
  });

  each(["websocket", "polling"], "with the same key at a time are two", async (t, transport) => {
    const { s, c, id, query } = await old(t, "2.5.1", "2.5.0", transport);
    const d = s.client("2.5.0", { transports: TRANSPORTS[transport], query });
    await d.main.connected();
    assert.notEqual(d.main.id, id);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    assert.equal((await d.main.ask("echo", 2))[0], 2);
    assert.equal(c.main.connects.length, 1);
  });

  each(["websocket", "polling"], "take over from their own dead connection", async (t, transport) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", transport);
    s.relay.abandon();
    c.manager.engine.close();
    s.app.stream("/", id, 1, 5);
    await c.main.connected(2);
    await c.main.stream(1, 5);
    assert.equal(c.main.id, id);
    assert.equal(s.app.footprint().connections, 1);
  });

  it("disconnect, and are gone", async (t) => {
    const { s, c } = await old(t, "2.5.1", "2.5.0", "websocket");
    c.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the end");
  });

  each(ALL, "live on their heartbeats", async (t, transport) => {
    const { s, c } = await old(t, "2.5.1", "2.5.0", transport, {
      io: { pingInterval: 300 },
      config: { ...keyed.config, engineio: { ping_interval: "300ms" } },
    });
    let pongs = 0; // the client pings, and again only when it has its pong
    c.manager.on("pong", () => pongs++);
    await s.app.heartbeats(5);
    await until(() => pongs >= 5, "holdfast's pongs");
    assert.equal(c.main.disconnects.length, 0);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("are hidden from others who know their sid", async (t) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", "polling");
    await s.lose(c);
    const a = await request(`${s.direct}/socket.io/?EIO=3&transport=polling&sid=${id}&t=abc`);
    assert.deepEqual([a.status, JSON.parse(a.body).code], [400, 1]);
    s.relay.up();
    await c.main.connected(2);
    assert.equal(c.main.id, id);
    const b = await request(`${s.direct}/socket.io/?EIO=3&transport=polling&sid=${id}&t=N000000`);
    assert.deepEqual([b.status, JSON.parse(b.body).code], [400, 1], "a request from before the recovery");
    const options = await request(`${s.direct}/socket.io/?EIO=3&transport=polling&sid=${id}`, { method: "OPTIONS", headers: { origin: "http://x" } });
    assert.equal(options.status, 200);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("without a key, or with JSONP, pass through", async (t) => {
    const s = await stack(t, { server: "2.5.1", ...keyed });
    for (const query of [{}, { hf_key: "short" }]) {
      const c = s.client("2.5.0", { transports: ["polling"], query });
      await c.main.connected();
      assert.equal(await s.hf.metrics().then((m) => m.sum("holdfast_clients_opened_total")), 0);
      await s.lose(c);
      s.relay.up();
      await c.main.connected(2);
      assert.notEqual(c.main.connects[0].id, c.main.connects[1].id);
    }
    const jsonp = await request(`${s.direct}/socket.io/?EIO=3&transport=polling&j=0&hf_key=0123456789abcdef`);
    assert.match(jsonp.body, /^___eio\[0\]/);
  });

  it("survive a handover, as modern ones do", { skip: process.platform !== "linux" }, async (t) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", "websocket", {
      config: { ...translate, ...keyed.config },
      io: { pingInterval: 300 },
    });
    const m = s.client("4.8.4", { transports: ["websocket"] });
    const { id: modernID } = await m.main.connected();
    await c.main.ask("visit");
    s.hf.signal("SIGUSR2");
    await c.main.connected(2, 15000);
    await m.main.connected(2, 15000);
    assert.deepEqual([c.main.id, m.main.id], [id, modernID]);
    s.app.io.to("everyone").emit("n", 1);
    await c.main.stream(1, 1);
    await m.main.stream(1, 1);
    await s.app.heartbeats(6);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(c.main.connects.length, 2);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  each(ALL, "beside modern clients, on one server", async (t, transport) => {
    const { s, c, id } = await old(t, "2.5.1", "2.5.0", transport, { config: { ...translate, ...keyed.config } });
    const m = s.client("4.8.4", { transports: TRANSPORTS[transport] ?? ["polling", "websocket"] });
    await m.main.connected();
    const before = s.app.footprint();
    s.relay.down();
    await c.main.disconnected();
    await m.main.disconnected();
    for (let i = 1; i <= 5; i++) s.app.io.to("everyone").emit("n", i, "ü");
    s.relay.up();
    await c.main.stream(1, 5);
    await m.main.stream(1, 5);
    m.main.assertRecovered(1);
    assert.equal(c.main.id, id);
    assert.deepEqual(s.app.footprint(), before);
  });
});

describe("upstream.protocol: auto", parallel, () => {
  for (const [server, connections] of [["2.5.1", 2], ["4.5.4", 1]]) {
    each(["websocket", "polling"], `finds out: server ${server}`, async (t, transport) => {
      const s = await stack(t, { server, config: { upstream: { protocol: "auto" } } });
      const c = s.client("4.8.4", { transports: TRANSPORTS[transport] });
      const { id } = await c.main.connected();
      await until(() => s.app.connections.length === connections, "the handshake that asks, and the client's");
      s.relay.down();
      await c.main.disconnected();
      s.app.stream("/", id, 1, 3);
      s.relay.up();
      await c.main.connected(2);
      await c.main.stream(1, 3);
      c.main.assertRecovered(1);
      const d = s.client("4.8.4", { transports: TRANSPORTS[transport] });
      await d.main.connected();
      assert.equal(s.app.connections.length, connections + 1);
    });
  }
});

describe("googollee/go-socket.io", { ...parallel, skip: onlyHoldfast || noGoServer }, () => {
  each(ALL, "serves modern clients, which recover", async (t, transport) => {
    const server = await GoServer.start();
    const s = await stack(t, { upstreamPort: server.port, config: translate });
    s.cleanups.push(() => server.stop());
    const c = s.client("4.8.4", { transports: TRANSPORTS[transport] ?? ["polling", "websocket"] });
    const { id } = await c.main.connected();
    assert.equal(id, "1", "the server counts");
    const admin = c.of("/admin");
    await admin.connected();
    // Emitted before the reply to CONNECT.
    await until(() => admin.events.length > 0, "the event of the connection handler");
    assert.deepEqual(admin.events[0].slice(0, 3), ["early", "/admin", "1"]);
    assert.deepEqual(await c.main.ask("echo", "ü€😀"), ["ü€😀"]);
    assert.deepEqual(await admin.ask("echo", "x"), ["x"]);
    if (transport === "default") await c.upgraded();
    c.socket.emit("stream", 1, 5);
    await c.main.stream(1, 5);
    s.relay.down();
    await c.main.disconnected();
    s.relay.up();
    await c.main.connected(2);
    await admin.connected(2);
    c.main.assertRecovered(1);
    admin.assertRecovered(1);
    c.socket.emit("stream", 6, 30);
    await c.main.stream(1, 30);
    assert.equal(c.main.events.at(-1)[2], "ü€😀");
    assert.doesNotMatch(server.output, /disconnect/);
  });
});
