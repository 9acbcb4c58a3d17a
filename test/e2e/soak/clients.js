// Real clients in their own process. Each records what it receives in each of its namespaces,
// and sends a numbered stream. Each has a relay that cuts it from outside.
import { createRequire } from "node:module";
import { serve } from "./child.js";
import { example } from "../lib/examples.js";
import { Random } from "./random.js";
import { body, broadcastKind, Incoming, kind, Outgoing } from "./stream.js";

const require = createRequire(import.meta.url);
const { clients: list, seed, namespaces } = JSON.parse(process.argv[2]);

const TICK = 50; // ms
const TRACED = 5000; // packets of a client
const PER_TICK = 0.2; // probability of an event in a namespace

const random = new Random(seed, "clients");
const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], default: ["polling", "websocket"] };

/** One namespace of one client. */
class Namespace {
  constructor(client, nsp, socket) {
    this.client = client;
    this.nsp = nsp;
    this.socket = socket;
    this.sessions = []; // the latest at the end: {sid, pid, openedAt, connections, connection: the latest, own, broadcasts}
    this.fresh = []; // {at, away: for how many ms, previous: sid, sid}: connections that should have recovered a session and did not
    this.outgoing = new Outgoing();
    this.unanswered = new Set();
    this.asked = 0;
    socket.on("connect", () => this.#connect());
    this.#dropLate();
    socket.on("disconnect", () => {
      if (this.outgoing.connected) this.disconnectedAt = Date.now(); // some versions report it of a namespace that waits for its reply, too
      this.outgoing.disconnect();
    });
    socket.on("n", (i, before, content, ...rest) => {
      this.#take("own", i, before, content);
      const answer = rest.at(-1);
      if (typeof answer === "function") answer(i);
    });
    socket.on("b", (i, before, content) => this.#take("broadcasts", i, before, content));
  }

  get session() {
    return this.sessions.at(-1);
  }

  /**
   * A client that calls disconnect() and immediately connect() buffers what arrives in between of the session that it left, and
   * handles it with the next reply: docs/guarantees.md. What it buffers then does not count.
   */
  #dropLate() {
    const { socket } = this;
    const connected = socket.onconnect;
    socket.onconnect = (...args) => {
      if (this.left) socket.receiveBuffer.length = 0;
      return connected.apply(socket, args);
    };
  }

  #connect() {
    const { id: sid, recovered } = this.socket;
    const { openedAt, attemptedAt } = this.client;
    // While replicas are cut off, each may have a session of a client with a key.
    const known = recovered || this.client.key ? this.sessions.findIndex((s) => s.sid === sid) : -1;
    if (known >= 0) {
      this.sessions.push(...this.sessions.splice(known, 1));
      this.session.connections++;
    } else {
      if (this.session && !this.left) this.fresh.push({ at: Date.now(), away: Date.now() - this.disconnectedAt, previous: this.session.sid, sid });
      this.sessions.push({
        sid,
        pid: this.socket._pid,
        openedAt, // of the connection with which the client learned of it
        connections: 1,
        own: new Incoming(kind, this.client),
        broadcasts: new Incoming(broadcastKind, this.client),
      });
    }
    this.left = false;
    this.session.connection = { number: this.session.connections, attemptedAt, connectedAt: Date.now() };
    this.outgoing.connect(sid);
    // If the engine is closed just as the reply to CONNECT arrives, the library reports
    // "disconnect" and then "connect". It loses everything it emits until the next "connect", with
    // any server.
    const { _readyState, readyState } = this.socket.io; // before 3.0
    this.adrift = (_readyState ?? readyState) !== "open";
  }

  #take(stream, i, before, content) {
    const s = this.session;
    s[stream].take(i, before, content, s.connection);
  }

  emit() {
    if (this.adrift) return;
    const { i, epoch } = this.outgoing.next();
    const args = ["u", i, epoch, body(i)];
    if (kind(i) !== "ask") this.socket.emit(...args);
    else {
      this.asked++;
      this.unanswered.add(i);
      this.socket.emit(...args, (answer) => {
        if (answer === i) this.unanswered.delete(i);
      });
    }
    // From 4.8 on, clients keep an event for the next connection as soon as a ping is overdue,
    // shortly before they report "disconnect".
    const kept = this.socket.sendBuffer.at(-1)?.data;
    if (this.outgoing.connected && kept?.[1] === i) kept[2] = this.outgoing.postpone();
  }

  toJSON() {
    const { nsp, sessions, fresh, asked } = this;
    return { nsp, sessions, fresh, asked, epochs: this.outgoing, unanswered: [...this.unanswered], live: this.socket.connected };
  }
}

class Client {
  constructor({ name, url, version, transport, key, counts, redeliver }) {
    this.name = name;
    this.key = key;
    this.redeliver = redeliver ?? null;
    this.counts = Boolean(counts);
    this.version = version;
    this.transport = transport;
    const { Manager } = require(`socket.io-client-${version}`);
    this.manager = new Manager(url, {
      transports: TRANSPORTS[transport],
      reconnectionDelay: 50,
      reconnectionDelayMax: 1000,
      timeout: 8000,
      query: { ...(version < "3" && { client: name }), ...(key && { hf_key: key }) },
    });
    this.#noteAttempts();
    this.manager.on("open", () => (this.openedAt = Date.now()));
    // Parsers before 4.2.2 keep the first half of a binary packet when a connection ends, and throw at the next one's first text.
    this.manager.on("close", () => (this.manager.decoder.reconstructor = null));
    this.trace = [];
    this.#traceAll();
    if (counts) new Function("socket", example("js", "countEvents"))({ io: this.manager });
    this.namespaces = namespaces.map((nsp) => new Namespace(this, nsp, this.manager.socket(nsp, { auth: { client: name } })));
  }

  #noteAttempts() {
    const { manager } = this;
    const { open } = manager;
    this.attemptedAt = Date.now(); // the constructor has made one
    manager.open = (...args) => {
      if ((manager._readyState ?? manager.readyState) === "closed") this.attemptedAt = Date.now(); // before 3.0: readyState
      return open.apply(manager, args);
    };
  }

  /** Records the latest packets and the end of each engine, to help find the cause of a broken guarantee. */
  #traceAll() {
    const note = (...words) => {
      this.trace.push([new Date().toISOString().slice(11), ...words].join(" "));
      if (this.trace.length > 2 * TRACED) this.trace.splice(0, TRACED);
    };
    const brief = (p) => `${p.type} ${typeof p.data === "string" ? p.data.slice(0, 60).concat(p.data.length > 110 ? "…" : "", p.data.slice(60).slice(-50)) : (p.data?.length ?? "")}`;
    this.manager.on("reconnect_attempt", () => note("tries again"));
    this.manager.on("open", () => {
      const { engine } = this.manager;
      note("open", engine.id);
      engine.on("packet", (p) => note(engine.id?.slice(-4), "<", brief(p)));
      engine.on("packetCreate", (p) => note(engine.id?.slice(-4), ">", brief(p)));
      engine.on("close", (why) => note("closed", engine.id, why));
    });
  }

  toJSON() {
    const { name, version, transport, key, counts, redeliver } = this;
    return { name, version, transport, keyed: Boolean(key), counts, redeliver, answersKept: version === "4.6.2", namespaces: this.namespaces };
  }
}

const clients = list.map((options) => new Client(options));
let streaming = true;

setInterval(() => {
  if (!streaming) return;
  for (const c of clients) for (const n of c.namespaces) if (random.chance(PER_TICK)) n.emit();
}, TICK);

serve({
  ready: () => true,
  connected: () => clients.every((c) => c.namespaces.every((n) => n.socket.connected)),
  finish: () => {
    streaming = false;
  },
  ledger: () => clients,
  traces: () => Object.fromEntries(clients.map((c) => [c.name, c.trace])),

  /** The client closes its engine, as some applications do to reconnect. */
  closeEngine(name) {
    clients.find((c) => c.name === name).manager.engine?.close();
  },

  /**
   * The client disconnects, and returns as a new client: with all its namespaces, or with one of them. Before 3.0 a new socket of
   * the same connection has the same id, so those return with all. If clients before 4.5 connect while their engine closes, they
   * open another one, forget it, and leave it open, with any server: those return when it is closed.
   */
  leave(name, all) {
    const client = clients.find((c) => c.name === name);
    const left = client.namespaces.slice(all || client.version < "3" ? 0 : -1);
    for (const n of left) {
      n.left = true;
      n.socket.disconnect();
    }
    const back = () => left.forEach((n) => n.socket.connect());
    const { engine } = client.manager;
    if (client.version < "4.5" && engine?.readyState === "closing") engine.once("close", back);
    else back();
  },

  close() {
    for (const c of clients) {
      c.manager.reconnection(false);
      for (const n of c.namespaces) n.socket.disconnect();
      (c.manager._close ?? c.manager.close).call(c.manager); // before 3.0
    }
  },
});
