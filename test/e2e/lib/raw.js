// Engine.IO and Socket.IO by hand, to see each byte.
import http from "node:http";
import net from "node:net";
import WebSocket from "ws";
import { SLOW, stopwatch, until, within } from "./wait.js";

/** One HTTP request on its own connection. The promise has abort(). */
export function request(url, { method = "GET", headers = {}, body, agent = false, timeout = 8000 } = {}) {
  let req;
  const promise = new Promise((resolve, reject) => {
    req = http.request(url, { method, headers, agent }, (res) => {
      const chunks = [];
      res.on("data", (c) => chunks.push(c));
      res.on("error", reject);
      res.on("end", () => {
        const raw = Buffer.concat(chunks);
        resolve({ status: res.statusCode, headers: res.headers, raw, body: raw.toString() });
      });
    });
    req.on("error", reject);
    req.end(body);
  });
  const result = within(promise, `${method} ${url}`, timeout);
  result.abort = () => {
    result.catch(() => {});
    req.destroy();
  };
  return result;
}

/**
 * Writes bytes to a TCP connection, and returns everything received until its end or `ms` of silence. The first byte may take
 * `firstMs`. Slow machines have more time.
 */
export function exchange(url, text, { ms = 3000, firstMs = ms } = {}) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, hostname, () => socket.write(text));
    let got = "";
    let ended = false;
    socket.setTimeout(firstMs * SLOW); // until the first byte; then ms applies
    // Something may have come while this process was stopped: that is read first.
    socket.on("timeout", () => {
      const { bytesRead } = socket;
      setTimeout(() => bytesRead === socket.bytesRead && socket.destroy(), 20);
    });
    socket.on("data", (d) => {
      got += d.toString("latin1");
      socket.setTimeout(ms * SLOW);
    });
    socket.on("end", () => (ended = true));
    socket.on("error", reject);
    socket.on("close", () => resolve({ text: got, ended }));
  });
}

const EIO = "EIO=4";

/** An Engine.IO client over polling. */
export class Polling {
  constructor(url, { path = "/socket.io/", query = "", headers = {} } = {}) {
    this.base = url + path;
    this.query = query;
    this.headers = headers;
    this.t = 0;
  }

  static async open(url, options) {
    const p = new Polling(url, options);
    p.handshakeResponse = await request(p.at(), { headers: p.headers });
    if (p.handshakeResponse.status !== 200)
      throw new Error(`handshake: ${p.handshakeResponse.status} ${p.handshakeResponse.body}`);
    p.handshake = JSON.parse(p.handshakeResponse.body.slice(1));
    p.sid = p.handshake.sid;
    return p;
  }

  at(more = `t=${process.pid}.${++this.t}`) {
    const sid = this.sid ? `&sid=${this.sid}` : "";
    return `${this.base}?${EIO}&transport=polling${sid}${this.query && "&" + this.query}${more && "&" + more}`;
  }

  poll(options = {}) {
    return request(this.at(options.more), { headers: { ...this.headers, ...options.headers }, timeout: options.timeout });
  }

  post(body, options = {}) {
    return request(this.at(), {
      method: "POST",
      headers: { "content-type": "text/plain;charset=UTF-8", ...this.headers, ...options.headers },
      body,
    });
  }

  /** Polls until a packet matches, and returns all packets. It answers pings. */
  async pollFor(match, { timeout = 8000 } = {}) {
    const packets = [];
    const elapsed = stopwatch();
    while (!packets.some((p) => match(p))) {
      if (elapsed() > timeout * SLOW) throw new Error(`no such packet among ${JSON.stringify(packets)}`);
      const res = await this.poll();
      if (res.status !== 200) throw new Error(`poll: ${res.status} ${res.body} after ${JSON.stringify(packets)}`);
      for (const p of res.body.split("\x1e")) {
        if (p === "2") await this.post("3");
        else packets.push(p);
      }
    }
    return packets;
  }

  /** Connects a namespace; returns the payload of the reply. */
  async connect(payload, nsp = "/") {
    const ns = nsp === "/" ? "" : nsp + ",";
    await this.post(`40${ns}${payload === undefined ? "" : JSON.stringify(payload)}`);
    const packets = await this.pollFor((p) => p.startsWith("40") || p.startsWith("44"));
    this.packets = packets;
    return reply(packets.find((p) => p.startsWith("40") || p.startsWith("44")));
  }
}

function reply(packet) {
  const m = /^4([04])(\/[^,]*,)?(.*)$/s.exec(packet);
  return { ...JSON.parse(m[3]), error: m[1] === "4" || undefined };
}

/** A WebSocket that records messages as strings and Buffers. It answers pings, and records them only with `pings`. */
export class Raw {
  constructor(url, { path = "/socket.io/", query = "", sid, headers = {}, pings = false, transport = "websocket", protocols = [], eio = EIO, ...rest } = {}) {
    const parts = [eio, transport && `transport=${transport}`, sid && `sid=${sid}`, query].filter(Boolean);
    this.got = [];
    this.closed = null; // {code, reason}
    this.error = null;
    this.ws = new WebSocket(`${url.replace(/^http/, "ws")}${path}?${parts.join("&")}`, protocols, { headers, perMessageDeflate: false, ...rest });
    this.ws.on("message", (data, binary) => {
      const m = binary ? data : data.toString();
      if (m === "2" && !pings) return this.ws.send("3");
      this.got.push(m);
    });
    this.ws.on("upgrade", (res) => (this.upgradeResponse = res));
    this.ws.on("unexpected-response", (req, res) => {
      let body = "";
      res.on("data", (d) => (body += d));
      res.on("end", () => (this.refused = { status: res.statusCode, headers: res.headers, body }));
    });
    this.ws.on("error", (err) => (this.error = err));
    this.ws.on("close", (code, reason) => (this.closed = { code, reason: reason.toString() }));
  }

  /** Opens a WebSocket that is not an upgrade, and reads its handshake. */
  static async open(url, options) {
    const raw = new Raw(url, options);
    await raw.opened();
    if (!options?.sid) raw.handshake = JSON.parse((await raw.next()).slice(1));
    return raw;
  }

  opened() {
    return until(() => {
      if (this.ws.readyState === WebSocket.OPEN) return true;
      if (this.refused || this.error) throw new Error(`refused: ${JSON.stringify(this.refused)} ${this.error}`);
    }, "the WebSocket to open");
  }

  async next(timeout) {
    await until(
      () => this.got.length > 0 || this.closed,
      () => `a message; closed: ${JSON.stringify(this.closed)}`,
      timeout,
    );
    if (!this.got.length) throw new Error(`closed: ${JSON.stringify(this.closed)}`);
    return this.got.shift();
  }

  /** Waits for a message that matches, returns it, and discards earlier ones. */
  async find(match, timeout) {
    for (;;) {
      const m = await this.next(timeout);
      if (match instanceof RegExp ? match.test(m) : match(m)) return m;
    }
  }

  send(...messages) {
    for (const m of messages) this.ws.send(m);
  }

  /** Connects a namespace; returns the payload of the reply, with `error` if it is one. */
  async connect(payload, nsp = "/") {
    const ns = nsp === "/" ? "" : nsp + ",";
    this.send(`40${ns}${payload === undefined ? "" : JSON.stringify(payload)}`);
    return reply(await this.find((m) => typeof m === "string" && (m.startsWith("40" + ns) || m.startsWith("44" + ns))));
  }

  async end(timeout) {
    await until(() => this.closed, () => `the WebSocket to end; had ${JSON.stringify(this.got.slice(0, 5))}`, timeout);
    return this.closed;
  }

  close(code, reason) {
    if (code) this.ws.close(code, reason);
    else this.ws.terminate();
  }
}

/** Replaces random values, for comparisons. */
export function sameShape(body) {
  return body.replace(/"(sid|pid)":"[^"]+"/g, '"$1":"*"');
}
