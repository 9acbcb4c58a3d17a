// The application behind holdfast: a Socket.IO server of a given version, with an app that records
// everything that holdfast must not change. It runs in this process, or in a child that can be
// killed.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { once } from "node:events";
import { until, within } from "./wait.js";

const require = createRequire(import.meta.url);

export const LEGACY = ["3.1.2", "4.0.2", "4.5.4"];
/** Servers that speak Engine.IO 3 only. */
export const V2 = ["1.7.4", "2.0.4", "2.4.1", "2.5.1"];
export const REFERENCE = "4.8.4";

/** What a client logged in with. Before 3.0 it is in the query. */
function authOf({ auth, query }) {
  if (auth) return auth;
  const { room, role, token } = query;
  return JSON.parse(JSON.stringify({ room, role, token }));
}

const NAMESPACES = ["/", "/admin", "/chat"];

export class App {
  /**
   * options: {port, host, path: of a Unix socket, io: options of the server, recovery: native recovery on,
   * app: fn(io, app), http: request listener, redis: port of the Redis of its adapter}.
   */
  static async start(version, options = {}) {
    const lib = require(`socket.io-${version}`);
    const Server = lib.Server ?? lib; // before 3.0
    const app = new App();
    app.version = version;
    app.recovery = options.recovery;
    app.http = createServer(options.http ?? ((req, res) => res.writeHead(404).end("no such page\n")));
    app.http.keepAliveTimeout = 60000;
    app.io = new Server(app.http, {
      pingInterval: 25000,
      pingTimeout: 20000,
      ...(options.recovery
        ? { connectionStateRecovery: { skipMiddlewares: true, maxDisconnectionDuration: 120000 } }
        : {}),
      ...options.io,
    });
    if (options.redis) await app.adapt(options.redis);
    for (const nsp of NAMESPACES) app.serve(nsp);
    await options.app?.(app.io, app);
    app.io.engine?.on("connection", (conn) => {
      app.engineConnections++;
      conn.on("packetCreate", (packet) => packet.type === "ping" && app.pings++);
      conn.on("heartbeat", () => app.beats.set(conn.id, (app.beats.get(conn.id) ?? 0) + 1));
    });
    app.http.listen(options.path ? { path: options.path } : { port: options.port ?? 0, host: options.host ?? "127.0.0.1" });
    await once(app.http, "listening");
    app.port = app.http.address().port;
    app.url = `http://127.0.0.1:${app.port}`;
    return app;
  }

  constructor() {
    this.connections = []; // {nsp, id, auth, query, headers}
    this.disconnects = []; // {nsp, id, reason}
    this.middleware = 0; // runs of a namespace's middleware
    this.engineConnections = 0;
    this.pings = 0; // Engine.IO's, to all connections
    this.beats = new Map(); // Engine.IO connection -> heartbeats that the other side has answered, or sent (Engine.IO 3)
    this.received = []; // what clients emitted: {nsp, id, args}
    this.errors = [];
    this.sockets = new Map(); // nsp + id -> socket
  }

  /** Connects it to the servers that use the same Redis, so that a broadcast of one reaches the clients of all. */
  async adapt(port) {
    const { createAdapter } = require("@socket.io/redis-adapter");
    const { Redis } = require("ioredis");
    this.redis = [new Redis(port), new Redis(port)];
    for (const client of this.redis) client.on("error", () => {}); // a test may stop Redis
    await Promise.all(this.redis.map((client) => once(client, "ready")));
    this.io.adapter(createAdapter(...this.redis));
  }

  /** Emits to all clients of a namespace, on all servers. */
  broadcast(nsp, ...args) {
    this.io.of(nsp).emit(...args);
  }

  /** Adds the app's handlers to a namespace. */
  serve(name) {
    const nsp = this.io.of(name);
    nsp.use((socket, next) => {
      this.middleware++;
      if (socket.handshake.auth?.deny ?? socket.handshake.query.deny) {
        const err = new Error("not you");
        err.data = { code: 17 };
        return next(err);
      }
      next();
    });
    nsp.on("connection", (socket) => {
      this.connections.push({
        nsp: name,
        id: socket.id,
        auth: authOf(socket.handshake),
        query: socket.handshake.query,
        headers: socket.handshake.headers,
        recovered: socket.recovered === true,
      });
      this.sockets.set(name + socket.id, socket);
      socket.on("error", (err) => this.errors.push(err)); // packets the parser refuses
      socket.on("disconnect", (reason) => {
        this.disconnects.push({ nsp: name, id: socket.id, reason });
      });
      // Before the handlers below, record everything that arrives.
      socket.use(([...args], next) => {
        if (typeof args[args.length - 1] === "function") args.pop();
        this.received.push({ nsp: name, id: socket.id, args });
        next();
      });
      if (socket.recovered) return;
      socket.data ??= {}; // 3.x has none
      socket.data.visits = 0;
      socket.join("everyone");
    });
    nsp.on("connection", (socket) => {
      socket.on("echo", (...args) => {
        const ack = args.pop();
        if (typeof ack === "function") ack(...args);
        else socket.emit("echo", ...args, ack);
      });
      socket.on("visit", (ack) => {
        socket.data.visits++;
        // Before 3.0.
        const rooms = socket.rooms instanceof Set ? [...socket.rooms] : Object.keys(socket.rooms);
        ack(socket.data.visits, rooms.sort());
      });
      socket.on("join", (room, ack) => {
        socket.join(room);
        ack();
      });
      socket.on("stream", (from, to) => this.stream(name, socket.id, from, to));
      socket.on("leave", () => socket.disconnect());
    });
  }

  socket(id, nsp = "/") {
    return this.sockets.get(nsp + id);
  }

  /**
   * Emits to one client, alternately through its room (whose members share an encoding) and its socket.
   * Native recovery has a new socket after each drop, so it always uses the room.
   */
  emit(nsp, id, ...args) {
    this.turns = (this.turns ?? 0) + 1;
    if (!this.recovery && this.turns % 2) this.socket(id, nsp).emit(...args);
    else this.io.of(nsp).to(id).emit(...args);
  }

  /** Numbered events "n" from..to (both included) to one client. */
  stream(nsp, id, from, to, make = () => []) {
    for (let i = from; i <= to; i++) this.emit(nsp, id, "n", i, ...make(i));
  }

  /** Sends as many numbered events as fit into `bytes`, each with a filler of `size` bytes. Returns the last number. */
  flood(nsp, id, from, bytes, size) {
    const filler = "x".repeat(size);
    const to = from + Math.ceil(bytes / size) - 1;
    this.stream(nsp, id, from, to, () => [filler]);
    return to;
  }

  /** Sends them with pauses until stopped. Returns {stop(): last number}. */
  ticker(nsp, id, { every = 5, from = 1, burst = 1, make = () => [] } = {}) {
    let i = from - 1;
    const timer = setInterval(() => {
      for (let k = 0; k < burst; k++) this.emit(nsp, id, "n", ++i, ...make(i));
    }, every);
    return {
      stop() {
        clearInterval(timer);
        return i;
      },
    };
  }

  /** The state that a drop must not change. */
  footprint() {
    return {
      connections: this.connections.length,
      disconnects: this.disconnects.length,
      middleware: this.middleware,
    };
  }

  /** Waits for n more heartbeats of every connection that is open: proof that it lives, without waiting until it would be given up. */
  async heartbeats(n) {
    const open = Object.keys(this.io.engine.clients);
    const want = open.map((id) => [id, (this.beats.get(id) ?? 0) + n]);
    await until(() => open.length && want.every(([id, least]) => this.beats.get(id) >= least), () => `heartbeats ${JSON.stringify(want)}, have ${JSON.stringify([...this.beats])}`);
  }

  receivedArgs(event, nsp = "/") {
    return this.received.filter((r) => r.nsp === nsp && r.args[0] === event).map((r) => r.args.slice(1));
  }

  async stop() {
    // Close everything, because io.close() alone waits for polls to end.
    // Redis may be gone already, and the adapter's last commands would fail.
    if (this.redis) for (const nsp of this.io._nsps.values()) nsp.adapter.close = () => {};
    this.io.close();
    for (const client of this.redis ?? []) client.disconnect();
    this.http.closeAllConnections();
    await within(
      new Promise((resolve) => (this.http.listening ? this.http.close(resolve) : resolve())),
      "the server to close",
    );
  }
}

/** The same app in a child process that can be killed and stopped. */
export class ChildApp {
  static async start(version, options = {}) {
    const child = new ChildApp();
    child.process = fork(fileURLToPath(new URL("server-child.js", import.meta.url)), [
      JSON.stringify({ version, ...options }),
    ]);
    child.answers = new Map();
    child.calls = 0;
    child.exited = new Promise((resolve) => child.process.once("exit", resolve));
    child.port = await within(
      new Promise((resolve) => {
        child.process.on("message", (m) => {
          if (m.port) resolve(m.port);
          else child.answers.get(m.id)?.(m);
        });
      }),
      "the server's process to listen",
      15000,
    );
    child.url = `http://127.0.0.1:${child.port}`;
    return child;
  }

  /** Calls a method of its App, or reads a field. */
  call(name, ...args) {
    const id = ++this.calls;
    return within(
      new Promise((resolve, reject) => {
        this.answers.set(id, (m) => (m.error ? reject(new Error(m.error)) : resolve(m.value)));
        this.process.send({ id, name, args });
      }),
      `the server's process to answer ${name}`,
    );
  }

  signal(name) {
    if (this.process.exitCode === null && this.process.signalCode === null) process.kill(this.process.pid, name);
  }

  async kill() {
    this.signal("SIGKILL");
    await this.exited;
  }

  async stop() {
    await this.kill();
  }
}
