// Several replicas: a client recovers at whichever it reaches, without sticky sessions.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Client, CLIENTS, TRANSPORTS } from "../lib/client.js";
import { noOpenSSL, secret } from "../lib/certificates.js";
import { App } from "../lib/server.js";
import { RoundRobin, Switch } from "../lib/balancer.js";
import { Polling, Raw } from "../lib/raw.js";
import { allUp, replicas, total } from "../lib/replicas.js";
import { SLOW, sleep, until, within } from "../lib/wait.js";

async function app(t, options = {}) {
  const a = await App.start(options.version ?? "4.5.4", options);
  t.after(() => a.stop());
  return a;
}

// Short pings: a client whose upgrade is cut between its two halves notices nothing before its ping timeout. That of the server
// is long, so that no stall of the machine ends a session.
const quick = { config: { engineio: { ping_interval: "500ms", ping_timeout: "3s" } } };

/** Emits numbered events to every socket of the namespaces, until stopped; returns how many. */
function ticking(t, a, namespaces = ["/"], every = 5) {
  let i = 0;
  const timer = setInterval(() => {
    i++;
    for (const nsp of namespaces) a.io.of(nsp).emit("n", i, i % 3 === 0 ? Buffer.from(`b${i}`) : `t${i}`);
  }, every);
  t.after(() => clearInterval(timer));
  return () => {
    clearInterval(timer);
    return i;
  };
}

describe("a client roams over three replicas", { skip: onlyHoldfast, concurrency: 3 }, () => {
  for (const version of CLIENTS) {
    for (const transport of Object.keys(TRANSPORTS)) {
      it(`client ${version}, ${transport}: same id, every event once and in order, acks both ways, three namespaces`, { timeout: 60000 * SLOW }, async (t) => {
        const a = await app(t);
        const list = await replicas(t, 3, () => a.port, quick);
        const way = await Switch.start(list[0].port);
        t.after(() => way.close());
        const c = new Client(version, way.url, { transports: TRANSPORTS[transport] ?? ["polling", "websocket"] });
        t.after(() => c.close());
        const names = ["/", "/admin", "/chat"];
        const spaces = [c.main, c.of("/admin"), c.of("/chat")];
        for (const s of spaces) {
          s.socket.on("question", (...args) => args.pop()(...args));
          await s.connected();
        }
        const stop = ticking(t, a, names);
        const places = [1, 2, 0, 2, 1];
        for (const [k, place] of places.entries()) {
          await sleep(transport === "default" && k % 2 ? 15 : 120);
          // Between two polls nothing breaks: the next poll is forwarded to where the client was.
          for (; c.main.disconnects.length <= k; await sleep(50)) way.moveTo(list[place].port);
          // The server asks while the client is away.
          const answers = [...a.sockets.values()].map((s) => new Promise((done) => s.emit("question", k, Buffer.from([k]), (...got) => done(got))));
          for (const s of spaces) await s.connected(k + 2);
          for (const answer of await within(Promise.all(answers), "the answers")) assert.deepEqual(answer, [k, Buffer.from([k])]);
          const [got] = await spaces[k % 3].ask("echo", `at ${k}`);
          assert.equal(got, `at ${k}`);
        }
        await sleep(100);
        const last = stop();
        for (const s of spaces) {
          await s.stream(s.numbers[0], last);
          s.assertRecovered(places.length);
          assert.deepEqual(s.errors, []);
        }
        assert.equal(a.connections.length, 3, "the server saw no new sockets");
        assert.ok((await total(list, "holdfast_relay_resumes_total", { result: "resumed" })) >= 3);
      });
    }
  }
});

describe("a balancer that distributes single requests round-robin, without stickiness", { skip: onlyHoldfast, concurrency: 2 }, () => {
  for (const transport of ["polling", "default"]) {
    it(`${transport}: clients connect, upgrade, recover and lose nothing`, { timeout: 60000 * SLOW }, async (t) => {
      const a = await app(t);
      const list = await replicas(t, 3, () => a.port, quick);
      const way = await RoundRobin.start(list.map((hf) => hf.port));
      t.after(() => way.close());
      const clients = Array.from({ length: 6 }, (_, i) => new Client(CLIENTS[i % 2], way.url, { transports: TRANSPORTS[transport] ?? ["polling", "websocket"] }));
      t.after(() => clients.forEach((c) => c.close()));
      const spaces = clients.flatMap((c) => [c.main, c.of("/chat")]);
      for (const s of spaces) await s.connected();
      const stop = ticking(t, a, ["/", "/chat"]);
      for (let k = 1; k <= 4; k++) {
        if (transport === "default") await Promise.all(clients.map((c) => c.upgraded()));
        await sleep(100);
        const noticed = (c) => c.main.disconnects.length >= k;
        if (transport === "default") {
          way.cut();
          // A client whose probe is cut does not try to upgrade again.
          await until(() => clients.every(noticed), "all to notice the cut");
        } else {
          // A cut between two polls is not noticed.
          for (; !clients.some(noticed); await sleep(50)) way.cut();
        }
        await sleep(50);
        await until(() => spaces.every((s) => s.socket.connected), () => `all to be connected in round ${k}`);
        await sleep(50);
        const replies = await Promise.all(spaces.map((s) => s.ask("echo", k)));
        replies.forEach((r) => assert.deepEqual(r, [k]));
      }
      await sleep(100);
      const last = stop();
      for (const s of spaces) {
        await s.stream(s.numbers[0], last);
        s.connects.slice(1).forEach((c) => assert.deepEqual(c, { id: s.connects[0].id, recovered: true }));
      }
      assert.ok(spaces.some((s) => s.connects.length > 3), "most cuts were noticed");
      assert.equal(a.connections.length, spaces.length, "the server saw no new sockets");
      for (const hf of list) assert.ok(way.counts.get(hf.port) > 10, "all replicas had requests");
      assert.ok((await total(list, "holdfast_forwarded_requests_total")) > 20);
      assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed" }), 0);
    });
  }
});

describe("what a client has besides its session", { skip: onlyHoldfast, concurrency: 2 }, () => {
  for (const transport of ["websocket", "polling"]) {
    it(`${transport}: a namespace without recovery${transport === "polling" ? "" : ", which comes first"}, and another one that is opened later`, { timeout: 40000 * SLOW }, async (t) => {
      const a = await app(t);
      const list = await replicas(t, 2, () => a.port, { config: { recovery: { namespaces: { include: ["*"], exclude: ["/admin"] } } } });
      const way = await Switch.start(list[0].port);
      t.after(() => way.close());
      // By polling each CONNECT is a separate request. cluster-long.test.js has the other order:
      // its outcome depends on timing, and a busy machine may take longer.
      const [first, second] = transport === "polling" ? ["/chat", "/admin"] : ["/admin", "/chat"];
      const c = new Client("4.8.4", way.url, { nsp: first, transports: TRANSPORTS[transport] });
      t.after(() => c.close());
      c.of(second);
      const [admin, chat] = transport === "polling" ? c.namespaces.toReversed() : c.namespaces;
      await admin.connected();
      await chat.connected();
      assert.deepEqual(await chat.ask("echo", 1), [1]);
      for (; c.main.disconnects.length < 1; await sleep(50)) way.moveTo(list[1].port);
      await chat.connected(2);
      await admin.connected(2);
      chat.assertRecovered(1);
      assert.equal(admin.last.recovered, false);
      const later = c.of("/");
      await later.connected();
      for (const [k, s] of [admin, chat, later].entries()) assert.deepEqual(await s.ask("echo", k), [k]);
      assert.equal(await total([list[0]], "holdfast_relays", { role: "owner" }), 1);
      assert.equal(await total([list[1]], "holdfast_relays", { role: "edge" }), 1);
      // All of its sessions recover elsewhere.
      for (; c.main.disconnects.length < 2; await sleep(50)) way.moveTo(list[0].port);
      await chat.connected(3);
      await later.connected(2);
      chat.assertRecovered(2);
      later.assertRecovered(1);
      for (const role of ["edge", "owner"]) await until(async () => (await total(list, "holdfast_relays", { role })) === 0, `no relay (${role})`);
    });
  }
});

describe("a client whose sessions are at two replicas", { skip: onlyHoldfast, concurrency: 3 }, () => {
  /** Sessions of "/" at the edge and of "/chat" at the owner, whose clients are gone. The one of "/" has ended if `over`. */
  async function setUp(t, over) {
    const a = await App.start("4.5.4", { namespaces: ["/", "/chat"] });
    t.after(() => a.stop());
    const list = await replicas(t, 2, () => a.port);
    const [owner, edge] = list;
    const sessions = {};
    for (const [nsp, hf] of [["/", edge], ["/chat", owner]]) {
      const raw = await Raw.open(hf.url);
      sessions[nsp] = await raw.connect({}, nsp);
      if (over && nsp === "/") {
        raw.send("41");
        await until(() => a.disconnects.length === 1, "the end of a session");
      }
      raw.close();
      await until(async () => (await total([hf], "holdfast_sessions", { state: "live" })) === 0, "the end of the connection");
    }
    return { a, owner, edge, list, sessions };
  }

  it("WebSocket: one has ended: the other is recovered", { timeout: 40000 * SLOW }, async (t) => {
    const { edge, list, sessions } = await setUp(t, true);
    const raw = await Raw.open(edge.url);
    t.after(() => raw.close());
    raw.send(`40${JSON.stringify({ pid: sessions["/"].pid })}`, `40/chat,${JSON.stringify({ pid: sessions["/chat"].pid })}`);
    const got = [await raw.next(), await raw.next()];
    assert.ok(got.some((m) => m.startsWith("40/chat,") && m.includes(sessions["/chat"].sid)), got.join("\n"));
    assert.ok(got.some((m) => m.startsWith("40{") && !m.includes(sessions["/"].sid)), got.join("\n"));
    assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed", reason: "owner_conflict" }), 0);
  });

  it("polling: the same", { timeout: 40000 * SLOW }, async (t) => {
    const { edge, list, sessions } = await setUp(t, true);
    const p = await Polling.open(edge.url);
    await p.post(`40${JSON.stringify({ pid: sessions["/"].pid })}\x1e40/chat,${JSON.stringify({ pid: sessions["/chat"].pid })}`);
    const got = await p.pollFor((m) => m.startsWith("40/chat,"));
    if (!got.some((m) => m.startsWith("40{"))) got.push(...(await p.pollFor((m) => m.startsWith("40{"))));
    assert.ok(got.some((m) => m.startsWith("40/chat,") && m.includes(sessions["/chat"].sid)), got.join("\n"));
    assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed", reason: "owner_conflict" }), 0);
  });

  it("both wait for it: it gets the first, and the other one ends", { timeout: 40000 * SLOW }, async (t) => {
    const { a, owner, edge, sessions } = await setUp(t, false);
    const raw = await Raw.open(edge.url);
    t.after(() => raw.close());
    assert.equal((await raw.connect({ pid: sessions["/"].pid })).sid, sessions["/"].sid);
    assert.notEqual((await raw.connect({ pid: sessions["/chat"].pid }, "/chat")).sid, sessions["/chat"].sid);
    await until(() => a.disconnects.some((d) => d.id === sessions["/chat"].sid), "the end of the other session", 15000);
    assert.equal(await total([owner], "holdfast_sessions_closed_total", { reason: "owner_conflict" }), 1);
  });
});

describe("what goes with a client to the owner of its session", { skip: onlyHoldfast, concurrency: 2 }, () => {
  it("what the session is bound to: the edge's client must present it", { timeout: 40000 * SLOW }, async (t) => {
    const a = await app(t);
    const bind = { headers: ["User-Agent"], auth: ["token"] };
    const list = await replicas(t, 2, () => a.port, { config: { recovery: { bind } } });
    const way = await Switch.start(list[0].port);
    t.after(() => way.close());
    const c = new Client("4.8.4", way.url, { transports: ["websocket"], auth: { token: "a" }, extraHeaders: { "User-Agent": "one" } });
    t.after(() => c.close());
    await c.main.connected();
    way.moveTo(list[1].port);
    await c.main.connected(2);
    c.main.assertRecovered(1);
    c.socket.auth = { token: "b" };
    way.moveTo(list[1].port);
    await c.main.connected(3);
    assert.equal(c.main.last.recovered, false);
    assert.equal(await total([list[1]], "holdfast_recoveries_total", { result: "failed", reason: "binding" }), 1);
    assert.equal(await total([list[0]], "holdfast_recoveries_total", { result: "failed" }), 0, "one return counts once");
  });

  it("its address, and its handshake for later namespaces", { timeout: 40000 * SLOW }, async (t) => {
    const a = await app(t);
    const list = await replicas(t, 2, () => a.port, { config: { trusted_proxies: ["127.0.0.1"] } });
    const way = await Switch.start(list[0].port);
    t.after(() => way.close());
    const c = new Client("4.8.4", way.url, { transports: ["websocket"], query: { room: "7" }, extraHeaders: { "X-Forwarded-For": "192.0.2.7" } });
    t.after(() => c.close());
    await c.main.connected();
    way.moveTo(list[1].port);
    await c.main.connected(2);
    c.main.assertRecovered(1);
    const later = c.of("/chat");
    await later.connected();
    const { query, headers } = a.connections.at(-1);
    assert.equal(query.room, "7");
    assert.match(headers["x-forwarded-for"], /^192\.0\.2\.7, 127\.0\.0\.1$/);
  });

  it("over TLS at the edge, and large events both ways", { timeout: 40000 * SLOW, skip: noOpenSSL }, async (t) => {
    const files = await secret(t);
    const a = await app(t, { io: { maxHttpBufferSize: 1e7 } });
    const list = await replicas(t, 2, () => a.port, { config: { tls: { cert_file: files.cert, key_file: files.key } } });
    const way = await Switch.start(list[0].port);
    t.after(() => way.close());
    const c = new Client("4.8.4", way.url.replace("http", "https"), { transports: ["websocket"], rejectUnauthorized: false });
    t.after(() => c.close());
    await c.main.connected();
    for (const place of [1, 0, 1]) {
      const times = c.main.connects.length;
      way.moveTo(list[place].port);
      await c.main.connected(times + 1);
      const large = Buffer.alloc(5e6, place);
      const [back] = await c.main.ask("echo", large);
      assert.ok(large.equals(back));
    }
    c.main.assertRecovered(3);
  });
});

describe("two connections with one pid at two edges", { skip: onlyHoldfast }, () => {
  it("100 times: the later handshake has the session, the other connection ends, and nothing comes twice", { timeout: 90000 * SLOW }, async (t) => {
    const a = await app(t);
    const limits = { takeovers_per_minute_per_session: 0 };
    const list = await replicas(t, 3, () => a.port, { config: { limits } });
    const first = new Client("4.8.4", list[0].url, { transports: ["websocket"] });
    t.after(() => first.close());
    const { id } = await first.main.connected();
    const pid = first.socket._pid;
    let offset;
    first.manager.reconnection(false);
    first.ws.terminate();
    for (let k = 1; k <= 100; k++) {
      const pair = [1, 2].map((i) => {
        const c = new Client("4.8.4", list[(i + (k % 3)) % 3].url, { transports: ["websocket"], reconnection: false, autoConnect: false });
        Object.assign(c.socket, { _pid: pid, _lastOffset: offset });
        return c;
      });
      for (const c of pair) {
        c.socket.connect();
        await sleep(Math.random() * 6);
      }
      // Whichever handshake came first loses, even if its CONNECT comes later.
      const over = (c) => c.main.disconnects.length + c.main.errors.length > 0;
      await until(() => pair.some((c) => c.socket.connected && c.main.last.recovered) && pair.filter((c) => !over(c)).length === 1, () => `round ${k} to settle: ${JSON.stringify(pair.map((c) => [c.main.connects, c.main.disconnects, c.main.errors.map(String)]))}`);
      a.io.emit("n", k);
      const [winner] = pair.filter((c) => !over(c));
      await winner.main.stream(k, k);
      assert.equal(winner.main.id, id);
      assert.deepEqual(await winner.main.ask("echo", k), [k]);
      offset = winner.socket._lastOffset;
      for (const c of pair) {
        if (c !== winner) assert.ok(!c.main.numbers.includes(k));
        c.ws?.terminate();
        c.close();
      }
    }
    assert.equal(a.connections.length, 1, "the server saw one socket");
    assert.equal(a.disconnects.length, 0);
  });
});
