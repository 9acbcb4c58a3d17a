// Several replicas together with other settings: addresses, Redis' accounts, secrets that change, lazy handshakes, notifications.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { once } from "node:events";
import os from "node:os";
import path from "node:path";
import { Holdfast, onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { App } from "../lib/server.js";
import { Redis, noRedis } from "../lib/redis.js";
import { allUp, freePorts, relayed, replicas, SECRET, total } from "../lib/replicas.js";
import { SLOW, until } from "../lib/wait.js";

const noIPv6 = Object.values(os.networkInterfaces()).flat().some((a) => a.address === "::1") ? false : "there is no IPv6";

async function app(t) {
  const a = await App.start("4.5.4");
  t.after(() => a.stop());
  return a;
}

describe("several replicas with other settings", { skip: onlyHoldfast, concurrency: 3 }, () => {
  it("IPv6, and all addresses of the machine: each finds out where others dial it", { timeout: 60000 * SLOW, skip: noIPv6 }, async (t) => {
    const a = await app(t);
    const ports = await freePorts(3);
    const peers = ports.map((p) => `[::1]:${p}`);
    const list = await replicas(t, 3, () => a.port, { ports, config: (i) => ({ cluster: { listen: `:${ports[i]}`, peers } }) });
    for (const [i, hf] of list.entries()) assert.equal((await hf.says((r) => r.msg === "replica is ready for others")).advertise, peers[i]);
    const c = await relayed(t, list[0], list[2]);
    assert.deepEqual(await c.main.ask("echo", 7), [7]);
  });

  it("two clusters in one Redis, with an account that has only the documented permissions", { timeout: 60000 * SLOW, skip: noRedis }, async (t) => {
    const a = await app(t);
    const redis = await Redis.start(t, { args: "--user hf on >d@ta ~holdfast:* +time +hset +hgetall +hdel +expire +select".split(" ") });
    const url = `redis://hf:d%40ta@127.0.0.1:${redis.port}/3`;
    const [one, two] = await Promise.all(["one", "two"].map((name) => replicas(t, 2, () => a.port, { peers: () => [url], cluster: { name } })));
    const ids = async (list) => Promise.all(list.map(async (hf) => JSON.parse((await hf.admin("/api/status")).text).cluster));
    for (const list of [one, two]) {
      const [first, second] = await ids(list);
      assert.deepEqual(first.peers.map((p) => p.id), [second.id]);
      assert.deepEqual(second.peers.map((p) => p.id), [first.id]);
    }
    for (const hf of [...one, ...two]) assert.equal((await hf.metrics()).sum("holdfast_peer_lookup_failures_total"), 0);
  });

  it("a new secret, by SIGHUP: relayed clients notice nothing, and in the end the old one is refused", { timeout: 60000 * SLOW }, async (t) => {
    const a = await app(t);
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-secret-"));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const files = [0, 1].map((i) => path.join(dir, `${i}`));
    const fresh = "the next secret, which has enough bytes as well";
    const put = (...lines) => Promise.all(files.map((f) => writeFile(f, `${lines.join("\n")}\n`)));
    await put(SECRET);
    const list = await replicas(t, 2, () => a.port, { config: (i) => ({ cluster: { secret: undefined, secret_file: files[i] } }) });
    const c = await relayed(t, list[0], list[1]);
    // The replicas are changed one after the other, and understand each other meanwhile.
    for (const lines of [[SECRET, fresh], [fresh, SECRET], [fresh]]) {
      await put(...lines);
      for (const hf of list) {
        assert.equal((await hf.reload({})).msg, "configuration reloaded");
        assert.deepEqual(await c.main.ask("echo", 7), [7]);
      }
    }
    assert.equal(c.main.disconnects.length, 1);
    const join = async (secret) => {
      const [port] = await freePorts(1);
      return list.start(0, { listen: `127.0.0.1:${port}`, secret, secret_file: undefined });
    };
    const knows = await join(fresh);
    await allUp([knows, ...list], 2);
    const outdated = await join(SECRET);
    await until(() => /another cluster.secret/.test(outdated.log), () => `the reason\n${outdated.log}`);
    assert.equal(await total([outdated], "holdfast_peers", { state: "up" }), 0);
    await until(() => /refused/.test(list[0].log), "the other side to say so");
  });

  it("addresses without a listener, of another service, and of the replica itself: it serves clients, and is found", { timeout: 60000 * SLOW }, async (t) => {
    const a = await app(t);
    const other = createServer((_, res) => res.end("hello")).listen(0, "127.0.0.1");
    t.after(() => (other.closeAllConnections(), other.close()));
    await once(other, "listening");
    const [port, unused] = await freePorts(2);
    const web = `127.0.0.1:${other.address().port}`;
    const peers = [web, `127.0.0.1:${unused}`, `no-such-name.invalid:7400`, `127.0.0.1:${port}`];
    const hf = await Holdfast.start(a.port, { cluster: { listen: `127.0.0.1:${port}`, peers, secret: SECRET } });
    t.after(() => hf.stop());
    const problems = async () => Object.fromEntries(JSON.parse((await hf.admin("/api/status")).text).cluster.peers.map((p) => [p.address, p.error]));
    await until(async () => /no replica answers/.test((await problems())[web]), () => `the reason\n${hf.log}`);
    await until(async () => /refused/.test((await problems())[`127.0.0.1:${unused}`]), () => `the reason\n${hf.log}`);
    assert.equal(Object.keys(await problems()).length, 2, "the replica itself is not listed");
    await until(() => /no-such-name\.invalid/.test(hf.log), "the name to be named");
    const [second] = await freePorts(1);
    const next = await Holdfast.start(a.port, { cluster: { listen: `127.0.0.1:${second}`, peers: [`127.0.0.1:${port}`], secret: SECRET } });
    t.after(() => next.stop());
    await allUp([hf, next], 1);
    const c = await relayed(t, hf, next);
    assert.deepEqual(await c.main.ask("echo", 7), [7]);
  });

  it("a peer port that is taken, or of another machine, ends holdfast at the start, which says so", { timeout: 60000 * SLOW }, async (t) => {
    const taken = createServer().listen(0, "127.0.0.1");
    t.after(() => taken.close());
    await once(taken, "listening");
    for (const [listen, why] of [[`127.0.0.1:${taken.address().port}`, /address already in use/], ["192.0.2.1:7400", /cannot assign requested address/]]) {
      const config = `listen: 127.0.0.1:0\nadmin: {listen: ""}\ncluster: {listen: "${listen}", peers: ["127.0.0.1:7400"], secret: "${SECRET}"}\n`;
      const { code, all } = await runHoldfast(["-config", "h.yaml"], { files: { "h.yaml": config }, timeout: 10000 });
      assert.equal(code, 2, all);
      assert.match(all, /^holdfast: invalid configuration: h\.yaml:3: cluster\.listen: /m);
      assert.match(all, why);
    }
  });

  it("lazy handshakes, and notifications: the server hears of each return once, and of no connection", { timeout: 60000 * SLOW }, async (t) => {
    const a = await app(t);
    const config = { upstream: { handshake: "lazy" }, notify: { parked: "parked", resumed: "resumed" } };
    const list = await replicas(t, 3, () => a.port, { config });
    const told = () => a.received.filter((r) => /^(parked|resumed)$/.test(r.args[0])).map((r) => r.args[0]);
    for (const hf of list) await relayed(t, hf, null); // each has the server's answer now
    const before = a.engineConnections;
    const c = await relayed(t, list[0], list[1]);
    assert.deepEqual(await c.main.ask("echo", 1), [1]);
    c.way.moveTo(list[2].port);
    await c.main.connected(3);
    c.main.assertRecovered(2);
    assert.deepEqual(await c.main.ask("echo", 2), [2]);
    assert.deepEqual(told(), ["parked", "resumed", "parked", "resumed"]);
    assert.equal(a.engineConnections, before + 1, "returns cost the server nothing");
  });
});
