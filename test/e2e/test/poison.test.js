// Packets that their client cannot decode: each costs only itself and a few reconnections. And
// packets that it can decode, over connections that end again and again: none of these is left out.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { SLOW, never, sleep, until } from "../lib/wait.js";

/** Reconnections that a packet costs its client. */
const MOST = 3;

const slow = process.env.HOLDFAST_LONG === "1" ? onlyHoldfast : "takes half a minute: HOLDFAST_LONG=1 make e2e TESTS=poison";

const require = createRequire(import.meta.url);
const parallel = { concurrency: 6 };
const attachments = (n, size = 1) => Array.from({ length: n }, (_, i) => Buffer.alloc(size, i));
const poisoned = async (s) => (await s.hf.metrics()).sum("holdfast_poison_packets_total");

/** What clients cannot decode; `to` has emit and write. */
const KINDS = {
  attachments: { event: "files", send: (to) => to.emit("files", ...attachments(11)) },
  placeholder: { event: "msg", send: (to) => to.emit("msg", { _placeholder: true, num: 5 }, Buffer.alloc(1)) },
  nan: { event: "nan", send: (to) => to.write('2["nan",NaN]'), undecodable: true },
  reserved: { event: "disconnect", send: (to) => to.write('2["disconnect"]') },
  noname: { event: "(no name)", send: (to) => to.write("2[null,null]") },
};
const toSocket = (socket) => ({ emit: (...args) => socket.emit(...args), write: (text) => socket.conn.write(text) });

/** A client whose parser accepts what others refuse: only a packet with more attachments than it allows is poison. */
function tolerantParser(version) {
  const parser = require(`../node_modules/socket.io-client-${version}/node_modules/socket.io-parser`);
  class Decoder extends parser.Decoder {
    constructor() {
      super({ maxAttachments: 1000 });
    }
  }
  return { ...parser, Decoder };
}

describe("a packet that its client cannot decode", parallel, () => {
  for (const [kind, { event, send, undecodable }] of Object.entries(KINDS)) {
    combos(`${kind}: is left out, and all else arrives once`, { native: false }, async (t, how) => {
      const s = await stack(t);
      const c = s.client(how.version, how.options);
      const { id } = await c.main.connected();
      if (how.transport === "default") await c.upgraded();
      const to = toSocket(s.app.socket(id));
      s.app.stream("/", id, 1, 3);
      send(to);
      s.app.stream("/", id, 4, 6);
      await c.main.stream(1, 6, { timeout: 15000 });
      const drops = c.main.disconnects.length;
      assert.ok(drops <= MOST, `${drops} reconnections: ${c.main.disconnects}`);
      s.app.stream("/", id, 7, 9);
      await c.main.stream(1, 9);
      await never(() => c.main.disconnects.length > drops, "a further drop");
      c.main.assertRecovered();
      assert.deepEqual([s.app.disconnects, s.app.connections.length], [[], 1], "the server sees nothing of it");
      assert.equal(c.main.events.filter(([name]) => name !== "n").length, 0);

      assert.equal(await poisoned(s), 1);
      await s.hf.says(/packet left out/);
      const line = s.hf.log.split("\n").filter((l) => l.includes("packet left out"));
      assert.equal(line.length, 1);
      assert.match(line[0], /"level":"WARN"/);
      assert.ok(line[0].includes(event.replace(/[()]/g, "")), line[0]);
      assert.ok(!/NaN|placeholder/.test(line[0]), "no payload");
      const { poison } = JSON.parse((await s.hf.admin("/api/status")).text);
      assert.deepEqual([poison.packets, poison.latest.length, poison.latest[0].event], [1, 1, event]);
      if (undecodable) assert.ok(drops <= 2, "it was not sent again");
    });
  }

  combos("comes first, to a client that has no offset", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const to = toSocket(s.app.socket(id));
    KINDS.attachments.send(to);
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3, { timeout: 15000 });
    c.main.assertRecovered();
    assert.ok(c.main.disconnects.length <= MOST, `${c.main.disconnects}`);
    assert.equal(await poisoned(s), 1);
  });

  combos("two of them among much else", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    const to = toSocket(s.app.socket(id));
    s.app.stream("/", id, 1, 20, (i) => (i % 3 ? [] : [Buffer.alloc(10)]));
    KINDS.placeholder.send(to);
    s.app.stream("/", id, 21, 40);
    KINDS.noname.send(to);
    s.app.stream("/", id, 41, 60);
    await c.main.stream(1, 60, { timeout: 20000 });
    c.main.assertRecovered();
    assert.equal(await poisoned(s), 2);
    // The second one takes one trial.
    assert.ok(c.main.disconnects.length <= MOST + 1, `${c.main.disconnects}`);
  });

  combos("in one of two namespaces: the other loses nothing", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const chat = c.of("/chat");
    const { id } = await c.main.connected();
    const { id: chatId } = await chat.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.stream("/chat", chatId, 1, 3); // the client puts these aside
    s.app.stream("/", id, 1, 3);
    KINDS.attachments.send(toSocket(s.app.socket(id)));
    s.app.stream("/", id, 4, 6);
    s.app.stream("/chat", chatId, 4, 6);
    const ticker = s.app.ticker("/chat", chatId, { every: 10, from: 7 });
    await c.main.stream(1, 6, { timeout: 15000 });
    await chat.stream(1, ticker.stop(), { timeout: 15000 });
    c.main.assertRecovered();
    chat.assertRecovered();
    assert.equal(await poisoned(s), 1);
    assert.ok(c.main.disconnects.length <= MOST, `${c.main.disconnects}`);
  });

  for (const transport of ["websocket", "polling"]) {
    it(`is sent to a room of 50, over ${transport}`, { skip: onlyHoldfast, timeout: 60000 * SLOW }, async (t) => {
      const s = await stack(t);
      const clients = Array.from({ length: 50 }, () =>
        s.client("4.8.4", { transports: [transport], reconnectionDelay: 200, reconnectionDelayMax: 200 }),
      );
      for (const c of clients) await c.main.connected();
      const room = s.app.io.to("everyone");
      room.emit("n", 1);
      room.emit("files", ...attachments(11));
      room.emit("n", 2);
      await Promise.all(clients.map((c) => c.main.stream(1, 2, { timeout: 20000 })));
      const drops = clients.map((c) => c.main.disconnects.length);
      room.emit("n", 3);
      await Promise.all(clients.map((c) => c.main.stream(1, 3)));
      await sleep(500);
      assert.deepEqual(clients.map((c) => c.main.disconnects.length), drops, "no further drops");
      assert.ok(drops.reduce((a, b) => a + b) <= 50 * MOST, `drops: ${drops}`);
      for (const c of clients) c.main.assertRecovered();
      assert.equal(await poisoned(s), 50);
      assert.ok(s.hf.log.split("\n").filter((l) => l.includes("packet left out")).length <= 5, "the log is spared");
    });
  }

  combos("asks for an acknowledgement: it is not sent again", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.socket(id).emit("files", ...attachments(11), () => {});
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3, { timeout: 15000 });
    c.main.assertRecovered();
    assert.equal(await poisoned(s), 0);
  });

  combos("asks for an acknowledgement, and is to be sent again", { native: false }, async (t, how) => {
    const s = await stack(t, { config: { recovery: { ack_events: "at-least-once" } } });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.socket(id).emit("files", ...attachments(11), () => {});
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3, { timeout: 15000 });
    c.main.assertRecovered();
    assert.equal(await poisoned(s), 1);
  });

  it("is an acknowledgement", { skip: onlyHoldfast, timeout: 30000 * SLOW }, async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    s.app.socket(id).conn.write("312345[NaN]");
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3, { timeout: 15000 });
    c.main.assertRecovered();
    await s.hf.says(/packet left out.*acknowledgement/);
  });

  combos("in a namespace that connects later than another: the other loses and doubles nothing", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const chat = c.of("/chat", (cb) => setTimeout(cb, 60, {}));
    const { id } = await c.main.connected();
    const { id: chatId } = await chat.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.stream("/", id, 1, 3); // the client puts these aside, and handles them when it is back
    KINDS.attachments.send(toSocket(s.app.socket(chatId, "/chat")));
    s.app.stream("/", id, 4, 6);
    s.app.stream("/chat", chatId, 1, 3);
    await c.main.stream(1, 6, { timeout: 15000 });
    await chat.stream(1, 3, { timeout: 15000 });
    c.main.assertRecovered();
    chat.assertRecovered();
    assert.equal(await poisoned(s), 1);
  });

  // A client of 4.8 closes its connection only when its POST is answered. Until then it polls, and
  // ignores what it gets.
  for (const kind of ["attachments", "nan"]) {
    combos(`${kind}: while the client sends without pause`, { native: false, versions: ["4.8.4"] }, async (t, how) => {
      const s = await stack(t);
      // Its close comes first.
      const c = s.client(how.version, { ...how.options, reconnectionDelay: 300, reconnectionDelayMax: 300 });
      const { id } = await c.main.connected();
      if (how.transport === "default") await c.upgraded();
      s.relay.delay(20);
      const sending = setInterval(() => c.main.socket.emit("up", "x".repeat(100)), 5);
      t.after(() => clearInterval(sending));
      const to = toSocket(s.app.socket(id));
      await sleep(100);
      s.app.stream("/", id, 1, 5);
      KINDS[kind].send(to);
      for (let i = 6; i < 60; i++) {
        s.app.stream("/", id, i, i, () => ["x".repeat(700)]);
        if (i % 6 === 0) await sleep(20);
      }
      s.app.stream("/", id, 60, 60);
      await c.main.stream(1, 60, { timeout: 40000 });
      c.main.assertRecovered();
      if (!KINDS[kind].undecodable) assert.equal(await poisoned(s), 1);
    });
  }

  it("while the client, which is older than 4.8, takes four seconds to come back each time", { skip: slow, timeout: 120000 * SLOW }, async (t) => {
    const s = await stack(t, { io: { pingInterval: 1000, pingTimeout: 20000 } });
    const delay = { reconnectionDelay: 4000, reconnectionDelayMax: 4000, randomizationFactor: 0 };
    const c = s.client("4.6.2", { transports: ["websocket"], ...delay });
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 3);
    KINDS.attachments.send(toSocket(s.app.socket(id)));
    // It ignores these, and answers pings.
    const ticker = s.app.ticker("/", id, { every: 200, from: 4 });
    await until(async () => (await poisoned(s)) === 1, "the packet to be left out", 60000);
    await c.main.stream(1, ticker.stop(), { timeout: 30000 });
    c.main.assertRecovered();
    assert.ok(c.main.disconnects.length <= MOST, `${c.main.disconnects}`);
  });

  it("while the client upgrades: it polls on, and closes only then", { skip: onlyHoldfast, timeout: 60000 * SLOW }, async (t) => {
    const s = await stack(t);
    s.relay.delay(40);
    const c = s.client("4.8.4", { transports: ["polling", "websocket"] });
    const { id } = await c.main.connected();
    KINDS.attachments.send(toSocket(s.app.socket(id)));
    for (let i = 1; i <= 20; i++) {
      s.app.stream("/", id, i, i);
      await sleep(10);
    }
    s.relay.delay(0);
    await c.main.stream(1, 20, { timeout: 20000 });
    c.main.assertRecovered();
  });
});

describe("a packet that its client can decode is never left out", parallel, () => {
  const tolerant = (how) => ({ ...how.options, parser: tolerantParser(how.version) });
  const suspects = (to) => {
    KINDS.attachments.send(to);
    to.emit("files", ...attachments(40));
  };
  const arrived = (c) => c.main.events.filter(([name]) => name === "files").map((e) => e.filter((a) => typeof a !== "string").length);

  for (const fault of ["cut", "reset", "blackhole"]) {
    // A client that polls cannot tell holdfast that it closes a connection which leads nowhere.
    const transports = fault === "blackhole" ? ["websocket"] : undefined;
    combos(`${fault} in the middle of the same replay, again and again`, { native: false, transports }, async (t, how) => {
      const s = await stack(t);
      const c = s.client(how.version, tolerant(how));
      const { id } = await c.main.connected();
      s.app.stream("/", id, 1, 5);
      await c.main.stream(1, 5);
      await s.lose(c);
      const to = toSocket(s.app.socket(id));
      s.app.stream("/", id, 6, 10);
      suspects(to);
      s.app.stream("/", id, 11, 15);
      s.relay.up();
      s.relay.delay(25); // so that the replay is on its way when the connection ends
      for (let i = 0; i < 8; i++) {
        const before = c.main.connects.length;
        await until(() => c.main.connects.length > before || c.main.numbers.includes(15), "a connection", 15000);
        await sleep(8 * i);
        s.relay[fault]();
        if (fault !== "blackhole") continue;
        c.manager.engine.close(); // as a client does that hears of no network
        await sleep(50);
        s.relay.abandon();
        s.relay.heal();
      }
      s.relay.delay(0);
      await c.main.stream(1, 15, { timeout: 20000 });
      assert.deepEqual(arrived(c), [11, 40], "both once");
      assert.equal(await poisoned(s), 0);
      assert.ok(c.main.connects.slice(1).every((r) => r.recovered));
    });
  }

  // To holdfast this looks like a client before 4.8 that abandons its connection over the packet,
  // except for what the old connection answers.
  combos("the client's network changes each time that the packet is tried", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, tolerant(how));
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    s.relay.onBytes("down", '"files"', { at: "before", action: () => s.relay.abandon() });
    s.app.stream("/", id, 4, 6);
    KINDS.attachments.send(toSocket(s.app.socket(id)));
    s.app.stream("/", id, 7, 9);
    await c.main.disconnected(1);
    for (let round = 0; round < 4 && !c.main.numbers.includes(9); round++) {
      let tried = false;
      s.relay.onBytes("down", "holdfast-can-you-decode-this", { action: () => (tried = true) });
      await until(() => tried || c.main.numbers.includes(9), "a trial", 20000);
      await sleep(150); // it has answered all pings
      if (!c.main.numbers.includes(9)) await s.hit(c, "abandon");
    }
    await c.main.stream(1, 9, { timeout: 20000 });
    assert.deepEqual(arrived(c), [11]);
    assert.equal(await poisoned(s), 0);
    c.main.assertRecovered();
  });

  combos("the client closes its own connection at any time", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, tolerant(how));
    const { id } = await c.main.connected();
    const to = toSocket(s.app.socket(id));
    s.relay.delay(15); // so that much is on its way at any time
    let n = 0;
    for (let round = 0; round < 15; round++) {
      s.app.stream("/", id, n + 1, n + 3);
      suspects(to);
      n += 3;
      await sleep(10 * round);
      const engine = c.manager.engine;
      engine.close();
      await until(() => c.manager.engine !== engine, "a new connection");
    }
    s.relay.delay(0);
    await until(() => c.main.numbers.includes(n), "the last event", 20000);
    assert.deepEqual([...new Set(c.main.numbers)].length, n, "no event is missing");
    assert.equal(await poisoned(s), 0);
  });

  combos("the client closes its connection at the same moment each time", { native: false }, async (t, how) => {
    for (const after of [0, 20, 60]) {
      const s = await stack(t);
      const c = s.client(how.version, tolerant(how));
      const { id } = await c.main.connected();
      s.app.stream("/", id, 1, 3);
      await c.main.stream(1, 3);
      s.relay.delay(20);
      suspects(toSocket(s.app.socket(id)));
      s.app.stream("/", id, 4, 6);
      c.manager.engine.close();
      for (let round = 0; round < 6; round++) {
        const before = c.main.connects.length;
        await until(() => c.main.connects.length > before, "a reconnection");
        await sleep(after);
        c.manager.engine.close();
      }
      s.relay.delay(0);
      await c.main.connected(c.main.connects.length + 1);
      await until(() => c.main.numbers.includes(6), "the last event", 20000);
      assert.equal(await poisoned(s), 0, `closed ${after} ms after each connection`);
      assert.deepEqual([...new Set(arrived(c))].sort(), [11, 40]);
    }
  });

  it("a large one, over a slow network, by a client that reconnects before it has arrived", { skip: onlyHoldfast, timeout: 60000 * SLOW }, async (t) => {
    for (const transport of ["websocket", "polling"]) {
      const s = await stack(t);
      const c = s.client("4.8.4", { transports: [transport], parser: tolerantParser("4.8.4") });
      const { id } = await c.main.connected();
      s.app.stream("/", id, 1, 2);
      await c.main.stream(1, 2);
      s.relay.throttle(400_000);
      s.app.socket(id).emit("files", ...attachments(12, 20_000));
      s.app.stream("/", id, 3, 4);
      for (let round = 0; round < 5; round++) {
        const before = c.main.connects.length;
        await sleep(250);
        c.manager.engine.close();
        await until(() => c.main.connects.length > before, "a reconnection");
      }
      s.relay.throttle(0);
      await until(() => c.main.numbers.includes(4), "the last event", 20000);
      assert.equal(await poisoned(s), 0, transport);
      assert.ok(arrived(c).includes(12));
    }
  });
});
