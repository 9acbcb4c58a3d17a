// Several replicas, for longer than the other tests: `make long`.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { Client, CLIENTS, TRANSPORTS } from "../lib/client.js";
import { App } from "../lib/server.js";
import { Switch } from "../lib/balancer.js";
import { Raw } from "../lib/raw.js";
import { Relay } from "../lib/relay.js";
import { Random } from "../soak/random.js";
import { allUp, relayed, replicas, replicasApart, total } from "../lib/replicas.js";
import { sleep, SLOW, until } from "../lib/wait.js";

const WebSocket = createRequire(import.meta.url)("ws");
const skip = onlyHoldfast || (process.env.HOLDFAST_LONG === "1" ? false : "only with HOLDFAST_LONG=1");
const SEED = Number(process.env.SEED || Math.floor(Math.random() * 1e6));

async function app(t, io = {}) {
  const a = await App.start("4.5.4", { io });
  t.after(() => a.stop());
  return a;
}

describe(`several replicas, for long (SEED=${SEED})`, { skip }, () => {
  it("20 random partitions under load: every event of a session once and in order, and nothing is left behind", { timeout: 300000 * SLOW }, async (t) => {
    const random = new Random(SEED, "partitions");
    const a = await app(t, { pingInterval: 1000, pingTimeout: 3000 });
    // A client that is cut before it knows its fresh session leaves that behind, until it expires.
    const list = await replicasApart(t, 3, () => a.port, { config: { recovery: { max_disconnection_duration: "15s" } } });
    const fronts = [];
    const clients = [];
    for (let k = 0; k < 18; k++) {
      const front = await Relay.start(0);
      Object.defineProperty(front, "target", { get: () => ({ host: "127.0.0.1", port: list[random.int(0, 2)].port }) });
      t.after(() => front.stop());
      fronts.push(front);
      const c = new Client(CLIENTS[k % 2], front.url, { transports: Object.values(TRANSPORTS)[k % 3] });
      t.after(() => c.close());
      clients.push(c);
      c.byId = new Map(); // numbers of each session
      c.socket.on("own", (i) => {
        if (!c.byId.has(c.socket.id)) c.byId.set(c.socket.id, []);
        c.byId.get(c.socket.id).push(i);
      });
    }
    for (const c of clients) await c.main.connected();
    const sent = new Map(); // id -> the last number
    const feed = setInterval(() => {
      for (const s of a.io.sockets.sockets.values()) {
        sent.set(s.id, (sent.get(s.id) ?? 0) + 1);
        s.emit("own", sent.get(s.id));
      }
    }, 10);
    t.after(() => clearInterval(feed));
    for (let round = 0; round < 20; round++) {
      const from = random.int(0, 2);
      const to = (from + random.int(1, 2)) % 3;
      const both = random.chance(0.5);
      const hurt = list.ways.filter((w) => (w.from === from && w.to === to) || (both && w.from === to && w.to === from));
      for (const { relay } of hurt) {
        relay.mode = "hole";
        relay.blackhole();
      }
      const end = Date.now() + random.int(300, 8000);
      while (Date.now() < end) {
        await sleep(random.int(20, 300));
        fronts[random.int(0, fronts.length - 1)].cut();
      }
      for (const { relay } of hurt) relay.heal();
      await allUp(list, 2, 20000);
      for (const f of fronts) if (random.chance(0.5)) f.cut();
      await sleep(random.int(0, 1000));
    }
    for (const c of clients) await until(() => c.socket.connected, "all to be back", 20000);
    clearInterval(feed);
    for (const c of clients) {
      await until(() => c.byId.get(c.socket.id)?.at(-1) === sent.get(c.socket.id), () => `the last event, ${sent.get(c.socket.id)}: had ${c.byId.get(c.socket.id)?.at(-1)}`, 20000);
      for (const [id, numbers] of c.byId) assert.deepEqual(numbers, Array.from({ length: numbers.length }, (_, i) => i + 1), `session ${id}`);
      assert.deepEqual(await c.main.ask("echo", 7), [7]);
    }
    await until(() => a.io.sockets.sockets.size === clients.length, () => `${a.io.sockets.sockets.size} sockets for ${clients.length} clients`, 40000);
    assert.equal(await total(list, "holdfast_panics_total"), 0);
    assert.ok((await total(list, "holdfast_recoveries_total", { result: "recovered" })) > 20);
    for (const c of clients) c.close();
    for (const name of ["holdfast_relays", "holdfast_sessions", "holdfast_clients", "holdfast_links", "holdfast_buffered_bytes"]) await until(async () => (await total(list, name)) === 0, `${name} to be 0`, 20000);
  });

  for (const way of ["killed", "stopped for 15 s", "cut off, both ways", "cut off from one side"]) {
    it(`a replica is ${way}: no other client waits longer than two seconds`, { timeout: 120000 * SLOW }, async (t) => {
      const a = await app(t);
      const list = await replicasApart(t, 3, () => a.port);
      const [bad, x, y] = list;
      const others = [];
      for (const transport of ["websocket", "polling"]) {
        others.push(await relayed(t, x, null, { transport }), await relayed(t, x, y, { transport }), await relayed(t, y, x, { transport }));
      }
      const through = await relayed(t, x, bad); // it only relays this one
      const hit = [await relayed(t, bad, null), await relayed(t, bad, x), through];
      // A holdfast without replicas shows how long the machine itself makes clients wait.
      const alone = await Holdfast.start(a.port);
      t.after(() => alone.stop());
      const besides = [await relayed(t, alone, null), await relayed(t, alone, null, { transport: "polling" })];
      const between = list.ways.filter((w) => w.to === 0 || w.from === 0);
      const stop = {
        killed: () => ((bad.gone = true), bad.kill()),
        "stopped for 15 s": () => bad.signal("SIGSTOP"),
        "cut off, both ways": () => between.forEach(({ relay }) => ((relay.mode = "hole"), relay.blackhole())),
        "cut off from one side": () => between.filter((w) => w.to === 0).forEach(({ relay }) => ((relay.mode = "hole"), relay.blackhole())),
      }[way];
      await stop();
      hit.forEach((c) => (c.way.target = y.port));
      const end = Date.now() + 15000;
      const slowest = { others: 0, alone: 0 };
      let asked = 0;
      const measured = async (who, what) => {
        const began = performance.now();
        await what();
        slowest[who] = Math.max(slowest[who], performance.now() - began);
        asked++;
      };
      const newcomers = async (who, places) => {
        for (let k = 0; Date.now() < end; k++, await sleep(200)) {
          await measured(who, async () => {
            const c = new Client("4.8.4", places[k % places.length].url, { transports: ["websocket"] });
            await c.main.connected();
            c.close();
          });
        }
      };
      const asking = async (who, c) => {
        for (; Date.now() < end; await sleep(50)) await measured(who, () => c.main.ask("echo", 1));
      };
      await Promise.all([
        newcomers("others", [x, y]),
        newcomers("alone", [alone]),
        ...others.map((c) => asking("others", c)),
        ...besides.map((c) => asking("alone", c)),
      ]);
      t.diagnostic(`${asked} answers, the slowest after ${Math.round(slowest.others)} ms, and ${Math.round(slowest.alone)} ms without replicas`);
      // A busy machine delays both alike.
      assert.ok(slowest.others < 2000 + slowest.alone, `the slowest answer took ${slowest.others} ms, and ${slowest.alone} ms without replicas`);
      for (const c of others) {
        assert.ok(c.main.disconnects.length < 2, "others keep their connections");
        assert.equal(c.main.last.recovered, c.main.disconnects.length === 1);
      }
      bad.signal("SIGCONT");
      for (const { relay } of between) relay.heal();
      for (const c of hit) await until(() => c.socket.connected, "its own clients to be back", 20000);
      a.io.to(through.main.connects[0].id).emit("n", 1);
      await through.main.stream(1, 1);
      through.main.assertRecovered();
      await until(() => a.io.sockets.sockets.size === others.length + hit.length + besides.length, () => `${a.io.sockets.sockets.size} sockets`, 30000);
    });
  }

  // Soon: the owner still gets the requests that it has not answered in time. Late: its connections have ended.
  for (const when of ["soon", "late"]) {
    it(`a client that goes to two others while its owner does not answer: it has one session in the end, if the owner is back ${when}`, { timeout: 60000 }, async (t) => {
      const a = await app(t);
      const list = await replicasApart(t, 3, () => a.port);
      const connect = async (url, payload) => {
        const raw = await Raw.open(url);
        t.after(() => raw.ws.terminate());
        raw.ws.send(`40${JSON.stringify(payload)}`);
        return raw;
      };
      const ended = (id) => until(() => a.disconnects.some((d) => d.id === id), "the end of a session", 20000);
      const first = await connect(list[0].url, {});
      const { sid, pid } = JSON.parse((await first.next()).slice(2));
      first.ws.terminate();
      const around = list.ways.filter((w) => w.to === 0 || w.from === 0);
      for (const { relay } of around) {
        relay.mode = "hole";
        relay.blackhole();
      }
      const network = await Relay.start(list[1].port);
      t.after(() => network.stop());
      await connect(network.url, { pid });
      network.blackhole({ up: false }); // the reply does not arrive
      await until(() => a.connections.length === 2, "the first fresh session", 20000);
      const unknown = a.connections[1].id;
      const second = await connect(list[2].url, { pid });
      const fresh = JSON.parse((await second.next({ timeout: 20000 })).slice(2)).sid;
      network.cut(); // only now the first one notices that the client has gone
      if (when === "late") await until(async () => (await total([list[2]], "holdfast_peer_losses_total", { why: "silent" })) > 0, "the owner to seem dead", 20000);
      for (const { relay } of around) relay.heal();
      await ended(unknown);
      await ended(sid);
      assert.deepEqual([...a.io.sockets.sockets.keys()], [fresh]);
    });
  }

  it("200 times two connections with one pid at two edges, over lines with random delays; now and then the old line hangs", { timeout: 300000 * SLOW }, async (t) => {
    const random = new Random(SEED, "races");
    const a = await app(t);
    const list = await replicas(t, 3, () => a.port, { config: { limits: { takeovers_per_minute_per_session: 0 } } });
    const first = new Client("4.8.4", list[0].url, { transports: ["websocket"] });
    t.after(() => first.close());
    const { id } = await first.main.connected();
    const pid = first.socket._pid;
    let offset;
    first.manager.reconnection(false);
    first.ws.terminate();
    const lines = new Set();
    t.after(() => Promise.all([...lines].map((l) => l.stop())));
    let hanging = null;
    for (let k = 1; k <= 200; k++) {
      const pair = [];
      for (const i of [1, 2]) {
        const line = await Relay.start(list[(i + (k % 3)) % 3].port);
        lines.add(line);
        line.delay(random.int(0, 60), ["up"]);
        line.delay(random.int(0, 60), ["down"]);
        const c = new Client("4.8.4", line.url, { transports: ["websocket"], reconnection: false, autoConnect: false });
        Object.assign(c.socket, { _pid: pid, _lastOffset: offset });
        c.line = line;
        pair.push(c);
      }
      for (const c of pair) {
        c.socket.connect();
        await sleep(random.int(0, 40));
      }
      const over = (c) => c.main.disconnects.length + c.main.errors.length > 0;
      await until(() => pair.some((c) => c.socket.connected && c.main.last.recovered) && pair.filter((c) => !over(c)).length === 1, () => `round ${k} to settle: ${JSON.stringify(pair.map((c) => [c.main.connects, c.main.disconnects, c.main.errors.map(String)]))}`, 20000);
      a.io.emit("n", k);
      const [winner] = pair.filter((c) => !over(c));
      await winner.main.stream(k, k);
      assert.equal(winner.main.id, id);
      assert.deepEqual(await winner.main.ask("echo", k), [k]);
      offset = winner.socket._lastOffset;
      for (const c of [...pair, ...(hanging ? [hanging] : [])]) {
        if (c !== winner) assert.ok(!c.main.numbers.includes(k), "an event came over a connection that another one has replaced");
      }
      hanging?.close();
      hanging = null;
      for (const c of pair) {
        if (c === winner && k % 5 === 0) {
          c.line.blackhole(); // the next pair takes over from it
          hanging = c;
        } else {
          c.ws?.terminate();
          c.close();
        }
      }
    }
    hanging?.close();
    assert.equal(a.connections.length, 1, "the server saw one socket");
    assert.equal(a.disconnects.length, 0);
  });

  it("polling: a namespace without recovery comes first, and the other one is recovered anyway", { timeout: 60000 * SLOW }, async (t) => {
    const a = await app(t);
    const list = await replicas(t, 2, () => a.port, { config: { recovery: { namespaces: { include: ["*"], exclude: ["/admin"] } } } });
    const way = await Switch.start(list[0].port);
    t.after(() => way.close());
    const line = await Relay.start(way.port);
    t.after(() => line.stop());
    line.delay(100); // how long the second CONNECT is awaited depends on the round trip
    const c = new Client("4.8.4", line.url, { nsp: "/admin", transports: ["polling"] });
    t.after(() => c.close());
    const chat = c.of("/chat");
    await c.main.connected();
    await chat.connected();
    for (let k = 1; k <= 4; k++) {
      for (; c.main.disconnects.length < k; await sleep(50)) way.moveTo(list[k % 2].port);
      await chat.connected(k + 1);
      await c.main.connected(k + 1);
      assert.deepEqual(await chat.ask("echo", k), [k]);
    }
    chat.assertRecovered(4);
    assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed", reason: "owner_conflict" }), 0);
  });

  it("a slow client (14 KB/s, 20 MB) beside 100 relays: memory is bounded, and the others notice nothing", { timeout: 180000 * SLOW }, async (t) => {
    const a = await app(t);
    const list = await replicas(t, 2, () => a.port);
    const others = [];
    for (let k = 0; k < 100; k += 10) others.push(...(await Promise.all(Array.from({ length: 10 }, () => relayed(t, list[0], list[1])))));
    const line = await Relay.start(list[1].port);
    t.after(() => line.stop());
    const slow = await relayed(t, list[0]);
    slow.way.moveTo(line.port);
    await slow.main.connected(2);
    assert.equal(slow.main.last.recovered, true);
    const p99 = async (ms) => {
      const times = [];
      for (const end = Date.now() + ms; Date.now() < end; await sleep(100)) {
        await Promise.all(
          others.map(async (c) => {
            const began = performance.now();
            await c.main.ask("echo", 1);
            times.push(performance.now() - began);
          }),
        );
      }
      return times.sort((x, y) => x - y)[Math.floor(times.length * 0.99)];
    };
    const memory = () => total(list, "process_resident_memory_bytes");
    const alone = await p99(5000);
    const before = await memory();
    line.throttle(14 * 1024, ["down"]);
    const payload = "x".repeat(10000);
    let sent = 0;
    const feed = setInterval(() => {
      for (let i = 0; i < 50 && sent < 20e6; i++, sent += payload.length) a.io.to(slow.main.id).emit("bulk", payload);
    }, 10);
    t.after(() => clearInterval(feed));
    const beside = await p99(15000);
    const grown = ((await memory()) - before) / 1e6;
    t.diagnostic(`p99 of the others: ${alone.toFixed(1)} ms, beside the slow one ${beside.toFixed(1)} ms; ${grown.toFixed(1)} MB more`);
    assert.ok(sent >= 20e6);
    assert.ok(beside < 3 * alone + 100 * SLOW, `p99 is ${beside} ms, and ${alone} ms without it`);
    assert.ok(grown < 40, `${grown} MB more`);
    assert.equal(slow.main.disconnects.length, 1);
  });

  it("a storm of 2,000 clients that all return to random replicas: all are recovered, with every event", { timeout: 240000 * SLOW }, async (t) => {
    const random = new Random(SEED, "storm");
    const a = await app(t);
    const list = await replicas(t, 3, () => a.port, { config: { limits: { takeovers_per_minute_per_session: 0 } } });
    const COUNT = 2000;
    const clients = Array.from({ length: COUNT }, () => ({ numbers: [] }));
    /** Connects a client at a random replica, by hand, with its pid and offset. */
    const connect = (c) =>
      new Promise((resolve, reject) => {
        const ws = new WebSocket(`${list[random.int(0, 2)].url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate: false });
        c.ws = ws;
        ws.on("error", reject);
        ws.on("close", () => reject(new Error("closed")));
        ws.on("message", (data) => {
          const text = data.toString();
          if (text[0] === "0") ws.send(`40${c.pid ? JSON.stringify({ pid: c.pid, offset: c.offset }) : ""}`);
          else if (text === "2") ws.send("3");
          else if (text.startsWith("40")) {
            const { sid, pid } = JSON.parse(text.slice(2));
            c.recovered = pid === c.pid && sid === c.sid;
            Object.assign(c, { sid, pid });
            resolve();
          } else if (text.startsWith("42[")) {
            const [, i, offset] = JSON.parse(text.slice(2));
            c.numbers.push(i);
            c.offset = offset;
          }
        });
      });
    const all = async () => {
      const left = [...clients];
      await Promise.all(
        Array.from({ length: 100 }, async () => {
          for (let c; (c = left.pop()); ) for (let attempt = 1; ; attempt++) {
            try {
              await connect(c);
              break;
            } catch (err) {
              if (attempt === 20) throw err;
              await sleep(100);
            }
          }
        }),
      );
    };
    t.after(() => clients.forEach((c) => c.ws?.terminate()));
    await all();
    a.io.emit("n", 1);
    await until(() => clients.every((c) => c.numbers.length === 1), "the first event", 30000);
    for (const c of clients) {
      c.ws.removeAllListeners();
      c.ws.on("error", () => {});
      c.ws.terminate();
    }
    await until(async () => (await total(list, "holdfast_sessions", { state: "parked" })) === COUNT, "all to be away", 30000);
    for (let i = 2; i <= 4; i++) a.io.emit("n", i);
    const began = Date.now();
    await all();
    t.diagnostic(`all are back after ${Date.now() - began} ms`);
    assert.equal(clients.filter((c) => !c.recovered).length, 0, "clients that were not recovered");
    a.io.emit("n", 5);
    await until(() => clients.every((c) => c.numbers.at(-1) === 5), "the last event", 30000);
    for (const c of clients) assert.deepEqual(c.numbers, [1, 2, 3, 4, 5]);
    assert.equal(a.connections.length, COUNT);
    assert.ok((await total(list, "holdfast_relay_resumes_total", { result: "resumed" })) > COUNT / 2);
  });
});
