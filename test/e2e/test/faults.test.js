// Failures of the network on either side, of the server, of the machine and of holdfast, and what a
// client may expect then.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { openSync, closeSync } from "node:fs";
import net from "node:net";
import { Client } from "../lib/client.js";
import { combos } from "../lib/combos.js";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { descriptors } from "../lib/memory.js";
import { Polling, Raw, request } from "../lib/raw.js";
import { ChildApp } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { SLOW, never, sleep, until, within } from "../lib/wait.js";

const skip = onlyHoldfast;
const parallel = { concurrency: 3, skip };
const both = { transports: ["websocket", "polling"], native: false };
const one = { ...both, versions: ["4.8.4"] };

/** A connected client that has had the events 1..3. */
async function warm(t, how, options = {}) {
  const s = await stack(t, options);
  const c = s.client(how.version, { ...how.options, ...options.client });
  await c.main.connected();
  const id = c.main.id;
  s.app.stream("/", id, 1, 3);
  await c.main.stream(1, 3);
  return { s, c, id, before: s.app.footprint() };
}

async function recovered(s, c, before, last) {
  await c.main.stream(1, last);
  c.main.assertRecovered();
  assert.deepEqual(s.app.footprint(), before, "the server must not notice");
  assert.deepEqual(await c.main.ask("echo", "still here"), ["still here"]);
}

/** The client learns of it, and comes back to a fresh session that works. */
async function fresh(c) {
  assert.notEqual(await c.main.disconnected(1), "io server disconnect", "that would end its reconnection");
  await c.main.connected(2, 15000);
  assert.equal(c.main.last.recovered, false);
  assert.notEqual(c.main.last.id, c.main.connects[0].id);
  assert.deepEqual(await c.main.ask("echo", "again"), ["again"]);
}

/** Works over a slow network, and recovers. */
async function worksSlowly(s, how) {
  const c = s.client(how.version, { ...how.options, timeout: 30000 });
  const { id } = await c.main.connected(1, 25000);
  s.app.stream("/", id, 1, 20);
  await c.main.stream(1, 20);
  const before = s.app.footprint();
  await s.hit(c);
  s.app.stream("/", id, 21, 30);
  c.socket.emit("up", "sent while away");
  await c.main.connected(2, 25000);
  await c.main.stream(1, 30);
  c.main.assertRecovered();
  await until(() => s.app.receivedArgs("up").length === 1, "what the client sent", 15000);
  assert.deepEqual(s.app.footprint(), before);
}

describe("faults", { concurrency: 8, skip }, () => {
  describe("2 s each way: works, and recovers", { concurrency: 3, skip }, () => {
    combos("between client and holdfast", { ...one, timeout: 90000 }, async (t, how) => {
      const s = await stack(t);
      s.relay.delay(2000);
      await worksSlowly(s, how);
    });

    combos("between holdfast and the server", { ...one, transports: ["websocket"], timeout: 90000 }, async (t, how) => {
      const s = await stack(t, { upstreamRelay: true, config: { upstream: { handshake_timeout: "30s" } } });
      s.upRelay.delay(2000);
      await worksSlowly(s, how);
    });
  });

  describe("between client and holdfast", parallel, () => {
    const quick = { config: { engineio: { ping_interval: "300ms", ping_timeout: "2500ms" } } };
    for (const [way, holes] of [
      ["from the client", { up: true, down: false }],
      ["to the client", { up: false, down: true }],
    ]) {
      combos(`all that goes ${way} is swallowed: recovers`, one, async (t, how) => {
        const { s, c, id, before } = await warm(t, how, quick);
        s.relay.holes = holes;
        s.relay.mode = "hole";
        s.relay.blackhole(holes);
        s.app.stream("/", id, 4, 9);
        await until(async () => (await s.hf.metrics()).sum("holdfast_parkings_total") >= 1, "the session to be parked");
        s.app.stream("/", id, 10, 12);
        s.relay.mode = "pass";
        s.relay.cut();
        await c.main.connected(2);
        await recovered(s, c, before, 12);
      });
    }

    for (const towards of ["server", "client"]) {
      combos(`a half-close towards ${towards === "server" ? "holdfast" : "the client"}: recovers`, one, async (t, how) => {
        const { s, c, id, before } = await warm(t, how);
        const waits = (conn) => conn.websocket || (/^GET/.test(conn.request) && conn.down.passed === 0);
        await until(() => s.relay.list(waits).length > 0, "a poll to wait");
        s.relay.halfClose(waits, towards);
        await c.main.disconnected();
        s.app.stream("/", id, 4, 9);
        await c.main.connected(2);
        await recovered(s, c, before, 9);
      });
    }
  });

  describe("between holdfast and the server", parallel, () => {
    const quick = { upstreamRelay: true, io: { pingInterval: 400, pingTimeout: 3600 } };
    for (const [way, holes] of [
      ["to the server", { up: true, down: false }],
      ["from the server", { up: false, down: true }],
    ]) {
      combos(`all that goes ${way} is swallowed: the client is told, and comes back fresh`, one, async (t, how) => {
        const { s, c } = await warm(t, how, quick);
        await until(() => s.upRelay.list((x) => x.websocket).length === 1, "the link's upgrade");
        s.upRelay.blackhole(holes);
        await fresh(c);
      });
    }

    combos("reset: the client is told, and comes back fresh", one, async (t, how) => {
      const { s, c } = await warm(t, how, { upstreamRelay: true });
      s.upRelay.reset();
      await fresh(c);
    });

    for (const towards of ["server", "client"]) {
      combos(`a half-close towards ${towards === "server" ? "the server" : "holdfast"}: the client is told, and comes back fresh`, one, async (t, how) => {
        const { s, c } = await warm(t, how, { upstreamRelay: true });
        await until(() => s.upRelay.list((x) => x.websocket).length === 1, "the link's upgrade");
        s.upRelay.halfClose(undefined, towards);
        await fresh(c);
      });
    }
  });

  describe("two connections race for one pid", parallel, () => {
    const open = { websocket: (url) => Raw.open(url), polling: (url) => Polling.open(url) };
    const claim = {
      websocket: (conn, pid) => conn.send(`40${JSON.stringify({ pid })}`),
      // Its end may come first.
      polling: (conn, pid) => conn.post(`40${JSON.stringify({ pid })}`).catch(() => {}),
    };
    const gone = {
      websocket: (conn) => conn.end(6000),
      polling: (conn) => until(async () => (await conn.poll().catch(() => ({ status: 400 }))).status !== 200, "the stale one's end", 6000),
    };
    const replies = {
      websocket: async (conn) => JSON.parse((await conn.find(/^40/)).slice(2)),
      polling: async (conn) => JSON.parse((await conn.pollFor((p) => p.startsWith("40"))).find((p) => p.startsWith("40")).slice(2)),
    };
    for (const older of ["websocket", "polling"]) {
      for (const newer of ["websocket", "polling"]) {
        it(`the later handshake wins, in whatever order they ask: ${older}, then ${newer}`, async (t) => {
          const s = await stack(t);
          const first = await Raw.open(s.direct);
          const { sid, pid } = await first.connect();
          first.close();
          for (const order of ["older first", "newer first", "together"]) {
            const [a, b] = [await open[older](s.direct), await open[newer](s.direct)];
            if (order === "older first") {
              await claim[older](a, pid);
              await replies[older](a);
            }
            const asked = claim[newer](b, pid);
            if (order === "together") claim[older](a, pid);
            await asked;
            const reply = await replies[newer](b);
            assert.deepEqual([reply.sid, reply.pid], [sid, pid], order);
            if (order === "newer first") claim[older](a, pid);
            await gone[older](a);
            b.close?.();
          }
          // There is only one session, and the server has noticed nothing.
          assert.deepEqual(s.app.footprint(), { connections: 1, disconnects: 0, middleware: 1 });
          assert.equal((await s.hf.metrics()).sum("holdfast_sessions"), 1);
        });
      }
    }
  });

  describe("requests that a browser or proxy repeats on a new connection", parallel, () => {
    it("a poll that waits: the new one gets what comes, once", async (t) => {
      const s = await stack(t);
      const p = await Polling.open(s.direct);
      const { sid } = await p.connect();
      const poll = () => request(`${p.base}?EIO=4&transport=polling&sid=${p.sid}&t=same.1`);
      const old = poll();
      for (let i = 0; i < 2; i++) await request(`${s.direct}/later`); // what was sent earlier has arrived: it waits
      const repeated = poll();
      assert.equal((await old).body, "6", "the old connection has no client at its other end");
      s.app.stream("/", sid, 1, 3);
      const seen = (await repeated).body.split("\x1e");
      // The answer of that one gets lost as well, and the next gets the same again.
      const again = (await poll()).body.split("\x1e");
      assert.deepEqual(again, seen);
      s.app.stream("/", sid, 4, 4);
      const rest = await p.pollFor((x) => x.startsWith('42["n",4'));
      const numbers = [...seen, ...rest].filter((x) => x.startsWith("42")).map((x) => JSON.parse(x.slice(2))[1]);
      assert.deepEqual(numbers, [1, 2, 3, 4]);
    });

    it("a POST: its packets are handled once", async (t) => {
      const s = await stack(t);
      const p = await Polling.open(s.direct);
      await p.connect();
      for (let i = 0; i < 2; i++) {
        const url = `${p.base}?EIO=4&transport=polling&sid=${p.sid}&t=same.2`;
        const res = await request(url, { method: "POST", headers: { "content-type": "text/plain;charset=UTF-8" }, body: '42["up",1]' });
        assert.equal(res.body, "ok");
      }
      await p.post('42["up",2]');
      await until(() => s.app.receivedArgs("up").length >= 2, "the events");
      assert.deepEqual(s.app.receivedArgs("up"), [[1], [2]]);
    });
  });

  describe("a server that is stopped for a short time (SIGSTOP)", parallel, () => {
    combos("heartbeats survive, and nothing is lost", { transports: ["websocket", "polling", "default"], native: false }, async (t, how) => {
      const app = await ChildApp.start("4.5.4", { io: { pingInterval: 500, pingTimeout: 8000 } });
      t.after(async () => {
        app.signal("SIGCONT");
        await app.kill();
      });
      const s = await stack(t, { upstreamPort: app.port });
      const [c, away] = [s.client(how.version, how.options), s.client(how.version, how.options)];
      for (const x of [c, away]) await x.main.connected();
      if (how.transport === "default") for (const x of [c, away]) await x.upgraded();
      const ids = [c.main.id, away.main.id];
      for (const id of ids) await app.call("stream", "/", id, 1, 3);
      for (const x of [c, away]) await x.main.stream(1, 3);
      away.manager.engine.close(); // it is on its way back meanwhile
      app.signal("SIGSTOP");
      for (let i = 1; i <= 20; i++) c.socket.emit("up", i);
      await sleep(1500);
      app.signal("SIGCONT");
      for (const id of ids) await app.call("stream", "/", id, 4, 20);
      for (const x of [c, away]) await x.main.stream(1, 20);
      assert.deepEqual(c.main.disconnects, []);
      away.main.assertRecovered(1);
      await until(async () => (await app.call("receivedArgs", "up")).length === 20, "what the client sent");
      assert.deepEqual(await app.call("receivedArgs", "up"), Array.from({ length: 20 }, (_, i) => [i + 1]));
      assert.deepEqual(await app.call("disconnects"), []);
    });
  });

  describe("exhausted resources", parallel, () => {
    it("out of file descriptors: sessions continue, handshakes are refused, and all works once there are some again", { timeout: 60000 * SLOW }, async (t) => {
      const s = await stack(t, { holdfast: { openFiles: 60 } });
      const c = s.client("4.8.4", { transports: ["websocket"] });
      const { id } = await c.main.connected();
      // These connections are accepted while that is still possible, and send their request when it
      // is not.
      const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
      const late = [];
      for (const [transport, headers] of [["polling", ""], ["websocket", upgrade]]) {
        const l = { socket: net.connect(s.hf.port, "127.0.0.1"), answer: "" };
        l.socket.on("data", (d) => (l.answer += d)).on("error", () => {});
        await until(() => !l.socket.connecting, "a connection");
        l.request = `GET /socket.io/?EIO=4&transport=${transport} HTTP/1.1\r\nHost: app\r\n${headers}\r\n`;
        late.push(l);
      }
      const hogs = [];
      t.after(() => [...late.map((l) => l.socket), ...hogs].forEach((h) => h.destroy()));
      for (let i = 0; i < 100; i++) hogs.push(net.connect(s.hf.port, "127.0.0.1").on("error", () => {}));
      await until(() => /out of file descriptors/.test(s.hf.log), "the log to say so");
      for (const l of late) {
        l.socket.write(l.request);
        await until(() => /file descriptors"}/.test(l.answer), () => `a refusal that says why: ${l.answer}`);
        assert.match(l.answer, /^HTTP\/1.1 503 /);
        assert.match(l.answer, /\r\nRetry-After: 1\r\n/i);
      }
      // Existing clients notice nothing.
      s.app.stream("/", id, 1, 50);
      await c.main.stream(1, 50);
      assert.deepEqual(await c.main.ask("echo", 1), [1]);
      await sleep(1500); // it tries to accept again and again
      for (const h of hogs) h.destroy();
      const next = s.client("4.8.4", { transports: ["polling", "websocket"] });
      await next.main.connected(1, 10000);
      assert.deepEqual(await next.main.ask("echo", 2), [2]);
      assert.deepEqual(c.main.disconnects, []);
      const lines = s.hf.records.filter((r) => /out of file descriptors/.test(r.msg));
      assert.ok(lines.length <= 3, `${lines.length} lines about it`);
      await until(async () => (await descriptors(s.hf.pid)) < 40, "the descriptors to be given back");
    });

    for (const [what, surroundings] of [
      ["on a full disk", () => ({ stderr: openSync("/dev/full", "w") })],
      ["into a pipe that is not read", () => ({ stderr: "unread" })],
    ]) {
      it(`a log ${what}: holdfast keeps serving`, { timeout: 60000 * SLOW }, async (t) => {
        const options = surroundings();
        const s = await stack(t, { holdfast: options });
        if (Number.isInteger(options.stderr)) closeSync(options.stderr);
        const c = s.client("4.8.4", { transports: ["websocket"] });
        const { id } = await c.main.connected();
        // More lines than fit into a pipe.
        for (let k = 0; k < 10; k++) await Promise.all(Array.from({ length: 40 }, async () => (await Raw.open(s.direct).catch(() => {}))?.close())); // a busy machine refuses some
        const trip = async (client) => {
          const trips = [];
          for (let i = 0; i < 20; i++) {
            const since = performance.now();
            await client.main.ask("echo", i);
            trips.push(performance.now() - since);
          }
          return trips.sort((a, b) => a - b)[10];
        };
        const straight = new Client("4.8.4", s.app.url, { transports: ["websocket"] }); // how busy the machine is
        t.after(() => straight.close());
        await straight.main.connected();
        const [without, through] = [await trip(straight), await trip(c)];
        assert.ok(through < 100 * SLOW + 3 * without, `an echo takes ${through} ms, and ${without} ms without holdfast`);
        await s.hit(c);
        s.app.stream("/", id, 1, 20);
        await c.main.connected(2);
        await c.main.stream(1, 20);
        c.main.assertRecovered(1);
      });
    }
  });

  describe("holdfast's own end", parallel, () => {
    const kinds = [["websocket"], ["polling"], ["polling", "websocket"]];

    for (const [how, end] of [
      ["disconnect()", (socket) => socket.disconnect(true)],
      ["closing the connection", (socket) => socket.conn.close()],
    ]) {
      it(`a drain with traffic: healthy clients get all that the server sent before it ended them by ${how}`, { timeout: 40000 * SLOW }, async (t) => {
        const s = await stack(t, { config: { shutdown: { drain_timeout: "30s" } } });
        const clients = kinds.flatMap((transports) => ["4.6.2", "4.8.4"].map((v) => s.client(v, { transports, reconnection: false })));
        for (const c of clients) await c.main.connected();
        // A server that ends a connection while that is being upgraded forgets what it has queued.
        await until(async () => (await s.hf.metrics()).sum("holdfast_links", { transport: "websocket" }) === clients.length, "the links' upgrades");
        const tickers = clients.map((c) => s.app.ticker("/", c.main.id, { every: 2, burst: 3, make: (i) => (i % 5 ? ["x".repeat(i % 700)] : [Buffer.alloc(i % 900)]) }));
        const flows = (n) => until(() => clients.every((c) => c.main.numbers.length > n), "traffic", 20000);
        await flows(50);
        s.hf.signal("SIGTERM");
        await until(async () => (await s.hf.admin("/readyz")).status !== 200, "the drain to begin");
        await flows(Math.max(...clients.map((c) => c.main.numbers.length)) + 50);
        const lasts = clients.map((c, i) => {
          const socket = s.app.socket(c.main.id);
          const last = tickers[i].stop();
          setImmediate(end, socket);
          return last;
        });
        for (const c of clients) await c.main.disconnected(1, 10000);
        for (const [i, c] of clients.entries()) c.main.checkStream(1, lasts[i]);
        assert.deepEqual(await within(s.hf.exited, "the exit", 10000), { code: 0, signal: null });
      });
    }

    it("killed (SIGKILL) and started again: clients come back fresh within their back-off, and no state is wrong", { timeout: 60000 * SLOW }, async (t) => {
      const s = await stack(t);
      const clients = kinds.flatMap((transports) => ["4.6.2", "4.8.4"].map((v) => s.client(v, { transports, auth: { token: "t" } })));
      const admins = clients.map((c) => c.of("/admin"));
      for (const n of [...clients.map((c) => c.main), ...admins]) await n.connected();
      const tickers = clients.map((c) => s.app.ticker("/", c.main.id, { every: 5 }));
      await sleep(200);
      // Questions in both directions that will never be answered.
      for (const c of clients) s.app.socket(c.main.id).emit("question", 1, () => assert.fail("answered"));
      await s.hf.kill();
      for (const ticker of tickers) ticker.stop();
      for (const c of clients) await c.main.disconnected(1);
      const next = await Holdfast.start(s.app.port, { listen: s.hf.config.listen });
      t.after(() => next.stop());
      const since = Date.now();
      for (const n of [...clients.map((c) => c.main), ...admins]) {
        await n.connected(2, 10000);
        assert.equal(n.last.recovered, false);
        assert.notEqual(n.last.id, n.connects[0].id);
        assert.deepEqual(n.errors.filter((e) => !/xhr|websocket|timeout/.test(String(e))), []);
      }
      t.diagnostic(`all back ${Date.now() - since} ms after the start`);
      for (const c of clients) {
        c.main.numbers.length = 0;
        s.app.stream("/", c.main.id, 1, 20, (i) => [Buffer.alloc(i)]);
        await c.main.stream(1, 20);
        c.socket.on("question", (x, answer) => answer(x + 1));
        const answers = [];
        s.app.socket(c.main.id).emit("question", 41, (x) => answers.push(x));
        await until(() => answers[0] === 42, "the answer");
        assert.deepEqual(await c.main.ask("visit"), [1, ["everyone", c.main.id].sort((a, b) => (a < b ? -1 : 1))]);
      }
      for (const n of admins) assert.deepEqual(await n.ask("echo", "x"), ["x"]);
      // The server has seen each client leave, and come back as a new one, with only its own auth.
      await until(() => s.app.disconnects.length === 2 * clients.length, "the server to have seen all leave");
      assert.equal(s.app.connections.length, 4 * clients.length);
      for (const { nsp, auth } of s.app.connections) assert.deepEqual(auth, nsp === "/" ? { token: "t" } : {}, nsp);
      await never(() => s.app.connections.length > 4 * clients.length, "one more");
      for (const c of clients) c.close();
      await until(() => s.app.io.engine.clientsCount === 0, "the links to close");
    });
  });
});
