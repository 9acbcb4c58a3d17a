// Flow control from end to end: a slow peer delays only its own traffic, and is not considered
// dead. FLOW_MB and FLOW_KBPS change the figures of the first test, for manual runs.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import net from "node:net";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { PythonApp, missing } from "../lib/python.js";
import { ChildApp } from "../lib/server.js";
import { Polling } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { HUNGER, resident } from "../lib/memory.js";
import { SLOW, sleep, stopwatch, until } from "../lib/wait.js";

const skip = onlyHoldfast;
const bytes = Number(process.env.FLOW_MB || 2) * 1e6;
const rate = Number(process.env.FLOW_KBPS || 200) * 1e3;
const slowdown = (bytes / rate) * 1000; // how long it takes, in ms
// Heartbeats that would end the connection several times over in that time.
const heartbeat = slowdown > 60000 ? { pingInterval: 25000, pingTimeout: 20000 } : { pingInterval: 1500, pingTimeout: 7000 };

/** A client that reads `rate` bytes a second, with small buffers in front of it. */
function slow(s, perSecond = rate) {
  s.relay.highWater = 16 * 1024;
  s.relay.throttle(perSecond, ["down"]);
}

/** Checks that no side considered another dead. */
async function nobodyTimedOut(s, c) {
  assert.deepEqual(c.main.disconnects, []);
  const m = await s.hf.metrics();
  assert.equal(m.sum("holdfast_heartbeat_timeouts_total"), 0);
}

/** Asks again and again until stopped; returns the round trips in ms, sorted. */
function probe(client, every = 20) {
  const trips = [];
  let stopped = false;
  const done = (async () => {
    while (!stopped) {
      const since = performance.now();
      await client.main.ask("echo", "x");
      trips.push(performance.now() - since);
      await sleep(every);
    }
  })();
  return async () => {
    stopped = true;
    await done;
    return trips.sort((a, b) => a - b);
  };
}

describe("flow control", { concurrency: 8, skip }, () => {
  describe("a client that reads slowly", { concurrency: 5, skip }, () => {
    combos("gets all, in order, and no other client notices", { versions: ["4.8.4"], transports: ["websocket", "polling"], timeout: slowdown * 3 + 60000 }, async (t, how) => {
      const app = await ChildApp.start("4.5.4", { io: heartbeat });
      const s = await stack(t, { upstreamPort: app.port });
      s.cleanups.unshift(() => app.stop());
      const c = s.client(how.version, how.options);
      const { id } = await c.main.connected();
      const other = s.client("4.8.4", { transports: ["websocket"] });
      other.manager.uri = s.direct; // past the relay
      await other.main.connected();
      const alone = probe(other); // a busy machine is as busy without the slow client
      await sleep(500);
      const control = await alone();
      slow(s);
      const before = await resident(s.hf.pid);
      let peak = before;
      const watch = setInterval(async () => (peak = Math.max(peak, await resident(s.hf.pid))), 200);
      const stop = probe(other);
      const since = Date.now();
      const last = await app.call("flood", "/", id, 1, bytes, 1000);
      await c.main.stream(1, last, { timeout: slowdown * 2 + 20000 });
      const took = Date.now() - since;
      clearInterval(watch);
      const trips = await stop();
      const [median, worst] = [trips[trips.length >> 1], trips.at(-1)];
      t.diagnostic(`${last} events of 1 kB in ${(took / 1000).toFixed(1)} s; another's echo: median ${median.toFixed(1)} ms, worst ${worst.toFixed(1)} ms of ${trips.length}; RSS ${(before / 1e6).toFixed(1)} MB, at most ${(peak / 1e6).toFixed(1)} MB`);
      assert.ok(took > slowdown * 0.6, `it was not slow: ${took} ms`);
      const usual = control[control.length >> 1];
      assert.ok(median < 100 * SLOW + 3 * usual, `another client's median is ${median} ms, and ${usual} ms without the slow one`);
      assert.ok(peak - before < 24e6 * HUNGER, `RSS grew from ${before} to ${peak}`);
      await nobodyTimedOut(s, c);
      assert.deepEqual(other.main.disconnects, []);
      assert.deepEqual(await app.call("disconnects"), []);
    });

    for (const kind of ["wsgi", "asgi"]) {
      const transports = kind === "wsgi" ? ["polling"] : ["websocket"];
      combos(`python-socketio (${kind}): its ping rate afterwards is what it was`, { versions: ["4.8.4"], transports, skip: skip || missing(kind), timeout: 90000 }, async (t, how) => {
        const app = await PythonApp.start(kind, { pingInterval: 1, pingTimeout: 6 });
        const s = await stack(t, { upstreamPort: app.port });
        s.cleanups.unshift(() => app.stop());
        const c = s.client(how.version, how.options);
        const { id } = await c.main.connected();
        slow(s);
        // Enough to take several of its heartbeats.
        await app.control("flood", id, 1500, 1000);
        await until(async () => (await s.hf.metrics()).sum("holdfast_link_pauses_total") > 0, "the link to be paused");
        await c.main.stream(1, 1500, { timeout: 60000 });
        const rate = await pingRate(() => app.pings());
        assert.ok(rate > 0.5 && rate < 1.6, `${rate} pings a second, want 1`);
        await nobodyTimedOut(s, c);
        assert.deepEqual((await app.log()).disconnects, []);
      });
    }

    combos("socket.io: its ping rate afterwards is what it was", { versions: ["4.8.4"], transports: ["websocket"], timeout: 90000 }, async (t, how) => {
      const s = await stack(t, { io: { pingInterval: 1000, pingTimeout: 6000 } });
      const c = s.client(how.version, how.options);
      const { id } = await c.main.connected();
      slow(s);
      const last = s.app.flood("/", id, 1, 1.8e6, 1000);
      await until(async () => (await s.hf.metrics()).sum("holdfast_link_pauses_total") > 0, "the link to be paused");
      await c.main.stream(1, last, { timeout: 60000 });
      const rate = await pingRate(() => s.app.pings);
      assert.ok(rate > 0.5 && rate < 1.6, `${rate} pings a second, want 1`);
      await nobodyTimedOut(s, c);
      assert.deepEqual(s.app.disconnects, []);
    });

    /** Pings a second, over some seconds. */
    async function pingRate(count) {
      const [from, elapsed] = [await count(), stopwatch()];
      while (elapsed() < 5000) await sleep(50);
      return ((await count()) - from) / (elapsed() / 1000);
    }
  });

  it("a polling client that stops reading in the middle of an answer is given up", { skip, timeout: 90_000 * SLOW }, async (t) => {
    const s = await stack(t);
    const p = await Polling.open(s.direct);
    const { sid } = await p.connect();
    s.app.socket(sid).emit("big", "x".repeat(20e6)); // more than the kernel's buffers hold
    const url = new URL(p.at());
    const socket = net.connect(url.port, url.hostname, () => socket.write(`GET ${url.pathname}${url.search} HTTP/1.1\r\nHost: x\r\n\r\n`));
    t.after(() => socket.destroy());
    await new Promise((resolve) => socket.once("data", resolve));
    socket.pause();
    await until(() => s.hf.log.includes("polling answer not taken"), "holdfast to give the answer up", 60_000);
    let rest = 0;
    socket.on("data", (d) => (rest += d.length)).on("error", () => {});
    socket.resume();
    await until(() => socket.closed || socket.readableEnded, "the connection to end");
    assert.ok(rest < 20e6, `${rest} bytes came all the same`);
  });

  describe("a server that reads nothing", { concurrency: 2, skip }, () => {
    combos("bounds what is held, and its clients are not parked", { versions: ["4.8.4"], transports: ["websocket", "polling"], timeout: 120000 }, async (t, how) => {
      // holdfast's own heartbeat is short, so it would close its clients several times over.
      const s = await stack(t, { upstreamRelay: true, config: { engineio: { ping_interval: "1s", ping_timeout: "5s" } } });
      const c = s.client(how.version, how.options);
      await c.main.connected();
      await until(() => s.upRelay.list((x) => x.websocket).length === 1, "the link's upgrade");
      const before = await resident(s.hf.pid);
      s.upRelay.blackhole({ down: false });
      const filler = "z".repeat(100_000);
      for (let i = 0; i < 150; i++) c.socket.emit("up", i, filler);
      let peak = 0;
      for (const end = Date.now() + 8000; Date.now() < end; await sleep(100)) peak = Math.max(peak, await resident(s.hf.pid));
      t.diagnostic(`15 MB on their way to a server that takes nothing: RSS ${(before / 1e6).toFixed(1)} MB, at most ${(peak / 1e6).toFixed(1)} MB`);
      assert.ok(peak - before < 16e6 * HUNGER, `RSS grew from ${before} to ${peak}`);
      assert.deepEqual(c.main.disconnects, []);
      s.upRelay.heal();
      await until(() => s.app.receivedArgs("up").length === 150, () => `all to arrive, have ${s.app.receivedArgs("up").length}`, 15000);
      assert.deepEqual(s.app.receivedArgs("up").map(([i]) => i), Array.from({ length: 150 }, (_, i) => i));
      assert.deepEqual(c.main.disconnects, []);
      assert.equal((await s.hf.metrics()).sum("holdfast_parkings_total"), 0);
    });
  });

  describe("a budget that is short", { concurrency: 2, skip }, () => {
    it("parked sessions give way, the one parked longest first; a live client loses nothing", { timeout: 60000 * SLOW }, async (t) => {
      const s = await stack(t, { config: { recovery: { buffer: { total_bytes: "1MiB", window: "256KiB", max_bytes: "4MiB" } } } });
      const make = () => s.client("4.8.4", { transports: ["websocket"], reconnection: false });
      const [oldest, newest, live] = [make(), make(), make()];
      for (const c of [oldest, newest, live]) await c.main.connected();
      const [oldId, newId] = [oldest, newest].map((c) => c.main.id);
      for (const [i, c] of [oldest, newest].entries()) {
        c.manager.engine.close();
        await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === i + 1, "the session to be parked");
      }
      // The live one cannot confirm. It holds its share, and must not lose it.
      s.relay.blackhole();
      s.app.flood("/", live.main.id, 1, 100_000, 1000);
      // Equal packets of parked sessions are kept once: these are not.
      s.app.flood("/", oldId, 1, 300_000, 1001);
      s.app.flood("/", newId, 1, 300_000, 1002);
      await until(async () => (await s.hf.metrics()).sum("holdfast_buffered_bytes") > 650_000, "the packets to be kept");
      s.app.flood("/", newId, 1001, 500_000, 1003);
      await until(async () => (await s.hf.metrics()).sum("holdfast_evictions_total") > 0, "a session to give way");
      await until(() => s.app.disconnects.length > 0, "the server to be told");
      assert.equal(s.app.disconnects[0].id, oldId, "the one parked longest is the first");
      await s.hf.says((r) => r.msg === "session closed" && r.reason === "evicted" && r.was === "parked");
      const m = await s.hf.metrics();
      assert.ok(m.sum("holdfast_buffered_bytes") <= m.sum("holdfast_buffer_budget_bytes") * 1.1, "the budget is kept");
      s.relay.heal();
      await live.main.stream(1, 100);
      assert.deepEqual(live.main.disconnects, []);
      assert.ok(!s.app.disconnects.some((d) => d.id === live.main.id));
    });
  });
});
