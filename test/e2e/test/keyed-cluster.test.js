// Clients with a key over several replicas: they recover at whichever they reach, without sticky
// sessions.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { Client, TRANSPORTS } from "../lib/client.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { PythonClient, missingClient } from "../lib/python.js";
import { App } from "../lib/server.js";
import { RoundRobin, Switch } from "../lib/balancer.js";
import { allUp, replicas, total } from "../lib/replicas.js";
import { SLOW, sleep, until } from "../lib/wait.js";

const keyed = { recovery: { keyed: { query: "hf_key" } } };
const newKey = () => randomBytes(16).toString("hex");

async function app(t, version = "4.5.4", options = {}) {
  const io = { pingInterval: 25000, pingTimeout: 60000, ...(version >= "3" && { allowEIO3: true }) };
  const a = await App.start(version, { ...options, io });
  t.after(() => a.stop());
  return a;
}

// The ping timeout is short: a client that is cut during its upgrade notices nothing before it.
const config = (more = {}) => ({ ...keyed, engineio: { ping_interval: "500ms", ping_timeout: "1500ms" }, ...more });

async function cluster(t, n = 3, options = {}) {
  const a = await app(t, options.server, options);
  const list = await replicas(t, n, () => a.port, { config: config(options.config), ...options.replicas });
  return { a, list };
}

/** A client with a key. */
function open(t, version, url, transport = "websocket", key = newKey(), options = {}) {
  const c = new Client(version, url, { transports: TRANSPORTS[transport] ?? ["polling", "websocket"], query: { hf_key: key }, ...options });
  t.after(() => c.close());
  return c;
}

/** Waits until nothing that was sent to clients is unconfirmed. */
const confirmed = (list) => until(async () => (await total(list, "holdfast_buffered_packets")) === 0, "clients to confirm");

/** Checks that 1..to came in order, with nothing but runs that came again. */
function atLeastOnce(numbers, to) {
  let seen = 0;
  for (const [i, n] of numbers.entries()) {
    assert.ok(n <= seen + 1, `a gap: ${n} after ${seen}`);
    if (i > 0) assert.ok(n === numbers[i - 1] + 1 || n <= seen, `disorder at ${i}: ${numbers.slice(Math.max(0, i - 3), i + 3)}`);
    seen = Math.max(seen, n);
  }
  assert.equal(seen, to);
}

const sameId = (space) => assert.deepEqual(new Set(space.connects.map((c) => c.id)), new Set([space.connects[0].id]));

/** Ends a client's connections, waits until the client has noticed, and sends the next ones to a replica. */
async function move(way, to, noticed) {
  way.moveTo(0); // nothing listens there
  await until(noticed, "the client to notice", 20000);
  way.target = to.port;
}

describe("clients with a key roam over three replicas", { skip: onlyHoldfast, concurrency: 3 }, () => {
  const pairs = [["4.5.4", "4.5.4", ["websocket", "polling", "default"]], ["4.5.4", "3.1.3", ["default"]], ["2.5.1", "2.5.0", ["websocket", "polling", "default"]], ["4.5.4", "2.5.0", ["default"]]];
  for (const [server, version, transports] of pairs) {
    for (const transport of transports) {
      it(`${version} by ${transport}, server ${server}: same ids and rooms, every event, and the server sees nothing`, { timeout: 60000 * SLOW }, async (t) => {
        const { a, list } = await cluster(t, 3, { server });
        const way = await Switch.start(list[0].port);
        t.after(() => way.close());
        const c = open(t, version, way.url, transport);
        const spaces = [c.main, c.of("/chat")];
        for (const s of spaces) await s.connected();
        const ids = spaces.map((s) => s.id);
        const seen = a.connections.length;
        let n = 0;
        for (const [k, place] of [1, 2, 0, 2].entries()) {
          await confirmed(list);
          const returned = move(way, list[place], () => c.main.disconnects.length > k);
          for (const last = n + 10; n < last; ) {
            n++;
            a.stream("/", ids[0], n, n, () => (n % 3 ? ["ü"] : [Buffer.from([n])]));
            a.stream("/chat", ids[1], n, n);
          }
          await returned;
          for (const s of spaces) {
            await s.connected(k + 2);
            await until(() => s.numbers.includes(n), "what it missed");
          }
          assert.deepEqual(await c.main.ask("echo", k), [k]);
        }
        for (const s of spaces) {
          atLeastOnce(s.numbers, n);
          sameId(s);
        }
        assert.equal(a.connections.length, seen, "no new socket");
        assert.equal(a.disconnects.length, 0);
        assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed" }), 0);
        assert.ok((await total(list, "holdfast_relay_resumes_total", { result: "resumed" })) >= 3);
        for (const hf of list) assert.doesNotMatch(hf.log, /[0-9a-f]{32}/, "the key is not logged");
      });
    }
  }
});

describe("python-socketio's clients with a key", { skip: onlyHoldfast, concurrency: 3 }, () => {
  for (const [kind, transport] of ["threads", "asyncio"].flatMap((kind) => ["polling", "websocket", "upgrade"].map((x) => [kind, x]))) {
    describe(`on ${kind}, by ${transport}`, { skip: missingClient(kind) }, () => {
      it("roam over three replicas: same ids, every event", { timeout: 60000 * SLOW }, async (t) => {
        // A busy machine must not end its connection.
        const { a, list } = await cluster(t, 3, { config: { engineio: { ping_interval: "25s", ping_timeout: "60s" } } });
        const way = await Switch.start(list[0].port);
        t.after(() => way.close());
        const c = new PythonClient(t, kind, `${way.url}/?hf_key=${newKey()}`, transport, "/", "/admin");
        const id = await c.connected(1);
        const adminId = await c.connected(1, "/admin");
        for (const [k, place] of [1, 2, 0].entries()) {
          await confirmed(list);
          // A client that is cut while it finishes its reconnection gives up. Its answer shows that
          // it has finished.
          const answers = c.answers.length;
          let next = 0;
          const answered = () => {
            if (Date.now() >= next) {
              c.send("ask", "/", "echo", k); // again if its connection ended meanwhile
              next = Date.now() + 2000;
            }
            return c.answers.length > answers;
          };
          await until(answered, () => `an answer\n${c.output}${c.errors ?? ""}`, 20000);
          const drops = () => c.said.filter((x) => x.disconnected && x.nsp === "/").length;
          const before = drops();
          const returned = move(way, list[place], () => drops() > before);
          a.stream("/", id, 5 * k + 1, 5 * k + 5);
          a.stream("/admin", adminId, k + 1, k + 1);
          await returned;
          assert.equal(await c.connected(k + 2), id);
          assert.equal(await c.connected(k + 2, "/admin"), adminId);
          const all = () => [new Set(c.numbersOf()).size, new Set(c.numbersOf("/admin")).size];
          await until(() => all()[0] === 5 * k + 5 && all()[1] === k + 1, () => `what it missed: ${all()}\n${c.output}${c.errors ?? ""}`);
        }
        assert.equal(a.connections.length, 2, "no new socket");
        assert.equal(a.disconnects.length, 0);
      });
    });
  }
});

describe("clients with a key behind a balancer that distributes single requests", { skip: onlyHoldfast, concurrency: 2 }, () => {
  for (const transport of ["polling", "default"]) {
    it(`${transport}: connect, upgrade, recover and miss nothing`, { timeout: 60000 * SLOW }, async (t) => {
      const { a, list } = await cluster(t);
      const way = await RoundRobin.start(list.map((hf) => hf.port));
      t.after(() => way.close());
      const clients = ["4.5.4", "2.5.0", "4.5.4", "2.5.0"].map((version) => open(t, version, way.url, transport));
      const spaces = clients.map((c) => c.main);
      for (const s of spaces) await s.connected();
      const ids = spaces.map((s) => s.id);
      let n = 0;
      for (let k = 1; k <= 3; k++) {
        if (transport === "default") await Promise.all(clients.map((c) => c.upgraded()));
        for (const last = n + 10; n < last; ) a.io.emit("n", ++n);
        await until(() => spaces.every((s) => s.numbers.includes(n)), "the events");
        await confirmed(list);
        way.cut();
        for (const last = n + 10; n < last; ) a.io.emit("n", ++n);
        await until(() => spaces.every((s) => s.numbers.includes(n) && s.socket.connected), () => `round ${k}: ${JSON.stringify(spaces.map((s) => [s.connects, s.disconnects, s.numbers.length]))}`);
        for (const answer of await Promise.all(spaces.map((s) => s.ask("echo", k)))) assert.deepEqual(answer, [k]);
      }
      for (const [i, s] of spaces.entries()) {
        atLeastOnce(s.numbers, n);
        sameId(s);
        assert.equal(s.id, ids[i]);
      }
      assert.equal(a.connections.length, spaces.length, "no new socket");
      assert.equal(await total(list, "holdfast_recoveries_total", { result: "failed" }), 0);
    });
  }
});

describe("one key at several replicas", { skip: onlyHoldfast, concurrency: 2 }, () => {
  for (const version of ["4.5.4", "2.5.0"]) {
    it(`two connected clients of ${version} never share a session`, { timeout: 40000 * SLOW }, async (t) => {
      const { a, list } = await cluster(t);
      const key = newKey();
      const c = open(t, version, list[0].url, "websocket", key);
      const { id } = await c.main.connected();
      const other = open(t, version, list[1].url, "websocket", key);
      assert.notEqual((await other.main.connected()).id, id);
      assert.deepEqual(await c.main.ask("echo", 1), [1]);
      assert.deepEqual(await other.main.ask("echo", 2), [2]);
      assert.equal(c.main.disconnects.length, 0);
      assert.equal(await total([list[1]], "holdfast_recoveries_total", { result: "failed", reason: "key_in_use" }), 1);
      assert.equal(await total([list[0]], "holdfast_recoveries_total", { result: "failed" }), 0, "one return counts once");
      other.close();
      await until(() => a.disconnects.length === 1, "the other one leaves no parked session");
    });

    it(`two connections of ${version} that race for a key: they share no session, and one replica has the key in the end`, { timeout: 60000 * SLOW }, async (t) => {
      const { a, list } = await cluster(t);
      let n = 0;
      for (let k = 1; k <= 8; k++) {
        const key = newKey();
        const pair = [0, 1].map((i) => open(t, version, list[(i + k) % 3].url, "websocket", key, { autoConnect: false }));
        for (const c of pair) {
          c.socket.connect();
          await sleep(Math.random() * 6);
        }
        await Promise.all(pair.map((c) => c.main.connected()));
        // If both have claimed the key, one of them is closed, and comes back as a client without
        // recovery.
        const all = [...pair, open(t, version, list[(k + 2) % 3].url, "websocket", key)];
        const had = all.map((c) => c.main.numbers.length);
        await until(async () => {
          a.io.emit("n", ++n);
          await sleep(20);
          return all.every((c, i) => c.socket.connected && c.main.numbers.length > had[i]);
        }, "all three to have events");
        assert.equal(new Set(all.map((c) => c.main.id)).size, 3, "a socket each");
        for (const { main } of all) assert.ok(main.numbers.every((x, i) => i === 0 || x > main.numbers[i - 1]), `an event came twice: ${main.numbers}`);
        for (const c of all) c.close();
        await until(() => a.disconnects.length === a.connections.length, "all sockets to end");
      }
      for (const hf of list) {
        await until(async () => {
          const m = await hf.metrics();
          return m.sum("holdfast_peer_keys") === 0 && m.sum("holdfast_sessions") === 0;
        }, "no key and no session to be left");
      }
    });
  }

  it("what the sessions are bound to must be presented at the edge", { timeout: 40000 * SLOW }, async (t) => {
    const { list } = await cluster(t, 2, { config: { recovery: { ...keyed.recovery, bind: { headers: ["authorization"] } } } });
    for (const version of ["4.5.4", "2.5.0"]) {
      const key = newKey();
      const c = open(t, version, list[0].url, "websocket", key, { extraHeaders: { authorization: "mine" } });
      const { id } = await c.main.connected();
      const thief = open(t, version, list[1].url, "websocket", key, { extraHeaders: { authorization: "stolen" } });
      assert.notEqual((await thief.main.connected()).id, id);
      assert.equal(await total([list[1]], "holdfast_recoveries_total", { result: "failed", reason: "binding" }), version === "4.5.4" ? 1 : 2);
      assert.deepEqual(await c.main.ask("echo", 1), [1]);
    }
  });

  it("a client that counts gets each event exactly once, wherever it returns", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await cluster(t);
    const way = await Switch.start(list[0].port);
    t.after(() => way.close());
    const c = open(t, "4.5.4", way.url);
    let handled = 0;
    c.manager.on("packet", ({ type }) => {
      if (type === 2 || type === 5) c.manager.opts.query.hf_n = `/:${++handled}`;
    });
    const { id } = await c.main.connected();
    let n = 0;
    const timer = setInterval(() => a.stream("/", id, ++n, n), 3);
    t.after(() => clearInterval(timer));
    for (const [k, place] of [1, 2, 0, 1, 2, 1, 0, 2].entries()) {
      const at = c.main.numbers.length;
      await until(() => c.main.numbers.length > at + 10, "some events");
      way.moveTo(list[place].port);
      await c.main.connected(k + 2);
    }
    clearInterval(timer);
    await c.main.stream(1, n);
    sameId(c.main);
    assert.equal(a.disconnects.length, 0);
  });
});

describe("a replica that has keys", { skip: onlyHoldfast, concurrency: 3 }, () => {
  const versions = ["4.5.4", "2.5.0"];

  /** Two clients whose sessions are at the first replica. */
  async function atFirst(t, list) {
    return Promise.all(versions.map(async (version) => {
      const way = await Switch.start(list[0].port);
      t.after(() => way.close());
      const c = open(t, version, way.url, "websocket", newKey(), { timeout: 20000 });
      await c.main.connected();
      c.way = way;
      return c;
    }));
  }
  const failures = (list, reason) => total(list, "holdfast_recoveries_total", { result: "failed", reason });

  it("is killed: its clients get fresh sessions, which have the key from then on", { timeout: 60000 * SLOW }, async (t) => {
    const { list } = await cluster(t);
    const cs = await atFirst(t, list);
    for (const c of cs) c.way.target = list[1].port;
    list[0].gone = true;
    await list[0].kill();
    for (const c of cs) {
      await c.main.connected(2);
      assert.notEqual(c.main.connects[1].id, c.main.connects[0].id);
      c.way.moveTo(list[2].port);
      await c.main.connected(3);
      assert.equal(c.main.connects[2].id, c.main.connects[1].id, "recovered");
    }
    assert.equal(await failures(list.slice(1), "owner_gone"), 2);
  });

  it("is stopped: its clients soon get fresh sessions, and the old ones end when it is back", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await cluster(t);
    const cs = await atFirst(t, list);
    list[0].signal("SIGSTOP");
    for (const c of cs) {
      const old = c.main.id;
      c.way.moveTo(list[1].port);
      await until(() => c.main.id && c.main.id !== old && c.socket.connected, "a fresh session", 15000);
    }
    assert.equal(await failures(list.slice(1), "owner_unreachable"), 2);
    assert.equal(a.disconnects.length, 0);
    list[0].signal("SIGCONT");
    await until(() => cs.every((c) => a.disconnects.some((d) => d.id === c.main.connects[0].id)), "the end of the old sessions", 15000);
    await allUp(list, 2);
    for (const c of cs) {
      const { id } = c.main;
      const n = c.main.connects.length;
      c.way.moveTo(list[0].port); // where it once was
      assert.equal((await c.main.connected(n + 1)).id, id);
    }
    assert.equal(await total(list, "holdfast_key_conflicts_total"), 2);
    assert.equal(a.connections.length, 4);
  });

  for (const version of ["4.5.4", "2.5.0"]) {
    it(`has forgotten a client of ${version}: one that returns elsewhere gets a fresh session, and the reason is counted once`, { timeout: 60000 * SLOW }, async (t) => {
      const { a, list } = await cluster(t, 2, { config: { recovery: { ...keyed.recovery, max_disconnection_duration: "100ms" } } });
      const way = await Switch.start(list[0].port);
      t.after(() => way.close());
      const c = open(t, version, way.url);
      const { id } = await c.main.connected();
      const failures = (hf, reason) => total([hf], "holdfast_recoveries_total", { result: "failed", ...(reason && { reason }) });
      // The other replica must know that the key has ended, and not only that the session has.
      const returns = async (to, k) => {
        way.moveTo(0);
        await until(() => a.disconnects.length === k, "the session to expire");
        await until(async () => (await total(list, "holdfast_peer_keys")) === 0, "the replicas to agree");
        way.target = to.port;
        await c.main.connected(k + 1);
      };
      await returns(list[1], 1);
      assert.notEqual(c.main.id, id);
      await until(async () => (await failures(list[1], "expired")) === 1, "the reason");
      await returns(list[1], 2);
      await until(async () => (await failures(list[1], "expired")) === 2, "the reason of a return to the same replica");
      assert.equal(await failures(list[0]), 0);
      assert.equal(await failures(list[1]), 2);
    });
  }

  it("drains: clients that are cut meanwhile recover elsewhere", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await cluster(t, 3, { config: { shutdown: { drain_timeout: "30s" } } });
    const cs = await atFirst(t, list);
    await confirmed(list);
    list[0].signal("SIGTERM");
    await until(() => list[0].log.includes("draining") || list[0].log.includes("shutting down"), () => `the drain: ${list[0].log.slice(-1000)}`);
    for (const c of cs) {
      c.way.moveTo(list[1].port);
      await c.main.connected(2);
      sameId(c.main);
    }
    a.io.emit("n", 1);
    for (const c of cs) await c.main.stream(1, 1);
    assert.equal(a.disconnects.length, 0);
  });

  it("hands over to another process, as does the one that a client returns to: all recover", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await cluster(t);
    const cs = await atFirst(t, list);
    for (const [k, hf] of [list[0], list[1], list[0]].entries()) {
      await confirmed(list);
      for (const c of cs) c.way.target = list[1].port;
      hf.signal("SIGUSR2");
      const handovers = async () => (await hf.metrics()).sum("holdfast_handovers_total", { result: "ok" });
      await until(async () => (await handovers().catch(() => 0)) === (k === 2 ? 2 : 1), () => `the handover\n${hf.log.slice(-3000)}`);
      for (const c of cs) await until(() => c.socket.connected && c.main.connects.length >= k + 2, "the clients");
      a.io.emit("n", k + 1);
      for (const c of cs) await until(() => c.main.numbers.includes(k + 1), "the event");
    }
    for (const c of cs) {
      sameId(c.main);
      atLeastOnce(c.main.numbers, 3);
    }
    assert.equal(a.disconnects.length, 0);
    assert.equal(a.connections.length, 2);
  });

  it("joins later: it learns all keys before it is ready", { timeout: 60000 * SLOW }, async (t) => {
    const { list } = await cluster(t, 3);
    const cs = await atFirst(t, list);
    const port = list[2].peerPort;
    list[2].gone = true;
    await list[2].kill();
    const later = await list.start(2, { listen: `127.0.0.1:${port}` });
    for (const c of cs) {
      c.way.moveTo(later.port);
      await c.main.connected(2);
      sameId(c.main);
    }
  });
});
