// A handover: another program takes over, and no session is lost.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { Switch } from "../lib/balancer.js";
import { Client, CLIENTS, TRANSPORTS } from "../lib/client.js";
import { begin, command, configure, env, handOver, install, managed, ownBinary, real, replace, restart, serves, skip, stack, started, status, verified } from "../lib/handover.js";
import { accepts, binary, runHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { Raw, request } from "../lib/raw.js";
import { allUp, replicas } from "../lib/replicas.js";
import { App } from "../lib/server.js";
import { stack as plainStack } from "../lib/stack.js";
import { SLOW, sleep, until, within } from "../lib/wait.js";

describe("a handover", { concurrency: 3, skip }, () => {
  it("keeps a client's session, in the same process", async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 10);
    await c.main.stream(1, 10);
    const out = await handOver(s);
    assert.equal(out.sessions, 1);
    assert.equal(out.lost_sessions, 0);
    await c.main.connected(2);
    c.main.assertRecovered(1);
    s.app.stream("/", id, 11, 20);
    await c.main.stream(1, 20);
    assert.equal((await c.main.ask("echo", "x"))[0], "x");
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(s.hf.exit, undefined);
  });

  // Every client receives numbered events all the time, and sends some. What a client sends counts
  // if its WebSocket was open: socket.io-client silently drops the rest. Polling clients send again
  // until there is an acknowledgement.
  it("ten in a row, with 30 clients of all transports and floods both ways", { timeout: 120000 * SLOW }, async (t) => {
    const answer = (io) => io.on("connection", (socket) => socket.on("up", (n, ack) => ack?.()));
    // On a busy machine 30 clients do not all end their connections within the default of a second.
    const handover = { leave: "20s", timeout: "40s" };
    const s = await stack(t, { config: { log: { level: "info" }, handover }, app: answer });
    const clients = [];
    for (let i = 0; i < 30; i++) {
      const transport = Object.keys(TRANSPORTS)[i % 3];
      const options = transport === "polling" ? { retries: 20, ackTimeout: 10000 } : {};
      const c = s.client(CLIENTS[i % 2], { transports: TRANSPORTS[transport] ?? ["polling", "websocket"], ...options });
      clients.push(c);
      c.polls = transport === "polling";
      c.sent = 0;
    }
    for (const c of clients) c.id = (await c.main.connected()).id;
    for (const c of clients) if (!c.polls) await c.upgraded();
    const { pings } = s.app;
    const began = Date.now();
    const tickers = clients.map((c, i) => s.app.ticker("/", c.id, { every: 10 + (i % 5) }));
    const timers = clients.map((c, i) =>
      setInterval(() => {
        if (c.polls ? c.sent < 80 : c.ws?.readyState === 1 && c.main.socket.connected) c.main.socket.emit("up", ++c.sent);
      }, 15 + (i % 7)),
    );
    for (let n = 1; n <= 10; n++) {
      const out = await handOver(s);
      assert.equal(out.sessions, 30);
      assert.equal(out.lost_sessions, 0);
      assert.equal(out.cut_clients, 0);
      for (const c of clients) await c.main.connected(n + 1);
      if (n % 3 === 0) await sleep(200); // some handovers come before all clients have upgraded
    }
    timers.forEach(clearInterval);
    const last = tickers.map((ticker) => ticker.stop());
    for (const [i, c] of clients.entries()) {
      await c.main.stream(1, last[i]);
      c.main.assertRecovered(10);
    }
    const received = (c) => s.app.received.filter((r) => r.id === c.id && r.args[0] === "up").map((r) => r.args[1]);
    for (const c of clients) {
      await until(() => received(c).at(-1) === c.sent, () => `event ${c.sent} at the server, have ${received(c).at(-1)}`, 20000);
      const got = c.polls ? received(c).filter((n, i, all) => all.indexOf(n) === i) : received(c);
      assert.deepEqual(got, Array.from({ length: c.sent }, (_, i) => i + 1));
    }
    assert.deepEqual(s.app.disconnects, []);
    assert.equal(s.app.connections.length, 30);
    const intervals = Math.ceil((Date.now() - began) / 25000); // of the server's pings
    assert.ok(s.app.pings - pings <= 30 * (1 + intervals), `one ping loop for each connection: ${s.app.pings - pings} pings in ${intervals} intervals`);
  });

  it("reads the configuration anew, also what a reload cannot change", async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    const adminPort = await freePort();
    const config = { ...s.hf.config, notify: { parked: "away" }, admin: { listen: `127.0.0.1:${adminPort}` } };
    await configure(s, config);
    s.hf.signal("SIGUSR2");
    await c.main.connected(2);
    c.main.assertRecovered(1);
    assert.equal(await accepts(s.hf.adminPort), false);
    s.hf.adminPort = adminPort;
    assert.equal((await status(s)).handover.result, "ok");
    await s.hit(c, "cut");
    await c.main.connected(3);
    await until(() => s.app.receivedArgs("away").length === 1, "the notification");
    assert.equal(s.app.socket(id).connected, true);
  });

  it("parked sessions keep their time", async (t) => {
    const s = await stack(t, { config: { recovery: { max_disconnection_duration: `${4 * SLOW}s` } } });
    const [early, late] = [await Raw.open(s.direct), await Raw.open(s.direct)];
    const [a, b] = [await early.connect(), await late.connect()];
    early.close();
    await until(async () => (await status(s)).sessions.parked === 1, "the first to be parked");
    await sleep(2000 * SLOW);
    late.close();
    await until(async () => (await status(s)).sessions.parked === 2, "the second to be parked");
    const out = await handOver(s);
    assert.equal(out.sessions, 2);
    await until(() => s.app.disconnects.length === 1, "the first to expire, which has half of its time left", 3000);
    assert.equal(s.app.disconnects[0].id, a.sid);
    const back = await Raw.open(s.direct);
    assert.equal((await back.connect({ pid: b.pid })).sid, b.sid);
    const gone = await Raw.open(s.direct);
    assert.notEqual((await gone.connect({ pid: a.pid })).sid, a.sid);
    await s.hf.says(/"not recovered".*"expired"/); // the next process knows why
    back.close();
    gone.close();
  });

  it("keeps what waits in both directions: half a packet from the server, and a server that reads nothing", { timeout: 30000 * SLOW }, async (t) => {
    const s = await stack(t, {
      upstreamRelay: true,
      io: { maxHttpBufferSize: 1e8 },
      config: { handover: { leave: "20s", timeout: "40s" } }, // a busy machine reads 8 MB slowly
    });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 1);
    await c.main.stream(1, 1);
    let stopped, release;
    s.upRelay.afterBytes("down", 60000, {
      action: () => {
        stopped = true;
        return new Promise((resolve) => (release = resolve));
      },
    });
    for (const conn of s.upRelay.list((conn) => conn.websocket)) conn.hole({ up: true, down: false });
    s.app.socket(id).emit("n", 2, Buffer.alloc(50000, 7), Buffer.alloc(50000, 8), Buffer.alloc(5, 9));
    s.app.stream("/", id, 3, 9);
    const sent = 80;
    for (let i = 1; i <= sent; i++) c.main.socket.emit("up", i, Buffer.alloc(100000, i));
    await until(() => stopped, "the server's packet to stop in the middle");
    await until(async () => (await s.hf.metrics()).sum("holdfast_packets_total", { direction: "in" }) > 1, "packets from the client");
    const { cut_clients } = await handOver(s);
    assert.equal(cut_clients, 0, "holdfast had enough time to read everything");
    await c.main.connected(2);
    for (const conn of s.upRelay.list()) conn.heal();
    release();
    await c.main.stream(1, 9);
    const binary = c.main.events.find((args) => args[0] === "n" && args[1] === 2);
    assert.deepEqual(binary.slice(2, 5).map((b) => [b.length, b[0]]), [[50000, 7], [50000, 8], [5, 9]]);
    await until(() => s.app.receivedArgs("up").length === sent, () => `what the client sent, have ${s.app.receivedArgs("up").length}`);
    assert.deepEqual(s.app.receivedArgs("up").map(([n, b]) => [n, b.length, b[99999]]), Array.from({ length: sent }, (_, i) => [i + 1, 100000, i + 1]));
    assert.deepEqual(s.app.disconnects, []);
  });

  it("cuts a client that does not end its connection in time, and counts it", async (t) => {
    const s = await stack(t, { config: { handover: { leave: "300ms" } } });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    for (const conn of s.relay.list()) conn.hole(); // the client does not see the end
    const out = await handOver(s);
    assert.deepEqual([out.sessions, out.lost_sessions, out.cut_clients], [1, 0, 1]);
    assert.equal((await s.hf.metrics()).sum("holdfast_handover_cut_clients"), 1);
    for (const conn of s.relay.list()) conn.heal();
    await c.main.connected(2);
    c.main.assertRecovered(1);
    assert.deepEqual(s.app.disconnects, []);
  });

  it("pending acknowledgements arrive, in both directions", async (t) => {
    let later;
    const s = await stack(t, { app: (io) => io.on("connection", (socket) => socket.on("slow", (ack) => (later = ack))) });
    // Later versions drop their pending acknowledgements when they disconnect.
    const c = s.client("4.6.2", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    let answer;
    c.main.socket.on("question", (ack) => (answer = ack));
    const asked = new Promise((resolve) => s.app.socket(id).emit("question", resolve));
    const replied = new Promise((resolve) => c.main.socket.emit("slow", resolve));
    await until(() => answer && later, "both questions to arrive");
    const done = handOver(s);
    await c.main.disconnected(1);
    later("from the server");
    await done;
    await c.main.connected(2);
    answer("from the client");
    assert.equal(await within(replied, "the server's answer"), "from the server");
    assert.equal(await within(asked, "the client's answer"), "from the client");
    c.main.assertRecovered(1);
  });

  it("keeps several namespaces, a session that is bound, and one that is parked by a DISCONNECT", async (t) => {
    const recovery = { bind: { auth: ["token"] }, on_client_disconnect: "park" };
    const s = await stack(t, { config: { recovery } });
    const c = s.client("4.8.4", { transports: ["websocket"], auth: { token: "a" } });
    const chat = c.of("/chat", { token: "b" });
    const [root, other] = [await c.main.connected(), await chat.connected()];
    const gone = s.client("4.8.4", { transports: ["websocket"], auth: { token: "c" } });
    const { id } = await gone.main.connected();
    gone.main.socket.disconnect();
    await until(async () => (await status(s)).sessions.parked === 1, "it to be parked");
    s.app.stream("/", id, 1, 3);
    const out = await handOver(s);
    assert.equal(out.sessions, 3);
    await c.main.connected(2);
    await chat.connected(2);
    c.main.assertRecovered(1);
    chat.assertRecovered(1);
    gone.main.socket.connect();
    await gone.main.connected(2);
    gone.main.assertRecovered(1);
    await gone.main.stream(1, 3);
    const thief = await Raw.open(s.direct);
    const { pid } = JSON.parse(JSON.stringify({ pid: c.main.socket._pid }));
    assert.notEqual((await thief.connect({ pid, token: "x" })).sid, root.id, "the binding still holds");
    thief.close();
    assert.equal(s.app.socket(other.id, "/chat").connected, true);
    assert.deepEqual(s.app.disconnects.filter((d) => [root.id, other.id, id].includes(d.id)), []);
  });

  it("keeps a client with a key, what it counts, and its acknowledgement ids", async (t) => {
    const s = await stack(t, {
      config: { recovery: { keyed: { query: "hf_key" } } },
      app: (io) => io.of("/").on("connection", (socket) => socket.on("slow", (ack) => (s.answer = ack))),
    });
    const c = s.client("4.5.4", { transports: ["websocket"], query: { hf_key: "0123456789abcdef0123" } });
    let handled = 0;
    c.manager.on("packet", ({ type }) => {
      if (type === 2 || type === 5) c.manager.opts.query.hf_n = `/:${++handled}`;
    });
    const { id } = await c.main.connected();
    for (let i = 1; i <= 3; i++) {
      s.app.stream("/", id, 10 * i - 9, 10 * i);
      await c.main.stream(1, 10 * i);
      const out = await handOver(s);
      assert.equal(out.sessions, 1);
      await c.main.connected(i + 1);
      assert.equal(c.main.id, id);
      assert.equal((await c.main.ask("echo", "x"))[0], "x");
    }
    const asked = c.main.ask("slow");
    await until(() => s.answer, "the question");
    s.answer("late");
    assert.deepEqual(await asked, ["late"]);
    s.app.stream("/", id, 31, 35);
    await c.main.stream(1, 35);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(s.app.connections.length, 1);
  });

  it("new connections wait, and requests in progress are not harmed", async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    s.hf.signal("SIGUSR2");
    const newcomers = [];
    for (let i = 0; i < 20; i++) {
      newcomers.push(s.client("4.8.4", { transports: ["websocket"] }));
      await sleep(10);
    }
    for (const n of newcomers) await n.main.connected();
    await c.main.connected(2);
    c.main.assertRecovered(1);
    for (const n of newcomers) if (n.main.connects.length > 1) n.main.assertRecovered();
  });

  it("requests that pass through have time to end", async (t) => {
    let asked;
    const http = (req, res) => {
      asked = true;
      setTimeout(() => res.end("done"), 500);
    };
    const s = await stack(t, { http, config: { handover: { leave: "20s", timeout: "40s" } } });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    const download = request(`${s.direct}/slow`);
    await until(() => asked, "the request");
    await handOver(s);
    assert.equal((await download).body, "done");
    await c.main.connected(2);
    c.main.assertRecovered(1);
    await s.hf.says(/"handover: this process has taken over".*"cut_clients":0,"cut_connections":0/);
  });

  it("keeps links over a Unix socket, and events of which only the newest is kept", async (t) => {
    const app = await App.start("4.5.4");
    t.after(() => app.stop());
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-handover-"));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const file = path.join(dir, "app.sock");
    const unix = net.createServer((socket) => {
      const there = net.connect(app.port, "127.0.0.1");
      socket.pipe(there).pipe(socket);
      for (const end of [socket, there]) end.on("error", () => {});
    });
    await new Promise((resolve) => unix.listen(file, resolve));
    t.after(() => unix.close());
    const config = { upstream: { url: `unix://${file}` }, events: { latest: ["position"], volatile: ["cursor"] } };
    const s = await stack(t, { upstreamPort: app.port, config });
    const away = await Raw.open(s.direct);
    const { sid, pid } = await away.connect();
    away.close();
    await until(async () => (await status(s)).sessions.parked === 1, "it to be parked");
    const emit = (...args) => app.socket(sid).emit(...args);
    emit("position", 1);
    emit("n", 1);
    emit("position", 2);
    emit("cursor", 1);
    await until(async () => (await status(s)).buffer.packets === 2, "the events");
    const out = await handOver(s);
    assert.equal(out.sessions, 1);
    emit("position", 3);
    emit("cursor", 2);
    emit("n", 2);
    await until(async () => (await status(s)).buffer.packets === 3, "the events after the handover");
    const back = await Raw.open(s.direct);
    assert.equal((await back.connect({ pid })).sid, sid);
    const events = [];
    for (let i = 0; i < 3; i++) events.push(JSON.parse((await back.find(/^42/)).slice(2)).slice(0, 2).join(" "));
    assert.deepEqual(events, ["n 1", "position 3", "n 2"]);
    assert.deepEqual(app.disconnects, []);
    back.close();
  });

  it("counts what cannot be handed over, and the server learns of it", async (t) => {
    const s = await stack(t, { io: { transports: ["polling"] } });
    const c = s.client("4.8.4", { transports: ["polling"] });
    await c.main.connected();
    const out = await handOver(s);
    assert.equal(out.lost_sessions, 1);
    assert.equal(out.sessions, 0);
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    await until(() => s.app.disconnects.length === 1, "the server to see it");
    assert.equal((await s.hf.metrics()).sum("holdfast_handover_lost_sessions"), 1);
    await s.hf.says(/"not recovered".*"upstream_lost"/);
  });
});

describe("a handover that fails", { concurrency: 4, skip }, () => {
  for (const [what, change, reason, timeout] of [
    ["the binary is missing", (s) => rm(s.bin), /no such file/],
    ["the binary is not executable", (s) => chmod(s.bin, 0o644), /permission denied/],
    ["the binary is no program", (s) => writeFile(s.bin, "no program").catch(() => replace(s.bin, "")), /exec format error|which formats/],
    ["the binary exits 1", (s) => replace(s.bin, "echo broken >&2; exit 1"), /broken/],
    ["the binary hangs", (s) => replace(s.bin, "sleep 60"), /longer than handover.timeout/, "2s"],
    ["the binary reads other formats only", (s) => replace(s.bin, `echo '{"oldest":99,"newest":100}'`), /reads formats 99 to 100/],
    ["the configuration has a mistake", (s) => configure(s, "listen: nowhere"), /listen/],
    ["it is off", (s) => s.hf.reload({ handover: { mode: "off" } }), /handover.mode is off/],
  ]) {
    it(`before anything has changed: ${what}`, async (t) => {
      const s = await begin(t, { config: { handover: { timeout } } });
      await change(s);
      const out = await handOver(s, "rejected");
      assert.match(out.reason, reason);
      await serves(s, 1);
      assert.equal((await s.hf.metrics()).sum("holdfast_handovers_total", { result: "rejected" }), 1);
      await s.hf.says(/handover: failed, and this process continues/);
    });
  }

  for (const [what, script, reason, timeout] of [
    ["the new program cannot read the snapshot", `${real}
echo cannot read it >&2; exit 1`, /cannot read it/],
    ["the exec fails", `${real}
chmod 644 "$0"; exec "$REAL" "$@"`, /permission denied/],
    ["the new program takes too long to read it", `${real}
exec sleep 60`, /longer than handover.timeout/, `${2 * SLOW}s`],
  ]) {
    it(`after the clients were closed: ${what}`, async (t) => {
      const s = await begin(t, { config: { handover: { timeout } } });
      await replace(s.bin, script);
      const out = await handOver(s, "failed");
      assert.match(out.reason, reason);
      await serves(s, 2);
      await install(s.bin, await binary());
      await handOver(s); // and the next one works
      await serves(s, 3);
      const metrics = await s.hf.metrics();
      assert.equal(metrics.sum("holdfast_handovers_total", { result: "failed" }), 1);
      assert.equal(metrics.sum("holdfast_handovers_total", { result: "ok" }), 1);
    });
  }

  it("in the new program: the old one comes back, with its old settings", async (t) => {
    const s = await begin(t);
    const occupied = net.createServer();
    await new Promise((resolve) => occupied.listen(0, "127.0.0.1", resolve));
    t.after(() => occupied.close());
    await configure(s, { ...s.hf.config, listen: `127.0.0.1:${occupied.address().port}` });
    const out = await handOver(s, "restored");
    assert.match(out.reason, /address already in use/);
    await serves(s, 2);
    await configure(s, s.hf.config);
    await handOver(s);
    await serves(s, 3);
  });

  it("SIGTERM in the middle of it stops holdfast in order", async (t) => {
    const s = await begin(t, { config: { shutdown: { drain_timeout: "0" } } });
    await replace(s.bin, `${real}
sleep 1; exec "$REAL" "$@"`);
    s.hf.signal("SIGUSR2");
    await s.c.main.disconnected(1);
    s.hf.signal("SIGTERM");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
  });

  it("several signals are one handover, or two", async (t) => {
    const s = await begin(t);
    for (let i = 0; i < 20; i++) s.hf.signal("SIGUSR2");
    await s.c.main.connected(2);
    await sleep(300);
    for (let i = 0; i < 20; i++) {
      s.hf.signal("SIGUSR2");
      await sleep(10);
    }
    await until(() => s.c.main.socket.connected, "the client to be back");
    await sleep(500);
    await s.c.main.connected(3);
    s.c.main.assertRecovered();
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(s.hf.exit, undefined);
  });
});

describe("holdfast handover", { concurrency: 4, skip }, () => {
  it("waits for the outcome", async (t) => {
    const s = await begin(t);
    const { code, text } = await command(s);
    assert.equal(code, 0, text);
    assert.match(text, /^ok: holdfast \S+ serves 1 session, lost 0, \d/);
    await serves(s, 2);
  });

  it("says why it failed", async (t) => {
    const s = await begin(t);
    await rm(s.bin);
    const { code, text } = await command(s);
    assert.equal(code, 1);
    assert.match(text, /handover rejected: .*no such file/);
    await serves(s, 1);
  });
});

/**
 * A client that has its session at one of two replicas, the owner, and is connected to the other, the edge. same() checks
 * that it has had this session ever since. On a very busy machine the owner may answer too late at first.
 */
async function relayed(t, list, transport) {
  const way = await Switch.start(list[0].port);
  t.after(() => way.close());
  const c = new Client("4.8.4", way.url, { transports: [transport] });
  t.after(() => c.close());
  await c.main.connected();
  let at = 0;
  do {
    const before = c.main.connects.length;
    at = 1 - at;
    const cuts = c.main.disconnects.length;
    // Stop cutting once the client has noticed.
    for (; c.main.disconnects.length === cuts; await sleep(50)) way.moveTo(list[at].port);
    await c.main.connected(before + 1);
  } while (!c.main.last.recovered);
  const { id } = c.main.last;
  const before = c.main.connects.length;
  const same = (app) => {
    assert.ok(c.main.connects.length > before, "it has reconnected");
    for (const now of c.main.connects.slice(before)) assert.deepEqual(now, { id, recovered: true });
    assert.ok(!app.disconnects.some((d) => d.id === id), "the server has not noticed");
  };
  return { c, id, owner: list[1 - at], edge: list[at], same };
}

describe("a handover of replicas", { concurrency: 2, skip }, () => {
  for (const transport of ["websocket", "polling"]) {
    it(`clients whose session is at another replica recover, whichever of the two hands over (${transport})`, { timeout: 60000 * SLOW }, async (t) => {
      const a = await App.start("4.5.4");
      t.after(() => a.stop());
      const list = await replicas(t, 2, () => a.port, { env });
      const { c, id, owner, edge, same } = await relayed(t, list, transport);
      const ticker = a.ticker("/", id, { every: 20 });
      t.after(() => ticker.stop());
      for (const hf of [owner, edge, owner]) {
        const before = c.main.connects.length;
        const out = await handOver({ hf });
        assert.equal(out.lost_sessions, 0);
        await c.main.connected(before + 1, 15000);
        assert.deepEqual((await c.main.ask("echo", before))[0], before);
        await allUp(list, 1, 15000);
      }
      const last = ticker.stop();
      await c.main.stream(1, last);
      same(a);
    });

    it(`the edge waits for an owner that is away for long, and gives no fresh session meanwhile (${transport})`, { timeout: 60000 * SLOW }, async (t) => {
      const a = await App.start("4.5.4");
      t.after(() => a.stop());
      const bin = await ownBinary(t);
      const list = await replicas(t, 2, () => a.port, { env, bin });
      const { c, id, owner, same } = await relayed(t, list, transport);
      const ticker = a.ticker("/", id, { every: 20 });
      t.after(() => ticker.stop());
      await replace(bin, `${verified}\nsleep 4; exec "$REAL" "$@"`); // an edge asks for 2 s
      const before = c.main.connects.length;
      await handOver({ hf: owner });
      await until(() => c.main.connects.length > before && c.main.socket.connected, "the client", 20000);
      const last = ticker.stop();
      await c.main.stream(1, last);
      same(a);
    });
  }

  it("a service manager restarts the owner: its clients at the edge recover", { timeout: 60000 * SLOW }, async (t) => {
    const a = await App.start("4.5.4");
    t.after(() => a.stop());
    const list = await replicas(t, 2, () => a.port, { config: { handover: { mode: "systemd" } }, ...(await managed()) });
    const { c, id, owner, edge, same } = await relayed(t, list, "websocket");
    const ticker = a.ticker("/", id, { every: 20 });
    t.after(() => ticker.stop());
    for (const hf of [owner, edge, owner]) {
      const before = c.main.connects.length;
      await restart(hf);
      await until(() => c.main.connects.length > before && c.main.socket.connected, "the client", 20000);
      await allUp(list, 1, 15000);
    }
    const last = ticker.stop();
    await c.main.stream(1, last);
    same(a);
  });
});

describe("the demo", { skip }, () => {
  it("restarts holdfast and loses nothing", { timeout: 40000 * SLOW }, async (t) => {
    const child = spawn(await binary(), ["-demo", "-handover", "-listen", "127.0.0.1:0"], { env: { PATH: process.env.PATH, ...env } });
    t.after(() => child.kill("SIGKILL"));
    const exited = new Promise((resolve) => child.once("exit", (code) => resolve(code)));
    let out = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (d) => (out += d));
    await until(() => /Restarted in /.test(out), () => `the demo's story:\n${out}`, 15000);
    await until(() => /Restarted in \d+\.\d\d s: the same session, every message once and in order\./.test(out), () => `its outcome:\n${out}`);
    child.kill("SIGINT");
    assert.equal(await within(exited, "the demo to end"), 0, out);
  });

  it("-handover alone is a mistake", async () => {
    const { code, stderr } = await runHoldfast(["-handover"]);
    assert.equal(code, 2);
    assert.match(stderr, /-handover belongs to -demo/);
  });
});

describe("a restart by a service manager that stores descriptors", { concurrency: 3, skip }, () => {
  const systemd = async (t, options = {}) =>
    stack(t, { ...options, config: { handover: { mode: "systemd" }, ...options.config }, holdfast: await managed() });

  it("keeps all sessions, five times in a row under floods", { timeout: 90000 * SLOW }, async (t) => {
    const s = await systemd(t);
    const clients = [];
    for (let i = 0; i < 12; i++) clients.push(s.client(CLIENTS[i % 2], { transports: ["websocket"] }));
    for (const c of clients) c.id = (await c.main.connected()).id;
    const tickers = clients.map((c) => s.app.ticker("/", c.id, { every: 15 }));
    for (let n = 1; n <= 5; n++) {
      await restart(s.hf);
      for (const c of clients) await c.main.connected(n + 1);
      const last = (await status(s)).handover;
      assert.equal(last.result, "ok");
      assert.equal(last.sessions, 12);
      assert.equal(last.count, n);
    }
    const last = tickers.map((ticker) => ticker.stop());
    for (const [i, c] of clients.entries()) {
      await c.main.stream(1, last[i]);
      c.main.assertRecovered(5);
    }
    assert.deepEqual(s.app.disconnects, []);
    assert.doesNotMatch(s.hf.stdout, /dropped|store is full/);
  });

  it("an exec in between keeps them too, and after a crash new connections wait", async (t) => {
    const s = await systemd(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    await restart(s.hf);
    await c.main.connected(2);
    await handOver(s); // the manager passes the signal on
    await c.main.connected(3);
    c.main.assertRecovered(2);
    const pid = (await status(s)).holdfast.pid;
    await restart(s.hf, () => process.kill(pid, "SIGKILL"));
    assert.match(s.hf.stdout.match(/manager: started .*/g).at(-1), /holdfast-socket-clients-/);
    await c.main.connected(4);
    assert.equal(c.main.last.recovered, false, "a crash loses all sessions");
  });

  it("a program that dies before it has taken over leaves the sessions to the next start", async (t) => {
    const s = await systemd(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    await configure(s, "listen: nowhere");
    const before = started(s.hf);
    s.hf.signal("SIGUSR1");
    await until(() => started(s.hf) >= before + 3, "two starts that fail", 10000);
    await configure(s, s.hf.config);
    await c.main.connected(2);
    c.main.assertRecovered(1);
    assert.deepEqual(s.app.disconnects, []);
  });
});
