// What holdfast reports about itself: metrics that promtool accepts and that add up, and logs
// without secrets.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { CLIENTS } from "../lib/client.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Raw, request } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { never, sleep, stopwatch, until } from "../lib/wait.js";

const skip = onlyHoldfast;
const promtool = spawnSync("promtool", ["--version"]).status === 0;

/** Clients of all kinds that come, drop, return, and go. */
async function busy(t, options = {}) {
  const s = await stack(t, options);
  const clients = [["websocket"], ["polling"], ["polling", "websocket"]].map((transports, i) =>
    s.client(["4.6.2", "4.8.4", "4.8.4"][i], {
      transports,
      auth: { password: "hunter2-auth" },
      query: { apikey: "hunter2-query" },
      extraHeaders: { cookie: "session=hunter2-cookie", authorization: "Bearer hunter2-header" },
    }),
  );
  for (const c of clients) await c.main.connected();
  await clients[2].upgraded();
  await sleep(50);
  for (const c of clients) s.app.stream("/", c.main.id, 1, 10);
  for (const c of clients) await c.main.stream(1, 10);
  const ids = clients.map((c) => c.main.id);
  const pids = clients.map((c) => c.socket._pid);
  await until(() => s.relay.list().some((c) => /^GET/.test(c.request) && c.down.passed === 0), "a poll to wait");
  await sleep(30);
  s.relay.down();
  for (const c of clients) await c.main.disconnected();
  for (const id of ids) s.app.stream("/", id, 11, 20);
  await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === 3, "all to be parked");
  const parked = await s.hf.metrics();
  s.relay.up();
  for (const c of clients) await c.main.connected(2);
  for (const c of clients) await c.main.stream(1, 20);
  return { s, clients, ids, pids, parked };
}

describe("metrics", { concurrency: 2, skip }, () => {
  it("promtool reports no problem", { skip: skip || (!promtool && "promtool is not installed (Debian: prometheus)") }, async (t) => {
    const { s } = await busy(t);
    const { text } = await s.hf.metrics();
    const result = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
    assert.equal(result.status, 0, result.stdout + result.stderr);
    assert.equal(result.stderr.trim(), "");
  });

  it("every series has our prefix, a help text and a type, and exists from the start", async (t) => {
    const s = await stack(t);
    const m = await s.hf.metrics();
    const ours = m.names().filter((n) => !/^(go|process|promhttp)_/.test(n));
    assert.ok(ours.length > 15);
    for (const name of ours) {
      assert.match(name, /^holdfast_/);
      assert.match(m.text, new RegExp(`^# HELP ${name} \\S`, "m"));
      if (m.types.get(name) === "counter") assert.match(name, /_total$/);
    }
    for (const name of [
      "holdfast_clients",
      "holdfast_sessions",
      "holdfast_recoveries_total",
      "holdfast_takeovers_total",
      "holdfast_packets_total",
      "holdfast_replayed_packets_total",
      "holdfast_buffered_packets",
      "holdfast_buffered_bytes",
      "holdfast_evictions_total",
      "holdfast_expirations_total",
      "holdfast_upstream_dials_total",
      "holdfast_upstream_dial_duration_seconds_count",
      "holdfast_recovery_duration_seconds_count",
      "holdfast_disconnection_duration_seconds_count",
      "holdfast_passthrough_requests_total",
    ])
      assert.ok(m.has(name), name);
  });

  it("add up", async (t) => {
    const { s, clients, parked } = await busy(t);
    assert.equal(parked.sum("holdfast_sessions", { state: "live" }), 0);
    assert.ok(parked.sum("holdfast_buffered_packets") >= 30, `${parked.sum("holdfast_buffered_packets")}`);
    assert.ok(parked.sum("holdfast_buffered_bytes") > 200);
    await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "live" }) === 3, "all to be live");
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_sessions", { state: "parked" }), 0);
    assert.equal(m.sum("holdfast_sessions_created_total"), 3);
    assert.equal(m.sum("holdfast_recoveries_total", { result: "recovered" }), 3);
    assert.equal(m.sum("holdfast_recoveries_total", { result: "failed" }), 0);
    assert.equal(m.sum("holdfast_replayed_packets_total"), 30);
    assert.equal(m.sum("holdfast_disconnection_duration_seconds_count"), 3);
    await until(async () => (await s.hf.metrics()).sum("holdfast_recovery_duration_seconds_count") === 3, "the recovery durations");
    assert.ok(m.sum("holdfast_upstream_dials_total", { result: "ok" }) >= 6);
    assert.ok(m.sum("holdfast_packets_total", { direction: "out" }) >= 60);
    assert.ok(m.sum("holdfast_packets_total", { direction: "in" }) >= 6);
    assert.equal(m.sum("holdfast_panics_total"), 0);
    await until(async () => (await s.hf.metrics()).sum("holdfast_clients") === 3, "3 clients");
    for (const c of clients) c.close();
    await until(async () => {
      const end = await s.hf.metrics();
      return ["holdfast_clients", "holdfast_sessions", "holdfast_links", "holdfast_buffered_packets", "holdfast_buffered_bytes"].every((n) => end.sum(n) === 0);
    }, "all gauges to be 0 at the end");
  });

  it("a confirmed packet is not kept: the log is as short as a round trip", async (t) => {
    const s = await stack(t);
    for (const transports of [["websocket"], ["polling"]]) {
      const c = s.client("4.8.4", { transports });
      await c.main.connected();
      s.app.stream("/", c.main.id, 1, 500, () => ["x".repeat(200)]);
      await c.main.stream(1, 500);
      let m;
      await until(
        async () => (m = await s.hf.metrics()).sum("holdfast_buffered_bytes") < 128 * 1024,
        () => `the log to be trimmed: ${m.sum("holdfast_buffered_packets")} packets, ${m.sum("holdfast_buffered_bytes")} bytes (${transports})`,
        4000,
      );
    }
  });

  it("under a steady broadcast the logs hold about a round trip of traffic", async (t) => {
    // 100 KB/s for each client, with a round trip of 100 ms. A ping is sent from 16 KiB on.
    const [clients, rate, size, oneWay] = [10, 100, 1000, 50];
    const s = await stack(t, { io: { pingInterval: 25_000 } });
    s.relay.delay(oneWay);
    const list = Array.from({ length: clients }, (_, i) => s.client(CLIENTS[i % 2], { transports: ["websocket"] }));
    for (const c of list) await c.main.connected();
    let sent = 0;
    const filler = "x".repeat(size);
    const elapsed = stopwatch();
    const timer = setInterval(() => {
      while (sent < (elapsed() / 1000) * rate) s.app.io.emit("n", ++sent, filler);
    }, 10);
    const samples = [];
    try {
      await until(() => sent > rate, "a second of the broadcast");
      while (sent < 5 * rate) {
        const m = await s.hf.metrics();
        samples.push(m.sum("holdfast_buffered_bytes") / clients);
        await sleep(20);
      }
    } finally {
      clearInterval(timer);
    }
    for (const c of list) await c.main.stream(1, sent);
    const typical = samples.sort((a, b) => a - b)[samples.length >> 1];
    const roundTrip = (rate * size * 2 * oneWay) / 1000;
    // Each got half a megabyte within one ping interval.
    const most = 4 * (roundTrip + 16 * 1024);
    assert.ok(samples.length > 5 && typical < most, `${Math.round(typical)} bytes are kept for each client, at most ${most} were expected`);
    const m = await s.hf.metrics();
    assert.ok(m.sum("holdfast_confirm_pings_total") > 0);
    const confirmations = m.sum("holdfast_confirm_duration_seconds_count");
    const mean = m.sum("holdfast_confirm_duration_seconds_sum") / confirmations;
    assert.ok(confirmations > clients && mean >= (2 * oneWay) / 1000, `${confirmations} confirmations of ${mean} s`);
  });

  it("of the pings that confirm one is in flight at most, and none on an idle connection", async (t) => {
    const s = await stack(t, { io: { pingInterval: 25_000 } });
    const raw = await Raw.open(s.direct, { pings: true });
    const { sid } = await raw.connect();
    const pings = () => raw.got.filter((m) => m === "2").length;
    const count = async () => (await s.hf.metrics()).sum("holdfast_confirm_pings_total");
    await never(() => pings() > 0, "a ping on an idle connection", 1000);
    assert.equal(await count(), 0);

    // Without an answer there is only one ping, however much arrives.
    const filler = "x".repeat(1000);
    const events = () => raw.got.filter((m) => typeof m === "string" && m.startsWith("42")).length;
    for (let i = 1; i <= 3; i++) {
      s.app.stream("/", sid, 1, 30, () => [filler]);
      await until(() => events() === 30 * i, "the events");
      await sleep(100);
    }
    await until(() => pings() === 1, "a ping");
    await never(() => pings() > 1, "a second ping", 500);
    assert.equal(await count(), 1);

    // After the answer one more follows for the rest, and then none.
    raw.send("3");
    await until(() => pings() === 2, "the next ping");
    raw.send("3");
    await until(async () => (await s.hf.metrics()).sum("holdfast_buffered_packets") === 0, "the log to be empty");
    await never(() => pings() > 2, "a ping on an idle connection", 1000);
    assert.equal(await count(), 2);
    raw.close();
  });

  it("events that ask for an acknowledgement have a ping only if none comes", async (t) => {
    const s = await stack(t, { io: { pingInterval: 25_000 } });
    const raw = await Raw.open(s.direct, { pings: true });
    const { sid } = await raw.connect();
    let due = 0; // pings for answers that took long, as this machine was busy
    for (let i = 0; i < 20; i++) { // for longer than a ping would take to come
      const asked = performance.now();
      const answered = new Promise((resolve) => s.app.socket(sid).emit("question", i, resolve));
      const [, id] = /^42(\d+)\["question",\d+\]$/.exec(await raw.next());
      await sleep(40);
      raw.send(`43${id}["answer"]`);
      assert.equal(await answered, "answer");
      if (performance.now() - asked < 200) continue;
      while ((await s.hf.metrics()).sum("holdfast_confirm_pings_total") > due) {
        assert.equal(await raw.next(), "2");
        raw.send("3");
        due++;
      }
    }
    await never(() => raw.got.length > 0, "a ping", 1000);

    const asked = Date.now();
    s.app.socket(sid).emit("question", "never answered", () => {});
    assert.match(await raw.next(), /never answered/);
    assert.equal(await raw.next(), "2");
    assert.ok(Date.now() - asked >= 250, `a ping after ${Date.now() - asked} ms`);
    raw.send("3");
    await until(async () => (await s.hf.metrics()).sum("holdfast_buffered_packets") === 0, "the log to be empty");
    await never(() => raw.got.length > 0, "a further ping", 1000);
    assert.equal((await s.hf.metrics()).sum("holdfast_confirm_pings_total"), due + 1);
    raw.close();
  });

  it("a heartbeat has no more pings than its interval", async (t) => {
    const interval = 300;
    const s = await stack(t, { io: { pingInterval: interval } });
    const raw = await Raw.open(s.direct, { pings: true });
    await raw.connect();
    const begin = Date.now();
    for (let n = 0; n < 6; n++) {
      assert.equal(await raw.next(), "2");
      raw.send("3");
    }
    assert.ok(Date.now() - begin >= 5 * interval, `6 heartbeats in ${Date.now() - begin} ms`);
    assert.equal((await s.hf.metrics()).sum("holdfast_confirm_pings_total"), 0);
    raw.close();
  });

  it("a takeover, an unknown pid and an eviction are counted", async (t) => {
    const s = await stack(t, { config: { recovery: { max_parked_sessions: 1 } } });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    s.relay.abandon();
    await c.main.connected(2);
    const known = await Raw.open(s.direct);
    const { pid } = await known.connect();
    known.close();
    const other = await Raw.open(s.direct);
    await other.connect();
    other.close();
    await until(async () => (await s.hf.metrics()).sum("holdfast_evictions_total") === 1, "the eviction");
    const again = await Raw.open(s.direct);
    await again.connect({ pid });
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_takeovers_total"), 1);
    assert.equal(m.sum("holdfast_recoveries_total", { result: "failed" }), 1);
    again.close();
  });

  it("do not grow with clients: no label has a client's values", async (t) => {
    const { s, ids, pids } = await busy(t);
    const before = (await s.hf.metrics()).samples.length;
    for (let i = 0; i < 10; i++) {
      const raw = await Raw.open(s.direct);
      await raw.connect();
      raw.send("41");
      raw.close();
    }
    const m = await s.hf.metrics();
    assert.equal(m.samples.length, before);
    for (const secret of [...ids, ...pids]) assert.ok(!m.text.includes(secret));
  });

  it("the goroutines of clients that left end", async (t) => {
    const s = await stack(t);
    const goroutines = async () => (await s.hf.metrics()).sum("go_goroutines");
    const start = await goroutines();
    const clients = Array.from({ length: 30 }, (_, i) => s.client("4.8.4", { transports: [["websocket"], ["polling"], ["polling", "websocket"]][i % 3] }));
    for (const c of clients) await c.main.connected();
    for (const c of clients) c.close();
    await until(() => s.app.io.engine.clientsCount === 0, "the links to close");
    let now;
    await until(async () => (now = await goroutines()) <= start + 12, () => `goroutines to end: ${start} before, ${now} now`, 6000);
  });

  it("the admin paths are not on the clients' listener", async (t) => {
    const s = await stack(t);
    for (const path of ["/metrics", "/healthz", "/readyz"]) {
      const res = await request(s.direct + path);
      assert.deepEqual([res.status, res.body], [404, "no such page\n"], "the application's own answer");
    }
  });
});

describe("logs", { concurrency: 2, skip }, () => {
  for (const format of ["json", "text"]) {
    it(`never hold a pid, a cookie or an auth value (${format})`, async (t) => {
      const { s, pids } = await busy(t, { config: { log: { level: "debug", format } } });
      for (const pid of pids) {
        const raw = await Raw.open(s.direct);
        await raw.connect({ pid: pid.slice(0, -3) + "xyz", offset: "hunter2-offset" });
        raw.send('42["secret","hunter2-payload"]', "4garbage hunter2-garbage");
        await raw.end();
      }
      await until(() => s.hf.log.length > 500, "the log");
      for (const pid of pids) {
        assert.equal(typeof pid, "string");
        assert.ok(!s.hf.log.includes(pid), "a pid is in the log");
      }
      assert.ok(!/hunter2/.test(s.hf.log), s.hf.log.split("\n").find((l) => /hunter2/.test(l)));
    });
  }

  it("are JSON if configured, with the life of a session", async (t) => {
    const { s } = await busy(t);
    const lines = s.hf.stderr.split("\n").slice(0, -1);
    const records = lines.map((l) => JSON.parse(l));
    for (const r of records) {
      assert.ok(r.time && r.level && r.msg, JSON.stringify(r));
    }
    const story = records.map((r) => r.msg).join("\n");
    assert.match(story, /session/);
    assert.match(story, /park/i);
    assert.match(story, /resum|recover/i);
    assert.ok(records.every((r) => !["ERROR"].includes(r.level)), JSON.stringify(records.filter((r) => r.level === "ERROR")));
  });

  it("have no warnings for an ordinary session", async (t) => {
    const { s } = await busy(t);
    const loud = s.hf.records.filter((r) => ["WARN", "ERROR"].includes(r.level));
    assert.deepEqual(loud, []);
  });
});
