// The holdfasts of a lane: one, several replicas with a relay on each way from one to another, or several that find each other
// in Redis, with a relay in front of each.
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Holdfast, Metrics } from "../lib/holdfast.js";
import { Redis } from "../lib/redis.js";
import { freePorts, SECRET } from "../lib/replicas.js";
import { Relay } from "../lib/relay.js";
import { sleep, until } from "../lib/wait.js";

const LOGS = process.env.HOLDFAST_E2E_LOGS;
// A replica learns the address that another one advertises, which would bypass the relays. All
// advertise the same one, so each takes it for its own.
const NOWHERE = "127.0.0.1:1";
// Programs with the race detector otherwise wait a second before they exit.
const env = { GORACE: "atexit_sleep_ms=0" };
/** How long a replica that drains answers for its sessions, in ms. */
export const DRAIN = 4000;

export class Fleet {
  /** options: {size, redis: true if the replicas find each other there, port: of the server, config, random, name: for log files} */
  static async start(options) {
    const fleet = new Fleet(options);
    try {
      if (options.redis) fleet.redis = await Redis.start({ after: (end) => fleet.ends.push(end) });
      else if (fleet.size > 1) await fleet.#layWays();
      await Promise.all(Array.from({ length: fleet.size }, (_, i) => fleet.#run(i)));
      await fleet.#allUp("replicas to find each other", 20_000);
      return fleet;
    } catch (err) {
      await fleet.kill();
      throw err;
    }
  }

  constructor({ size, ...options }) {
    this.options = options;
    this.size = size;
    this.list = [];
    this.away = new Set(); // places whose holdfast was killed, or is stopped
    this.ways = []; // of {from, to, relay}; with Redis of {to, relay}
    this.ends = []; // what to do at the end
    this.past = []; // metrics of holdfasts, taken just before they were killed
    this.ended = []; // holdfasts that have ended
    this.drains = []; // of {from, to}: when one was told to stop, and when it had
  }

  async #layWays() {
    this.peerPorts = await freePorts(this.size);
    for (let from = 0; from < this.size; from++)
      for (let to = 0; to < this.size; to++) if (from !== to) this.ways.push({ from, to, relay: await Relay.start(this.peerPorts[to]) });
  }

  async #run(i) {
    const listen = this.list[i] && { listen: `127.0.0.1:${this.list[i].port}` };
    const config = { ...this.options.config, ...(this.size > 1 && { cluster: await this.#cluster(i) }), ...listen };
    this.list[i] = await Holdfast.start(this.options.port, config, { env });
  }

  async #cluster(i) {
    if (!this.redis) {
      const peers = this.ways.filter((w) => w.from === i).map((w) => `127.0.0.1:${w.relay.port}`);
      return { listen: `127.0.0.1:${this.peerPorts[i]}`, advertise: NOWHERE, peers, secret: SECRET };
    }
    let way = this.ways.find((w) => w.to === i);
    if (!way) {
      const [port] = await freePorts(1);
      this.ways.push((way = { to: i, port, relay: await Relay.start(port) }));
    }
    return { listen: `127.0.0.1:${way.port}`, advertise: `127.0.0.1:${way.relay.port}`, peers: [this.redis.url], secret: SECRET };
  }

  /** All holdfasts that were ever started. */
  get all() {
    return [...this.ended, ...this.list];
  }

  /** How many sessions a replica refused because it drained, although it was to answer for them still. */
  get refusedTooEarly() {
    const refused = this.all.flatMap((hf) => hf.records).filter((r) => r.msg === "not recovered" && r.reason === "draining");
    const late = (at) => this.drains.some(({ from, to }) => at >= from + DRAIN - 5 && at <= to);
    return refused.filter((r) => !late(Date.parse(r.time))).length;
  }

  /** Waits until each replica that is there is connected to all others. */
  async #allUp(what, timeout) {
    const n = this.list.filter(Boolean).length;
    if (n > 1) await until(async () => (await this.metrics()).sum("holdfast_peers", { state: "up" }) >= n * (n - 1), what, timeout);
  }

  /** The replicas between which there are faults, as pairs of ways. */
  get pairs() {
    if (this.redis) return this.ways.slice(0, this.size).map((w, i) => [w, this.ways[(i + 1) % this.size]]);
    return this.ways.filter((w) => w.from < w.to).map((w) => [w, this.ways.find((o) => o.from === w.to && o.to === w.from)]);
  }

  /** Where a client's next connection goes. */
  target() {
    const there = this.list.map((_, i) => i).filter((i) => this.list[i] && !this.away.has(i));
    const places = there.length > 0 ? there : [0];
    return { host: "127.0.0.1", port: this.list[places[this.options.random.int(0, places.length - 1)]].port };
  }

  /** The metrics of all, as of one. Fails if one does not answer. */
  async metrics() {
    const all = await Promise.all(this.list.filter(Boolean).map((hf) => hf.metrics()));
    return new Metrics(all.map((m) => m.text).join("\n"));
  }

  /** What the status page of each says, and what its goroutines do. */
  statuses() {
    const get = async (hf, where) => (await hf.admin(where)).text;
    const all = async (hf) => ({ pid: hf.pid, port: hf.port, status: await get(hf, "/api/status"), goroutines: await get(hf, "/debug/pprof/goroutine?debug=2") });
    return Promise.all(this.list.filter(Boolean).map(all));
  }

  async patientMetrics() {
    let m;
    await until(async () => (m = await this.metrics().catch(() => null)), "holdfast's metrics", 30_000);
    return m;
  }

  /** Kills one, or makes it drain and stop, and starts another in its place after `pause()`. */
  async replace(i, pause, { drain = false } = {}) {
    await this.#end(i, drain);
    try {
      await pause();
    } finally {
      await this.#run(i);
      this.away.delete(i);
    }
  }

  async #end(i, drain) {
    const hf = this.list[i];
    const m = await this.#metricsOf(hf);
    this.past.push(m);
    this.away.add(i);
    const from = Date.now();
    if (drain) await hf.stop({ timeout: 20_000 });
    else await hf.kill();
    if (drain) this.drains.push({ from, to: Date.now() });
    this.ended.push(hf);
    hf.checkHealth();
    this.#keepLog(hf);
  }

  async #metricsOf(hf) {
    let m;
    await until(async () => (m = await hf.metrics().catch(() => null)), "holdfast's metrics", 30_000);
    return m;
  }

  /** One more replica comes, and goes after `pause()`: it drains. */
  async visit(pause) {
    const i = this.size;
    this.away.add(i);
    await this.#run(i);
    this.away.delete(i);
    try {
      await pause();
    } finally {
      await this.#end(i, true);
      this.list.pop();
      await this.ways.pop().relay.stop();
    }
  }

  /** Hands over to another process, which runs the same program. It may refuse. */
  async handOver(i) {
    const hf = this.list[i];
    const m = await this.#metricsOf(hf);
    const last = async () => JSON.parse((await hf.admin("/api/status")).text || "{}").handover;
    const before = (await last().catch(() => null))?.count ?? 0;
    hf.signal("SIGUSR2");
    let now;
    await until(async () => (now = await last().catch(() => null)) && now.count > before, () => `a handover\n${hf.log.slice(-4000)}`, 40_000);
    if (now.result === "ok") this.past.push(m);
  }

  /** Stops one with SIGSTOP until `pause()` is over. */
  async freeze(i, pause) {
    this.list[i].signal("SIGSTOP");
    try {
      await pause();
    } finally {
      this.list[i].signal("SIGCONT");
    }
  }

  check(name) {
    for (const [i, hf] of this.list.entries())
      if (hf?.exit && !this.away.has(i)) throw new Error(`${name}: holdfast ended by itself: ${JSON.stringify(hf.exit)}\n${hf.log.slice(-6000)}`);
  }

  /** Ends all faults between replicas, and waits until they reach each other. */
  async calm() {
    for (const { relay } of this.ways) {
      relay.delay(0);
      relay.throttle(0);
      relay.heal();
    }
    await this.#allUp("replicas to reach each other", 30_000);
    if (this.size > 1) await sleep(3000); // time to send the notes that could not be sent before
  }

  /** They must exit with status 0 and without errors in their logs. */
  async stop() {
    await Promise.all(this.list.map((hf) => hf.stop()));
  }

  async kill() {
    await Promise.all(this.list.map((hf) => hf?.kill()));
    await Promise.all(this.ways.splice(0).map((w) => w.relay.stop()));
    await Promise.all(this.ends.splice(0).map((end) => end()));
    for (const hf of this.list) if (hf) this.#keepLog(hf);
  }

  #keepLog(hf) {
    if (!LOGS) return;
    mkdirSync(LOGS, { recursive: true });
    writeFileSync(path.join(LOGS, `soak.${this.options.name}.${hf.pid}.log`), hf.log);
  }
}
