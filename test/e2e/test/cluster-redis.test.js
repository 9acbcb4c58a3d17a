// Replicas that find each other in Redis, and what happens when Redis fails.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { Client } from "../lib/client.js";
import { App } from "../lib/server.js";
import { Switch } from "../lib/balancer.js";
import { Redis, noRedis } from "../lib/redis.js";
import { allUp, freePorts, replicas, SECRET } from "../lib/replicas.js";
import { sleep, until } from "../lib/wait.js";

const skip = onlyHoldfast || noRedis;

async function setUp(t, redis, n) {
  const a = await App.start("4.5.4");
  t.after(() => a.stop());
  const list = await replicas(t, n, () => a.port, { peers: () => [redis.url] });
  const way = await Switch.start(list[0].port);
  t.after(() => way.close());
  const c = new Client("4.8.4", way.url, { transports: ["websocket"] });
  t.after(() => c.close());
  await c.main.connected();
  /** The client returns at a replica, and must recover. */
  const roam = async (hf) => {
    const before = c.main.connects.length;
    way.moveTo(hf.port);
    await c.main.connected(before + 1);
    assert.equal(c.main.last.recovered, true);
    assert.deepEqual(await c.main.ask("echo", before), [before]);
  };
  /** Another replica is found, within the time between two look-ups and a little more. */
  const another = async () => {
    const [port] = await freePorts(1);
    const began = Date.now();
    const hf = await list.start(0, { listen: `127.0.0.1:${port}` });
    list.push(hf);
    await allUp([...list], list.length - 1, 7000);
    return Date.now() - began;
  };
  return { a, list, c, roam, another };
}

describe("replicas in Redis", { skip, concurrency: 3 }, () => {
  it("killed and started again: no client notices, and a new replica is found soon after", { timeout: 60000 }, async (t) => {
    const redis = await Redis.start(t);
    const { list, c, roam, another } = await setUp(t, redis, 2);
    await roam(list[1]);
    await redis.kill();
    await roam(list[0]);
    await until(async () => (await list[0].metrics()).sum("holdfast_peer_lookup_failures_total") > 0, "a look-up that fails");
    await roam(list[1]);
    const drops = c.main.disconnects.length;
    await redis.run();
    await another();
    await roam(list[2]);
    assert.equal(c.main.disconnects.length, drops + 1);
  });

  it("stopped: the same", { timeout: 60000 }, async (t) => {
    const redis = await Redis.start(t);
    const { list, roam, another } = await setUp(t, redis, 2);
    redis.signal("SIGSTOP");
    await sleep(6000);
    await roam(list[1]);
    await roam(list[0]);
    redis.signal("SIGCONT");
    await another();
    await roam(list[2]);
  });

  it("emptied, and out of memory: known replicas stay", { timeout: 60000 }, async (t) => {
    const redis = await Redis.start(t);
    const { list, roam, another } = await setUp(t, redis, 2);
    await redis.command("FLUSHALL");
    await roam(list[1]);
    await another();
    assert.match(await redis.command("CONFIG", "SET", "maxmemory", "1"), /OK/);
    await until(async () => (await list[0].metrics()).sum("holdfast_peer_lookup_failures_total") > 0, "a look-up that fails");
    await roam(list[2]);
    assert.match(await redis.command("CONFIG", "SET", "maxmemory", "0"), /OK/);
    await another();
    await roam(list[3]);
  });

  it("a replica that stops leaves Redis, and one that was killed goes by itself", { timeout: 60000 }, async (t) => {
    const redis = await Redis.start(t);
    const { list } = await setUp(t, redis, 3);
    assert.match(await redis.command("HLEN", "holdfast:{holdfast}"), /:3/);
    list[2].gone = true;
    list[2].signal("SIGTERM");
    await list[2].exited;
    assert.match(await redis.command("HLEN", "holdfast:{holdfast}"), /:2/);
    await until(async () => (await list[0].metrics()).sum("holdfast_peers", { state: "up" }) === 1, "one peer");
    assert.equal((await list[0].metrics()).sum("holdfast_peer_losses_total", { why: "goodbye" }), 1);
  });

  it("a wrong password ends holdfast at the start, and says so without the password", { timeout: 30000 }, async (t) => {
    const redis = await Redis.start(t, { args: ["--requirepass", "right"] });
    const config = `listen: 127.0.0.1:0\nadmin: {listen: ""}\ncluster: {listen: "127.0.0.1:0", peers: ["redis://:wr0ng@127.0.0.1:${redis.port}"], secret: "${SECRET}"}\n`;
    const run = await runHoldfast(["-config", "h.yaml"], { files: { "h.yaml": config } });
    assert.equal(run.code, 2, run.all);
    assert.match(run.all, /h\.yaml:3: cluster\.peers: .*WRONGPASS/);
    assert.doesNotMatch(run.all, /wr0ng/);
  });
});
