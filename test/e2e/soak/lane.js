// One holdfast, or several replicas, with the server behind and the clients in front.
import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";
import { freePort } from "../lib/ports.js";
import { Relay } from "../lib/relay.js";
import { sleep, SLOW, until } from "../lib/wait.js";
import { lostWhileAway } from "./away.js";
import { Child } from "./child.js";
import { compare } from "./compare.js";
import { injectFaults, injectRedisFaults, injectReplicaFaults, injectServerFaults } from "./faults.js";
import { DRAIN, Fleet } from "./fleet.js";
import { needlesslyFresh } from "./fresh.js";
import { Random } from "./random.js";
import { Connections, toldNotRecovered, writeTraces } from "./trace.js";

export const NAMESPACES = ["/", "/chat"];
const LOGS = process.env.HOLDFAST_E2E_LOGS;
const RACE = process.env.HOLDFAST_E2E_RACE === "1";
const EXPIRY = 10_000; // ms that a session is kept
// ms until nothing is left of a client: a silent one of 2.x is gone after holdfast's own heartbeat of 25 and 20 s. A close that no
// poll takes waits for 30 s.
const GONE = 90_000;
const HEARTBEAT = { pingInterval: 3000, pingTimeout: 5000 };
export const VERSIONS = ["4.6.2", "4.8.4"];
// These cannot resume by themselves.
const KEYED = { 2: ["2.0.4", "2.5.0"], 4: ["4.5.4", "4.0.2", "3.1.3"], redis: ["4.5.4", "2.5.0", "3.1.3"] }; // by the server's version
const TRANSPORTS = ["websocket", "default", "polling"];
// What may remain after all clients have left: the runtime's own memory.
const SLACK = { goroutines: 10, fds: 6, rss: 24 << 20 };

export class Lane {
  /**
   * options: {number: the lane's, server: version, replicas: 3 for as many holdfasts that clients are spread over at random, redis: true if they find
   * each other there, ackEvents, poison: true for packets that
   * clients cannot decode, keyed: recovery.keyed.redeliver if all real clients have a key, buffer: recovery.buffer's keys, seed, clients,
   * versions: theirs, simulated, sim: binary}
   */
  static async start(options) {
    const lane = new Lane(options);
    try {
      await lane.#start();
    } catch (err) {
      await lane.abort();
      throw err;
    }
    return lane;
  }

  constructor(options) {
    this.options = options;
    this.replicas = options.replicas ?? 1;
    const more = [options.poison && "with poison", options.keyed && `with keys, ${options.keyed}`, this.replicas > 1 && `behind ${this.replicas} replicas`, options.redis && "in Redis"];
    this.name = [`socket.io ${options.server}`, ...more].filter(Boolean).join(" ");
    this.faults = {}; // name -> count
    this.peak = 0; // bytes
    this.kills = []; // of holdfast: {from, to}
    this.killed = []; // the last ledgers of servers that were killed
    this.relays = [];
    this.connections = new Map(); // client's name, "" for all simulated ones -> Connections
    this.stop = new AbortController();
    setMaxListeners(0, this.stop.signal); // each client's faults wait for it
    this.faulting = [];
  }

  async #start() {
    const { server, seed, clients, simulated, sim, versions } = this.options;
    this.port = await freePort();
    this.server = await this.#startServer();
    this.fleet = await this.#startHoldfasts();
    await sleep(1000);
    this.before = await this.#resources();
    this.sampling = this.#sample();

    const list = [];
    for (let i = 0; i <= clients; i++) {
      const relay = await Relay.start(0);
      // For each connection.
      Object.defineProperty(relay, "target", { get: () => this.fleet.target() });
      this.relays.push(relay);
      this.connections.set(i < clients ? `${server}#${i}` : "", new Connections(relay));
      if (i === clients) break; // the last one spreads the simulated clients
      list.push({
        name: `${server}#${i}`,
        url: relay.url,
        version: versions[i % versions.length],
        transport: TRANSPORTS[(i >> 1) % 3],
      });
    }
    if (this.replicas === 1 || this.options.redis) this.#giveKeys(list);
    this.list = list;
    this.clients = Child.script("clients.js", { clients: list, seed, namespaces: NAMESPACES });
    this.sim = new Child("sim", sim, [
      `-url=${this.replicas > 1 ? this.relays.at(-1).url : this.fleet.list[0].url}`,
      `-name=${server}`,
      `-clients=${simulated}`,
      `-seed=${seed}`,
      `-namespaces=${NAMESPACES.join(",")}`,
      `-apart=${this.replicas > 1}`,
    ]);
    await Promise.all([this.clients.call("ready"), this.sim.call("ready")]);
    await this.#allConnected("all clients to connect");
  }

  /** Some clients have a key, and count. Where all have one, every other one does not count. */
  #giveKeys(list) {
    const { server, poison, keyed } = this.options;
    if (poison) return;
    const versions = this.options.redis ? KEYED.redis : KEYED[server[0]];
    for (const [i, c] of (keyed ? list : list.slice(-3)).entries()) {
      const redeliver = keyed && (i >> 1) % 2 ? keyed : null;
      Object.assign(c, { version: versions[i % versions.length], key: randomBytes(16).toString("hex"), counts: !redeliver, redeliver });
    }
  }

  #startHoldfasts() {
    const { number, ackEvents, buffer, server, seed, keyed, redis } = this.options;
    const translated = server < "3" && { upstream: { protocol: 3, translate: { auth_to_query: ["client"] } } };
    // The heartbeat of clients of 2.x is holdfast's own: 25 s and 20 s by default, after which a silent one is still there at the end.
    const ofOurOwn = (server < "3" || redis) && {
      engineio: { ping_interval: `${HEARTBEAT.pingInterval}ms`, ping_timeout: `${HEARTBEAT.pingTimeout}ms` },
    };
    const config = {
      ...translated,
      ...ofOurOwn,
      recovery: { max_disconnection_duration: `${EXPIRY}ms`, ack_events: ackEvents, buffer, keyed: { query: "hf_key", ...(keyed && { redeliver: keyed }) } },
      log: { level: "debug" }, // for traces, as are the profiles
      admin: { profiling: true },
      ...(this.replicas > 1 && { shutdown: { drain_timeout: `${DRAIN}ms` } }),
    };
    return Fleet.start({ size: this.replicas, redis, port: this.port, config, random: new Random(seed, `${this.name} places`), name: `lane${number}` });
  }

  async #startServer() {
    const { server: version, seed, poison } = this.options;
    const child = Child.script("server.js", { version, port: this.port, seed, namespaces: NAMESPACES, poison, io: HEARTBEAT });
    await child.call("ready");
    return child;
  }

  /** Kills the server, and starts it again after `pause()`. */
  async killServer(pause) {
    this.killed.push(await this.server.call("lastLedger"));
    await this.server.kill();
    try {
      await pause();
    } finally {
      this.server = await this.#startServer();
    }
  }

  /** Kills holdfast, and starts another in its place after `pause()`. */
  async killHoldfast(pause, i = 0, options = {}) {
    this.metrics = undefined; // the next one has not been scraped yet
    const kill = { from: Date.now(), to: Infinity };
    this.kills.push(kill);
    await this.fleet.replace(i, pause, options);
    kill.to = Date.now();
  }

  /** Starts to inject faults. */
  startFaults() {
    const { seed } = this.options;
    const { signal } = this.stop;
    const happened = (name) => (this.faults[name] = (this.faults[name] ?? 0) + 1);
    this.faulting = this.list.map((c, i) =>
      injectFaults({ name: c.name, relay: this.relays[i], clients: this.clients, expiry: EXPIRY, random: new Random(seed, c.name), signal }, happened),
    );
    this.faulting.push(injectServerFaults({ lane: this, random: new Random(seed, `${this.name} server`), signal }, happened));
    if (this.replicas > 1) this.faulting.push(injectReplicaFaults({ lane: this, fleet: this.fleet, random: new Random(seed, `${this.name} replicas`), signal }, happened));
    if (this.fleet.redis) this.faulting.push(injectRedisFaults({ lane: this, fleet: this.fleet, random: new Random(seed, `${this.name} Redis`), signal }, happened));
    this.faulting.push(this.sim.call("faults"));
    for (const p of this.faulting) p.catch((err) => (this.failure ??= err)); // for check()
  }

  /** How many sessions were recovered so far. */
  get recovered() {
    return [...(this.fleet?.past ?? []), this.metrics].reduce((n, m) => n + (m?.sum("holdfast_recoveries_total", { result: "recovered" }) ?? 0), 0);
  }

  /** Throws if a process has exited unexpectedly. */
  check() {
    this.fleet.check(this.name);
    for (const c of [this.clients, this.sim]) if (c.exit) throw new Error(`${this.name}: ${c.name} ended by itself (${c.exit})\n${c.said}`);
    if (this.failure) throw this.failure;
  }

  /** Ends all faults, and waits for events in flight. Returns the outcome. */
  async finish() {
    this.stop.abort();
    await Promise.all(this.faulting);
    await this.fleet.calm();
    Object.assign(this.faults, await this.sim.call("calm"));
    await this.#allConnected("all clients to be back").catch(() => {}); // compare() says which are not
    await Promise.all([this.clients.call("finish"), this.sim.call("finish")]);
    const end = Date.now() + 30_000 * SLOW;
    let result;
    let turns = 0;
    do {
      // Again, as a connection that a fault has hurt may end only now, with the first of these events.
      if (turns++ % 20 === 0) await this.server.call("finish");
      await sleep(300);
      this.ledgers = await this.#ledgers();
      result = compare(this.ledgers);
    } while (result.pending > 0 && Date.now() < end);
    // Replicas learn later of the end of a connection to another one, and may not reach it.
    if (this.replicas === 1) result.broken.push(...(await this.#lostWhileAway()), ...this.#needlesslyFresh());
    const keyed = this.ledgers.clients.filter((c) => c.keyed);
    const back = keyed.flatMap((c) => c.namespaces.flatMap((n) => n.sessions)).filter((s) => s.connections > 1);
    if (keyed.length > 0 && back.length === 0) result.broken.push("no client with a key was ever recovered");
    if (result.broken.length > 0) this.packets = await this.clients.call("traces");
    return result;
  }

  async #lostWhileAway() {
    const { clients, server } = this.ledgers;
    const servers = [...this.killed, { ...server, times: await this.server.call("times") }];
    const connections = new Map([...this.connections].map(([name, { list }]) => [name, list]));
    return lostWhileAway({ clients, servers, connections });
  }

  #needlesslyFresh() {
    const { clients, server } = this.ledgers;
    const { poison, buffer } = this.options;
    const expired = this.fleet.all.flatMap((hf) => hf.records).filter((r) => r.msg === "session closed" && r.reason === "expired").map((r) => Date.parse(r.time));
    return needlesslyFresh({ clients, servers: [...this.killed, server], kills: this.kills, expired, mayEnd: Boolean(poison || buffer.max_bytes) });
  }

  /** Writes down what is known about the clients of which promises were broken, and returns what to show of it. */
  traces(broken) {
    const { fleet, ledgers, connections, packets, statuses } = this;
    return writeTraces({ dir: LOGS, lane: fleet.options.name, broken, ledgers, connections, packets, statuses, holdfasts: fleet.all });
  }

  /** Which clients were not recovered for one of these reasons: {name, key, reason}. */
  told(reasons) {
    return toldNotRecovered(reasons, this.fleet.all, this.connections).map((t) => ({ ...this.list.find((c) => c.name === t.name), ...t }));
  }

  async #ledgers() {
    const [real, simulated, server] = await Promise.all([
      this.clients.call("ledger"),
      this.sim.call("ledger"),
      this.server.call("ledger"),
    ]);
    return { clients: [...real, ...(simulated ?? [])], server, killed: this.killed, ackEvents: this.options.ackEvents };
  }

  /** Disconnects all clients. Waits until holdfast has released their resources, and returns what is left of them. */
  async leave() {
    await Promise.all([this.clients.call("close"), this.sim.call("close")]);
    const left = await this.#emptied();
    // An idle holdfast returns memory to the system within about 5 s.
    const end = Date.now() + 10_000 * SLOW;
    do {
      await sleep(1000);
      this.after = await this.#resources();
    } while (this.#grown({ ...SLACK, rss: SLACK.rss / 4 }).length > 0 && Date.now() < end);
    const sockets = await this.server.call("sockets");
    if (sockets > 0) left.push(`the server has ${sockets} sockets after the last client`);
    return [...left, ...this.#grown(SLACK).map((what) => `${what} grew: ${this.before[what]} before the first client, ${this.after[what]} after the last`)];
  }

  async #emptied() {
    const gauges = ["holdfast_clients", "holdfast_links", "holdfast_relays", "holdfast_sessions", "holdfast_buffered_packets", "holdfast_buffered_bytes"];
    const empty = async () => {
      this.last = (await this.fleet.metrics().catch(() => this.last)) ?? this.last;
      return this.last && gauges.every((g) => this.last.sum(g) === 0);
    };
    try {
      await until(empty, "holdfast to be empty", GONE);
      return [];
    } catch {
      this.statuses = await this.fleet.statuses();
      this.packets ??= await this.clients.call("traces");
      return [`not empty after the last client: ${gauges.map((g) => `${g} ${this.last?.sum(g)}`).join(", ")}`];
    }
  }

  #grown(slack) {
    return Object.keys(slack).filter((k) => this.after[k] > this.before[k] + slack[k] * this.replicas);
  }

  /** Stops everything. holdfast must exit with status 0 and without errors in its log. */
  async close() {
    this.closing = true;
    await this.sampling;
    await this.fleet.stop();
    await this.abort();
  }

  /** Kills everything. */
  async abort() {
    this.closing = true;
    this.stop.abort();
    await Promise.allSettled(this.faulting);
    await Promise.all([this.clients, this.sim, this.server].map((c) => c?.kill()));
    await Promise.all(this.relays.splice(0).map((r) => r.stop()));
    await this.fleet?.kill();
  }

  async #allConnected(what) {
    await until(
      async () => (await this.clients.call("connected")) && (await this.sim.call("connected")),
      what,
      60_000,
    );
  }

  async #resources() {
    const m = await this.fleet.patientMetrics();
    return {
      goroutines: m.sum("go_goroutines"),
      fds: m.sum("process_open_fds"),
      // The race detector's own memory for what the program has ever used stays.
      rss: RACE ? m.sum("go_memstats_sys_bytes") - m.sum("go_memstats_heap_released_bytes") : m.sum("process_resident_memory_bytes"),
    };
  }

  // Ends with closing.
  async #sample() {
    while (!this.closing) {
      try {
        const m = await this.fleet.metrics();
        this.peak = Math.max(this.peak, m.sum("process_resident_memory_bytes"));
        this.metrics = m;
      } catch {
        // Too busy, or exited: close() reports that.
      }
      await sleep(1000);
    }
  }
}
