// What the server behind holdfast sees, and what happens when it is not there.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { createServer as createTLSServer } from "node:tls";
import { Client } from "../lib/client.js";
import { combos } from "../lib/combos.js";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { Polling, Raw, request } from "../lib/raw.js";
import { Relay } from "../lib/relay.js";
import { App, ChildApp } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { SLOW, never, sleep, stopwatch, until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const skip = onlyHoldfast;

describe("the handshake is repeated upstream", parallel, () => {
  combos("with query, headers and cookies", { native: "legacy" }, async (t, how) => {
    const s = await stack(t, { native: "legacy" });
    const c = s.client(how.version, {
      ...how.options,
      query: { room: "a b&c=d/ü", token: "" },
      extraHeaders: { authorization: "Bearer xyz", cookie: "session=abc; theme=dark", "x-custom": "1, 2", origin: "http://example.test" },
      auth: { user: "me", n: [1, { x: null }] },
    });
    await c.main.connected();
    const [{ headers, query, auth }] = s.app.connections;
    assert.equal(query.room, "a b&c=d/ü");
    assert.equal(query.token, "");
    assert.equal(query.EIO, "4");
    assert.equal(query.transport, how.transport === "websocket" ? "websocket" : "polling");
    assert.equal(headers.authorization, "Bearer xyz");
    assert.equal(headers.cookie, "session=abc; theme=dark");
    assert.equal(headers["x-custom"], "1, 2");
    assert.equal(headers.origin, "http://example.test");
    assert.equal(headers.host, new URL(s.url).host, "Host is kept");
    assert.deepEqual(auth, { user: "me", n: [1, { x: null }] });
  });

  it("without the cookie io, from which netty-socketio would take the id of the parked session", { skip }, async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"], extraHeaders: { cookie: "session=abc; io=former; theme=dark" } });
    await c.main.connected();
    assert.equal(s.app.connections[0].headers.cookie, "session=abc; theme=dark");
  });

  it("with X-Forwarded- headers, without hop-by-hop ones", { skip }, async (t) => {
    const s = await stack(t);
    for (const open of [
      (headers) => Polling.open(s.direct, { headers }),
      (headers) => Raw.open(s.direct, { headers }),
    ]) {
      const raw = await open({ "x-hop": "secret", te: "trailers", "user-agent": "tester/1", "accept-language": "de" , "x-forwarded-for": "203.0.113.9" });
      await raw.connect();
      const { headers } = s.app.connections.at(-1);
      assert.match(headers["x-forwarded-for"], /127\.0\.0\.1$/);
      assert.equal(headers["x-forwarded-proto"], "http");
      assert.equal(headers["x-forwarded-host"], new URL(s.direct).host);
      assert.equal(headers["user-agent"], "tester/1");
      assert.equal(headers["accept-language"], "de");
      assert.equal(headers.te, undefined);
    }
  });

  it("a client's own X-Forwarded-For is not trusted", { skip }, async (t) => {
    const s = await stack(t);
    const raw = await Raw.open(s.direct, { headers: { "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https" } });
    await raw.connect();
    const { headers } = s.app.connections.at(-1);
    assert.ok(!headers["x-forwarded-for"].startsWith("203."), headers["x-forwarded-for"]);
    assert.equal(headers["x-forwarded-proto"], "http");
    raw.close();
  });

  it("a trusted proxy's X-Forwarded- headers are kept and added to", { skip }, async (t) => {
    const s = await stack(t, { config: { trusted_proxies: ["127.0.0.1"] } });
    const raw = await Raw.open(s.direct, { headers: { "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-host": "chat.example.test" } });
    await raw.connect();
    const { headers } = s.app.connections.at(-1);
    assert.equal(headers["x-forwarded-for"].replace(/ /g, ""), "203.0.113.9,127.0.0.1");
    assert.equal(headers["x-forwarded-proto"], "https");
    assert.equal(headers["x-forwarded-host"], "chat.example.test");
    raw.close();
  });

  it("a subprotocol that the client asks for", { skip }, async (t) => {
    const s = await stack(t);
    const raw = await Raw.open(s.direct, { protocols: ["one", "two"] }).catch((err) => err);
    // engine.io 6.2 picks the first. The client gets its answer.
    const direct = await Raw.open(s.app.url, { protocols: ["one", "two"] }).catch((err) => err);
    assert.equal(raw.ws?.protocol, direct.ws?.protocol);
    raw.close?.();
    direct.close?.();
  });

  combos("refused by allowRequest, the client gets the server's answer", { native: "legacy", transports: ["polling", "websocket"] }, async (t, how) => {
    let open = false;
    const s = await stack(t, { native: "legacy", io: { allowRequest: (req, done) => done(open ? null : "closed today", open) } });
    const c = s.client(how.version, how.options);
    await until(() => c.main.errors.length >= 2, "refusals");
    assert.equal(c.main.connects.length, 0);
    if (how.transport === "polling") assert.equal(c.main.errors[0].description ?? c.main.errors[0].context?.status, 403);
    open = true;
    await c.main.connected();
  });

  combos("again at each reconnection, also of a session that recovers", { native: false, transports: ["polling", "websocket"] }, async (t, how) => {
    let open = true;
    let asked = 0;
    const s = await stack(t, {
      io: {
        allowRequest: (req, done) => {
          if (!/[?&]sid=/.test(req.url)) asked++;
          done(open ? null : "no", open);
        },
      },
    });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    assert.equal(asked, 1);
    s.relay.down();
    await c.main.disconnected();
    open = false;
    s.relay.up();
    await until(() => asked >= 3, "reconnections to be refused");
    assert.equal(c.main.connects.length, 1);
    open = true;
    await c.main.connected(2);
    assert.deepEqual(c.main.last, { id, recovered: true });
    assert.equal(s.app.footprint().connections, 1);
    await until(() => s.app.io.engine.clientsCount === 1, "the link that is not needed to close");
  });

  it("a middleware's refusal reaches the client as it is", { skip }, async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"], auth: { deny: true } });
    await until(() => c.main.errors.length > 0, "the refusal");
    assert.equal(c.main.errors[0].message, "not you");
    assert.deepEqual(c.main.errors[0].data, { code: 17 });
    c.socket.auth = {};
    c.socket.connect();
    await c.main.connected();
    assert.deepEqual(s.app.connections[0].auth, {});
  });

  it("cookies of the handshake's answer go with the link's later requests", { skip }, async (t) => {
    const seen = [];
    const s = await stack(t, {
      io: { transports: ["polling"], cookie: { name: "node", httpOnly: true }, allowRequest: (req, done) => (seen.push([req.url, req.headers.cookie]), done(null, true)) },
      app: (io, app) => app.http.prependListener("request", (req) => seen.push([req.method, req.url, req.headers.cookie])),
    });
    const c = s.client("4.8.4", { transports: ["polling"], extraHeaders: { cookie: "own=1" } });
    await c.main.connected();
    await c.main.ask("echo", 1);
    const later = seen.filter(([method, url]) => ["GET", "POST"].includes(method) && /sid=/.test(url));
    assert.ok(later.length >= 2);
    for (const [, , cookie] of later) {
      assert.match(cookie ?? "", /node=/);
      assert.match(cookie ?? "", /own=1/);
    }
  });
});

describe("handshake.auth", parallel, () => {
  combos("never holds what the library added", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { config: { recovery: { max_disconnection_duration: "300ms" } } });
    const c = s.client(how.version, { ...how.options, auth: { token: "t", nested: { pid: "mine", offset: 1 } } });
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 2);
    await c.main.stream(1, 2);
    // Expired: the CONNECT with pid and offset goes upstream without them.
    await s.lose(c);
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    s.relay.up();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    for (const { auth } of s.app.connections) assert.deepEqual(auth, { token: "t", nested: { pid: "mine", offset: 1 } });
    assert.equal(s.app.connections.length, 2);
  });

  combos("without any of the application's own is as it would be", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { config: { recovery: { max_disconnection_duration: "300ms" } } });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 1);
    await c.main.stream(1, 1);
    await s.lose(c);
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    s.relay.up();
    await c.main.connected(2);
    assert.deepEqual(s.app.connections.map((x) => x.auth), [{}, {}]);
  });

  combos("keeps an application's own pid and offset", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t);
    const auth = { pid: "process 17", offset: "row 5", more: true };
    const c = s.client(how.version, { ...how.options, auth });
    const { id } = await c.main.connected();
    assert.deepEqual(s.app.connections[0].auth, auth);
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    // Its own keys override the library's. Such a client cannot recover, but must work.
    await s.hit(c);
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.deepEqual(s.app.connections[1].auth, auth);
    assert.equal((await c.main.ask("echo", "x"))[0], "x");
  });

  it("keeps the bytes of what is left", { skip }, async (t) => {
    const s = await stack(t);
    const raw = await Raw.open(s.direct);
    raw.send('40{"a":1e3, "b":"\\u00fc\\n", "c":[ ],"pid":17,"d":{}}');
    assert.match(await raw.next(), /^40/);
    assert.deepEqual(s.app.connections[0].auth, { a: 1000, b: "ü\n", c: [], pid: 17, d: {} });
    raw.close();
  });
});

describe("a server with polling only", parallel, () => {
  combos("works, and recovers", { native: false, transports: ["polling", "default"] }, async (t, how) => {
    const s = await stack(t, { io: { transports: ["polling"], pingInterval: 300 } });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const make = (i) => (i % 5 ? [] : [Buffer.alloc(2000, i)]);
    s.app.stream("/", id, 1, 50, make);
    await c.main.stream(1, 50);
    s.relay.down();
    await c.main.disconnected();
    s.app.stream("/", id, 51, 100, make);
    await s.app.heartbeats(5); // without the client
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 100);
    c.main.assertRecovered(1);
    for (let i = 0; i < 30; i++) c.socket.emit("up", i, i % 3 ? "t" : Buffer.alloc(3000, i));
    const [back] = await c.main.ask("echo", Buffer.from("b"));
    assert.equal(Buffer.from(back).toString(), "b");
    assert.deepEqual(s.app.receivedArgs("up").map(([i]) => i), Array.from({ length: 30 }, (_, i) => i));
    assert.equal(s.app.disconnects.length, 0);
  });

  it("small maxPayload: what the client sends is split over POSTs", { skip }, async (t) => {
    const s = await stack(t, { io: { transports: ["polling"], maxHttpBufferSize: 5000 } });
    const c = s.client("4.8.4", { transports: ["polling"] });
    await c.main.connected();
    for (let i = 0; i < 50; i++) c.socket.emit("up", i, "x".repeat(1000));
    await until(() => s.app.receivedArgs("up").length === 50, "all to arrive");
    assert.deepEqual(s.app.receivedArgs("up").map(([i]) => i), Array.from({ length: 50 }, (_, i) => i));
  });
});

describe("a server that is not there", parallel, () => {
  for (const [what, how] of [
    ["refuses connections", "refuse"],
    ["never answers", "hole"],
  ]) {
    it(`and ${what}: handshakes fail with 502 or 503, soon, with a clear body`, { skip }, async (t) => {
      const port = await freePort();
      let holes;
      if (how === "hole") {
        holes = createServer(() => {}).listen(port, "127.0.0.1");
        t.after(() => {
          holes.closeAllConnections();
          holes.close();
        });
      }
      const hf = await Holdfast.start(port, { upstream: { handshake_timeout: "1s" } });
      t.after(() => hf.stop());
      const elapsed = stopwatch();
      const res = await request(`${hf.url}/socket.io/?EIO=4&transport=polling`);
      assert.ok([502, 503, 504].includes(res.status), `${res.status}`);
      assert.ok(res.body.length > 5, res.body);
      assert.ok(!/127\.0\.0\.1|goroutine|dial tcp/.test(res.body), `no inner details: ${res.body}`);
      assert.ok(elapsed() < 2500 * SLOW, `${elapsed()} ms`);
      const raw = new Raw(hf.url);
      await until(() => raw.refused, "the refusal of the WebSocket");
      assert.ok([502, 503, 504].includes(raw.refused.status));
      const api = await request(`${hf.url}/api`, { timeout: 5000 }).catch((err) => ({ status: err.message }));
      if (how === "refuse") assert.ok([502, 503, 504].includes(api.status), `${api.status}`);
      assert.equal((await hf.admin("/healthz")).status, 200);
      const m = await hf.metrics();
      assert.ok(m.sum("holdfast_upstream_dials_total", { result: "error" }) + m.sum("holdfast_upstream_dials_total", { result: "timeout" }) >= 2);
    });
  }

  combos("clients back off by themselves and connect when it comes", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const port = await freePort();
    const s = await stack(t, { upstreamPort: port });
    const c = s.client(how.version, { ...how.options, reconnectionDelay: 20, reconnectionDelayMax: 10000 });
    await until(() => c.main.errors.length >= 4, "attempts");
    const app = await ChildApp.start("4.5.4", { port });
    t.after(() => app.stop());
    await c.main.connected(1, 20000);
    assert.ok(c.manager.backoff.attempts === 0);
  });
});

describe("a server that dies", { concurrency: 2 }, () => {
  /** Waits until n links run over WebSocket. */
  const upgraded = (s, n) => until(async () => (await s.hf.metrics()).sum("holdfast_links", { transport: "websocket" }) === n, "the links' upgrades");

  it("stopped (SIGSTOP): holdfast notices its silence, and closes its clients", { skip, timeout: 30000 * SLOW }, async (t) => {
    const app = await ChildApp.start("4.5.4", { io: { pingInterval: 400, pingTimeout: 2600 } });
    t.after(async () => {
      app.signal("SIGCONT");
      await app.kill();
    });
    const s = await stack(t, { upstreamPort: app.port, config: { upstream: { handshake_timeout: "1s" } } });
    const clients = [["websocket"], ["polling"]].map((transports) => s.client("4.8.4", { transports }));
    for (const c of clients) await c.main.connected();
    await upgraded(s, clients.length);
    app.signal("SIGSTOP");
    const elapsed = stopwatch();
    for (const c of clients) await c.main.disconnected(1);
    assert.ok(elapsed() < 3000 + 2000 * SLOW, `pingInterval + pingTimeout, and a little, not ${elapsed()} ms`);
    assert.equal((await s.hf.metrics()).sum("holdfast_heartbeat_timeouts_total", { side: "upstream" }), 2);
    app.signal("SIGCONT");
    for (const c of clients) {
      await c.main.connected(2, 10000);
      assert.equal(c.main.last.recovered, false);
    }
  });

  it("vanished from the network behind holdfast: its clients are closed too", { skip, timeout: 30000 * SLOW }, async (t) => {
    const s = await stack(t, { upstreamRelay: true, io: { pingInterval: 400, pingTimeout: 2600 } });
    const live = s.client("4.8.4", { transports: ["websocket"] });
    const polling = s.client("4.6.2", { transports: ["polling"] });
    for (const c of [live, polling]) await c.main.connected();
    await upgraded(s, 2);
    s.upRelay.blackhole();
    for (const c of [live, polling]) await c.main.disconnected(1);
    s.upRelay.cut();
    for (const c of [live, polling]) {
      await c.main.connected(2);
      assert.equal(c.main.last.recovered, false);
    }
  });

  it("only the links cut: clients come back fresh immediately", { skip }, async (t) => {
    const s = await stack(t, { upstreamRelay: true });
    const clients = [["websocket"], ["polling"], ["polling", "websocket"]].map((transports) => s.client("4.8.4", { transports }));
    for (const c of clients) await c.main.connected();
    await upgraded(s, clients.length);
    s.upRelay.cut();
    for (const c of clients) {
      const reason = await c.main.disconnected(1, 2000);
      assert.notEqual(reason, "io server disconnect", "that would end its reconnection");
      await c.main.connected(2);
      assert.equal(c.main.last.recovered, false);
    }
    await until(() => s.app.disconnects.length === 3, "the server to have seen three leave");
    assert.equal(s.app.connections.length, 6);
  });

  it("the link of a parked session cut: it comes back fresh", { skip }, async (t) => {
    const s = await stack(t, { upstreamRelay: true });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    s.relay.down();
    await c.main.disconnected();
    s.upRelay.cut();
    await until(() => s.app.disconnects.length === 1, "the server to see the link end");
    s.relay.up();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
  });
});

describe("the link to the server", parallel, () => {
  it("runs over WebSocket also for a client that polls", { skip }, async (t) => {
    const s = await stack(t, { upstreamRelay: true });
    const c = s.client("4.8.4", { transports: ["polling"] });
    await c.main.connected();
    await until(() => s.upRelay.list((x) => x.websocket).length === 1, "the link's upgrade");
    await until(async () => (await s.hf.metrics()).sum("holdfast_links", { transport: "websocket" }) === 1, "the metric");
    await c.main.ask("echo", 1);
  });

  it("with events in flight during its upgrade: none lost, duplicated or out of order", { skip }, async (t) => {
    const s = await stack(t, {
      upstreamRelay: true,
      app: (io) =>
        io.on("connection", (socket) => {
          let i = 0;
          const timer = setInterval(() => {
            for (let k = 0; k < 5; k++) socket.emit("n", ++i, i % 4 ? "t" : Buffer.from([i & 255]));
            if (i >= 500) clearInterval(timer);
          }, 2);
        }),
    });
    s.upRelay.delay(15);
    for (let round = 0; round < 4; round++) {
      const c = s.client(["4.8.4", "4.6.2"][round % 2], { transports: round < 2 ? ["polling"] : ["polling", "websocket"] });
      await c.main.connected();
      for (let i = 0; i < 40; i++) {
        c.socket.emit("up", round, i, i % 3 ? "x" : Buffer.from([i]));
        await sleep(3);
      }
      await c.main.stream(1, 500);
      assert.deepEqual(s.app.receivedArgs("up").filter(([r]) => r === round).map(([, i]) => i), Array.from({ length: 40 }, (_, i) => i));
    }
  });

  it("one byte per segment, and slow", { skip }, async (t) => {
    const s = await stack(t, { upstreamRelay: true });
    s.upRelay.oneByteWrites();
    const c = s.client("4.8.4", {});
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 20, (i) => [Buffer.alloc(30, i), "ü€😀"]);
    await c.main.stream(1, 20);
    const [echo] = await c.main.ask("echo", { b: Buffer.from("abc") });
    assert.equal(Buffer.from(echo.b).toString(), "abc");
  });

  it("is closed when its client disconnects, and nothing is left", { skip }, async (t) => {
    const s = await stack(t, { upstreamRelay: true });
    for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
      const c = s.client("4.8.4", { transports });
      await c.main.connected();
      const admin = c.of("/admin");
      await admin.connected();
      c.close();
    }
    await until(() => s.app.io.engine.clientsCount === 0, "the links to close");
    await until(async () => {
      const m = await s.hf.metrics();
      return m.sum("holdfast_links") === 0 && m.sum("holdfast_sessions") === 0 && m.sum("holdfast_clients") === 0 && m.sum("holdfast_buffered_bytes") === 0;
    }, "the gauges to be 0");
  });

  it("a resumed client's unneeded link is closed, and the application sees nothing of it", { skip }, async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    for (let i = 1; i <= 5; i++) {
      await s.hit(c);
      await c.main.connected(1 + i);
    }
    await until(() => s.app.io.engine.clientsCount === 1, "one link to be left");
    assert.deepEqual(s.app.footprint(), { connections: 1, disconnects: 0, middleware: 1 });
    await never(() => s.app.disconnects.length > 0, "a disconnect");
  });
});

describe("TLS", { concurrency: 2, skip: skip || (spawnSync("openssl", ["version"]).status !== 0 && "openssl is not installed") }, () => {
  combos("towards clients and towards the server", { versions: ["4.8.4"] }, async (t, how) => {
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-"));
    const [key, cert] = [path.join(dir, "key.pem"), path.join(dir, "cert.pem")];
    const made = spawnSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=upstream.test", "-addext", "subjectAltName=DNS:upstream.test,IP:127.0.0.1", "-keyout", key, "-out", cert]);
    assert.equal(made.status, 0, String(made.stderr));
    const app = await App.start("4.5.4");
    // A TLS terminator in front of the server.
    const tls = createTLSServer({ key: await readFile(key), cert: await readFile(cert) }, (socket) => {
      const plain = net.connect(app.port, "127.0.0.1");
      socket.pipe(plain).pipe(socket);
      socket.on("error", () => plain.destroy());
      plain.on("error", () => socket.destroy());
    });
    await new Promise((resolve) => tls.listen(0, "127.0.0.1", resolve));
    const hf = await Holdfast.start(0, {
      upstream: { url: `https://127.0.0.1:${tls.address().port}`, tls: { ca_file: cert, server_name: "upstream.test" } },
      tls: { cert_file: cert, key_file: key },
    });
    const relay = await Relay.start(hf.port);
    const c = new Client(how.version, relay.url.replace("http:", "https:"), { ...how.options, ca: await readFile(cert), rejectUnauthorized: true });
    t.after(async () => {
      c.close();
      await relay.stop();
      await app.stop();
      tls.close();
      await hf.stop();
      await rm(dir, { recursive: true, force: true });
    });
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    const make = (i) => (i % 3 ? [] : [Buffer.alloc(5000, i)]);
    app.stream("/", id, 1, 20, make);
    await c.main.stream(1, 20);
    assert.equal(app.connections[0].headers["x-forwarded-proto"], "https");
    relay.down();
    await c.main.disconnected();
    app.stream("/", id, 21, 200, make);
    relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 200);
    c.main.assertRecovered(1);
    assert.equal(app.disconnects.length, 0);
  });
});
