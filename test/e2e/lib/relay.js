// A TCP relay that injects faults on demand: it cuts, resets, drops, delays and throttles traffic,
// immediately or when certain bytes or a certain WebSocket frame pass.
import net from "node:net";
import { EventEmitter } from "node:events";
import { sleep } from "./wait.js";

// Default for the bytes queued in one direction before its source is paused.
const HIGH_WATER = 256 * 1024;

/** Parses WebSocket frames in a byte stream that starts with an HTTP head. */
class FrameReader {
  constructor() {
    this.buffer = Buffer.alloc(0);
    this.inFrames = false;
    this.offset = 0; // absolute position of buffer[0]
    this.read = 0; // absolute position of the next new byte
    this.recent = []; // frames of the last chunk, part of which a hook may put back
  }

  // Returns the frames that end in this chunk: {opcode, payload, start, end}, positions absolute.
  // `first` is the chunk's position; bytes before this.read were parsed already.
  push(chunk, first) {
    const fresh = chunk.subarray(Math.max(0, this.read - first));
    this.read = Math.max(this.read, first + chunk.length);
    this.recent = this.recent.filter((f) => f.end > first);
    this.recent.push(...this.#parse(fresh));
    return this.recent;
  }

  #parse(chunk) {
    this.buffer = this.buffer.length ? Buffer.concat([this.buffer, chunk]) : chunk;
    const frames = [];
    if (!this.inFrames) {
      const end = this.buffer.indexOf("\r\n\r\n");
      if (end < 0) return frames;
      this.#skip(end + 4);
      this.inFrames = true;
    }
    for (;;) {
      const b = this.buffer;
      if (b.length < 2) break;
      const masked = (b[1] & 0x80) !== 0;
      let length = b[1] & 0x7f;
      let head = 2;
      if (length === 126) {
        if (b.length < 4) break;
        length = b.readUInt16BE(2);
        head = 4;
      } else if (length === 127) {
        if (b.length < 10) break;
        length = Number(b.readBigUInt64BE(2));
        head = 10;
      }
      const mask = masked ? b.subarray(head, head + 4) : null;
      if (masked) head += 4;
      if (b.length < head + length) break;
      const payload = Buffer.from(b.subarray(head, head + length));
      if (mask) for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i & 3];
      frames.push({
        opcode: b[0] & 0x0f,
        fin: (b[0] & 0x80) !== 0,
        payload,
        text: (b[0] & 0x0f) === 1 ? payload.toString() : null,
        start: this.offset,
        end: this.offset + head + length,
      });
      this.#skip(head + length);
    }
    return frames;
  }

  #skip(n) {
    this.buffer = this.buffer.subarray(n);
    this.offset += n;
  }
}

/** One direction of one connection. */
class Flow {
  constructor(conn, name, source, sink) {
    this.conn = conn;
    this.name = name; // "up": client to server; "down": server to client
    this.source = source;
    this.sink = sink;
    this.queue = [];
    this.queued = 0;
    this.seen = 0; // bytes read
    this.passed = 0; // bytes written
    this.holed = false;
    this.running = false;
    this.ended = false;
    this.tail = Buffer.alloc(0);
    this.frames = null;
    source.on("data", (chunk) => this.#push(chunk));
    source.on("end", () => this.#push(null));
  }

  #push(chunk) {
    this.queue.push({ chunk, at: Date.now() });
    if (chunk) {
      this.queued += chunk.length;
      if (this.queued > this.conn.relay.highWater) this.source.pause();
    }
    this.pump();
  }

  async pump() {
    if (this.running) return;
    this.running = true;
    try {
      while (this.queue.length && !this.holed && !this.conn.dead) {
        const settings = this.conn.relay.settings[this.name];
        const { chunk, at } = this.queue[0];
        const late = at + settings.delay - Date.now();
        if (late > 0) {
          await sleep(late);
          continue;
        }
        this.queue.shift();
        if (chunk === null) {
          this.ended = true;
          this.sink.end();
          break;
        }
        this.queued -= chunk.length;
        if (this.queued <= this.conn.relay.highWater && this.source.isPaused()) this.source.resume();
        await this.#pass(chunk, settings);
      }
    } finally {
      this.running = false;
    }
  }

  // Forwards the chunk; a hook may stop it in the middle.
  async #pass(chunk, settings) {
    const first = this.seen;
    this.seen += chunk.length;
    const stop = this.conn.relay.matchHooks(this, chunk, first);
    if (!stop) return this.#write(chunk, settings);
    const n = Math.max(0, Math.min(chunk.length, stop.at - first));
    if (n > 0) await this.#write(chunk.subarray(0, n), settings);
    await stop.run();
    if (!this.conn.dead && n < chunk.length) {
      // The hook left the connection open: the rest stays in order.
      this.queue.unshift({ chunk: chunk.subarray(n), at: 0 });
      this.seen = first + n;
      this.queued += chunk.length - n;
      this.tail = Buffer.alloc(0);
    }
  }

  async #write(chunk, settings) {
    if (settings.oneByte) {
      for (let i = 0; i < chunk.length && !this.conn.dead; i++) {
        if (!settings.oneByte) return this.#put(chunk.subarray(i)); // switched off meanwhile
        await this.#put(chunk.subarray(i, i + 1));
        await new Promise(setImmediate);
      }
      return;
    }
    if (settings.rate > 0) {
      const step = Math.max(1, Math.ceil(settings.rate / 50)); // 20 ms' worth
      for (let i = 0; i < chunk.length && !this.conn.dead; i += step) {
        if (!settings.rate) return this.#put(chunk.subarray(i)); // switched off meanwhile
        const part = chunk.subarray(i, i + step);
        await this.#put(part);
        const now = Date.now();
        this.free = Math.max(this.free ?? 0, now) + (part.length * 1000) / (settings.rate || Infinity);
        if (this.free > now + 5) await sleep(this.free - now);
      }
      return;
    }
    return this.#put(chunk);
  }

  async #put(bytes) {
    if (this.conn.dead || this.sink.destroyed) return;
    this.passed += bytes.length;
    if (!this.sink.write(bytes)) {
      await new Promise((resolve) => {
        const done = () => {
          this.sink.off("drain", done).off("close", done);
          resolve();
        };
        this.sink.once("drain", done).once("close", done);
      });
    }
  }
}

class Connection {
  constructor(relay, id, client) {
    this.relay = relay;
    this.id = id;
    this.dead = false;
    this.openedAt = Date.now();
    this.request = null; // first request line
    this.websocket = false;
    this.client = client;
    this.server = net.connect({ ...relay.target, allowHalfOpen: true, noDelay: true });
    this.up = new Flow(this, "up", client, this.server);
    this.down = new Flow(this, "down", this.server, client);
    for (const [side, other, flow] of [
      [client, this.server, () => this.up],
      [this.server, client, () => this.down],
    ]) {
      side.setNoDelay(true);
      side.on("error", () => {});
      side.on("close", () => {
        // Forward what this side has sent before its end.
        const finish = () => {
          if (flow().holed && !this.dead) return; // a black hole does not forward the end
          if (flow().queue.length && !this.dead && !other.destroyed) return setTimeout(finish, 2);
          other.destroy();
          this.dead = true;
          relay.forget(this);
        };
        finish();
      });
    }
  }

  kill(how) {
    if (this.dead) return;
    this.dead = true;
    for (const s of [this.client, this.server]) {
      if (how === "reset") s.resetAndDestroy();
      else s.destroy();
    }
    this.relay.forget(this);
  }

  hole({ up = true, down = true } = {}) {
    if (up) this.up.holed = true;
    if (down) this.down.holed = true;
    if (up) this.client.pause();
    if (down) this.server.pause();
  }

  heal() {
    for (const f of [this.up, this.down]) {
      f.holed = false;
      f.source.resume();
      f.pump();
    }
  }
}

export class Relay extends EventEmitter {
  /** Relays to `port`. Directions: "up" is to the server, "down" to the client. */
  static async start(port, { listen = 0 } = {}) {
    const relay = new Relay(port);
    await new Promise((resolve, reject) => {
      relay.server.once("error", reject);
      relay.server.listen(listen, "127.0.0.1", resolve);
    });
    relay.port = relay.server.address().port;
    relay.url = `http://127.0.0.1:${relay.port}`;
    return relay;
  }

  constructor(port) {
    super();
    this.target = { port, host: "127.0.0.1" };
    this.connections = new Set();
    this.history = []; // every connection ever
    this.mode = "pass"; // new connections: pass | refuse | hole
    this.holes = { up: true, down: true }; // the directions that a hole drops
    this.hooks = [];
    this.highWater = HIGH_WATER;
    this.settings = {
      up: { delay: 0, rate: 0, oneByte: false },
      down: { delay: 0, rate: 0, oneByte: false },
    };
    this.server = net.createServer({ allowHalfOpen: true, pauseOnConnect: false }, (socket) =>
      this.#accept(socket),
    );
  }

  #accept(socket) {
    if (this.mode === "refuse") {
      socket.on("error", () => {});
      socket.resetAndDestroy();
      return;
    }
    const conn = new Connection(this, this.history.length + 1, socket);
    this.connections.add(conn);
    this.history.push(conn);
    if (this.mode === "hole") conn.hole(this.holes);
    this.emit("connection", conn);
  }

  forget(conn) {
    this.connections.delete(conn);
    this.emit("gone", conn);
  }

  // Called for every chunk before it passes. Returns {at, run} of the hook that stops it, if any.
  matchHooks(flow, chunk, first) {
    const conn = flow.conn;
    conn.last = flow.name;
    if (flow.name === "up" && conn.request === null) {
      const line = chunk.toString("latin1").split("\r\n", 1)[0];
      conn.request = line;
      conn.websocket = /^upgrade: *websocket/im.test(chunk.toString("latin1"));
      this.emit("request", conn);
    }
    let frames = [];
    if (conn.websocket) {
      flow.frames ??= new FrameReader();
      frames = flow.frames.push(chunk, first);
    }
    for (const hook of this.hooks) {
      if (hook.direction !== flow.name) continue;
      if (hook.where && !hook.where(conn)) continue;
      const at = hook.find(flow, chunk, first, frames);
      if (at === null || at === undefined) continue;
      this.hooks.splice(this.hooks.indexOf(hook), 1);
      return {
        at,
        run: async () => {
          hook.fired = true;
          await hook.action(conn);
          hook.resolve(conn);
        },
      };
    }
    const joined = Buffer.concat([flow.tail, chunk]);
    flow.tail = joined.subarray(Math.max(0, joined.length - 64));
    return null;
  }

  #arm(hook) {
    const done = new Promise((resolve) => (hook.resolve = resolve));
    this.hooks.push(hook);
    const action = hook.action ?? "cut";
    hook.action =
      typeof action === "function"
        ? action
        : action === "cutAll"
          ? () => this.cut()
          : (conn) => (action === "hole" ? conn.hole() : conn.kill(action));
    return done;
  }

  /** Acts when `bytes` pass: "before", in the "middle" of or "after" them (`at`). Resolves after that. */
  onBytes(direction, bytes, { at = "after", ...rest } = {}) {
    const pattern = Buffer.from(bytes);
    return this.#arm({
      ...rest,
      direction,
      find(flow, chunk, first) {
        const joined = Buffer.concat([flow.tail, chunk]);
        const i = joined.indexOf(pattern);
        if (i < 0) return null;
        const begin = first - flow.tail.length + i;
        if (at === "before") return begin;
        return begin + (at === "middle" ? pattern.length >> 1 : pattern.length);
      },
    });
  }

  /** Acts at the first WebSocket frame that `match` accepts, after skipping `skip` of them. */
  onFrame(direction, match, { at = "after", skip = 0, ...rest } = {}) {
    return this.#arm({
      ...rest,
      direction,
      find(flow, chunk, first, frames) {
        const frame = frames.find((f) => match(f) && skip-- <= 0);
        if (!frame) return null;
        if (at === "before") return frame.start;
        return at === "middle" ? frame.start + ((frame.end - frame.start) >> 1) : frame.end;
      },
    });
  }

  /** Acts when a connection, open now or later, has relayed n more bytes. */
  afterBytes(direction, n, rest = {}) {
    let left = n;
    return this.#arm({
      ...rest,
      direction,
      find(flow, chunk, first) {
        if (chunk.length < left) {
          left -= chunk.length;
          return null;
        }
        return first + left;
      },
    });
  }

  list(where = () => true) {
    return [...this.connections].filter(where);
  }

  /** Ends connections on both sides, without any message of the protocol. */
  cut(where) {
    const list = this.list(where);
    for (const conn of list) conn.kill("cut");
    return list.length;
  }

  reset(where) {
    const list = this.list(where);
    for (const conn of list) conn.kill("reset");
    return list.length;
  }

  /** Reports whether a poll has passed that has no answer yet. */
  get pollWaits() {
    return [...this.connections].some((c) => /^GET .*transport=polling/.test(c.request ?? "") && c.last === "up");
  }

  /** Keeps the sockets open but forwards nothing more, not even their end. */
  blackhole({ up = true, down = true, where } = {}) {
    for (const conn of this.list(where)) conn.hole({ up, down });
  }

  /**
   * A client that changes its network: its own side ends immediately, and the server's side stays open
   * and silent.
   */
  abandon(where) {
    for (const conn of this.list(where)) {
      conn.hole();
      conn.client.destroy();
    }
  }

  heal() {
    this.mode = "pass";
    for (const conn of this.connections) conn.heal();
  }

  /**
   * Sends FIN to one side only: to the server, like a client that has shut down its sending side, or to the client.
   */
  halfClose(where, towards = "server") {
    for (const conn of this.list(where)) conn[towards].end();
  }

  /** Cuts the network until up() is called. */
  down() {
    this.mode = "refuse";
    return this.cut();
  }

  up() {
    this.mode = "pass";
  }

  delay(ms, directions = ["up", "down"]) {
    for (const d of directions) this.settings[d].delay = ms;
  }

  throttle(bytesPerSecond, directions = ["up", "down"]) {
    for (const d of directions) this.settings[d].rate = bytesPerSecond;
  }

  oneByteWrites(on = true, directions = ["up", "down"]) {
    for (const d of directions) this.settings[d].oneByte = on;
  }

  get passed() {
    return this.history.reduce((sum, c) => sum + c.down.passed, 0);
  }

  async stop() {
    this.hooks = [];
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }
}
