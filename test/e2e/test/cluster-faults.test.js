// Replicas that die, stop, drain or lose each other, and unverified connections to the peer port.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import net from "node:net";
import tls from "node:tls";
import { onlyHoldfast } from "../lib/holdfast.js";
import { App } from "../lib/server.js";
import { Polling, Raw } from "../lib/raw.js";
import { Relay } from "../lib/relay.js";
import { allUp, freePorts, relayed, replicas, total } from "../lib/replicas.js";
import { SLOW, once, sleep, stopwatch, until, within } from "../lib/wait.js";

async function setUp(t, n, options = {}) {
  const a = await App.start("4.5.4", options.app);
  t.after(() => a.stop());
  const list = await replicas(t, n, () => a.port, options);
  return { a, list };
}

function failures(list, reason) {
  return total(list, "holdfast_recoveries_total", { result: "failed", reason });
}

describe("a replica dies or stops", { skip: onlyHoldfast, concurrency: 3 }, () => {
  for (const transport of ["websocket", "polling"]) {
    it(`owner killed, ${transport}: its clients are back soon with a fresh session, others notice nothing`, { timeout: 40000 * SLOW }, async (t) => {
      const { a, list } = await setUp(t, 3);
      const [owner, edge, other] = list;
      const lost = await relayed(t, owner, edge, { transport });
      const local = await relayed(t, owner, null, { transport });
      const kept = await relayed(t, other, edge, { transport });
      local.way.target = edge.port;
      owner.gone = true;
      await owner.kill();
      const elapsed = stopwatch();
      await lost.main.connected(3);
      await local.main.connected(2);
      assert.ok(elapsed() < 6000 * SLOW, `back after ${elapsed()} ms`);
      assert.equal(lost.main.last.recovered, false);
      assert.equal(kept.main.disconnects.length, 1);
      assert.deepEqual(await kept.main.ask("echo", 7), [7]);
      assert.equal(await failures([edge, other], "owner_gone"), 2);
      // From now on no client waits for it.
      lost.way.moveTo(other.port);
      await until(() => a.connections.length >= 5, "the sockets");
    });

    it(`edge killed, ${transport}: its clients recover through another`, { timeout: 40000 * SLOW }, async (t) => {
      const { a, list } = await setUp(t, 3);
      const [owner, edge, other] = list;
      const c = await relayed(t, owner, edge, { transport });
      c.way.target = other.port;
      edge.gone = true;
      await edge.kill();
      await c.main.connected(3);
      c.main.assertRecovered(2);
      assert.deepEqual(await c.main.ask("echo", 7), [7]);
      assert.equal(a.connections.length, 1);
      await until(async () => (await total([owner], "holdfast_parkings_total", { reason: "peer_lost" })) > 0 || /takeover/.test(owner.log), "parked as peer_lost");
    });
  }

  it("owner stopped for 3 seconds: nothing is lost, and no client notices", { timeout: 40000 * SLOW }, async (t) => {
    const { a, list } = await setUp(t, 2);
    const c = await relayed(t, list[0], list[1]);
    list[0].signal("SIGSTOP");
    a.io.emit("n", 1);
    await sleep(3000);
    list[0].signal("SIGCONT");
    a.io.emit("n", 2);
    await c.main.stream(1, 2);
    assert.equal(c.main.disconnects.length, 1);
    assert.deepEqual(await c.main.ask("echo", 7), [7]);
  });

  it("edge stopped: for 3 seconds no client notices, and those that leave meanwhile recover elsewhere", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await setUp(t, 3);
    const [owner, edge, other] = list;
    const cs = await Promise.all(["websocket", "polling"].map((transport) => relayed(t, owner, edge, { transport })));
    const began = performance.now();
    edge.signal("SIGSTOP");
    a.io.emit("n", 1);
    await sleep(3000);
    edge.signal("SIGCONT");
    const inTime = performance.now() - began < 3500; // this process was not stopped as well
    for (const c of cs) {
      await c.main.stream(1, 1);
      if (inTime) assert.equal(c.main.disconnects.length, 1);
    }
    edge.signal("SIGSTOP");
    a.io.emit("n", 2);
    for (const c of cs) {
      const before = c.main.disconnects.length;
      for (; c.main.disconnects.length === before; await sleep(20)) c.way.moveTo(other.port);
      await c.main.connected(before + 2);
    }
    a.io.emit("n", 3);
    for (const c of cs) await c.main.stream(1, 3);
    edge.signal("SIGCONT"); // it still had the connections of before, and an event for each
    await until(async () => (await total([edge], "holdfast_clients")) === 0, "the edge to notice that they have left");
    a.io.emit("n", 4);
    for (const c of cs) {
      await c.main.stream(1, 4);
      c.main.assertRecovered();
      assert.deepEqual(await c.main.ask("echo", 7), [7]);
    }
    assert.equal(a.connections.length, cs.length);
  });

  it("owner stopped for longer: a fresh session within seconds, and the old one ends when the owner is back", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await setUp(t, 3);
    const c = await relayed(t, list[0], list[1], { timeout: 20000 });
    const kept = await relayed(t, list[1], list[2]);
    const old = c.main.id;
    list[0].signal("SIGSTOP");
    const elapsed = stopwatch();
    await c.main.connected(3, 15000);
    assert.ok(elapsed() < 11000 * SLOW, `back after ${elapsed()} ms`);
    assert.equal(c.main.last.recovered, false);
    assert.equal(await failures(list.slice(1), "owner_unreachable"), 1);
    assert.deepEqual(await kept.main.ask("echo", 7), [7]);
    assert.ok(!a.disconnects.some((d) => d.id === old));
    list[0].signal("SIGCONT");
    await until(() => a.disconnects.some((d) => d.id === old), "the end of the old session", 10000);
    assert.equal(kept.main.disconnects.length, 1);
    await allUp(list, 2);
    const live = await total(list, "holdfast_sessions", { state: "live" });
    assert.equal(live + (await total(list, "holdfast_sessions", { state: "parked" })), 2, "nothing is left behind");
  });

  it("owner and edge hand over to another process: every client recovers, wherever it returns", { timeout: 40000 * SLOW }, async (t) => {
    const { a, list } = await setUp(t, 3);
    const [owner, edge, other] = list;
    const cs = [await relayed(t, owner, edge), await relayed(t, owner, edge, { transport: "polling" }), await relayed(t, owner, null)];
    cs[2].way.target = other.port; // it returns elsewhere
    const before = cs.map((c) => c.main.connects.length);
    for (const hf of [owner, edge]) {
      let i = 0;
      const timer = setInterval(() => a.io.emit("n", ++i), 5);
      const handovers = async () => (await hf.metrics()).sum("holdfast_handovers_total", { result: "ok" });
      hf.signal("SIGUSR2");
      await until(async () => (await handovers().catch(() => 0)) === 1, () => `the handover\n${hf.log.slice(-3000)}`);
      for (const c of cs) await until(() => c.main.socket.connected, "the clients");
      await allUp(list, 2);
      clearInterval(timer);
      for (const c of cs) {
        await until(() => c.main.numbers.at(-1) === i, () => `event ${i}, had ${c.main.numbers.at(-1)}`);
        c.main.checkStream(1, i);
        c.main.numbers.length = 0;
      }
    }
    cs.forEach((c, k) => {
      assert.ok(c.main.connects.length > before[k]);
      c.main.assertRecovered();
    });
    assert.equal(a.connections.length, cs.length);
  });

  for (const transport of ["websocket", "polling"]) {
    it(`owner drains, ${transport}: clients that are cut meanwhile recover through others`, { timeout: 40000 * SLOW }, async (t) => {
      const { a, list } = await setUp(t, 3, { config: { shutdown: { drain_timeout: "6s" } } });
      const [owner, edge, other] = list;
      const c = await relayed(t, owner, null, { transport });
      owner.signal("SIGTERM");
      await until(() => /draining/.test(owner.log), "the drain");
      for (const [k, place] of [edge, other].entries()) {
        for (; c.main.disconnects.length < k + 1; await sleep(20)) c.way.moveTo(place.port);
        await c.main.connected(k + 2);
      }
      c.main.assertRecovered(2);
      a.io.emit("n", 1);
      await c.main.stream(1, 1);
      await within(owner.exited, "the end of the drain", 12000);
      await c.main.connected(4); // its session is gone with its owner
      assert.equal(c.main.last.recovered, false);
      // It may return between the end of the drain and that of the process.
      assert.equal((await failures([edge, other], "owner_gone")) + (await failures([edge, other], "draining")), 1);
    });
  }
});

describe("a POST that ends before its announced length", { skip: onlyHoldfast, concurrency: 3 }, () => {
  for (const size of [3_000, 60_000])
    it(`${size} bytes, cut in the middle at an edge: the owner handles none of it, as without a relay`, { timeout: 40000 * SLOW }, async (t) => {
      const { a, list } = await setUp(t, 2);
      const [owner, edge] = list;
      for (const hf of [owner, edge]) {
        const p = await Polling.open(owner.url);
        await p.connect();
        const packet = `42["up",${"1".repeat(90)}]`;
        const body = Array.from({ length: size / 100 }, () => packet).join("\x1e");
        const { pathname, search } = new URL(p.at());
        const socket = net.connect(hf.port, "127.0.0.1");
        socket.on("error", () => {});
        await once(socket, "connect");
        socket.write(`POST ${pathname}${search} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, -200)}`);
        if (hf === edge) await until(async () => (await total([edge], "holdfast_forwarded_requests_total")) > 0, "the request to be forwarded");
        socket.end();
        await until(async () => (await total([owner], "holdfast_clients")) === 0, "the client to be closed");
        assert.deepEqual(a.received, []);
      }
      assert.equal(await total([owner], "holdfast_parkings_total", { reason: "poll_error" }), 2);
    });
});

describe("the network between replicas", { skip: onlyHoldfast, concurrency: 3 }, () => {
  /** Two replicas whose connections to each other pass relays. */
  async function apart(t) {
    const a = await App.start("4.5.4");
    t.after(() => a.stop());
    const ports = await freePorts(2);
    const ways = [];
    for (const port of ports) {
      const way = await Relay.start(port);
      t.after(() => way.stop());
      ways.push(way);
    }
    // Each advertises the relay in front of it, and dials the other's.
    const start = { ports, peers: (i) => [`127.0.0.1:${ways[1 - i].port}`], config: (i) => ({ cluster: { advertise: `127.0.0.1:${ways[i].port}` } }) };
    const list = await replicas(t, 2, () => a.port, start);
    return { a, list, ways };
  }

  it("a polling client is served by one replica only, also if its owner's consent does not arrive", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list, ways } = await apart(t);
    const [owner, edge] = list;
    const first = await Polling.open(owner.url);
    const { pid } = await first.connect();
    const p = await Polling.open(edge.url);
    ways[0].blackhole({ up: false }); // what the owner sends to the edge
    const connecting = p.post(`40${JSON.stringify({ pid })}`);
    await until(async () => (await total([owner], "holdfast_recoveries_total", { result: "recovered" })) === 1, "the owner's consent");
    p.base = `${owner.url}/socket.io/`; // a balancer sends the client's polls there
    const got = await p.pollFor((x) => x.startsWith("40"), { timeout: 20000 });
    assert.equal((await connecting).body, "ok");
    for (let k = 1; k <= 3; k++) {
      a.io.emit("n", k);
      got.push(...(await p.pollFor((x) => x.startsWith(`42["n",${k},`))));
    }
    const packets = got.filter((x) => x.startsWith("4"));
    assert.equal(packets.length, 4, packets.join("\n"));
    assert.doesNotMatch(packets[0], new RegExp(pid));
  });

  for (const where of ["owner", "edge"]) {
    it(`a client that did not learn of its fresh session, and returns to the ${where} with its old pid: the fresh one ends`, { timeout: 60000 * SLOW }, async (t) => {
      const { a, list, ways } = await apart(t);
      const [owner, edge] = list;
      const connect = async (url, payload) => {
        const raw = await Raw.open(url);
        t.after(() => raw.ws.terminate());
        raw.ws.send(`40${JSON.stringify(payload)}`);
        return raw;
      };
      const first = await connect(owner.url, {});
      const { sid, pid } = JSON.parse((await first.next()).slice(2));
      for (const way of ways) {
        way.mode = "hole";
        way.blackhole();
      }
      const network = await Relay.start(edge.port);
      t.after(() => network.stop());
      await connect(network.url, { pid });
      network.blackhole({ up: false });
      await until(() => a.connections.length === 2, "the fresh session", 20000);
      const fresh = a.connections[1].id;
      await until(async () => (await total([edge], "holdfast_sessions", { state: "live" })) === 1, "the fresh session in holdfast");
      await sleep(200); // until the reply is in flight
      network.cut();
      await until(async () => (await total([edge], "holdfast_sessions", { state: "parked" })) === 1, "the fresh session to be parked");
      for (const way of ways) way.heal();
      await allUp(list, 1, 20000);
      const again = await connect(list[where === "owner" ? 0 : 1].url, { pid });
      assert.equal(JSON.parse((await again.next()).slice(2)).sid, sid);
      await until(() => a.disconnects.some((d) => d.id === fresh), "the end of the fresh session", 15000);
      assert.equal(a.disconnects.length, 1);
    });
  }

  for (const which of ["both ways", "one way"]) {
    it(`partition, ${which}: at the owner the client recovers, and elsewhere it gets a fresh session`, { timeout: 60000 * SLOW }, async (t) => {
      const { a, list, ways } = await apart(t);
      const stays = await relayed(t, list[0], list[1], { timeout: 20000 });
      const leaves = await relayed(t, list[0], list[1], { timeout: 20000 });
      leaves.way.target = list[0].port; // it returns to the owner
      const old = stays.main.id;
      // Replica 1 dials replica 0 through ways[0].
      const cut = which === "both ways" ? ways : [ways[0]];
      for (const way of cut) {
        way.mode = "hole";
        way.blackhole();
      }
      await stays.main.connected(3, 15000);
      await leaves.main.connected(3, 15000);
      assert.equal(stays.main.last.recovered, false);
      leaves.main.assertRecovered(2);
      for (const way of cut) way.heal();
      await allUp(list, 1, 15000);
      await until(() => a.disconnects.some((d) => d.id === old), "the end of the old session", 10000);
      assert.equal(await total(list, "holdfast_sessions", { state: "parked" }), 0);
    });
  }
});

describe("a slow client behind an edge", { skip: onlyHoldfast }, () => {
  it("takes bounded memory, and delays no other client of the same two replicas", { timeout: 60000 * SLOW }, async (t) => {
    const { a, list } = await setUp(t, 2);
    const others = await Promise.all(Array.from({ length: 20 }, () => relayed(t, list[0], list[1])));
    const line = await Relay.start(list[1].port);
    t.after(() => line.stop());
    const slow = await relayed(t, list[0]);
    slow.way.moveTo(line.port);
    await slow.main.connected(2);
    assert.equal(slow.main.last.recovered, true);
    // How long the slowest of them takes in most rounds. A busy machine is as busy without the slow client.
    const rounds = async (ms) => {
      const times = [];
      for (const elapsed = stopwatch(); elapsed() < ms; ) {
        const round = stopwatch();
        await Promise.all(others.map((c) => c.main.ask("echo", 1)));
        times.push(round());
      }
      return times.sort((x, y) => x - y)[Math.floor(times.length * 0.8)];
    };
    const alone = await rounds(1500);
    const memory = () => total(list, "process_resident_memory_bytes");
    const before = await memory();
    line.throttle(14 * 1024, ["down"]);
    const payload = "x".repeat(10000);
    let sent = 0;
    const feed = setInterval(() => {
      for (let i = 0; i < 50 && sent < 20e6; i++, sent += payload.length) a.io.to(slow.main.id).emit("bulk", payload);
    }, 10);
    t.after(() => clearInterval(feed));
    const beside = await rounds(4000);
    await until(() => sent >= 20e6, "all to be sent");
    t.diagnostic(`the slowest of 20 echoes: ${alone.toFixed()} ms alone, ${beside.toFixed()} ms beside the slow client`);
    assert.ok(beside < 250 + 4 * alone, `the slowest of 20 echoes took ${beside} ms, and ${alone} ms without the slow client`);
    const grown = ((await memory()) - before) / 1e6;
    assert.ok(grown < 30, `${grown} MB more`);
    assert.ok((await total(list, "holdfast_link_pauses_total")) >= 1, "the server is not read");
    assert.equal(slow.main.disconnects.length, 1);
  });
});

describe("unverified connections to the peer port", { skip: onlyHoldfast, concurrency: 3 }, () => {
  it("wrong secret: the replicas do not connect, and both say why", { timeout: 30000 * SLOW }, async (t) => {
    const a = await App.start("4.5.4");
    t.after(() => a.stop());
    const list = await replicas(t, 1, () => a.port);
    const ports = await freePorts(1);
    const other = await list.start(0, { listen: `127.0.0.1:${ports[0]}`, peers: [`127.0.0.1:${list[0].peerPort}`], secret: "another secret, which is long enough as well" });
    for (const hf of [list[0], other]) await until(() => /another cluster.secret/.test(hf.log), () => `the reason\n${hf.log}`);
    assert.equal(await total([...list, other], "holdfast_peers", { state: "up" }), 0);
  });

  it("no TLS, plain HTTP, TLS without a key, garbage, and 1,000 silent connections change nothing, and delay no new replica", { timeout: 60000 * SLOW }, async (t) => {
    const { list } = await setUp(t, 2);
    const c = await relayed(t, list[0], list[1]);
    const port = list[0].peerPort;
    const answers = [];
    for (const text of ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\xff\xff" + "\0".repeat(300), Buffer.alloc(70000, 7), "\n"]) {
      const socket = net.connect(port, "127.0.0.1");
      socket.on("error", () => {});
      socket.on("data", (data) => answers.push(data));
      socket.write(text);
      await once(socket, "close", 12000);
    }
    assert.ok(!answers.some((a) => /HTTP/.test(a.toString("latin1"))));
    await until(() => /it does not speak TLS/.test(list[0].log), () => `the reason\n${list[0].log}`);
    const withoutKey = tls.connect({ port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["holdfast-peer/1"] });
    withoutKey.on("error", () => {});
    withoutKey.on("data", () => assert.fail("it got data"));
    await once(withoutKey, "close");
    const silent = Array.from({ length: 1000 }, () => net.connect(port, "127.0.0.1").on("error", () => {}));
    t.after(() => silent.forEach((s) => s.destroy()));
    await sleep(1500);
    for (let k = 0; k < 20; k++) assert.deepEqual(await c.main.ask("echo", k), [k]);
    assert.equal(c.main.disconnects.length, 1);
    assert.equal(await total(list, "holdfast_peers", { state: "up" }), 2);
    const [free] = await freePorts(1);
    // It knows the others, and they learn its address from it.
    const third = await list.start(0, { listen: `127.0.0.1:${free}` });
    await allUp([third, list[0]], 2);
    const m = await list[0].metrics();
    assert.ok(m.sum("process_open_fds") < 300, `${m.sum("process_open_fds")} open files`);
  });
});
