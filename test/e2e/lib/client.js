// Real clients of several versions, with a record of everything that happens to them.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { SLOW, sleep, until, within } from "./wait.js";

const require = createRequire(import.meta.url);

/** Clients that can recover. */
export const CLIENTS = ["4.6.2", "4.8.4"];
export const TRANSPORTS = {
  websocket: ["websocket"],
  polling: ["polling"],
  default: undefined,
};

export class Client {
  /** options are socket.io-client's; nsp is the first namespace's name. */
  constructor(version, url, { nsp = "/", retries, ackTimeout, ...options } = {}) {
    const lib = require(`socket.io-client-${version}`);
    this.version = version;
    this.willUpgrade = options.transports?.length !== 1;
    this.ofSockets = { retries, ackTimeout }; // options of sockets, which a Manager does not pass on
    this.manager = new lib.Manager(url, {
      forceNew: true,
      reconnectionDelay: 20,
      reconnectionDelayMax: 100,
      randomizationFactor: 0,
      timeout: 5000 * SLOW, // a client that gives up too early begins again behind all others
      ...options,
    });
    this.main = this.namespace(nsp, options.auth);
    this.namespaces = [this.main];
    this.upgrades = []; // how each attempt ended: "upgrade", or the error
    this.manager.on("open", () => {
      const { engine } = this.manager;
      this.before = this.upgrades.length; // attempts of earlier connections
      engine.on("upgrade", () => this.upgrades.push("upgrade"));
      engine.on("upgradeError", (err) => this.upgrades.push(`${err.message} (${err.context?.status ?? err.description?.message ?? ""})`));
    });
  }

  get socket() {
    return this.main.socket;
  }

  get url() {
    return this.manager.uri;
  }

  /** Another namespace on the same connection. */
  of(name, auth) {
    const nsp = this.namespace(name, auth);
    this.namespaces.push(nsp);
    return nsp;
  }

  namespace(name, auth) {
    return new Namespace(this, this.manager.socket(name, { ...this.ofSockets, auth }));
  }

  /** The transport's WebSocket or null. */
  get ws() {
    return this.manager.engine?.transport?.ws ?? null;
  }

  get transport() {
    return this.manager.engine?.transport?.name;
  }

  /** Waits until the connection uses WebSocket, and the UPGRADE packet has passed the relay. */
  async upgraded() {
    await until(
      () => this.manager.engine?.readyState === "open" && this.transport === "websocket",
      () => `upgrade; engine ${this.manager.engine?.readyState} on ${this.transport}, disconnects ${JSON.stringify(this.main.disconnects)}, attempts ${JSON.stringify(this.upgrades)}`,
    );
    await sleep(20); // lets the relay run, which is in this process
  }

  /**
   * Waits until the client's connection will not change its transport. One that is cut in the middle of its upgrade may notice
   * only by its heartbeat.
   */
  async settled() {
    const { engine } = this.manager;
    const offered = engine && (engine._upgrades ?? engine.upgrades); // what the server offers, of what the client wants
    const stays = !this.willUpgrade || (engine?.readyState === "open" && !offered?.length) || this.upgrades.length > this.before;
    if (!stays) await this.upgraded();
  }

  close() {
    this.manager.reconnection(false);
    for (const n of this.namespaces) n.socket.disconnect();
    this.manager._close?.();
    this.manager.engine?.close?.();
  }
}

/** One namespace of a client: the socket and its record. */
export class Namespace {
  constructor(client, socket) {
    this.client = client;
    this.socket = socket;
    this.connects = []; // {id, recovered}
    this.disconnects = []; // reasons
    this.errors = [];
    this.events = []; // [name, ...args], as a handler sees them
    this.numbers = []; // first argument of every event "n"
    socket.on("connect", () => this.connects.push({ id: socket.id, recovered: socket.recovered === true }));
    socket.on("disconnect", (reason) => this.disconnects.push(reason));
    socket.on("connect_error", (err) => this.errors.push(err));
    socket.on("n", (i) => this.numbers.push(i));
    socket.onAny?.((...args) => this.events.push(args));
  }

  get id() {
    return this.socket.id;
  }

  get last() {
    return this.connects[this.connects.length - 1];
  }

  /** Waits for the count-th connection; returns its record. */
  async connected(count = 1, timeout) {
    await until(
      () => this.connects.length >= count && this.socket.connected,
      () => `connection ${count}; had ${JSON.stringify(this.connects)}, disconnects ${JSON.stringify(this.disconnects)}, errors ${this.errors.map(String).slice(-3)}`,
      timeout,
    );
    return this.connects[count - 1];
  }

  /** Waits for the count-th disconnection; returns its reason. */
  async disconnected(count = 1, timeout) {
    await until(() => this.disconnects.length >= count, `disconnection ${count} of the client`, timeout);
    return this.disconnects[count - 1];
  }

  /** Emits and waits for the ack's arguments. */
  ask(...args) {
    return within(new Promise((resolve) => this.socket.emit(...args, (...reply) => resolve(reply))), `the ack of ${args[0]}`);
  }

  /** Waits for numbered event `to`, then checks that from..to arrived once each and in order. */
  async stream(from, to, { timeout = 10000 } = {}) {
    await until(
      () => this.numbers.includes(to),
      () => `event ${to}; have ${this.numbers.length}, last ${this.numbers[this.numbers.length - 1]}`,
      timeout,
    );
    this.checkStream(from, to);
  }

  checkStream(from, to) {
    const want = to - from + 1;
    for (let i = 0; i < Math.max(want, this.numbers.length); i++) {
      if (this.numbers[i] !== from + i) {
        const near = this.numbers.slice(Math.max(0, i - 3), i + 4);
        assert.fail(`event ${from + i} expected at position ${i}, found ${this.numbers[i]} (… ${near} …), ${this.numbers.length} events of ${want}`);
      }
    }
  }

  /** Checks that every connection after the first recovered: the same id, and never a new session. */
  assertRecovered(times) {
    const [first, ...rest] = this.connects;
    assert.ok(rest.length >= 1, "no reconnection at all");
    if (times !== undefined) assert.equal(rest.length, times, "number of reconnections");
    for (const c of rest) assert.deepEqual(c, { id: first.id, recovered: true });
  }
}
