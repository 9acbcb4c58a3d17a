// The holdfasts of a lane: one, or several replicas with a relay on each way from one to another.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Holdfast, Metrics } from "../lib/holdfast.js";
import { freePorts, SECRET } from "../lib/replicas.js";
import { Relay } from "../lib/relay.js";
import { sleep, until } from "../lib/wait.js";

const LOGS = process.env.HOLDFAST_E2E_LOGS;
// A replica learns the address that another one advertises, which would lead past the relays. All
// advertise the same one, so each takes it for its own.
const NOWHERE = "127.0.0.1:1";

export class Fleet {
  /** options: {size, port: of the server, config, random, name: for log files} */
  static async start(options) {
    const fleet = new Fleet(options);
    try {
      if (fleet.size > 1) await fleet.#layWays();
      await Promise.all(Array.from({ length: fleet.size }, (_, i) => fleet.#run(i)));
      if (fleet.size > 1) await until(async () => (await fleet.metrics()).sum("holdfast_peers", { state: "up" }) === fleet.size * (fleet.size - 1), "replicas to find each other", 20_000);
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
    this.ways = []; // of {from, to, relay}
    this.past = []; // metrics of holdfasts, taken just before they were killed
  }

  async #layWays() {
    this.peerPorts = await freePorts(this.size);
    for (let from = 0; from < this.size; from++)
      for (let to = 0; to < this.size; to++) if (from !== to) this.ways.push({ from, to, relay: await Relay.start(this.peerPorts[to]) });
  }

  async #run(i) {
    const cluster = this.size > 1 && {
      listen: `127.0.0.1:${this.peerPorts[i]}`,
      advertise: NOWHERE,
      peers: this.ways.filter((w) => w.from === i).map((w) => `127.0.0.1:${w.relay.port}`),
      secret: SECRET,
    };
    const listen = this.list[i] && { listen: `127.0.0.1:${this.list[i].port}` };
    this.list[i] = await Holdfast.start(this.options.port, { ...this.options.config, ...(cluster && { cluster }), ...listen });
  }

  /** Where a client's next connection goes. */
  target() {
    const there = this.list.map((_, i) => i).filter((i) => !this.away.has(i));
    const places = there.length > 0 ? there : [0];
    return { host: "127.0.0.1", port: this.list[places[this.options.random.int(0, places.length - 1)]].port };
  }

  /** The metrics of all, as of one. Fails if one does not answer. */
  async metrics() {
    const all = await Promise.all(this.list.map((hf) => hf.metrics()));
    return new Metrics(all.map((m) => m.text).join("\n"));
  }

  async patientMetrics() {
    let m;
    await until(async () => (m = await this.metrics().catch(() => null)), "holdfast's metrics", 30_000);
    return m;
  }

  /** Kills one, and starts another in its place after `pause()`. */
  async replace(i, pause) {
    const hf = this.list[i];
    let m;
    await until(async () => (m = await hf.metrics().catch(() => null)), "holdfast's metrics", 30_000);
    this.past.push(m);
    this.away.add(i);
    await hf.kill();
    hf.checkHealth();
    this.#keepLog(hf);
    try {
      await pause();
    } finally {
      await this.#run(i);
      this.away.delete(i);
    }
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
      if (hf.exit && !this.away.has(i)) throw new Error(`${name}: holdfast ended by itself: ${JSON.stringify(hf.exit)}\n${hf.log.slice(-6000)}`);
  }

  /** Ends all faults between replicas, and waits until they reach each other. */
  async calm() {
    for (const { relay } of this.ways) {
      relay.delay(0);
      relay.throttle(0);
      relay.heal();
    }
    if (this.size > 1) await until(async () => (await this.metrics()).sum("holdfast_peers", { state: "up" }) >= this.size * (this.size - 1), "replicas to reach each other", 30_000);
    if (this.size > 1) await sleep(3000); // what could not be told before is told now
  }

  /** They must exit with status 0 and without errors in their logs. */
  async stop() {
    await Promise.all(this.list.map((hf) => hf.stop()));
  }

  async kill() {
    await Promise.all(this.list.map((hf) => hf?.kill()));
    await Promise.all(this.ways.splice(0).map((w) => w.relay.stop()));
    for (const hf of this.list) if (hf) this.#keepLog(hf);
  }

  #keepLog(hf) {
    if (LOGS) writeFileSync(path.join(LOGS, `soak.${this.options.name}.${hf.pid}.log`), hf.log);
  }
}
