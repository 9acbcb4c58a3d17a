// Several holdfasts that know each other.
import { writeFileSync } from "node:fs";
import path from "node:path";
import assert from "node:assert/strict";
import { Switch } from "./balancer.js";
import { Client } from "./client.js";
import { Holdfast } from "./holdfast.js";
import { freePort } from "./ports.js";
import { Relay } from "./relay.js";
import { sleep, until } from "./wait.js";

export const SECRET = "a secret of the tests, which has enough bytes";

/** Ports that are free now. */
export async function freePorts(n) {
  const ports = new Set();
  while (ports.size < n) ports.add(await freePort());
  return [...ports];
}

/**
 * Starts n replicas and waits until all are connected. upstream(i) is the port of replica i's server.
 * options: {config: of each replica, or a function of its number; peers: (i, ports) => addresses; cluster: more settings}
 */
export async function replicas(t, n, upstream, options = {}) {
  const ports = options.ports ?? (await freePorts(n));
  const started = [];
  t.after(async () => {
    const errors = [];
    if (process.env.HOLDFAST_E2E_LOGS) {
      const name = t.name.replace(/[^\w.]+/g, "-").slice(0, 60);
      started.forEach((hf, i) => writeFileSync(path.join(process.env.HOLDFAST_E2E_LOGS, `${name}.${i}.${hf.pid}.log`), hf.log));
    }
    for (const hf of started) await (hf.gone ? hf.kill() : hf.stop()).catch((err) => errors.push(err));
    if (errors.length) throw errors[0];
  });
  const start = async (i, more) => {
    const peers = options.peers?.(i, ports) ?? ports.map((p) => `127.0.0.1:${p}`);
    const config = typeof options.config === "function" ? options.config(i) : options.config;
    const cluster = { listen: `127.0.0.1:${ports[i]}`, peers, secret: SECRET, ...options.cluster };
    const hf = await Holdfast.start(upstream(i), { ...config, cluster: { ...cluster, ...config?.cluster, ...more } }, options);
    hf.peerPort = Number((more?.listen ?? cluster.listen).split(":").at(-1));
    started.push(hf);
    return hf;
  };
  const all = await Promise.all(ports.map((_, i) => start(i)));
  all.start = start;
  await allUp(all, n - 1);
  return all;
}

/** Waits until each holdfast is connected to `others` other ones. */
export async function allUp(list, others, timeout) {
  for (const hf of list)
    await until(
      async () => (await hf.metrics()).sum("holdfast_peers", { state: "up" }) === others,
      () => `${others} peers\n${hf.log.slice(-3000)}`,
      timeout,
    );
}

/** The sum of a metric over all replicas. */
export async function total(list, name, labels) {
  let sum = 0;
  for (const hf of list) sum += (await hf.metrics()).sum(name, labels);
  return sum;
}

/** A client that was connected at `from` and is now relayed by `to`. */
export async function relayed(t, from, to, { transport = "websocket", ...options } = {}) {
  const way = await Switch.start(from.port);
  t.after(() => way.close());
  const c = new Client("4.8.4", way.url, { transports: [transport], ...options });
  t.after(() => c.close());
  await c.main.connected();
  await c.main.ask("echo", 1);
  if (to) {
    for (; c.main.disconnects.length < 1; await sleep(20)) way.moveTo(to.port);
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, true);
  }
  c.way = way;
  return c;
}

/**
 * Starts n replicas with a relay on each way from one to another: all.ways has {from, to, relay}. All advertise the
 * same address. Each takes it for its own, so none learns an address that bypasses the relays.
 */
export async function replicasApart(t, n, upstream, options = {}) {
  const ports = await freePorts(n);
  const ways = [];
  for (let from = 0; from < n; from++) {
    for (let to = 0; to < n; to++) {
      if (from === to) continue;
      const relay = await Relay.start(ports[to]);
      t.after(() => relay.stop());
      ways.push({ from, to, relay });
    }
  }
  const peers = (i) => ways.filter((w) => w.from === i).map((w) => `127.0.0.1:${w.relay.port}`);
  const all = await replicas(t, n, upstream, { ...options, ports, peers, cluster: { advertise: "127.0.0.1:1", ...options.cluster } });
  all.ways = ways;
  return all;
}
