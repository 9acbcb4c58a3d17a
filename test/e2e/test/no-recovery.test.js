// What must not recover. The client gets a fresh session and never an error, and the server learns
// what it would learn without holdfast.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw } from "../lib/raw.js";
import { ChildApp } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { SLOW, never, sleep, stopwatch, until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const noFallback = { skip: onlyHoldfast };

async function warm(t, how, options = {}) {
  const s = await stack(t, options);
  const c = s.client(how.version, { ...how.options, ...options.client });
  await c.main.connected();
  const id = c.main.id;
  if (how.transport === "default") await c.upgraded();
  s.app.stream("/", id, 1, 3);
  await c.main.stream(1, 3);
  return { s, c, id };
}

/** Cuts the client's path until up() is called, and waits until holdfast has noticed. */
async function gone(s, c) {
  await s.lose(c);
  if (s.hf) await until(async () => (await parked(s)) > 0, "the session to be parked");
}

const parked = async (s) => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" });

function assertFresh(c, times = 1) {
  const ids = c.main.connects.map((x) => x.id);
  assert.equal(c.main.connects.length, times + 1);
  assert.equal(new Set(ids).size, ids.length, "each session has an id of its own");
  assert.deepEqual(c.main.connects.map((x) => x.recovered), ids.map(() => false));
}

describe("a client that leaves", parallel, () => {
  combos("by disconnect() is gone immediately", { native: "legacy" }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { native: "legacy" });
    c.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the server to see it");
    assert.deepEqual(s.app.disconnects, [{ nsp: "/", id, reason: "client namespace disconnect" }]);
    c.socket.connect();
    await c.main.connected(2);
    assertFresh(c);
    const [visits] = await c.main.ask("visit");
    assert.equal(visits, 1);
  });

  it("by a close with 1001 is kept for going_away_duration only", noFallback, async (t) => {
    const s = await stack(t, { config: { recovery: { max_disconnection_duration: "60s", going_away_duration: "400ms" } } });
    const raw = await Raw.open(s.url);
    const { sid } = await raw.connect();
    const left = Date.now();
    raw.close(1001);
    await raw.end();
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    assert.ok(Date.now() - left >= 380, "not before its time");
    assert.equal(s.app.disconnects[0].id, sid);
  });

  it("by a close with 1001 may return in time", noFallback, async (t) => {
    const s = await stack(t, { config: { recovery: { going_away_duration: "5s" } } });
    const raw = await Raw.open(s.url);
    const { sid, pid } = await raw.connect();
    raw.close(1001);
    const again = await Raw.open(s.url);
    const reply = await again.connect({ pid });
    assert.deepEqual({ sid: reply.sid, pid: reply.pid }, { sid, pid });
    assert.equal(s.app.disconnects.length, 0);
    again.close();
  });

  it("by any other close code is kept", noFallback, async (t) => {
    const s = await stack(t, { config: { recovery: { going_away_duration: "100ms" } } });
    for (const code of [1000, 1005, 3000, undefined]) {
      const raw = await Raw.open(s.url);
      const { sid, pid } = await raw.connect();
      if (code === 1005) raw.ws.close();
      else raw.close(code);
      await raw.end();
      await sleep(400);
      const again = await Raw.open(s.url);
      assert.equal((await again.connect({ pid })).sid, sid, `after ${code}`);
      again.send("41");
      again.close();
    }
  });
});

describe("a server that disconnects its client", parallel, () => {
  combos("while it is there", { native: "legacy" }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { native: "legacy" });
    s.app.stream("/", id, 4, 9);
    s.app.socket(id).disconnect();
    assert.equal(await c.main.disconnected(), "io server disconnect");
    c.main.checkStream(1, 9);
    assert.deepEqual(s.app.disconnects.map((d) => d.reason), ["server namespace disconnect"]);
    c.socket.connect();
    await c.main.connected(2);
    assertFresh(c);
  });

  combos("with its connection", { native: "legacy", transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { native: "legacy" });
    s.app.stream("/", id, 4, 9);
    s.app.socket(id).disconnect(true);
    // Over WebSocket the server may close before its own DISCONNECT packet is out.
    const reason = await c.main.disconnected();
    assert.match(reason, /^(io server disconnect|transport close)$/);
    if (reason === "io server disconnect") c.socket.connect();
    await c.main.connected(2);
    assertFresh(c);
    assert.equal(s.app.disconnects[0].reason, "server namespace disconnect");
  });

  for (const close of [false, true]) {
    combos(`while it is away${close ? ", with its connection" : ""}`, { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
      const { s, c, id } = await warm(t, how);
      await gone(s, c);
      s.app.stream("/", id, 4, 5);
      s.app.socket(id).disconnect(close);
      assert.equal(s.app.disconnects.length, 1);
      await until(async () => (await parked(s)) === 0, "holdfast to read it");
      s.relay.up();
      await c.main.connected(2);
      assertFresh(c);
      const fresh = c.main.id;
      s.app.stream("/", fresh, 100, 102);
      await until(() => c.main.numbers.at(-1) === 102, "events of the new session");
      assert.deepEqual(c.main.numbers, [1, 2, 3, 100, 101, 102], "none of the old one's");
      assert.deepEqual(s.app.connections.map((x) => x.id), [id, fresh]);
    });
  }

  combos("one namespace while it is away, and the other recovers", { native: false, transports: ["websocket"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how);
    const admin = c.of("/admin");
    const { id: adminId } = await admin.connected();
    await gone(s, c);
    s.app.socket(adminId, "/admin").disconnect();
    s.app.stream("/", id, 4, 6);
    await until(async () => (await parked(s)) === 1, "holdfast to read it");
    s.relay.up();
    await c.main.connected(2);
    await admin.connected(2);
    await c.main.stream(1, 6);
    c.main.assertRecovered(1);
    assert.equal(admin.last.recovered, false);
    assert.notEqual(admin.last.id, adminId);
    const [visits] = await admin.ask("visit");
    assert.equal(visits, 1);
    assert.deepEqual(s.app.disconnects.map((d) => d.nsp), ["/admin"]);
  });
});

describe("a session that is given up", parallel, () => {
  combos("expires, and the server sees the transport close", { native: false }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { config: { recovery: { max_disconnection_duration: "600ms" } } });
    const since = Date.now();
    await s.lose(c);
    const elapsed = stopwatch();
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    assert.ok(Date.now() - since >= 590, `not before its time: after ${Date.now() - since} ms`);
    assert.ok(elapsed() < 3000, `in time: after ${elapsed()} ms`);
    assert.deepEqual(s.app.disconnects, [{ nsp: "/", id, reason: "transport close" }]);
    s.relay.up();
    await c.main.connected(2);
    assertFresh(c);
    const metrics = await s.hf.metrics();
    assert.equal(metrics.sum("holdfast_expirations_total"), 1);
  });

  combos("expires with all its namespaces", { native: false, transports: ["websocket"] }, async (t, how) => {
    const { s, c } = await warm(t, how, { config: { recovery: { max_disconnection_duration: "500ms" } } });
    const admin = c.of("/admin");
    await admin.connected();
    await s.lose(c);
    await until(() => s.app.disconnects.length === 2, "both to expire");
    assert.deepEqual(s.app.disconnects.map((d) => d.reason), ["transport close", "transport close"]);
  });

  combos("expires although holdfast learned of the drop only by silence", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how, {
      config: { engineio: { ping_interval: "300ms", ping_timeout: "2s" }, recovery: { max_disconnection_duration: "500ms" } },
    });
    s.relay.mode = "hole";
    s.relay.blackhole();
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    assert.equal(s.app.disconnects[0].id, id);
    s.relay.cut();
    s.relay.up();
    await until(() => c.socket.connected && c.main.id !== id, "a fresh connection");
    assert.equal(c.main.last.recovered, false);
  });

  it("gives way when too many are parked: the one parked longest", noFallback, async (t) => {
    const s = await stack(t, { config: { recovery: { max_parked_sessions: 2 } } });
    const raws = [];
    for (let i = 0; i < 4; i++) {
      const raw = await Raw.open(s.url);
      raws.push({ raw, ...(await raw.connect()) });
    }
    for (let i = 0; i < 4; i++) {
      raws[i].raw.close();
      await until(async () => (await parked(s)) === Math.min(i + 1, 2) && s.app.disconnects.length === Math.max(0, i - 1), `${i + 1} to be parked`);
    }
    assert.deepEqual(s.app.disconnects.map((d) => d.id), [raws[0].sid, raws[1].sid]);
    for (const [i, { pid, sid }] of raws.entries()) {
      const again = await Raw.open(s.url);
      const reply = await again.connect({ pid });
      assert.equal(reply.sid === sid, i >= 2, `session ${i}`);
      again.send("41");
      again.close();
    }
  });

  for (const [what, buffer, make] of [
    ["packets", { max_packets: 100 }, () => []],
    ["bytes", { max_bytes: "256KiB", window: "64KiB" }, () => ["z".repeat(8192)]],
  ]) {
    combos(`overflows its limit of ${what}`, { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
      const { s, c, id } = await warm(t, how, { config: { recovery: { buffer } } });
      await gone(s, c);
      for (let i = 4; i <= 200 && s.app.disconnects.length === 0; i++) {
        s.app.stream("/", id, i, i, make);
        if (i % 10 === 0) await sleep(2);
      }
      await until(() => s.app.disconnects.length === 1, "the server to see the session end");
      s.relay.up();
      await c.main.connected(2);
      assertFresh(c);
      assert.deepEqual(c.main.numbers, [1, 2, 3], "a gap is never passed off as a recovery");
    });
  }

  combos("within its limit of packets recovers", { native: false, transports: ["websocket"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { config: { recovery: { buffer: { max_packets: 100 } } } });
    await gone(s, c);
    s.app.stream("/", id, 4, 93);
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 93);
    c.main.assertRecovered(1);
  });
});

describe("recovery that is off", parallel, () => {
  combos("adds nothing and keeps nothing", { native: "legacy", transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { native: "legacy", config: { recovery: { max_disconnection_duration: "0" } } });
    assert.deepEqual(c.main.events, [["n", 1], ["n", 2], ["n", 3]], "no offset");
    assert.equal(c.socket._pid, undefined);
    await s.hit(c);
    await c.main.disconnected();
    await until(() => s.app.disconnects.length === 1, "the server to see the drop");
    assert.equal(s.app.disconnects[0].id, id);
    assert.match(s.app.disconnects[0].reason, /^transport (close|error)$/);
    await c.main.connected(2);
    assertFresh(c);
  });
});

describe("the server's death", { concurrency: 2 }, () => {
  combos("is told to the client within 2 s, which comes back fresh", { native: "legacy", timeout: 30000 }, async (t, how) => {
    const app = await ChildApp.start("4.5.4");
    let again;
    t.after(() => Promise.all([app.kill(), again?.kill()]));
    const s = await stack(t, { upstreamPort: app.port, native: "legacy" });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    const away = s.client(how.version, how.options);
    await away.main.connected();
    await app.kill();
    const elapsed = stopwatch();
    await c.main.disconnected(1, 2000);
    assert.ok(elapsed() < 2000 * SLOW, `told after ${elapsed()} ms`);
    await sleep(300);
    if (s.hf) assert.equal((await s.hf.admin("/healthz")).status, 200, "holdfast stays up");
    again = await ChildApp.start("4.5.4", { port: app.port });
    await c.main.connected(2, 15000);
    assert.equal(c.main.last.recovered, false);
    assert.notEqual(c.main.last.id, id);
    const [visits] = await c.main.ask("visit");
    assert.equal(visits, 1);
  });

  it("while the client is away", { skip: onlyHoldfast, timeout: 30000 * SLOW }, async (t) => {
    const app = await ChildApp.start("4.5.4");
    let again;
    t.after(() => Promise.all([app.kill(), again?.kill()]));
    const s = await stack(t, { upstreamPort: app.port });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    await gone(s, c);
    await app.kill();
    again = await ChildApp.start("4.5.4", { port: app.port });
    s.relay.up();
    await c.main.connected(2);
    assertFresh(c);
    assert.notEqual(c.main.last.id, id);
  });

  it("events sent just before it still arrive", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, {
      app: (io) =>
        io.on("connection", (socket) =>
          socket.on("die", () => {
            for (let i = 1; i <= 50; i++) socket.emit("n", i);
            setImmediate(() => socket.conn.close());
          }),
        ),
    });
    for (const transports of [["websocket"], ["polling"]]) {
      const c = s.client("4.8.4", { transports, reconnection: false });
      await c.main.connected();
      // A server that closes while its connection is being upgraded forgets what it has queued.
      await until(async () => (await s.hf.metrics()).sum("holdfast_links", { transport: "websocket" }) === 1, "the link's upgrade");
      c.socket.emit("die");
      await c.main.disconnected();
      c.main.checkStream(1, 50);
    }
  });
});

describe("a CONNECT that cannot resume", parallel, () => {
  const strange = {
    "an unknown pid": () => ({ pid: "YHcX2sdAF1z452-HAAAW", offset: "MzUPkW0" }),
    "an unknown pid without an offset": () => ({ pid: "nothing like it" }),
    "an empty pid": () => ({ pid: "", offset: "" }),
    "a garbage offset": (pid) => ({ pid, offset: "!!garbage \u0000 ü€😀" }),
    "an empty offset": (pid) => ({ pid, offset: "" }),
    "an offset of some application": (pid) => ({ pid, offset: "2024-01-01T00:00:00Z" }),
    "a number for an offset": (pid) => ({ pid, offset: 17 }),
    "an object for an offset": (pid) => ({ pid, offset: { a: [1] } }),
    "null for an offset": (pid) => ({ pid, offset: null }),
    "a number for a pid": () => ({ pid: 42, offset: "x" }),
    "an object for a pid": () => ({ pid: { a: 1 }, offset: [] }),
    "an array for a pid": (pid) => ({ pid: [pid], offset: "x" }),
    "null for a pid": () => ({ pid: null, offset: null }),
    "true for a pid": () => ({ pid: true }),
    "a very long pid": () => ({ pid: "p".repeat(100000), offset: "o".repeat(100000) }),
  };
  for (const [what, make] of Object.entries(strange)) {
    for (const kind of ["websocket", "polling"]) {
      it(`${what}, by ${kind}, gets a fresh session`, noFallback, async (t) => {
        const s = await stack(t);
        const first = await Raw.open(s.url);
        const { sid, pid } = await first.connect();
        s.app.emit("/", sid, "n", 1);
        assert.match(await first.next(), /^42\["n",1,"[^"]+"\]$/);
        first.close();
        await until(async () => (await parked(s)) === 1, "the session to be parked");

        const payload = make(pid);
        const raw = kind === "websocket" ? await Raw.open(s.url) : await Polling.open(s.url);
        if (typeof payload === "string") raw.connect = connectWith(raw, payload);
        const reply = await raw.connect(payload);
        assert.equal(reply.error, undefined);
        assert.equal(typeof reply.sid, "string");
        assert.equal(typeof reply.pid, "string");
        assert.notEqual(reply.sid, sid);
        assert.notEqual(reply.pid, pid);
        // The session works, and the server has seen one CONNECT.
        if (kind === "websocket") {
          raw.send('427["echo","x"]');
          assert.equal(await raw.find(/^43/), '437["x"]');
        } else {
          await raw.post('427["echo","x"]');
          assert.ok((await raw.pollFor((p) => p.startsWith("43"))).includes('437["x"]'));
        }
        assert.equal(s.app.connections.length, 2);
        assert.equal(s.app.connections[1].id, reply.sid);
        const known = s.app.disconnects.filter((d) => d.id === reply.sid);
        assert.deepEqual(known, []);
        if (raw.close) raw.close();
      });
    }
  }

  // Sends the CONNECT payload as given, byte for byte.
  function connectWith(raw, text) {
    return async () => {
      if (raw instanceof Raw) {
        raw.send("40" + text);
        return JSON.parse((await raw.find(/^40/)).slice(2));
      }
      await raw.post("40" + text);
      const packets = await raw.pollFor((p) => p.startsWith("40"));
      return JSON.parse(packets.find((p) => p.startsWith("40")).slice(2));
    };
  }

  it("an offset beyond what was sent", noFallback, async (t) => {
    const s = await stack(t);
    // Two sessions: the second one's offsets are further on. And one whose own offset is made
    // larger.
    const raw = await Raw.open(s.url);
    const { sid, pid } = await raw.connect();
    s.app.emit("/", sid, "n", 1);
    const [, offset] = /"([^"]+)"\]$/.exec(await raw.next());
    raw.close();
    await until(async () => (await parked(s)) === 1, "the session to be parked");
    // Whatever the format: change the last characters, which hold the number.
    for (const beyond of [offset + "zz", offset.slice(0, -1) + "zzz", offset + offset]) {
      const again = await Raw.open(s.url);
      const reply = await again.connect({ pid, offset: beyond });
      assert.equal(reply.error, undefined);
      assert.notEqual(reply.sid, sid, `offset ${beyond} after ${offset}`);
      again.close();
    }
  });

  it("a pid of another namespace", noFallback, async (t) => {
    const s = await stack(t);
    const raw = await Raw.open(s.url);
    const main = await raw.connect();
    const admin = await raw.connect(undefined, "/admin");
    assert.notEqual(main.pid, admin.pid);
    raw.close();
    await until(async () => (await parked(s)) === 2, "both to be parked");
    const again = await Raw.open(s.url);
    const reply = await again.connect({ pid: main.pid }, "/admin");
    assert.notEqual(reply.sid, admin.sid);
    assert.notEqual(reply.sid, main.sid);
    // Both sessions are still there for a client with the right pid.
    const right = await Raw.open(s.url);
    assert.equal((await right.connect({ pid: main.pid })).sid, main.sid);
    assert.equal((await right.connect({ pid: admin.pid }, "/admin")).sid, admin.sid);
    again.close();
    right.close();
  });

  it("a second CONNECT for a connected namespace closes the client", {}, async (t) => {
    const s = await stack(t, { native: "legacy" });
    const raw = await Raw.open(s.url);
    await raw.connect();
    raw.send("40");
    await raw.end();
    assert.equal(s.app.connections.length, 1);
  });

  it("the pid of a session that another, later client has taken over", noFallback, async (t) => {
    const s = await stack(t);
    const first = await Raw.open(s.url);
    const { sid, pid } = await first.connect();
    const second = await Raw.open(s.url);
    const third = await Raw.open(s.url);
    assert.equal((await third.connect({ pid })).sid, sid, "the latest handshake wins");
    await first.end();
    // The stale one, whose handshake is older than the owner's, is closed and takes nothing.
    second.send(`40${JSON.stringify({ pid })}`);
    await second.end();
    third.send('421["echo","mine"]');
    assert.equal(await third.find(/^43/), '431["mine"]');
    assert.equal(s.app.disconnects.length, 0);
    third.close();
  });

  combos("a real client with an unknown pid", { native: false }, async (t, how) => {
    const { s, c, id } = await warm(t, how);
    c.socket._pid = c.socket._pid.slice(0, -6) + "AAAAAA"; // of the right form, like one from yesterday
    await s.hit(c);
    await c.main.disconnected();
    await c.main.connected(2);
    assertFresh(c);
    s.app.stream("/", c.main.id, 4, 6);
    await until(() => c.main.numbers.at(-1) === 6, "new events");
    assert.notEqual(c.main.id, id);
    assert.equal(s.app.connections.length, 2);
    assert.ok(!("pid" in s.app.connections[1].auth) && !("offset" in s.app.connections[1].auth), "nothing leaks upstream");
  });
});

describe("holdfast's own end", { concurrency: 2 }, () => {
  it("a killed holdfast: the server sees its clients leave, and they get fresh sessions from a new one", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    await s.hf.kill();
    await c.main.disconnected();
    await until(() => s.app.disconnects.length === 1, "the server to see it");
    const next = await Holdfast.start(s.app.port, { listen: s.hf.config.listen });
    t.after(() => next.stop());
    await c.main.connected(2);
    assertFresh(c);
    c.close();
    await sleep(50);
    await s.app.stop();
  });

  it("nothing is parked for a client that never connected a namespace", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t);
    for (let i = 0; i < 5; i++) (await Raw.open(s.url)).close();
    await until(() => s.app.io.engine.clientsCount === 0, "the links to close");
    assert.equal(await parked(s), 0);
    await never(() => s.app.connections.length > 0, "a connection");
  });
});

