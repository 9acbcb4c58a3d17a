// upstream.handshake: lazy. A client that resumes costs the server nothing. For any other client
// the server still decides.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Raw, request } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { sleep, until } from "../lib/wait.js";

const require = createRequire(import.meta.url);
const skip = onlyHoldfast;
const parallel = { concurrency: 4, skip };
const config = { upstream: { handshake: "lazy" } };
const lazily = async (s) => (await s.hf.metrics()).sum("holdfast_lazy_handshakes_total");

describe("lazy handshakes", parallel, () => {
  combos("a client that resumes costs the server no connection", { native: false }, async (t, how) => {
    const s = await stack(t, { config, io: { cors: { origin: "http://page.test", credentials: true } } });
    const c = s.client(how.version, { ...how.options, extraHeaders: { origin: "http://page.test" } });
    const { id } = await c.main.connected();
    for (let drop = 1; drop <= 3; drop++) {
      if (how.transport === "default") await c.upgraded();
      await s.lose(c);
      s.app.stream("/", id, drop * 10 - 9, drop * 10);
      s.relay.up();
      await c.main.connected(drop + 1);
      await c.main.stream(1, drop * 10);
    }
    c.main.assertRecovered(3);
    assert.equal(s.app.engineConnections, 1, "connections to the server");
    assert.equal(await lazily(s), 3);
    assert.deepEqual(await c.main.ask("echo", 7), [7]);
    // A new namespace needs the server, and reaches it.
    const chat = c.of("/chat");
    await chat.connected();
    assert.equal(s.app.engineConnections, 2);
    assert.deepEqual(await chat.ask("echo", "there"), ["there"]);
  });

  combos("a fresh client connects, with its own query, headers and auth", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { config });
    const first = s.client(how.version, how.options);
    await first.main.connected();
    const c = s.client(how.version, { ...how.options, query: { room: "a b" }, extraHeaders: { authorization: "Bearer me" }, auth: { who: "me" } });
    c.socket.emit("up", 1, Buffer.from("x"));
    c.socket.emit("up", 2);
    const { id, recovered } = await c.main.connected();
    assert.equal(recovered, false);
    assert.equal(await lazily(s), 1);
    const { query, headers, auth } = s.app.connections.at(-1);
    assert.equal(query.room, "a b");
    assert.equal(headers.authorization, "Bearer me");
    assert.deepEqual(auth, { who: "me" });
    await until(() => s.app.receivedArgs("up").length === 2, "what it emitted before");
    assert.deepEqual(s.app.receivedArgs("up").map(([i]) => i), [1, 2]);
    s.app.stream("/", id, 1, 10);
    await c.main.stream(1, 10);
  });

  it("the browser is allowed what the server allows it", async (t) => {
    const s = await stack(t, { config, io: { cors: { origin: ["http://a.test", "http://b.test"], credentials: true } } });
    const handshake = (origin) => fetch(`${s.direct}/socket.io/?EIO=4&transport=polling`, { headers: { origin } });
    for (const origin of ["http://a.test", "http://b.test", "http://c.test"]) {
      const eager = await handshake(origin);
      const lazy = await handshake(origin);
      for (const name of ["access-control-allow-origin", "access-control-allow-credentials", "vary", "content-type"]) {
        assert.equal(lazy.headers.get(name), eager.headers.get(name), `${name} for ${origin}`);
      }
      const [open, same] = [await eager.text(), await lazy.text()].map((text) => JSON.parse(text.slice(1)));
      assert.notEqual(open.sid, same.sid);
      assert.deepEqual({ ...open, sid: "" }, { ...same, sid: "" });
    }
    assert.equal(await lazily(s), 3);
    assert.equal(s.app.engineConnections, 3);
  });

  it("a client that the server refuses is cut off, and no other client", async (t) => {
    const allowRequest = (req, done) => (req.headers.authorization === "Bearer bad" ? done("no", false) : done(null, true));
    const s = await stack(t, { config, io: { allowRequest } });
    const good = s.client("4.8.4", { transports: ["websocket"] });
    await good.main.connected();
    const bad = s.client("4.8.4", { transports: ["websocket"], extraHeaders: { authorization: "Bearer bad" } });
    await until(async () => (await lazily(s)) >= 2, "the refused client to come again");
    assert.equal(bad.main.connects.length, 0);
    assert.equal(s.app.connections.length, 1);
    assert.deepEqual(await good.main.ask("echo", 1), [1]);
    await s.lose(good);
    bad.close();
    s.relay.up();
    await good.main.connected(2);
    good.main.assertRecovered(1);
  });

  it("clients learn that a server is down", async (t) => {
    const s = await stack(t, { config, upstreamRelay: true });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    s.upRelay.down(); // connections end, and new ones are refused
    await c.main.disconnected();
    await until(async () => {
      const res = await fetch(`${s.direct}/socket.io/?EIO=4&transport=polling`);
      return res.status === 502 || res.status === 503;
    }, "an honest answer");
    s.upRelay.up();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.deepEqual(await c.main.ask("echo", 1), [1]);
  });

  it("other parsers, and what is not Socket.IO at all, reach the server", async (t) => {
    const parser = require("socket.io-msgpack-parser");
    const s = await stack(t, { config, io: { parser } });
    for (const transports of [["websocket"], ["websocket"], ["polling"], ["polling"], ["polling", "websocket"]]) {
      const c = s.client("4.8.4", { transports, parser });
      await c.main.connected();
      assert.deepEqual(await c.main.ask("echo", Buffer.from("b"), 1), [Buffer.from("b"), 1]);
    }
    assert.ok((await lazily(s)) >= 3);
    const raw = await Raw.open(s.direct);
    raw.send("4no Socket.IO");
    await raw.end(); // by the server, which judges it
  });
});

describe("a server whose allowRequest lets in one connection for each user", parallel, () => {
  const begin = async (t, handshake) => {
    const s = await stack(t, { config: { upstream: { handshake } }, io: { allowRequest: (req, fn) => fn(null, s.app.io.engine.clientsCount === 0) } });
    const c = s.client("4.8.4", { transports: ["polling"] });
    await c.main.connected();
    await s.lose(c);
    s.relay.up();
    return { s, c };
  };

  it("eager handshakes: the client is locked out by its own parked session", async (t) => {
    const { s, c } = await begin(t, "eager");
    const refused = await request(`${s.url}/socket.io/?EIO=4&transport=polling`);
    assert.equal(refused.status, 403);
    assert.equal(JSON.parse(refused.body).code, 4);
    await sleep(300);
    assert.equal(c.main.connects.length, 1, "it is not let in");
  });

  it("lazy handshakes: it resumes, and the server is not asked", async (t) => {
    const { c } = await begin(t, "lazy");
    await c.main.connected(2);
    c.main.assertRecovered(1);
  });
});
