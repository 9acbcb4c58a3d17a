// What holdfast does not speak or does not handle passes through unchanged.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import { createRequire } from "node:module";
import WebSocket, { WebSocketServer } from "ws";
import { combos } from "../lib/combos.js";
import { Holdfast, NATIVE, onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw, request } from "../lib/raw.js";
import { LEGACY } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { never, once, sleep, until, within } from "../lib/wait.js";

const require = createRequire(import.meta.url);
const parallel = { concurrency: 4 };
const PAGE = randomBytes(300_000);
const ETAG = `"${createHash("sha1").update(PAGE).digest("hex")}"`;

/** An application beside Socket.IO on the same port. */
function api(req, res) {
  const url = new URL(req.url, "http://x");
  switch (url.pathname) {
    case "/echo": {
      const hash = createHash("sha1");
      let size = 0;
      req.on("data", (d) => {
        hash.update(d);
        size += d.length;
      });
      req.on("end", () => {
        res.writeHead(201, { "content-type": "application/json", "x-custom": ["a", "b"], "set-cookie": ["s=1", "t=2"] });
        res.end(JSON.stringify({ method: req.method, url: req.url, size, sha: hash.digest("hex"), headers: req.headers }));
      });
      return;
    }
    case "/static":
      if (req.headers["if-none-match"] === ETAG) return res.writeHead(304, { etag: ETAG }).end();
      if (req.headers.range) {
        const [, a, b] = /bytes=(\d+)-(\d+)/.exec(req.headers.range);
        res.writeHead(206, { "content-range": `bytes ${a}-${b}/${PAGE.length}` });
        return res.end(PAGE.subarray(+a, +b + 1));
      }
      res.writeHead(200, { etag: ETAG, "content-length": PAGE.length, "cache-control": "max-age=60" });
      return res.end(PAGE);
    case "/redirect":
      return res.writeHead(302, { location: "/elsewhere?x=1" }).end();
    case "/events": {
      res.writeHead(200, { "content-type": "text/event-stream" });
      res.write("data: 1\n\n");
      const next = () => res.write("data: 2\n\n");
      api.onEvents?.(next, req, res);
      return;
    }
    case "/slow":
      res.writeHead(200);
      res.write("begin");
      return void api.onSlow(() => res.end("end"));
    case "/broken":
      res.writeHead(200, { "content-length": 1000 });
      res.write("some");
      return void setTimeout(() => res.destroy(), 50);
    case "/nothing":
      return res.writeHead(204).end();
    default:
      return res.writeHead(404, { "content-type": "text/plain" }).end("no such page\n");
  }
}

async function pair(t, options = {}) {
  const s = await stack(t, { native: "legacy", http: api, ...options });
  return {
    ...s,
    async both(fn) {
      const through = await fn(s.direct);
      const direct = await fn(s.app.url);
      assert.deepEqual(through, direct, "through holdfast (actual) as from the server (expected)");
      return through;
    },
  };
}

describe("the application's HTTP", parallel, () => {
  for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
    it(`${method} with its body and headers`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const body = ["GET", "OPTIONS"].includes(method) ? undefined : randomBytes(10).fill(7);
        const res = await request(`${url}/echo?a=1&b=%20x&sid=1`, { method, body, headers: { "x-mine": "yes", cookie: "k=v", ...(body && { "content-length": body.length }) } });
        const got = JSON.parse(res.body);
        const { "x-mine": mine, cookie, host } = got.headers;
        assert.equal(host, new URL(url).host);
        return { status: res.status, custom: res.headers["x-custom"], cookies: res.headers["set-cookie"], method: got.method, target: got.url, size: got.size, sha: got.sha, mine, cookie };
      });
    });
  }

  it("an upload that waits for the server's consent (Expect: 100-continue)", async (t) => {
    const server = http.createServer((req, res) => req.resume().on("end", () => res.end("taken")));
    server.on("checkContinue", (req, res) => {
      if (req.url === "/no") return void res.writeHead(413, { connection: "close" }).end("refused");
      res.writeContinue();
      server.emit("request", req, res);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.close());
    const { port } = server.address();
    const hf = NATIVE ? { url: `http://127.0.0.1:${port}` } : await Holdfast.start(port);
    t.after(() => hf.stop?.());
    const upload = (url) =>
      new Promise((resolve, reject) => {
        let consents = 0;
        const req = http.request(url, { method: "POST", headers: { expect: "100-continue", "content-length": 5 } });
        req.on("information", () => ++consents === 1 && req.end("hello"));
        req.on("response", (res) => {
          let body = "";
          res.on("data", (d) => (body += d)).on("end", () => resolve([res.statusCode, body, consents]));
        });
        req.on("error", reject);
        req.flushHeaders();
      });
    assert.deepEqual(await upload(`${hf.url}/yes`), [200, "taken", 1]);
    assert.deepEqual(await upload(`${hf.url}/no`), [413, "refused", 0], "the server refuses before the body is sent");
  });

  it("static files: whole, in part, not modified, HEAD", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const whole = await request(`${url}/static`);
      assert.ok(whole.raw.equals(PAGE));
      const part = await request(`${url}/static`, { headers: { range: "bytes=100-199" } });
      assert.ok(part.raw.equals(PAGE.subarray(100, 200)));
      const same = await request(`${url}/static`, { headers: { "if-none-match": ETAG } });
      const head = await request(`${url}/static`, { method: "HEAD" });
      return [whole.status, whole.headers.etag, whole.headers["cache-control"], whole.headers["content-length"], part.status, part.headers["content-range"], same.status, same.body, head.status, head.headers["content-length"]];
    });
  });

  it("redirects, empty answers and errors are not touched", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const redirect = await request(`${url}/redirect`);
      const nothing = await request(`${url}/nothing`);
      const missing = await request(`${url}/missing`);
      return [redirect.status, redirect.headers.location, nothing.status, nothing.body, missing.status, missing.body];
    });
  });

  it("no Content-Type is guessed where the server gave none", async (t) => {
    const p = await pair(t, { http: (req, res) => res.end("<html>who knows") });
    for (let i = 0; i < 50; i++) {
      const answers = await Promise.all([1, 2, 3, 4].map(() => request(`${p.direct}/x`)));
      for (const res of answers) assert.equal(res.headers["content-type"], undefined);
    }
  });

  it("large uploads stream through", async (t) => {
    const p = await pair(t);
    const big = randomBytes(20_000_000);
    await p.both(async (url) => {
      const res = await request(`${url}/echo`, { method: "POST", body: big, headers: { "content-length": big.length } });
      return JSON.parse(res.body).sha;
    });
  });

  it("a truncated answer stays truncated", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      await assert.rejects(request(`${url}/broken`));
    });
  });

  it("server-sent events arrive as they are sent, and the server sees the client leave", async (t) => {
    const p = await pair(t);
    for (const url of [p.direct, p.app.url]) {
      let next;
      let gone = false;
      api.onEvents = (fn, req, res) => {
        next = fn;
        res.on("close", () => (gone = true));
      };
      const req = http.get(`${url}/events`);
      const [res] = await once(req, "response");
      res.setEncoding("utf8");
      const [first] = await once(res, "data");
      assert.equal(first, "data: 1\n\n");
      await sleep(50);
      next();
      const [second] = await once(res, "data", 1000);
      assert.equal(second, "data: 2\n\n");
      res.on("error", () => {});
      req.destroy();
      await until(() => gone, "the server to see the client leave", 2000);
    }
  });

  it("a slow answer begins immediately", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const slow = new Promise((resolve) => (api.onSlow = (finish) => resolve({ finish })));
      const [res] = await once(http.get(`${url}/slow`), "response");
      const [first] = await once(res, "data");
      assert.equal(first.toString(), "begin");
      (await slow).finish(); // only now does the application write the rest
      await within(new Promise((resolve) => res.on("end", resolve).resume()), "the end");
    });
  });

  it("keeps connections alive", async (t) => {
    const p = await pair(t);
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    const ports = new Set();
    for (let i = 0; i < 3; i++) {
      const req = http.get(`${p.direct}/nothing`, { agent });
      const [res] = await once(req, "response");
      ports.add(res.socket.localPort);
      await within(new Promise((resolve) => res.on("end", resolve).resume()), "the end");
      await new Promise(setImmediate);
    }
    assert.equal(ports.size, 1);
  });

  it("is counted", { skip: onlyHoldfast }, async (t) => {
    const p = await pair(t);
    await request(`${p.direct}/nothing`);
    await request(`${p.direct}/missing`);
    await until(async () => (await p.hf.metrics()).sum("holdfast_passthrough_requests_total", { kind: "http" }) === 2, "the counter");
  });
});

describe("other requests under Socket.IO's path", parallel, () => {
  for (const file of ["socket.io.js", "socket.io.min.js", "socket.io.js.map", "socket.io.msgpack.min.js"]) {
    it(`the client bundle ${file}`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const res = await request(`${url}/socket.io/${file}`);
        assert.equal(res.status, 200);
        const again = await request(`${url}/socket.io/${file}`, { headers: { "if-none-match": res.headers.etag } });
        assert.equal(again.status, 304);
        const gz = await request(`${url}/socket.io/${file}`, { headers: { "accept-encoding": "gzip" } });
        return [res.headers["content-type"], res.headers.etag, createHash("sha1").update(res.raw).digest("hex"), gz.headers["content-encoding"], gz.raw.length];
      });
    });
  }

  it("the bundle with a query that is not Engine.IO's", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => (await request(`${url}/socket.io/socket.io.js?v=123`)).status);
  });

  it("the bare path", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const { status, body } = await request(`${url}/socket.io/`);
      return { status, body };
    });
  });
});

describe("other WebSockets", parallel, () => {
  function withSockets(t) {
    return pair(t, {
      app: (io, app) => {
        const wss = new WebSocketServer({ noServer: true, perMessageDeflate: true, handleProtocols: (set) => [...set].at(-1) });
        app.other = { closed: [], headers: [] };
        app.http.on("upgrade", (req, socket, head) => {
          if (req.url.startsWith("/forbidden")) {
            socket.end("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\nX-Why: because\r\n\r\nno");
            return;
          }
          if (!req.url.startsWith("/other")) return;
          wss.handleUpgrade(req, socket, head, (ws) => {
            app.other.headers.push(req.headers);
            app.other.last = ws;
            ws.send("welcome " + req.url);
            ws.on("message", (data, binary) => ws.send(data, { binary }));
            ws.on("close", (code, reason) => app.other.closed.push([code, reason.toString()]));
          });
        });
      },
      io: { destroyUpgrade: false },
    });
  }

  it("text, binary, subprotocol, compression, close codes both ways", async (t) => {
    const p = await withSockets(t);
    await p.both(async (url) => {
      const ws = new WebSocket(`${url.replace("http", "ws")}/other?x=1`, ["a", "b"], { headers: { "x-mine": "1" } });
      const got = [];
      ws.on("message", (data, binary) => got.push(binary ? data.toString("hex") : data.toString()));
      await once(ws, "open");
      await until(() => got.length === 1, "the welcome");
      const big = "x".repeat(100_000);
      ws.send("ü€😀");
      ws.send(Buffer.from([0, 255]));
      ws.send(big);
      await until(() => got.length === 4, "the echoes");
      ws.close(4321, "bye");
      await once(ws, "close");
      await until(() => p.app.other.closed.length > 0, "the server to see the close");
      const closed = p.app.other.closed.pop();
      assert.equal(p.app.other.headers.pop()["x-mine"], "1");
      return { protocol: ws.protocol, extensions: ws.extensions, got: got.map((m) => (m === big ? "big" : m)), closed };
    });
  });

  it("the server's refusal reaches the client", async (t) => {
    const p = await withSockets(t);
    await p.both(async (url) => {
      const raw = new Raw(url, { path: "/forbidden", eio: "", transport: "" });
      await until(() => raw.refused, "the refusal");
      return [raw.refused.status, raw.refused.headers["x-why"], raw.refused.body];
    });
  });

  it("a cut is seen by the server", async (t) => {
    const p = await withSockets(t);
    const ws = new WebSocket(`${p.url.replace("http", "ws")}/other`);
    await once(ws, "message");
    ws.terminate();
    await until(() => p.app.other.closed.length === 1, "the server to see it", 2000);
    assert.equal(p.app.other.closed[0][0], 1006);
  });

  it("is not cut by a long silence, and the server's end ends it", async (t) => {
    const p = await withSockets(t);
    const ws = new WebSocket(`${p.url.replace("http", "ws")}/other`);
    await once(ws, "message");
    await sleep(1500);
    ws.send("still");
    const [data] = await once(ws, "message", 1000);
    assert.equal(data.toString(), "still");
    const closed = once(ws, "close");
    p.app.other.last.terminate();
    const [code] = await closed;
    assert.equal(code, 1006);
  });
});

describe("EIO=3 clients of a server with allowEIO3", parallel, () => {
  const transports = ["websocket", "polling", "default"];
  for (const server of LEGACY.concat("4.8.4")) {
    combos(`connect to socket.io ${server}, emit, ack, and reconnect`, { versions: ["2.5.0"], native: "legacy", transports }, async (t, how) => {
      const s = await stack(t, { native: "legacy", server, io: { allowEIO3: true } });
      const c = s.client(how.version, { ...how.options, query: { tenant: "t1" } });
      const { id } = await c.main.connected();
      if (how.transport === "default") await c.upgraded();
      const [{ query }] = s.app.connections;
      assert.equal(query.EIO, "3");
      assert.equal(query.tenant, "t1");
      s.app.stream("/", id, 1, 20, (i) => (i % 4 ? ["t"] : [Buffer.from([i]), { b: Buffer.alloc(2000, i) }]));
      await c.main.stream(1, 20);
      const [back, bin] = await c.main.ask("echo", "x", Buffer.from("abc"));
      assert.equal(back, "x");
      assert.equal(Buffer.from(bin).toString(), "abc");
      const seen = [];
      c.socket.on("plain", (...args) => seen.push(args));
      s.app.socket(id).emit("plain", 1, "two");
      await until(() => seen.length === 1, "an event");
      assert.deepEqual(seen, [[1, "two"]], "no offset");

      await s.hit(c);
      await until(() => s.app.disconnects.length === 1, "the server to see the drop", 3000);
      await until(() => c.main.connects.length >= 2 && c.socket.connected, "a fresh connection");
      assert.notEqual(c.main.id, id);
      assert.equal(await c.main.ask("echo", 1).then(([x]) => x), 1);
      c.socket.disconnect();
      await until(() => s.app.disconnects.length === 2, "the server to see the DISCONNECT", 3000);
    });
  }

  it("several namespaces, and clients of both kinds side by side", async (t) => {
    const s = await stack(t, { native: "legacy", io: { allowEIO3: true } });
    const old = s.client("2.5.0", { transports: ["websocket"] });
    const young = s.client("4.8.4", { transports: ["websocket"] });
    await old.main.connected();
    await young.main.connected();
    const admin = old.of("/admin");
    await admin.connected();
    assert.equal((await admin.ask("echo", "a"))[0], "a");
    for (let i = 1; i <= 10; i++) s.app.io.emit("n", i);
    await Promise.all([old.main.stream(1, 10), young.main.stream(1, 10)]);
  });

  it("refused where the server does not allow them, with the server's answer", async (t) => {
    const s = await stack(t, { native: "legacy" });
    const c = s.client("2.5.0", { transports: ["polling"] });
    await until(() => s.relay.history.length > 2, "attempts");
    assert.equal(c.main.connects.length, 0);
    const through = await request(`${s.direct}/socket.io/?EIO=3&transport=polling`);
    assert.deepEqual([through.status, through.body], [400, '{"code":5,"message":"Unsupported protocol version"}']);
  });
});

describe("another parser (msgpack)", parallel, () => {
  const parser = require("socket.io-msgpack-parser");
  for (const server of ["4.0.2", "4.5.4"]) {
    combos(`is relayed raw, to socket.io ${server}`, { native: "legacy" }, async (t, how) => {
      const s = await stack(t, { native: "legacy", server, io: { parser } });
      const c = s.client(how.version, { ...how.options, parser });
      const { id } = await c.main.connected();
      if (how.transport === "default") await c.upgraded();
      s.app.stream("/", id, 1, 50, (i) => (i % 3 ? ["t", i] : [Buffer.alloc(100, i), { d: new Date(0).toISOString() }]));
      await c.main.stream(1, 50);
      assert.deepEqual(c.main.events[0].length, 4, "no offset");
      const [back] = await c.main.ask("echo", { b: Buffer.from("bin"), n: null });
      assert.equal(Buffer.from(back.b).toString(), "bin");
      const admin = c.of("/admin");
      await admin.connected();
      assert.equal((await admin.ask("echo", 5))[0], 5);

      await s.hit(c);
      await until(() => s.app.disconnects.length === 2, "the server to see the drop", 3000);
      await c.main.connected(2);
      assert.equal(c.main.last.recovered, false);
      assert.notEqual(c.main.last.id, id);
      assert.equal((await c.main.ask("echo", 6))[0], 6);
    });
  }

  it("is logged once, and counted", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { io: { parser } });
    for (let i = 0; i < 3; i++) {
      const c = s.client("4.8.4", { parser, transports: ["websocket"] });
      await c.main.connected();
    }
    assert.equal((await s.hf.metrics()).sum("holdfast_raw_relays_total"), 3);
    await s.hf.says((r) => /parser/i.test(r.msg) && r.level !== "DEBUG");
    const lines = s.hf.records.filter((r) => /parser/i.test(r.msg) && r.level !== "DEBUG");
    assert.equal(lines.length, 1, JSON.stringify(lines));
  });
});

describe("a server that recovers by itself", parallel, () => {
  combos("does so through holdfast", { native: "legacy", transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { native: "legacy", server: "4.8.4", recovery: true });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 5);
    await c.main.stream(1, 5);
    for (const event of c.main.events) assert.equal(event.length, 3, "one offset, the server's");
    await s.lose(c);
    await until(() => s.app.disconnects.length === 1, "the server itself to see the drop", 3000);
    s.app.stream("/", id, 6, 9);
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 9);
    c.main.assertRecovered(1);
    if (s.hf) await s.hf.says((r) => /recover/i.test(r.msg) && r.level === "INFO");
    if (s.hf) assert.equal(s.hf.records.filter((r) => /recover/i.test(r.msg) && r.level === "INFO").length, 1, "logged once");
  });
});

describe("a plain Engine.IO server", parallel, () => {
  async function plain(t) {
    const { Server } = require("engine.io-6.2.1");
    const server = http.createServer(api);
    const engine = new Server({ pingInterval: 300, maxHttpBufferSize: 1e6 });
    engine.attach(server, { path: "/engine.io/" });
    engine.on("connection", (socket) => {
      socket.send("hi");
      socket.on("message", (m) => (m === "close" ? socket.close() : socket.send(m)));
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      engine.close();
      server.closeAllConnections();
      server.close();
    });
    const port = server.address().port;
    if (NATIVE) return { url: `http://127.0.0.1:${port}`, engine };
    const hf = await Holdfast.start(port, { engineio: { paths: ["/socket.io/", "/engine.io/"] } });
    t.after(() => hf.stop());
    return { url: hf.url, engine, hf };
  }
  const path = "/engine.io/";

  it("messages of text and binary, by WebSocket, in order", async (t) => {
    const { url, engine } = await plain(t);
    const raw = await Raw.open(url, { path });
    assert.equal(await raw.next(), "4hi");
    for (let i = 0; i < 200; i++) raw.send(i % 3 ? `4message ${i}` : Buffer.from([i & 255, 1, 2]));
    for (let i = 0; i < 200; i++) {
      const got = await raw.next();
      if (i % 3) assert.equal(got, `4message ${i}`);
      else assert.deepEqual(got, Buffer.from([i & 255, 1, 2]));
    }
    await sleep(800); // heartbeats
    assert.equal(raw.closed, null);
    raw.close();
    await until(() => engine.clientsCount === 0, "the server to see the end");
  });

  it("by polling, and over an upgrade", async (t) => {
    const { url } = await plain(t);
    const poll = await Polling.open(url, { path });
    const first = await poll.pollFor((p) => p === "4hi");
    assert.ok(first.includes("4hi"));
    await poll.post("4one\x1ebAQID\x1e4two");
    const packets = [];
    while (packets.filter((p) => p !== "2").length < 3) packets.push(...(await poll.poll()).body.split("\x1e"));
    assert.deepEqual(packets.filter((p) => p !== "2"), ["4one", "bAQID", "4two"]);
    const raw = await Raw.open(url, { path, sid: poll.sid });
    raw.send("2probe");
    assert.equal(await raw.next(), "3probe");
    raw.send("5", "4three");
    assert.equal(await raw.find((m) => m.startsWith("4")), "4three");
    raw.close();
  });

  it("all messages are its own, whether they look like Socket.IO or not", async (t) => {
    const { url } = await plain(t);
    const raw = await Raw.open(url, { path });
    assert.equal(await raw.next(), "4hi");
    for (const m of ["4", "4\u0000", "4[]", "4{", "49", "4-", "4ü"]) {
      raw.send(m);
      assert.equal(await raw.next(), m);
    }
    raw.close();
  });

  it("the server's close closes the client", async (t) => {
    const { url } = await plain(t);
    const raw = await Raw.open(url, { path });
    raw.send("4close");
    await raw.end();
  });

  it("Socket.IO at another path", async (t) => {
    const s = await stack(t, { native: "legacy", io: { path: "/chat/ws/" }, config: { engineio: { paths: ["/chat/ws/"] } } });
    const c = s.client("4.8.4", { path: "/chat/ws/" });
    await c.main.connected();
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    if (NATIVE) return;
    await c.upgraded();
    await s.hit(c);
    await c.main.connected(2);
    c.main.assertRecovered(1);
  });

  it("Socket.IO at a path that is not configured passes without recovery", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { io: { path: "/elsewhere/" } });
    const c = s.client("4.8.4", { path: "/elsewhere/" });
    await c.main.connected();
    await c.upgraded();
    assert.equal(c.socket._pid, undefined);
    await s.hit(c);
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    await never(() => c.main.errors.length > 0, "an error", 50);
  });
});
