// Clients that call socket.disconnect() and come back: recovery.on_client_disconnect.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { Polling, Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { sleep, until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const config = { recovery: { on_client_disconnect: "park" }, notify: { parked: "away", resumed: "back" } };
const told = (app, nsp = "/") => app.received.filter((r) => r.nsp === nsp && /^(away|back)$/.test(r.args[0])).map((r) => r.args);
const parked = async (s) => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" });
const failed = async (s) => (await s.hf.metrics()).sum("holdfast_recoveries_total", { result: "failed" });

/** Checks that the server has not noticed. */
const undisturbed = (app, connections) =>
  assert.deepEqual([app.disconnects, app.connections.length, app.errors], [[], connections, []]);

describe("on_client_disconnect: park", parallel, () => {
  combos("a client that disconnects comes back to its session", { native: false }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    let sent = 5;
    s.app.stream("/", id, 1, sent);
    await c.main.stream(1, sent);
    const said = [];
    for (let round = 1; round <= 3; round++) {
      for (let i = 1; i <= 3; i++) {
        c.socket.emit("up", round * 10 + i);
        said.push([round * 10 + i]);
      }
      c.socket.disconnect();
      assert.equal(c.manager.engine.readyState !== "open", true, "its connection ends");
      await until(async () => (await parked(s)) === 1, "parking");
      await until(() => told(s.app).length === 2 * round - 1, "the server to be told");
      assert.deepEqual(s.app.receivedArgs("up"), said, "what it had said before arrives");
      assert.equal(told(s.app).at(-1)[1].reason, "client_disconnect");
      assert.equal(told(s.app).at(-1)[1].expires_in, 120);
      s.app.stream("/", id, sent + 1, sent + 20, (i) => (i % 3 ? [] : [Buffer.from(`${i}`)]));
      sent += 20;
      c.socket.emit("up", round * 10 + 4); // it sends this itself when it is back
      said.push([round * 10 + 4]);
      c.socket.connect();
      assert.deepEqual(await c.main.connected(round + 1), { id, recovered: true });
      await c.main.stream(1, sent);
      await until(() => s.app.receivedArgs("up").length === said.length, "what it said meanwhile");
      assert.deepEqual(s.app.receivedArgs("up"), said);
      if (how.transport === "default" && round === 2) await c.upgraded();
    }
    undisturbed(s.app, 1);
    assert.deepEqual(c.main.disconnects, Array(3).fill("io client disconnect"));
    assert.equal(await failed(s), 0);
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_parkings_total", { reason: "client_disconnect" }), 3);
  });

  combos("one of several namespaces, on the connection that the others keep", { native: false }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const chat = c.of("/chat", { token: "t" });
    await c.main.connected();
    const { id } = await chat.connected();
    if (how.transport === "default") await c.upgraded();
    await c.main.ask("echo", 1);
    const engine = c.manager.engine;
    let sent = 0;
    for (let round = 1; round <= 3; round++) {
      s.app.stream("/chat", id, sent + 1, sent + 5);
      s.app.stream("/", c.main.id, sent + 1, sent + 10);
      await chat.stream(1, sent + 5);
      chat.socket.emit("up", round);
      chat.socket.disconnect();
      await until(async () => (await parked(s)) === 1, "parking");
      s.app.stream("/chat", id, sent + 6, sent + 10);
      sent += 10;
      await c.main.stream(1, sent);
      assert.equal(chat.numbers.length, sent - 5, "nothing comes while it is away");
      chat.socket.connect();
      assert.deepEqual(await chat.connected(round + 1), { id, recovered: true });
      await chat.stream(1, sent);
      assert.equal((await chat.ask("echo", round))[0], round);
    }
    assert.equal(c.manager.engine, engine, "over one and the same connection");
    assert.deepEqual(c.main.disconnects, []);
    assert.deepEqual(s.app.receivedArgs("up", "/chat"), [[1], [2], [3]]);
    assert.deepEqual(told(s.app, "/chat").map(([name]) => name), ["away", "back", "away", "back", "away", "back"]);
    undisturbed(s.app, 2);

    // Then the connection drops while it is away, and takes the others with it.
    chat.socket.disconnect();
    await until(async () => (await parked(s)) === 1, "parking");
    await s.lose(c);
    s.app.stream("/chat", id, sent + 1, sent + 5);
    s.relay.up();
    await c.main.connected(2);
    chat.socket.connect();
    await chat.connected(5);
    await chat.stream(1, sent + 5);
    chat.assertRecovered(4);
    c.main.assertRecovered(1);
    undisturbed(s.app, 2);
    assert.equal(await failed(s), 0);
  });

  // Timing matters here: what is in flight when the client disconnects, and when it connects again.
  combos("nothing is lost or doubled, whatever the moment", { native: false, timeout: 90000 }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    s.relay.delay(15);
    const ticker = s.app.ticker("/", id, { every: 3, make: (i) => (i % 5 ? ["text"] : [Buffer.alloc(200)]) });
    const waits = [0, 1, 5, 20, 40, 60, 100, 200];
    let said = 0;
    for (let round = 0; round < 2 * waits.length; round++) {
      const before = c.main.numbers.length;
      await until(() => c.main.numbers.length > before + 10, "events");
      c.socket.emit("up", ++said);
      c.socket.disconnect();
      c.socket.emit("up", ++said);
      await sleep(waits[round % waits.length]);
      c.socket.connect();
      await until(() => c.socket.connected, "the connection");
    }
    await c.main.stream(1, ticker.stop());
    c.main.assertRecovered(2 * waits.length);
    assert.equal(await failed(s), 0);
    undisturbed(s.app, 1);
    await until(() => s.app.receivedArgs("up").length >= said, "what the client said");
    assert.deepEqual(s.app.receivedArgs("up").map(([i]) => i), Array.from({ length: said }, (_, i) => i + 1));
  });

  // Here the connection stays open, with packets in flight. A client that connects again
  // immediately may have ignored some of them and buffered others. It then gets a fresh session,
  // and learns that.
  const asynchronous = (cb) => setTimeout(cb, 200, { token: "t" });
  for (const [kind, auth] of [["immediately", { token: "t" }], ["after a while", asynchronous]]) {
    combos(`nor on a connection that others keep, auth is there ${kind}`, { native: false, timeout: 90000 }, async (t, how) => {
      const sent = new Map(); // by the socket's id
      const serve = (io) =>
        io.of("/chat").on("connection", (socket) => {
          sent.set(socket.id, 0);
          const timer = setInterval(() => {
            const i = sent.get(socket.id) + 1;
            sent.set(socket.id, i);
            socket.emit("m", i, socket.id, ...(i % 5 ? [] : [Buffer.alloc(200)]));
          }, 3);
          socket.on("disconnect", () => clearInterval(timer));
          socket.on("stop", (cb) => cb(clearInterval(timer)));
        });
      const s = await stack(t, { config, app: serve });
      const c = s.client(how.version, how.options);
      const chat = c.of("/chat", auth);
      const got = new Map();
      // As without holdfast, it handles those buffered from an earlier session once it has its new
      // one.
      chat.socket.on("m", (i, id) => id === chat.id && got.set(id, [...(got.get(id) ?? []), i]));
      for (const nsp of c.namespaces) await nsp.connected();
      if (how.transport === "default") await c.upgraded();
      const engine = c.manager.engine;
      s.relay.delay(15);
      const other = s.app.ticker("/", c.main.id, { every: 7 });
      const waits = [0, 5, 20, 40, 1100, 60, 100, 200];
      for (let round = 0; round < 2 * waits.length; round++) {
        const before = got.get(chat.id)?.length ?? 0;
        await until(() => (got.get(chat.id)?.length ?? 0) > before + 10, "events");
        chat.socket.disconnect();
        const wait = waits[round % waits.length];
        if (wait > 1000) await until(async () => (await parked(s)) === 1, "the DISCONNECT to arrive");
        if (wait) await sleep(wait);
        chat.socket.connect();
        await until(() => chat.socket.connected, "the connection");
        if (wait > 1000) assert.equal(chat.last.recovered, true, `after ${wait} ms`);
        assert.equal(chat.last.recovered, chat.last.id === chat.connects.at(-2).id);
      }
      await chat.ask("stop");
      await until(() => got.get(chat.id).at(-1) === sent.get(chat.id), "the last event");
      for (const [id, numbers] of got) {
        assert.deepEqual(numbers, Array.from({ length: numbers.length }, (_, i) => i + 1), `what came in ${id}`);
      }
      await c.main.stream(1, other.stop());
      assert.equal(c.manager.engine, engine);
      assert.deepEqual(c.main.disconnects, []);
      const gone = s.app.disconnects.filter((d) => d.nsp === "/chat").map((d) => d.id);
      assert.deepEqual(gone, [...got.keys()].slice(0, -1), "sessions that are not resumed have ended");
      const m = await s.hf.metrics();
      assert.equal(m.sum("holdfast_recoveries_total", { reason: "client_disconnect" }), gone.length);
      assert.equal(await failed(s), gone.length);
    });
  }

  combos("a client that stays away ends for the server when it expires", { native: false, versions: ["4.8.4"], transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { config: { recovery: { ...config.recovery, max_disconnection_duration: "300ms" } } });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    c.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    assert.equal(s.app.disconnects[0].reason, "transport close");
    c.socket.connect();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.notEqual(c.main.id, id);
  });

  it("the server's disconnect() is a logout", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    c.socket.emit("leave");
    assert.equal(await c.main.disconnected(), "io server disconnect");
    await until(() => s.app.disconnects.length === 1, "the server's side");
    assert.equal(await parked(s), 0);
    c.socket.connect();
    await c.main.connected(2);
    assert.notEqual(c.main.id, id);
    assert.equal(c.main.last.recovered, false);
  });

  it("of a client or namespace without recovery is forwarded as usual", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, {
      config: { recovery: { ...config.recovery, namespaces: { exclude: ["/admin"] }, clients: { mode: "opt-out", query: "norecover" } } },
    });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const admin = c.of("/admin");
    for (const nsp of [c.main, admin]) await nsp.connected();
    admin.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the DISCONNECT");
    assert.equal(s.app.disconnects[0].reason, "client namespace disconnect");
    const out = s.client("4.8.4", { transports: ["websocket"], query: { norecover: "1" } });
    await out.main.connected();
    out.socket.disconnect();
    await until(() => s.app.disconnects.length === 2, "the DISCONNECT");
    assert.equal(await parked(s), 0);
  });

  it("an answer given after the DISCONNECT arrives", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const chat = c.of("/chat");
    await c.main.connected();
    const { id } = await chat.connected();
    let answer;
    chat.socket.on("question", (x, fn) => (answer = () => fn(x + 1)));
    const answers = [];
    s.app.socket(id, "/chat").emit("question", 41, (x) => answers.push(x));
    await until(() => answer, "the question");
    chat.socket.disconnect();
    answer();
    await until(() => answers.length === 1, "the answer");
    assert.deepEqual(answers, [42]);
    chat.socket.connect();
    await chat.connected(2);
    chat.assertRecovered(1);
    assert.deepEqual(c.main.disconnects, []);
    // An answer after the end of its session belongs to no session.
    s.app.socket(id, "/chat").emit("question", 1, () => assert.fail("answered"));
    answer = null;
    await until(() => answer, "the question");
    chat.socket.disconnect();
    await until(async () => (await parked(s)) === 1, "parking");
    s.app.socket(id, "/chat").disconnect();
    await until(async () => (await parked(s)) === 0, "its end");
    answer();
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    assert.deepEqual(c.main.disconnects, []);
  });

  it("a client that connects without the pid gets a session of its own, and the previous one ends", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const chat = c.of("/chat");
    await c.main.connected();
    const { id } = await chat.connected();
    chat.socket.disconnect();
    delete chat.socket._pid;
    chat.socket.connect();
    await chat.connected(2);
    assert.notEqual(chat.id, id);
    await until(() => s.app.disconnects.length === 1, "the end of the previous one");
    assert.deepEqual([s.app.disconnects[0].id, s.app.disconnects[0].reason], [id, "client namespace disconnect"]);
    assert.equal((await chat.ask("echo", 1))[0], 1);
    assert.deepEqual(c.main.disconnects, []);
    assert.equal(await parked(s), 0);
  });

  // Polls and POSTs use separate connections. If the next poll overtakes the client's DISCONNECT,
  // what the client ignored must come again.
  it("a poll that overtakes the DISCONNECT confirms nothing", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config });
    const p = await Polling.open(s.url);
    const { sid, pid } = await p.connect();
    s.app.emit("/", sid, "first");
    const [first] = await p.pollFor((packet) => packet.startsWith("42"));
    const { offset } = /"(?<offset>hf[^"]+)"\]$/.exec(first).groups;
    s.app.emit("/", sid, "second");
    // The client has just disconnected, and ignores it.
    await p.pollFor((packet) => packet.includes("second"));
    const poll = p.poll();
    await until(() => s.relay.list((conn) => /^GET/.test(conn.request) && conn.down.passed === 0).length > 0, "the poll");
    await p.post("41");
    await p.post("1");
    await poll;
    const ws = await Raw.open(s.url);
    assert.equal((await ws.connect({ pid, offset })).sid, sid);
    assert.match(await ws.next(), /^42\["second"/);
  });

  it("nor does the upgrade to WebSocket", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config });
    const p = await Polling.open(s.url);
    const { sid, pid } = await p.connect();
    const waiting = p.poll();
    s.app.emit("/", sid, "ignored");
    assert.match((await waiting).body, /^42\["ignored"/);
    const ws = new Raw(s.url, { sid: p.sid });
    await ws.opened();
    ws.send("2probe");
    assert.equal(await ws.next(), "3probe");
    ws.send("5", "41");
    await until(async () => (await parked(s)) === 1, "parking");
    const next = await Raw.open(s.url);
    assert.equal((await next.connect({ pid })).sid, sid);
    assert.match(await next.next(), /^42\["ignored"/);
  });

  combos("what clients have is known, and not kept", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    const last = s.app.flood("/", id, 1, 5 << 20, 4096);
    await c.main.stream(1, last, { timeout: 30000 });
    const kept = async () => (await s.hf.metrics()).sum("holdfast_buffered_bytes");
    await until(async () => (await kept()) < 64 << 10, async () => `little to be kept, not ${await kept()}`);
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_heartbeat_timeouts_total"), 0);
  });

  // No client library does this, but an attacker may.
  it("packets for a namespace that was left close the client", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config });
    const ws = await Raw.open(s.url);
    ws.send("40");
    await ws.find(/^40/);
    ws.send("41");
    ws.send("41");
    await until(async () => (await parked(s)) === 1, "parking");
    ws.send('42["up",1]');
    await until(() => ws.closed, "the end");
    assert.deepEqual(s.app.receivedArgs("up"), []);
    undisturbed(s.app, 1);
  });

  it("applies to clients that connect after a reload", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t);
    const [a, b] = [0, 1].map(() => s.client("4.8.4", { transports: ["websocket"] }));
    b.manager.reconnection(true);
    await a.main.connected();
    await b.main.connected();
    await s.hf.reload(config);
    a.socket.disconnect();
    await until(() => s.app.disconnects.length === 1, "the DISCONNECT of a client from before");
    await s.hit(b);
    await b.main.connected(2);
    b.socket.disconnect();
    await until(async () => (await parked(s)) === 1, "parking");
    b.socket.connect();
    await b.main.connected(3);
    b.main.assertRecovered(2);
    assert.equal(s.app.disconnects.length, 1);
  });

  it("another value is refused", async () => {
    const { code, stderr } = await runHoldfast(["-check"], { env: { HOLDFAST_RECOVERY_ON_CLIENT_DISCONNECT: "keep" } });
    assert.equal(code, 2);
    assert.match(stderr, /HOLDFAST_RECOVERY_ON_CLIENT_DISCONNECT: recovery\.on_client_disconnect: found "keep"; allowed: close or park/);
  });
});

describe("a client that disconnects while its CONNECT is in flight", parallel, () => {
  // Such a client sends nothing, and ignores what arrives.
  for (const on_client_disconnect of ["close", "park"]) {
    combos(`is not given a gap for a recovery (${on_client_disconnect})`, { native: false, versions: ["4.8.4"], transports: ["websocket", "polling"] }, async (t, how) => {
      const s = await stack(t, { config: { recovery: { on_client_disconnect } } });
      const c = s.client(how.version, how.options);
      const chat = c.of("/chat");
      await c.main.connected();
      const { id } = await chat.connected();
      s.app.stream("/chat", id, 1, 3);
      await chat.stream(1, 3);
      await s.lose(c);
      s.app.stream("/chat", id, 4, 6);
      // Its CONNECT has just been sent.
      c.manager.once("open", () => queueMicrotask(() => chat.socket.disconnect()));
      s.relay.up();
      await c.main.connected(2);
      await c.main.ask("echo", 1);
      await sleep(50);
      assert.equal(chat.connects.length, 1);
      s.app.stream("/chat", id, 7, 9);
      await c.main.ask("echo", 2);
      chat.socket.connect();
      await chat.connected(2, 20000);
      assert.equal(chat.last.recovered, false);
      assert.notEqual(chat.id, id);
      await until(() => s.app.disconnects.some((d) => d.id === id), "the end of the previous one");
      assert.equal((await chat.ask("echo", 3))[0], 3);
    });
  }
});

describe("disconnect() before the reply to CONNECT", { skip: onlyHoldfast }, () => {
  for (const transports of [["polling"], ["websocket"], ["polling", "websocket"]]) {
    it(`leaves no session behind, over ${transports.join(" and ")}`, async (t) => {
      const s = await stack(t);
      for (let i = 0; i < 30; i++) {
        const c = s.client("4.8.4", { transports, reconnection: false });
        await new Promise((resolve) => c.manager.once("open", resolve));
        await sleep(i % 4);
        c.socket.disconnect();
      }
      await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", {}) === 0, "the sessions to end");
      await until(() => s.app.io.engine.clientsCount === 0, "the connections to the server to end");
    });
  }
});

for (const transports of [["polling"], ["websocket"]]) {
  it(`a cut right behind the reply to CONNECT recovers, over ${transports}`, { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t);
    // Longer than a session stays whose client may not have read the reply.
    const c = s.client("4.8.4", { transports, reconnectionDelay: 1000, randomizationFactor: 0 });
    c.socket.once("connect", () => s.hit(c));
    await c.main.connected(2, 8000);
    c.main.assertRecovered(1);
  });
}
