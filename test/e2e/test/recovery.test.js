// Everything that must recover: the socket id stays, every missed event comes once and in order,
// and the server never learns that its client was away.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { CLIENTS, Client } from "../lib/client.js";
import { NATIVE, onlyHoldfast } from "../lib/holdfast.js";
import { LEGACY } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { SLOW, sleep, until } from "../lib/wait.js";

const parallel = { concurrency: 4 };

// A client that is cut in the middle of its upgrade may notice only by its heartbeat. This one is holdfast's own: the server's
// has time, so that no stall of the machine ends a session. A client that such a stall disconnects recovers once more.
const quick = NATIVE ? { io: { pingInterval: 1000, pingTimeout: 2000 } } : { config: { engineio: { ping_interval: "500ms", ping_timeout: "1500ms" } } };
// The same for clients that receive much.
const steady = NATIVE ? {} : { config: { engineio: { ping_interval: "1s", ping_timeout: "5s" } } };

/** A connected client that has had the events 1..3. */
async function warm(t, how, options = {}) {
  const s = await stack(t, options);
  const c = s.client(how.version, { ...how.options, ...options.client });
  await c.main.connected();
  const id = c.main.id;
  await c.settled();
  s.app.stream("/", id, 1, 3);
  await c.main.stream(1, 3);
  return { s, c, id, before: s.app.footprint() };
}

function serverSawNothing(s, before) {
  if (!NATIVE) assert.deepEqual(s.app.footprint(), before, "the server must not notice the drop");
}

/** Rooms, data and both directions work as if nothing had happened. */
async function alive(s, c, id) {
  const [visits, rooms] = await c.main.ask("visit");
  assert.equal(visits, 1);
  assert.deepEqual(rooms, [id, "everyone"].sort());
  const [back] = await c.main.ask("echo", "still here");
  assert.equal(back, "still here");
}

/** Takes the client off the network, calls fn(), and brings it back. */
async function away(s, c, fn) {
  await c.settled();
  const n = c.main.connects.length;
  // Native recovery does not survive a cut between two polls: there a poll must wait.
  if (NATIVE) await sleep(60);
  s.relay.down();
  await c.main.disconnected(c.main.disconnects.length + (c.main.socket.connected ? 1 : 0));
  await fn?.();
  s.relay.up();
  await c.main.connected(n + 1);
}

describe("a cut connection recovers", parallel, () => {
  combos("while idle, with events missed", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    await away(s, c, () => s.app.stream("/", id, 4, 40));
    await c.main.stream(1, 40);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
    s.app.io.to("everyone").emit("n", 41);
    await c.main.stream(1, 41);
    await alive(s, c, id);
  });

  combos("while idle, with nothing missed", { transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    await away(s, c);
    c.main.assertRecovered(1);
    s.app.stream("/", id, 4, 4);
    await c.main.stream(1, 4);
    serverSawNothing(s, before);
  });

  combos("before any event was ever sent", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const before = s.app.footprint();
    await away(s, c);
    c.main.assertRecovered(1);
    await away(s, c, () => s.app.stream("/", id, 1, 10));
    await c.main.stream(1, 10);
    c.main.assertRecovered(2);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("by a reset", { transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    if (NATIVE) await sleep(60);
    s.relay.mode = "refuse";
    s.relay.reset();
    await c.main.disconnected();
    s.app.stream("/", id, 4, 20);
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 20);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
  });

  combos("after a long silence, and an absence of many heartbeats", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { io: { pingInterval: 300 } });
    let pings = 0;
    c.manager.on("ping", () => pings++);
    await s.app.heartbeats(5);
    await until(() => pings >= 5, "holdfast's pings"); // it sends one only when the previous one is answered
    assert.equal(c.main.disconnects.length, 0);
    await away(s, c, () => (NATIVE ? sleep(2600) : s.app.heartbeats(6)));
    s.app.stream("/", id, 4, 5);
    await c.main.stream(1, 5);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("with a server that pings between the events that are missed", { transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { io: { pingInterval: 300 } });
    await away(s, c, async () => {
      for (let i = 4; i <= 10; i++) {
        s.app.stream("/", id, i, i);
        await (NATIVE ? sleep(300) : s.app.heartbeats(1));
      }
    });
    await c.main.stream(1, 10);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("ten times in a row with nothing between", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, quick);
    for (let i = 1; i <= 10; i++) {
      await s.hit(c);
      await c.main.connected(1 + c.main.disconnects.length);
    }
    s.app.stream("/", id, 4, 10);
    await c.main.stream(1, 10);
    c.main.assertRecovered(c.main.disconnects.length);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("ten times, each before the answer to CONNECT", { transports: ["websocket", "polling"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const missed = (async () => {
      for (let i = 4; i <= 100; i++) {
        s.app.stream("/", id, i, i);
        await sleep(3);
      }
    })();
    await s.hit(c);
    for (let i = 0; i < 10; i++) await s.relay.onBytes("down", '40{"sid"', { at: "before" });
    await c.main.connected(2);
    await missed;
    await c.main.stream(1, 100);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
  });

  combos("by a half-close of the client's side", { native: false, transports: ["websocket"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    s.relay.halfClose();
    await c.main.disconnected();
    s.app.stream("/", id, 4, 9);
    await c.main.connected(2);
    await c.main.stream(1, 9);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
  });

  combos("that reads nothing any more, found by holdfast's own ping", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    // The server's heartbeat is slow: holdfast's own towards its clients is not.
    const { s, c, id, before } = await warm(t, how, { config: { engineio: { ping_interval: "300ms", ping_timeout: "700ms" } } });
    assert.equal(c.manager.engine.pingInterval ?? c.manager.engine._pingInterval, 300);
    s.relay.mode = "hole";
    s.relay.blackhole();
    await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === 1, "the session to be parked");
    s.app.stream("/", id, 4, 9);
    s.relay.cut();
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 9);
    c.main.assertRecovered();
    serverSawNothing(s, before);
  });

  combos("by engine.close() on the client", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    c.manager.engine.close();
    await c.main.disconnected();
    s.app.stream("/", id, 4, 9);
    await c.main.connected(2);
    await c.main.stream(1, 9);
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("by the client's ping timeout", { transports: ["websocket", "polling"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { config: { engineio: { ping_interval: "400ms", ping_timeout: "1s" } } });
    s.relay.mode = "hole";
    s.relay.blackhole();
    s.app.stream("/", id, 4, 9);
    assert.equal(await c.main.disconnected(), "ping timeout");
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 9);
    c.main.assertRecovered();
    serverSawNothing(s, before);
  });
});

describe("a reconnection", parallel, () => {
  combos("in the same tick, by a cut", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { client: { reconnection: false } });
    c.socket.on("disconnect", () => c.socket.connect());
    for (let i = 1; i <= 5; i++) {
      await c.settled();
      await s.hit(c);
      s.app.stream("/", id, 3 + i, 3 + i);
      await c.main.connected(1 + i);
    }
    await c.main.stream(1, 8);
    c.main.assertRecovered(5);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("in the same tick, by engine.close()", { native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { client: { reconnection: false } });
    c.socket.on("disconnect", () => c.socket.connect());
    for (let i = 1; i <= 5; i++) {
      s.app.stream("/", id, 3 + i, 3 + i);
      c.manager.engine.close();
      await c.main.connected(1 + i);
    }
    await c.main.stream(1, 8);
    c.main.assertRecovered(5);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("over a new path takes over from one that is silently dead", { native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const dead = await s.hit(c, "abandon");
    s.app.stream("/", id, 4, 50); // written into the void
    await c.main.connected(2);
    await c.main.stream(1, 50);
    c.main.assertRecovered(1);
    // The end of the old path comes late, and has no effect any more.
    for (const conn of dead) conn.kill("reset");
    await sleep(100);
    s.app.stream("/", id, 51, 60);
    await c.main.stream(1, 60);
    assert.equal(c.main.disconnects.length, 1);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("takes over many times while a stream runs", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const ticker = s.app.ticker("/", id, { from: 4, every: 2 });
    for (let i = 1; i <= 8; i++) {
      await sleep(60);
      await s.hit(c, "abandon");
      await c.main.connected(1 + i);
    }
    await c.main.stream(1, ticker.stop());
    c.main.assertRecovered(8);
    serverSawNothing(s, before);
  });
});

describe("an upgrade that is cut", parallel, () => {
  const text = (s) => (frame) => frame.text === s;
  const points = {
    "before the WebSocket request": (r, o) => r.onBytes("up", "Upgrade: websocket", { at: "before", ...o }),
    "before its answer": (r, o) => r.onBytes("down", "101 Switching Protocols", { at: "before", ...o }),
    "after the probe": (r, o) => r.onFrame("up", text("2probe"), o),
    "before the probe's answer": (r, o) => r.onFrame("down", text("3probe"), { at: "before", ...o }),
    "after the probe's answer": (r, o) => r.onFrame("down", text("3probe"), o),
    "before the upgrade packet": (r, o) => r.onFrame("up", text("5"), { at: "before", ...o }),
    "after the upgrade packet": (r, o) => r.onFrame("up", text("5"), o),
    "at the first event after it": (r, o) => r.onFrame("down", (f) => f.text?.startsWith("42"), { at: "middle", ...o }),
  };
  for (const [point, arm] of Object.entries(points)) {
    for (const first of [true, false]) {
      combos(`${point}, ${first ? "at the first connection" : "at a later one"}, recovers`, { transports: ["default"], native: false }, async (t, how) => {
        const s = await stack(t, quick); // at some of these points a client notices only by its heartbeat
        let known; // connections that the client knew of when it was cut
        let c;
        const blow = () =>
          arm(s.relay, {
            action: () => {
              known = c.main.connects.length;
              s.relay.cut();
            },
          });
        let cut = first && blow();
        c = s.client(how.version, how.options);
        await c.main.connected();
        if (!first) {
          await c.upgraded();
          cut = blow();
        }
        const ticker = s.app.ticker("/", s.app.connections.at(-1).id, { every: 2 });
        if (!first) s.relay.cut();
        await cut;
        // A client may not notice a cut between two polls, and continues.
        await sleep(150);
        await c.upgraded().catch(() => {});
        await until(() => c.socket.connected, "the client to be connected");
        await sleep(50);
        const last = ticker.stop();
        if (known === 0) return; // the cut came before CONNECT: there was nothing to recover
        await c.main.stream(1, last);
        if (c.main.connects.length > 1) c.main.assertRecovered();
        assert.deepEqual(s.app.footprint().disconnects, 0);
        assert.equal(s.app.footprint().connections, 1);
        await alive(s, c, c.main.connects[0].id);
      });
    }
  }

  // Not later: a client that has its probe's answer stops polling, and waits for its ping timeout
  // when the WebSocket then ends.
  for (const point of Object.keys(points).slice(0, 4)) {
    combos(`${point}, the WebSocket only, continues by polling`, { transports: ["default"] }, async (t, how) => {
      const s = await stack(t);
      const cut = points[point](s.relay, { action: "cut" });
      const c = s.client(how.version, how.options);
      const { id } = await c.main.connected();
      const ticker = s.app.ticker("/", id, { every: 2 });
      await cut;
      await sleep(150);
      await c.main.stream(1, ticker.stop());
      assert.deepEqual(c.main.disconnects, []);
      assert.equal(c.transport, "polling");
      await alive(s, c, id);
    });
  }

  combos("on the way back from a drop, recovers", { transports: ["default"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, quick);
    await s.hit(c);
    await s.relay.onFrame("down", text("3probe"), { action: "cutAll" });
    s.app.stream("/", id, 4, 10);
    await c.main.stream(1, 10);
    c.main.assertRecovered();
    serverSawNothing(s, before);
  });
});

describe("what is missed comes back whole", parallel, () => {
  combos("thousands of events, the replay cut several times", { timeout: 90000 }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, steady);
    const TOTAL = 5000;
    const filler = "x".repeat(100);
    s.relay.down();
    await c.main.disconnected();
    s.app.stream("/", id, 4, TOTAL, (i) => [filler, i]);
    const cuts = NATIVE ? 0 : 5; // native recovery sends the replay before CONNECT: a cut in between duplicates it
    s.relay.up();
    for (let i = 1; i <= cuts; i++) {
      await s.relay.afterBytes("down", 20000 * i, { action: "cutAll" });
    }
    await c.main.stream(1, TOTAL, { timeout: 30000 });
    c.main.assertRecovered();
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("binary events with nested attachments between text events", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const make = (i) =>
      i % 3
        ? [{ text: "ü€😀", i }]
        : [{ head: Buffer.from([i & 255, 1, 2]), list: [{ deep: Buffer.alloc(3000, i & 255) }, i] }, Buffer.from("tail" + i)];
    s.app.stream("/", id, 4, 20, make);
    await c.main.stream(1, 20);
    await away(s, c, () => s.app.stream("/", id, 21, 100, make));
    await c.main.stream(1, 100);
    s.app.stream("/", id, 101, 110, make);
    await c.main.stream(1, 110);
    c.main.assertRecovered(1);
    for (const [, i, first, second] of c.main.events.slice(3)) {
      if (i % 3) {
        assert.deepEqual(first, { text: "ü€😀", i });
        continue;
      }
      assert.deepEqual(Buffer.from(first.head), Buffer.from([i & 255, 1, 2]));
      assert.deepEqual(Buffer.from(first.list[0].deep), Buffer.alloc(3000, i & 255));
      assert.equal(first.list[1], i);
      assert.equal(Buffer.from(second).toString(), "tail" + i);
    }
    serverSawNothing(s, before);
  });

  combos("cut between a binary event and its attachments", { transports: ["websocket"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const make = (i) => [Buffer.alloc(100, i), { again: Buffer.alloc(2000, i) }];
    for (let round = 0; round < 4; round++) {
      const cut = s.relay.onFrame("down", (f) => f.text?.startsWith("452-"), { skip: round, at: round % 2 ? "after" : "middle" });
      s.app.stream("/", id, 4 + round * 10, 13 + round * 10, make);
      await cut;
      await c.main.connected(2 + round);
      await c.main.stream(1, 13 + round * 10);
    }
    c.main.assertRecovered(4);
    for (const [, i, buffer] of c.main.events.slice(3)) assert.deepEqual(Buffer.from(buffer), Buffer.alloc(100, i));
    serverSawNothing(s, before);
  });

  combos("binary events of a megabyte, cut in their middle", { native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, steady);
    const make = (i) => [Buffer.alloc(900_000, i), { tail: Buffer.from([i]) }];
    s.relay.down();
    await c.main.disconnected();
    s.app.stream("/", id, 4, 9, make);
    s.relay.up();
    for (let k = 1; k <= 3; k++) await s.relay.afterBytes("down", 700_000 * k, { action: "cutAll" });
    await c.main.stream(1, 9, { timeout: 20000 });
    for (const [, i, head, { tail }] of c.main.events.slice(3)) {
      assert.ok(Buffer.from(head).equals(Buffer.alloc(900_000, i)));
      assert.equal(Buffer.from(tail)[0], i);
    }
    c.main.assertRecovered();
    serverSawNothing(s, before);
  });

  combos("a client that asks for base64 only", { transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { client: { forceBase64: true } });
    const make = (i) => [Buffer.alloc(50, i), "t"];
    s.app.stream("/", id, 4, 10, make);
    await c.main.stream(1, 10);
    await away(s, c, () => s.app.stream("/", id, 11, 20, make));
    await c.main.stream(1, 20);
    for (const [, i, buffer] of c.main.events.slice(3)) assert.deepEqual(Buffer.from(buffer), Buffer.alloc(50, i));
    const [back] = await c.main.ask("echo", Buffer.from("up"));
    assert.equal(Buffer.from(back).toString(), "up");
    serverSawNothing(s, before);
  });

  combos("a client that dies between its binary event and the attachments", { transports: ["websocket", "polling"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const cut =
      how.transport === "websocket"
        ? s.relay.onFrame("up", (f) => f.text?.startsWith("451-"))
        : s.relay.onBytes("up", "451-", { at: "after" });
    c.socket.emit("echo", { file: Buffer.alloc(5000, 7) });
    await cut;
    await c.main.connected(2);
    c.main.assertRecovered(1);
    await alive(s, c, id);
    const [back] = await c.main.ask("echo", Buffer.from("whole"));
    assert.equal(Buffer.from(back).toString(), "whole");
    serverSawNothing(s, before);
    assert.equal(s.app.receivedArgs("echo").filter(([x]) => x?.file).length, 0, "half an event must not arrive");
  });

  combos("events that the client emitted while offline", {}, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    await away(s, c, () => {
      for (let i = 1; i <= 20; i++) c.socket.emit("note", i, i % 4 ? "text" : Buffer.alloc(10, i));
    });
    await until(() => s.app.receivedArgs("note").length >= 20, "the notes");
    assert.deepEqual(s.app.receivedArgs("note").map(([i]) => i), Array.from({ length: 20 }, (_, i) => i + 1));
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("events that the client repeats until they are acknowledged", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, before } = await warm(t, how, { client: { retries: 5, ackTimeout: 2000 } });
    const acked = [];
    for (let i = 1; i <= 30; i++) c.socket.emit("echo", i, (err, x) => acked.push(err ?? x));
    for (let k = 1; k <= 3; k++) {
      await until(() => acked.length >= k * 3, "some to be acknowledged");
      await s.hit(c);
      await c.main.connected(1 + k);
    }
    await until(() => acked.length === 30, () => `all to be acknowledged, have ${acked.length}`, 15000);
    assert.deepEqual(acked, Array.from({ length: 30 }, (_, i) => i + 1));
    const seen = [...new Set(s.app.receivedArgs("echo").map(([i]) => i))];
    assert.deepEqual(seen, Array.from({ length: 30 }, (_, i) => i + 1), "each at least once, in order");
    serverSawNothing(s, before);
  });

  combos("volatile events are kept like others", { transports: ["websocket"], native: false }, async (t, how) => {
    const { s, c, id } = await warm(t, how);
    await away(s, c, () => s.app.socket(id).volatile.emit("n", 4));
    s.app.stream("/", id, 5, 5);
    await c.main.stream(1, 5);
  });

  combos("a broadcast to a room, and to all", { transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    const other = new Client("4.8.4", s.direct, { transports: ["websocket"] });
    s.cleanups.push(() => other.close());
    await other.main.connected();
    await c.main.ask("join", "team");
    const all = s.app.footprint();
    await away(s, c, () => {
      for (let i = 4; i <= 30; i++) (i % 2 ? s.app.io.to("team") : s.app.io).emit("n", i);
    });
    await c.main.stream(1, 30);
    c.main.assertRecovered(1);
    assert.deepEqual(other.main.numbers, c.main.numbers.filter((i) => i >= 4 && i % 2 === 0));
    serverSawNothing(s, all);
    assert.equal(before.connections, 1);
  });
});

describe("several namespaces", parallel, () => {
  combos("recover each by itself, and a new one joins after the drop", {}, async (t, how) => {
    const { s, c, id } = await warm(t, how);
    const admin = c.of("/admin", { role: "boss" });
    const { id: adminId } = await admin.connected();
    s.app.stream("/admin", adminId, 1, 5);
    await admin.stream(1, 5);
    const before = s.app.footprint();

    let chat;
    await away(s, c, () => {
      s.app.stream("/", id, 4, 10);
      s.app.stream("/admin", adminId, 6, 12);
      chat = c.of("/chat", { room: "x" });
    });
    await admin.connected(2);
    const { id: chatId, recovered } = await chat.connected();
    assert.equal(recovered, false);
    await c.main.stream(1, 10);
    await admin.stream(1, 12);
    c.main.assertRecovered(1);
    admin.assertRecovered(1);
    if (!NATIVE) {
      const { connections, disconnects } = s.app.footprint();
      assert.deepEqual({ connections, disconnects }, { connections: before.connections + 1, disconnects: 0 });
    }
    assert.deepEqual(s.app.connections.at(-1).auth, { room: "x" });

    // The new one has its own link. The next drop affects all three.
    s.app.stream("/chat", chatId, 1, 3);
    await chat.stream(1, 3);
    const later = s.app.footprint();
    await away(s, c, () => {
      s.app.stream("/", id, 11, 15);
      s.app.stream("/admin", adminId, 13, 15);
      s.app.stream("/chat", chatId, 4, 15);
    });
    await Promise.all([c.main.stream(1, 15), admin.stream(1, 15), chat.stream(1, 15)]);
    c.main.assertRecovered(2);
    admin.assertRecovered(2);
    chat.assertRecovered(1);
    serverSawNothing(s, later);
    const [visits] = await chat.ask("visit");
    assert.equal(visits, 1);
    await alive(s, c, id);
  });

  combos("one left with disconnect() does not come back, the others do", { transports: ["websocket"], native: false }, async (t, how) => {
    const { s, c, id } = await warm(t, how);
    const admin = c.of("/admin");
    await admin.connected();
    admin.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the server to see /admin leave");
    await away(s, c, () => s.app.stream("/", id, 4, 10));
    await c.main.stream(1, 10);
    c.main.assertRecovered(1);
    admin.socket.connect();
    const again = await admin.connected(2);
    assert.equal(again.recovered, false);
    assert.notEqual(again.id, admin.connects[0].id);
    assert.deepEqual(s.app.disconnects.map((d) => d.nsp), ["/admin"]);
  });
});

describe("acknowledgements", parallel, () => {
  combos("a server's question while the client is away is answered after it", { native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    c.socket.on("question", (x, answer) => answer(x + 1, Buffer.from("bin")));
    const answers = [];
    const seen = [];
    c.socket.onAny((...args) => seen.push(args));
    await away(s, c, () => {
      for (let i = 4; i <= 13; i++) {
        s.app.stream("/", id, i, i);
        s.app.socket(id).emit("question", i, (...args) => answers.push(args));
      }
    });
    await until(() => answers.length === 10, () => `the answers, have ${answers.length}`);
    assert.deepEqual(answers.map(([x]) => x), [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert.equal(Buffer.from(answers[0][1]).toString(), "bin");
    // There is no offset in place of the callback, and the order is the server's.
    assert.deepEqual(seen.map((e) => [e[0], e[1], typeof e[2]]), [4, 5, 6, 7, 8, 9, 10, 11, 12, 13].flatMap((i) => [["n", i, "string"], ["question", i, "function"]]));
    c.main.assertRecovered(1);
    serverSawNothing(s, before);
  });

  combos("an answer given while the connection opens goes out before CONNECT, and arrives", { transports: ["websocket", "polling"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    let answer;
    c.socket.on("question", (x, fn) => (answer = () => fn(x * 2)));
    const answers = [];
    s.app.socket(id).emit("question", 21, (x) => answers.push(x));
    await until(() => answer, "the question");
    s.relay.delay(60);
    await s.hit(c);
    await c.main.disconnected();
    await until(() => c.manager.engine.readyState === "opening", "the engine to open");
    answer();
    await c.main.connected(2);
    s.relay.delay(0);
    await until(() => answers.length === 1, "the answer");
    assert.deepEqual(answers, [42]);
    c.main.assertRecovered(1);
    await alive(s, c, id);
    serverSawNothing(s, before);
  });

  combos("the server's answer to a client that is away", { versions: ["4.6.2"], native: false }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how);
    let reply;
    s.app.socket(id).on("slow", (fn) => (reply = fn));
    const replies = [];
    c.socket.emit("slow", (x) => replies.push(x));
    await until(() => reply, "the server to be asked");
    await away(s, c, () => reply("late"));
    await until(() => replies.length === 1, "the late reply");
    assert.deepEqual(replies, ["late"]);
    serverSawNothing(s, before);
  });
});

describe("recovery.ack_events: questions in flight when the connection died", { ...parallel, skip: onlyHoldfast }, () => {
  for (const ack_events of ["at-most-once", "at-least-once"]) {
    combos(ack_events, { transports: ["websocket", "polling"] }, async (t, how) => {
      const { s, c, id } = await warm(t, how, { config: { recovery: { ack_events } } });
      const asked = [];
      c.socket.on("question", (x, answer) => {
        asked.push(x);
        answer(x);
      });
      const answers = [];
      // A poll over a later connection would get through.
      if (how.transport === "polling") await until(() => s.relay.pollWaits, "the next poll");
      s.relay.blackhole({ up: false }); // what is sent goes into the void
      s.app.socket(id).emit("question", "lost", (x) => answers.push(x));
      s.app.stream("/", id, 4, 6);
      await sleep(150);
      await s.hit(c, "abandon");
      await c.main.connected(2);
      s.app.socket(id).emit("question", "later", (x) => answers.push(x));
      await until(() => answers.includes("later"), "the later answer");
      await c.main.stream(1, 6);
      c.main.assertRecovered(1);
      assert.deepEqual(asked, ack_events === "at-most-once" ? ["later"] : ["lost", "later"]);
      assert.deepEqual(answers, asked);
    });

    combos(`${ack_events}: a question that was answered is not asked again`, { transports: ["websocket", "polling"] }, async (t, how) => {
      const { s, c, id, before } = await warm(t, how, { config: { recovery: { ack_events } } });
      const asked = [];
      c.socket.on("question", (x, answer) => {
        asked.push(x);
        answer(x);
      });
      const answers = [];
      for (let i = 0; i < 5; i++) {
        s.app.socket(id).emit("question", i, (x) => answers.push(x));
        await until(() => answers.length === i + 1, "the answer");
        await s.hit(c);
        await c.main.connected(2 + i);
      }
      assert.deepEqual(asked, [0, 1, 2, 3, 4]);
      serverSawNothing(s, before);
    });
  }
});

describe("sessions that follow each other", parallel, () => {
  combos("an offset of an earlier session means nothing was received in this one", { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { config: { recovery: { max_disconnection_duration: "300ms" } } });
    await s.lose(c);
    await until(() => s.app.disconnects.length === 1, "the first session to expire");
    s.relay.up();
    const second = await c.main.connected(2);
    assert.equal(second.recovered, false);
    assert.notEqual(second.id, id);
    // The client still holds the first session's offset, and has the second one's pid.
    await away(s, c, () => s.app.stream("/", second.id, 4, 10));
    assert.deepEqual(c.main.last, { id: second.id, recovered: true });
    await c.main.stream(1, 10);
  });

  combos("a message from the server's connection handler comes once", { transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, {
      app: (io) => io.on("connection", (socket) => socket.recovered || socket.emit("n", 1)),
    });
    const c = s.client(how.version, how.options);
    await c.main.connected();
    await c.main.stream(1, 1);
    await away(s, c);
    c.main.assertRecovered(1);
    s.app.stream("/", c.main.id, 2, 2);
    await c.main.stream(1, 2);
  });
});

describe("under load", { concurrency: 2 }, () => {
  combos("random faults while a stream of mixed events runs", { native: false, timeout: 60000 }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, steady);
    const asked = [];
    const answers = [];
    c.socket.on("question", (x, fn) => fn(x));
    const make = (i) => (i % 7 ? ["text " + i] : [Buffer.alloc(i % 300, i & 255), { i }]);
    const ticker = s.app.ticker("/", id, { from: 4, every: 3, burst: 2, make });
    const faults = ["cut", "reset", "abandon", "close"];
    const end = Date.now() + 4000;
    for (let k = 0; Date.now() < end; k++) {
      await sleep(20 + ((k * 7919) % 200));
      const fault = faults[k % faults.length];
      if (fault === "close") c.manager.engine?.close();
      else if (k % 3 === 0) await s.hit(c, fault);
      else s.relay[fault]();
      if (k % 3 === 0) await until(() => c.socket.connected, "the client to be back");
      if (k % 2 === 0 && c.socket.connected) {
        asked.push(k);
        s.app.socket(id).emit("question", k, (x) => answers.push(x));
      }
    }
    await sleep(100);
    await c.main.connected(2);
    await c.main.stream(1, ticker.stop(), { timeout: 20000 });
    c.main.assertRecovered();
    serverSawNothing(s, before);
    await alive(s, c, id);
  });

  combos("a slow client gets everything, and keeps its heartbeat", { native: false, transports: ["websocket"], timeout: 60000 }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { config: { engineio: { ping_interval: "1500ms", ping_timeout: "5s" } } });
    s.relay.throttle(400_000, ["down"]);
    const filler = "y".repeat(1000);
    s.app.stream("/", id, 4, 4000, () => [filler]);
    await c.main.stream(1, 4000, { timeout: 40000 });
    assert.deepEqual(c.main.disconnects, []);
    serverSawNothing(s, before);
  });

  combos("a long way: 150 ms each direction", { transports: ["websocket", "default"] }, async (t, how) => {
    const s = await stack(t);
    s.relay.delay(150);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const ticker = s.app.ticker("/", id, { every: 5 });
    await c.settled();
    await sleep(NATIVE ? 1000 : 0);
    await until(() => c.main.numbers.length > 0, "an event");
    await s.hit(c);
    await c.main.connected(2);
    await sleep(500);
    await c.main.stream(1, ticker.stop());
    c.main.assertRecovered(1);
  });

  combos("one byte per TCP segment", { transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t);
    s.relay.oneByteWrites();
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 10, (i) => [Buffer.alloc(20, i), "ü€😀"]);
    await c.main.stream(1, 10);
    const [echo] = await c.main.ask("echo", { b: Buffer.from("abc") });
    assert.equal(Buffer.from(echo.b).toString(), "abc");
    await s.hit(c);
    await c.main.connected(2);
    s.app.stream("/", id, 11, 12);
    await c.main.stream(1, 12);
    c.main.assertRecovered(1);
  });
});

describe("every legacy server", parallel, () => {
  for (const server of LEGACY) {
    combos(`socket.io ${server} recovers`, { native: false, transports: ["websocket", "polling"] }, async (t, how) => {
      const { s, c, id, before } = await warm(t, how, { server });
      const make = (i) => (i % 2 ? [] : [{ b: Buffer.alloc(50, i) }]);
      const answers = [];
      c.socket.on("question", (x, fn) => fn(x));
      await away(s, c, () => {
        s.app.stream("/", id, 4, 60, make);
        s.app.socket(id).emit("question", "q", (x) => answers.push(x));
      });
      await c.main.stream(1, 60);
      await until(() => answers[0] === "q", "the answer");
      await s.hit(c, "abandon");
      s.app.stream("/", id, 61, 80, make);
      await c.main.connected(3);
      await c.main.stream(1, 80);
      c.main.assertRecovered(2);
      serverSawNothing(s, before);
      await alive(s, c, id);
    });
  }
});

describe("many clients at the same time", () => {
  it("fifty clients lose the network together and all recover", { skip: onlyHoldfast, timeout: 60000 * SLOW }, async (t) => {
    const s = await stack(t);
    const clients = Array.from({ length: 50 }, (_, i) =>
      s.client(CLIENTS[i % 2], { transports: [["websocket"], ["polling"], ["polling", "websocket"]][i % 3] }),
    );
    await Promise.all(clients.map((c) => c.main.connected(1, 20000)));
    await Promise.all(clients.map((c) => c.settled()));
    const before = s.app.footprint();
    assert.equal(before.connections, 50);
    s.relay.down();
    await Promise.all(clients.map((c) => c.main.disconnected(1)));
    for (let i = 1; i <= 20; i++) s.app.io.emit("n", i);
    s.relay.up();
    await Promise.all(clients.map((c) => c.main.connected(2, 20000)));
    for (let i = 21; i <= 30; i++) s.app.io.emit("n", i);
    await Promise.all(clients.map((c) => c.main.stream(1, 30)));
    for (const c of clients) c.main.assertRecovered();
    serverSawNothing(s, before);
  });
});
