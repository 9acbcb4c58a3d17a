// Replicas that find each other in Redis, and what happens when Redis fails.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { Client } from "../lib/client.js";
import { noOpenSSL, secret } from "../lib/certificates.js";
import { App } from "../lib/server.js";
import { Switch } from "../lib/balancer.js";
import { Redis, redisCluster, Sentinel, noRedis } from "../lib/redis.js";
import { allUp, freePorts, replicas, SECRET } from "../lib/replicas.js";
import { SLOW, sleep, until } from "../lib/wait.js";

const KEY = "holdfast:{holdfast}";
const skip = onlyHoldfast || noRedis;

async function setUp(t, peers, n) {
  const a = await App.start("4.5.4");
  t.after(() => a.stop());
  const list = await replicas(t, n, () => a.port, { peers: () => [peers.url ?? peers].flat() });
  const client = async (transports) => {
    const way = await Switch.start(list[0].port);
    t.after(() => way.close());
    const c = new Client("4.8.4", way.url, { transports });
    t.after(() => c.close());
    await c.main.connected();
    return { way, c };
  };
  const { way, c } = await client(["websocket"]);
  const local = await client(["websocket"]);
  const polling = await client(["polling"]);
  const relayed = await client(["websocket"]);
  relayed.way.moveTo(list[1].port);
  await relayed.c.main.connected(2);
  relayed.c.main.assertRecovered(1);
  /** Clients that stay where they are have not noticed what happened to Redis. */
  const undisturbed = async () => {
    for (const [{ c }, drops] of [[local, 0], [polling, 0], [relayed, 1]]) {
      assert.deepEqual(await c.main.ask("echo", "still there"), ["still there"]);
      assert.equal(c.main.disconnects.length, drops);
      c.close();
    }
    c.close();
  };
  /** The client returns at a replica, and must recover. */
  const roam = async (hf) => {
    const before = c.main.connects.length;
    way.moveTo(hf.port);
    await c.main.connected(before + 1);
    assert.equal(c.main.last.recovered, true);
    assert.deepEqual(await c.main.ask("echo", before), [before]);
  };
  /** Starts another replica. */
  const add = async () => {
    const [port] = await freePorts(1);
    list.push(await list.start(0, { listen: `127.0.0.1:${port}` }));
  };
  /** All replicas have found each other. */
  const found = (timeout = 20000) => allUp([...list], list.length - 1, timeout);
  /** Redis comes back, and the replica that was added meanwhile is found within five seconds, by the replicas' clock. */
  const foundSoonAfter = async (back) => {
    const began = Date.now(); // a replica may be found before this process knows that Redis is back
    await back();
    await found();
    const times = list.flatMap((hf) => hf.records.filter((r) => r.msg === "connected to another replica").map((r) => Date.parse(r.time)));
    const took = Math.max(...times) - began;
    t.diagnostic(`found ${took} ms after Redis' return`);
    assert.ok(took > 0 && took <= 5000, `found ${took} ms after Redis' return`);
  };
  return { list, c, roam, add, found, foundSoonAfter, undisturbed };
}

/** holdfast does not start with these peers, and says why, without a password. -check says the same. */
async function refused(peers, why) {
  await refusedBy(["-check"], peers, why);
  await refusedBy([], peers, why);
}

async function refusedBy(flags, peers, why) {
  const config = `listen: 127.0.0.1:0\nadmin: {listen: ""}\ncluster: {listen: "127.0.0.1:0", peers: ${JSON.stringify(peers)}, secret: "${SECRET}"}\n`;
  let run;
  // At its start holdfast waits 2 seconds for Redis. On a busy machine that may be too short to
  // learn the reason.
  for (let attempt = 0; attempt < 5 && run?.code !== 2; attempt++) {
    if (run) assert.match(run.all, /(Redis is not available yet|they cannot be looked up:).*(deadline exceeded|timeout)/);
    run = await runHoldfast([...flags, "-config", "h.yaml"], { files: { "h.yaml": config }, timeout: 4000 });
  }
  assert.equal(run.code, 2, run.all);
  assert.match(run.all, /^holdfast: invalid configuration: h\.yaml:3: cluster\.peers: /m);
  assert.match(run.all, why);
  assert.doesNotMatch(run.all, /wr0ng|d@ta|d%40ta|s3ntinel/);
}

/** Moves the hash slot with the replicas from one node of a Redis Cluster to another. */
async function moveKey(from, to, nodes) {
  const [, slot] = /:(\d+)/.exec(await from.command("CLUSTER", "KEYSLOT", KEY));
  const id = async (node) => /[0-9a-f]{40}/.exec(await node.command("CLUSTER", "MYID"))[0];
  const [source, target] = [await id(from), await id(to)];
  const ok = async (node, ...words) => assert.match(await node.command(...words), /^\+OK/m);
  await ok(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", source);
  await ok(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", target);
  await ok(from, "MIGRATE", "127.0.0.1", `${to.port}`, KEY, "0", "5000", "AUTH", to.password);
  for (const node of [to, ...nodes.filter((n) => n !== to)]) await ok(node, "CLUSTER", "SETSLOT", slot, "NODE", target);
}

describe("replicas in Redis", { skip, concurrency: 3 }, () => {
  it("killed and started again: no client notices, and a new replica is found within five seconds", { timeout: 60000 * SLOW }, async (t) => {
    const redis = await Redis.start(t);
    const { list, c, roam, add, foundSoonAfter, undisturbed } = await setUp(t, redis, 2);
    await roam(list[1]);
    await redis.kill();
    await roam(list[0]);
    await until(async () => (await list[0].metrics()).sum("holdfast_peer_lookup_failures_total") > 0, "a look-up that fails");
    await roam(list[1]);
    const drops = c.main.disconnects.length;
    await add();
    await foundSoonAfter(() => redis.run());
    await roam(list[2]);
    assert.equal(c.main.disconnects.length, drops + 1);
    await undisturbed();
  });

  it("stopped: the same", { timeout: 60000 * SLOW }, async (t) => {
    const redis = await Redis.start(t);
    const { list, roam, add, foundSoonAfter, undisturbed } = await setUp(t, redis, 2);
    redis.signal("SIGSTOP");
    await until(async () => (await list[0].metrics()).sum("holdfast_peer_lookup_failures_total") > 0, "a look-up that fails", 15000);
    await roam(list[1]);
    await roam(list[0]);
    await add();
    await foundSoonAfter(() => redis.signal("SIGCONT"));
    await roam(list[2]);
    await undisturbed();
  });

  it("emptied, and out of memory: known replicas stay", { timeout: 60000 * SLOW }, async (t) => {
    const redis = await Redis.start(t);
    const { list, roam, add, found, undisturbed } = await setUp(t, redis, 2);
    await redis.command("FLUSHALL");
    await roam(list[1]);
    await add();
    await found();
    assert.match(await redis.command("CONFIG", "SET", "maxmemory", "1"), /OK/);
    await until(async () => (await list[0].metrics()).sum("holdfast_peer_lookup_failures_total") > 0, "a look-up that fails");
    await roam(list[2]);
    await add(); // it cannot write its own entry, but reads the others' and tells them
    await found();
    await roam(list[3]);
    assert.match(await redis.command("CONFIG", "SET", "maxmemory", "0"), /OK/);
    await until(async () => /:4/.test(await redis.command("HLEN", KEY)), "all replicas in Redis");
    await undisturbed();
  });

  it("a replica that stops removes its entry from Redis, and that of a killed one expires", { timeout: 60000 * SLOW }, async (t) => {
    const redis = await Redis.start(t);
    const { list } = await setUp(t, redis, 3);
    assert.match(await redis.command("HLEN", KEY), /:3/);
    list[2].gone = true;
    list[2].signal("SIGTERM");
    await list[2].exited;
    assert.match(await redis.command("HLEN", KEY), /:2/);
    await until(async () => (await list[0].metrics()).sum("holdfast_peers", { state: "up" }) === 1, "one peer");
    assert.equal((await list[0].metrics()).sum("holdfast_peer_losses_total", { why: "goodbye" }), 1);
  });

  it("behind Sentinel: its master dies, and a new replica is found through the copy that takes its place", { timeout: 120000 * SLOW }, async (t) => {
    const sentinel = await Sentinel.start(t, { password: "d@ta", sentinelPassword: "s3ntinel" });
    const url = `redis://:s3ntinel@127.0.0.1:${sentinel.port}/0?master_name=main&password=d%40ta`;
    const { list, roam, add, found, undisturbed } = await setUp(t, url, 2);
    assert.match(await sentinel.master.command("HLEN", KEY), /:2/);
    await refused([url.replace("main", "mine")], /Redis: Sentinel knows no master with the name \\"mine\\"/);
    await refused([url.replace("s3ntinel", "wr0ng")], /Redis: Sentinel: WRONGPASS/);
    await refused([url.replace("d%40ta", "wr0ng")], /Redis: WRONGPASS/);
    await refused([url.replace(/\?.*/, "")], /Redis: ERR unknown command 'time': this may be Sentinel: add \?master_name=/);
    const copy = `redis://:d%40ta@127.0.0.1:${sentinel.copy.port}`;
    await refused([`${copy}?cluster=true`], /Redis: ERR This instance has cluster support disabled: several URLs, or cluster=true, mean Redis Cluster/);
    await sentinel.master.kill();
    await roam(list[1]);
    await add();
    await found(30000);
    await roam(list[2]);
    await undisturbed();
    await until(async () => /:3/.test(await sentinel.copy.command("HLEN", KEY)), "all replicas in the copy");
    for (const hf of list) assert.doesNotMatch(hf.log, /^redis: /m, "the client library logs where holdfast does");
  });

  it("in Redis Cluster: the replicas move to another node, one without them dies, and no client notices", { timeout: 120000 * SLOW }, async (t) => {
    const nodes = await redisCluster(t, { password: "secret" });
    const urls = nodes.map((n, i) => `redis://${i ? "" : ":secret@"}127.0.0.1:${n.port}`);
    await refused(urls.slice(1, 2).map((u) => u.replace("://", "://:wrong@")), /Redis: WRONGPASS/);
    await refused([urls[0]], /Redis: MOVED .*this is a node of Redis Cluster: add \?cluster=true to the URL/);
    const { list, roam, add, found, undisturbed } = await setUp(t, urls, 2);
    await moveKey(nodes[1], nodes[2], nodes);
    await nodes[0].kill();
    await roam(list[1]);
    await add();
    await found(30000);
    await roam(list[2]);
    await undisturbed();
    await until(async () => /:3/.test(await nodes[2].command("HLEN", KEY)), "all replicas at the other node");
  });

  it("over TLS: the certificate is verified", { timeout: 120000 * SLOW, skip: noOpenSSL }, async (t) => {
    const files = await secret(t);
    const redis = await Redis.start(t, { password: "secret", tls: files });
    const url = `rediss://:secret@127.0.0.1:${redis.port}`;
    await refused([url], /Redis: .*failed to verify certificate/);
    const list = await replicas(t, 2, () => 1, { peers: () => [url], env: { SSL_CERT_FILE: files.cert } });
    assert.equal(list.length, 2);
  });

  it("a wrong password ends holdfast at the start, and says so without the password", { timeout: 30000 * SLOW }, async (t) => {
    const redis = await Redis.start(t, { password: "right" });
    await refused([redis.url.replace("://", "://:wr0ng@")], /WRONGPASS/);
    await refused([redis.url], /NOAUTH/);
  });
});
