// recovery.keyed: clients that cannot resume by themselves recover by a key in their URL.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { combos } from "../lib/combos.js";
import { example } from "../lib/examples.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { PythonClient, missingClient } from "../lib/python.js";
import { stack } from "../lib/stack.js";
import { stopwatch, until } from "../lib/wait.js";

const parallel = { concurrency: 4, skip: onlyHoldfast };
const versions = ["3.1.3", "4.0.2", "4.5.4"];
const newKey = () => randomBytes(16).toString("hex");
const keyed = (more = {}, recovery = {}) => ({ recovery: { keyed: { query: "hf_key", ...more }, ...recovery } });

// A client that is cut in the middle of its upgrade may notice only by its heartbeat. This one is holdfast's own: the server's
// has time, so that no stall of the machine ends a session.
const quick = { engineio: { ping_interval: "500ms", ping_timeout: "1500ms" } };

/** A client with a key that has three events, all confirmed. */
async function warm(t, how, options = {}, key = newKey()) {
  const s = await stack(t, { config: keyed(), ...options });
  const c = s.client(how.version, { ...how.options, query: { app: "1", hf_key: key } });
  const replies = [];
  c.manager.on("packet", (packet) => packet.type === 0 && replies.push(packet.data));
  const { id } = await c.main.connected();
  if (how.transport === "default") await c.upgraded();
  s.app.stream("/", id, 1, 3);
  await c.main.stream(1, 3);
  if (key.length >= 16) await confirmed(s);
  return { s, c, id, key, replies, before: s.app.footprint() };
}

/** Waits until the client has confirmed everything. */
const confirmed = (s) => until(async () => (await s.hf.metrics()).sum("holdfast_buffered_packets") === 0, "the client to confirm");
const failed = async (s, reason) => (await s.hf.metrics()).sum("holdfast_recoveries_total", { result: "failed", reason });
const recovered = async (s) => (await s.hf.metrics()).sum("holdfast_recoveries_total", { result: "recovered" });

function sameId(main) {
  assert.deepEqual(main.connects.map((c) => c.id), main.connects.map(() => main.connects[0].id));
}

/** Checks that 1..to came in order, with nothing but runs that came again: n, m <= n, m + 1, ... */
function checkAtLeastOnce(numbers, to) {
  let seen = 0;
  for (const [i, n] of numbers.entries()) {
    assert.ok(n <= seen + 1, `a gap: ${n} after ${seen}`);
    if (i > 0) assert.ok(n === numbers[i - 1] + 1 || n <= seen, `disorder at ${i}: ${numbers.slice(Math.max(0, i - 3), i + 3)}`);
    seen = Math.max(seen, n);
  }
  assert.equal(seen, to);
}

describe("clients with a key", parallel, () => {
  combos("recover: same id, rooms and data, what was missed, no extra argument, no pid", { versions }, async (t, how) => {
    const { s, c, id, replies, before } = await warm(t, how);
    assert.deepEqual(await c.main.ask("visit"), [1, [id, "everyone"].sort()]);
    await confirmed(s);
    await s.lose(c);
    s.app.stream("/", id, 4, 20, (i) => (i % 2 ? ["t"] : [Buffer.from([i])]));
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 20);
    sameId(c.main);
    assert.deepEqual(c.main.events.filter((e) => e[0] === "n").map((e) => e.length), Array.from({ length: 20 }, (_, i) => (i < 3 ? 2 : 3)));
    assert.deepEqual(await c.main.ask("visit"), [2, [id, "everyone"].sort()], "the same socket");
    assert.deepEqual(s.app.footprint(), before, "the server saw nothing");
    for (const data of replies) assert.deepEqual(Object.keys(data), ["sid"]);
    assert.equal(s.app.connections[0].query.app, "1");
    assert.equal("hf_key" in s.app.connections[0].query, false, "the key is not passed on");
    assert.doesNotMatch(s.hf.log, new RegExp("[0-9a-f]{32}"), "nor logged");
    assert.equal(await recovered(s), 1);
  });

  combos("recover several namespaces on one link, ten times in a row", { versions: ["4.5.4"] }, async (t, how) => {
    const { s, c, id, before } = await warm(t, how, { config: { ...keyed(), ...quick } });
    const admin = c.of("/admin");
    const { id: adminId } = await admin.connected();
    for (let i = 1; i <= 10; i++) {
      await s.hit(c);
      await c.main.connected(1 + c.main.disconnects.length);
      await admin.connected(1 + admin.disconnects.length);
    }
    s.app.stream("/", id, 4, 10);
    s.app.stream("/admin", adminId, 1, 5);
    await until(() => c.main.numbers.includes(10) && admin.numbers.includes(5), "the events");
    checkAtLeastOnce(c.main.numbers, 10);
    sameId(c.main);
    sameId(admin);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(s.app.connections.length, before.connections + 1);
    await until(async () => (await s.hf.metrics()).sum("holdfast_links") === 1, "one link");
    const fresh = c.of("/chat");
    await fresh.connected();
    assert.equal((await s.hf.metrics()).sum("holdfast_links"), 1, "a fresh namespace connects on the link of the others");
  });

  for (const redeliver of ["at-least-once", "at-most-once"]) {
    combos(`while a stream of events runs, ${redeliver}`, { versions: ["3.1.3", "4.5.4"], transports: ["websocket", "polling"] }, async (t, how) => {
      const { s, c, id } = await warm(t, how, { config: { ...keyed({ redeliver }), ...quick } });
      let n = 3;
      const timer = setInterval(() => s.app.stream("/", id, ++n, n), 2);
      for (let i = 1; i <= 8; i++) {
        const at = c.main.numbers.length;
        await until(() => c.main.numbers.length > at + 10, "some events");
        await s.hit(c);
        await c.main.connected(1 + c.main.disconnects.length);
      }
      clearInterval(timer);
      const last = n;
      await until(() => c.main.numbers.includes(last), "the last event");
      sameId(c.main);
      if (redeliver === "at-least-once") checkAtLeastOnce(c.main.numbers, last);
      else for (const [i, x] of c.main.numbers.entries()) assert.ok(i === 0 || x > c.main.numbers[i - 1], `${x} came twice, or late`);
      assert.equal(s.app.disconnects.length, 0);
    });
  }

  it("a key that is too short is ignored", async (t) => {
    const { s, c, id } = await warm(t, { version: "4.5.4", options: { transports: ["websocket"] } }, {}, "user-4711");
    await s.lose(c);
    s.relay.up();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
    await s.hf.says(/too short/);
    assert.doesNotMatch(s.hf.log, /4711/);
  });

  it("a client that returns too late gets a fresh session, and the reason is counted", async (t) => {
    const { s, c, id } = await warm(t, { version: "4.5.4", options: { transports: ["websocket"] } }, {
      config: keyed({}, { max_disconnection_duration: "100ms" }),
    });
    await s.lose(c);
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    s.relay.up();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
    assert.equal(await failed(s, "expired"), 1);
    await s.lose(c);
    s.relay.up();
    await c.main.connected(3);
    sameId({ connects: c.main.connects.slice(1) });
  });

  it("disconnect() ends the session", async (t) => {
    const { s, c, id } = await warm(t, { version: "4.5.4", options: { transports: ["websocket"] } });
    c.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the server to see it");
    c.socket.connect();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
  });

  it("without what the session is bound to, gets a fresh session and affects no other", async (t) => {
    const key = newKey();
    const s = await stack(t, { config: keyed({}, { bind: { headers: ["authorization"] } }) });
    const open = (authorization) => s.client("4.5.4", { transports: ["websocket"], query: { hf_key: key }, extraHeaders: { authorization } });
    const c = open("mine");
    const { id } = await c.main.connected();
    const thief = open("stolen");
    assert.notEqual((await thief.main.connected()).id, id);
    assert.equal(await failed(s, "binding"), 1);
    await s.lose(c);
    s.relay.up();
    assert.equal((await c.main.connected(2)).id, id);
  });
});

describe("clients with a key that count", parallel, () => {
  for (const redeliver of ["at-least-once", "at-most-once"]) {
    combos(`get each event exactly once, those that ask too, with ${redeliver}`, { versions: ["2.5.0", ...versions] }, async (t, how) => {
      const s = await stack(t, { ...(how.version < "3" && { server: "2.5.1" }), config: { ...keyed({ redeliver }), ...quick } });
      const c = s.client(how.version, { ...how.options, query: { hf_key: newKey() } });
      new Function("socket", example("js", "countEvents"))({ io: c.manager });
      const asked = [];
      c.socket.on("question", (i) => asked.push(i)); // without an answer
      const { id } = await c.main.connected();
      if (how.transport === "default") await c.upgraded();
      let n = 0;
      const timer = setInterval(() => {
        s.app.stream("/", id, ++n, n);
        s.app.socket(id).emit("question", n, () => {});
      }, 2);
      for (let i = 1; i <= 8; i++) {
        const at = c.main.numbers.length;
        await until(() => c.main.numbers.length > at + 10, "some events");
        await s.hit(c);
        await c.main.connected(1 + c.main.disconnects.length);
      }
      clearInterval(timer);
      await c.main.stream(1, n);
      await until(() => asked.length === n, "the questions");
      assert.deepEqual(asked, Array.from({ length: n }, (_, i) => i + 1));
      sameId(c.main);
      assert.equal(s.app.disconnects.length, 0);
    });
  }

  combos("have it right although the first reply did not arrive", { versions: ["2.5.0", "4.5.4"], transports: ["websocket"] }, async (t, how) => {
    const old = how.version < "3";
    const welcome = (io) => io.of("/").on("connection", (socket) => [1, 2, 3].forEach((i) => socket.emit("n", i)));
    const s = await stack(t, { ...(old && { server: "2.5.1" }), config: keyed(), app: welcome });
    const cut = s.relay.onBytes("down", old ? Buffer.from([0x81, 2, 0x34, 0x30]) : "40{", { at: "before" });
    const c = s.client(how.version, { ...how.options, query: { hf_key: newKey() } });
    new Function("socket", example("js", "countEvents"))({ io: c.manager });
    await cut;
    const { id } = await c.main.connected();
    await c.main.stream(1, 3);
    assert.equal(s.app.connections.length, 1);
    s.app.stream("/", id, 4, 500);
    await until(() => c.main.numbers.length > 3, "one of them");
    await s.hit(c); // before it has confirmed what it has
    assert.equal((await c.main.connected(2)).id, id);
    await c.main.stream(1, 500);
  });

  it("that begin to count too late get a fresh session, not a gap", async (t) => {
    const { s, c, id } = await warm(t, { version: "4.5.4", options: { transports: ["websocket"] } });
    c.manager.opts.query.hf_n = "/:17";
    await s.lose(c);
    s.relay.up();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
    assert.equal(await failed(s, "bad_offset"), 1);
    await until(() => s.app.disconnects.length === 1, "the previous session to end");
  });

  for (const [kind, name] of [["threads", "CountingClient"], ["asyncio", "CountingAsyncClient"]]) {
    it(`python-socketio's client on ${kind} gets each event exactly once`, { skip: missingClient(kind) }, async (t) => {
      const s = await stack(t, { config: keyed() });
      const c = new PythonClient(t, kind, `${s.url}/?hf_key=${newKey()}`, "websocket", { snippet: example("python", `class ${name}`) });
      const id = await c.connected(1);
      let n = 0;
      const timer = setInterval(() => s.app.stream("/", id, ++n, n), 5);
      for (let i = 1; i <= 4; i++) {
        const at = c.numbersOf().length;
        await until(() => c.numbersOf().length > at + 10, () => `some events\n${c.errors ?? ""}`);
        s.relay.down();
        await c.disconnected(i);
        s.relay.up();
        await c.connected(i + 1);
      }
      clearInterval(timer);
      await until(() => c.numbersOf().length >= n, () => `all events\n${c.errors ?? ""}`);
      // It runs each handler in a thread or task.
      assert.deepEqual(c.numbersOf().sort((a, b) => a - b), Array.from({ length: n }, (_, i) => i + 1));
      assert.deepEqual(new Set(c.ids), new Set([id]));
    });
  }
});

describe("two clients with one key", parallel, () => {
  combos("never share a session, while both live", { versions: ["4.5.4"] }, async (t, how) => {
    const { s, c, id, key } = await warm(t, how);
    const other = s.client("4.5.4", { ...how.options, query: { hf_key: key } });
    const { id: otherId } = await other.main.connected();
    assert.notEqual(otherId, id);
    assert.equal(c.main.disconnects.length, 0, "the first one keeps its session");
    assert.deepEqual(await c.main.ask("echo", 1), [1]);
    assert.deepEqual(await other.main.ask("echo", 2), [2]);
    assert.equal(await failed(s, "key_in_use"), 1);
    await s.hf.says(/used by two clients/);
    other.close();
    await until(() => s.app.disconnects.length === 1, "the other one leaves no parked session");
  });

  combos("are one, if the first gives no sign of life", { versions: ["4.5.4"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how);
    const elapsed = stopwatch();
    s.relay.abandon(); // the client's side ends, holdfast's stays open and silent
    await c.main.connected(2);
    assert.ok(elapsed() < 5000, `back after ${elapsed()} ms`);
    sameId(c.main);
    s.app.stream("/", id, 4, 5);
    await until(() => c.main.numbers.includes(5), "its events");
    checkAtLeastOnce(c.main.numbers, 5);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal((await s.hf.metrics()).sum("holdfast_recoveries_total", { reason: how.transport === "polling" ? "resumed" : "takeover" }), 1);
  });
});

describe("a packet that a client with a key cannot decode", parallel, () => {
  combos("is left out, and all else arrives", { versions: ["4.5.4"] }, async (t, how) => {
    const { s, c, id } = await warm(t, how, { config: { ...keyed(), ...quick } });
    s.app.socket(id).conn.write('2["nan",NaN]');
    s.app.socket(id).emit("msg", { _placeholder: true, num: 5 }, Buffer.alloc(1));
    s.app.stream("/", id, 4, 9);
    await until(() => c.main.numbers.includes(9), "what follows it", 20000);
    checkAtLeastOnce(c.main.numbers, 9);
    sameId(c.main);
    const drops = c.main.disconnects.length;
    s.app.stream("/", id, 10, 12);
    await until(() => c.main.numbers.includes(12), "the rest");
    assert.ok(drops <= 8, `${drops} reconnections`);
    assert.equal(s.app.disconnects.length, 0);
  });
});

for (const kind of ["threads", "asyncio"]) {
  it(`takes over within the second that it waits for a reply: python-socketio on ${kind}`, { skip: onlyHoldfast || missingClient(kind) }, async (t) => {
    const s = await stack(t, { config: keyed() });
    const c = new PythonClient(t, kind, `${s.url}/?hf_key=${newKey()}`, "websocket", "/", "/admin");
    const id = await c.connected(1);
    const adminId = await c.connected(1, "/admin");
    for (let i = 2; i <= 3; i++) {
      s.relay.abandon(); // the client's side ends, holdfast's stays open and silent
      assert.equal(await c.connected(i), id);
      assert.equal(await c.connected(i, "/admin"), adminId);
    }
    assert.equal(s.app.disconnects.length, 0);
    assert.equal((await s.hf.metrics()).sum("holdfast_recoveries_total", { reason: "takeover" }), 4);
  });

  for (const transport of ["polling", "websocket", "upgrade"]) {
    describe(`python-socketio's client on ${kind}, by ${transport}, with a key`, { ...parallel, skip: onlyHoldfast || missingClient(kind) }, () => {
      it("recovers, its strict handlers get what was sent, and its new ids are not answered with old answers", async (t) => {
        const held = [];
        const s = await stack(t, {
          config: keyed(),
          app: (io) => io.of("/").on("connection", (socket) => socket.on("hold", (x, ack) => held.push(() => ack(x)))),
        });
        const c = new PythonClient(t, kind, `${s.url}/?hf_key=${newKey()}`, transport, "/", "/admin");
        const id = await c.connected(1);
        const adminId = await c.connected(1, "/admin");
        s.app.emit("/", id, "n", 1);
        s.app.emit("/", id, "pair", "a", Buffer.from("binary"));
        await until(() => c.numbersOf().length === 1, "its events");
        await confirmed(s);
        c.send("ask", "/", "hold", "old");
        await until(() => held.length === 1, "its question");

        s.relay.down();
        await c.disconnected(1);
        // By polling it refuses an answer with more than 16 packets.
        for (let i = 2; i <= 60; i++) s.app.emit("/", id, "n", i);
        for (let i = 0; i < 10; i++) s.app.emit("/", id, "pair", "a", Buffer.from("binary"));
        s.app.emit("/admin", adminId, "n", 1);
        s.relay.up();
        assert.equal(await c.connected(2), id);
        assert.equal(await c.connected(2, "/admin"), adminId);
        await until(() => c.numbersOf().length === 60 && c.numbersOf("/admin").length === 1, () => `what it missed\n${c.output}${c.errors ?? ""}`);
        // It runs each handler in a thread or task.
        assert.deepEqual(c.numbersOf().sort((a, b) => a - b), Array.from({ length: 60 }, (_, i) => i + 1));

        c.send("ask", "/", "hold", "new"); // it has id 1 again
        await until(() => held.length === 2, "its next question");
        held[0]();
        held[1]();
        await until(() => c.answers.length > 0, "the answer");
        assert.deepEqual(c.answers, [["new"]]);
        assert.doesNotMatch(c.errors ?? "", /TypeError/);
        assert.equal(s.app.disconnects.length, 0, "the server saw no drop");
        assert.equal(s.app.connections.length, 2);
      });
    });
  }
}
