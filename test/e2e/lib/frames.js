// WebSocket byte by byte, with frames that no library would send.
import net from "node:net";
import { randomBytes } from "node:crypto";
import { until } from "./wait.js";

export const TEXT = 1;
export const BINARY = 2;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;

/**
 * One frame. options: {fin, rsv, masked, lengthBytes: 2 or 8 to encode the length in more bytes than necessary,
 * length: the length that it claims}
 */
export function frame(op, payload = "", { fin = true, rsv = 0, masked = true, lengthBytes = 0, length } = {}) {
  const body = Buffer.from(payload);
  const n = length ?? body.length;
  const mask = masked ? 0x80 : 0;
  let head;
  if (lengthBytes === 8 || n > 0xffff) {
    head = Buffer.alloc(10);
    head[1] = mask | 127;
    head.writeBigUInt64BE(BigInt(n), 2);
  } else if (lengthBytes === 2 || n > 125) {
    head = Buffer.alloc(4);
    head[1] = mask | 126;
    head.writeUInt16BE(n, 2);
  } else {
    head = Buffer.from([0, mask | n]);
  }
  head[0] = (fin ? 0x80 : 0) | (rsv << 4) | op;
  if (!masked) return Buffer.concat([head, body]);
  const key = Buffer.from([1, 2, 3, 4]);
  const out = Buffer.from(body);
  for (let i = 0; i < out.length; i++) out[i] ^= key[i & 3];
  return Buffer.concat([head, key, out]);
}

/** The payload of a CLOSE frame. */
export function closePayload(code, reason = "") {
  const b = Buffer.alloc(2);
  b.writeUInt16BE(code);
  return Buffer.concat([b, Buffer.from(reason)]);
}

/** An Engine.IO WebSocket on which the test writes every byte. */
export class Frames {
  static async open(url, { path = "/socket.io/?EIO=4&transport=websocket", headers = "" } = {}) {
    const f = new Frames();
    const { hostname, port } = new URL(url);
    f.got = []; // messages, as text
    f.buffer = Buffer.alloc(0);
    f.ended = false;
    f.socket = net.connect(port, hostname);
    f.socket.on("data", (d) => f.#data(d));
    f.socket.on("error", () => {});
    f.socket.on("close", () => (f.ended = true));
    f.write(
      `GET ${path} HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n` +
        `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n${headers}\r\n`,
    );
    await until(() => f.got.length || f.ended, "the WebSocket to open");
    return f;
  }

  write(...buffers) {
    return this.socket.write(Buffer.concat(buffers.map((b) => Buffer.from(b))));
  }

  text(...messages) {
    return this.write(...messages.map((m) => frame(TEXT, m)));
  }

  /** Connects the default namespace, and returns the server's reply. */
  async connect(payload = "") {
    this.text("40" + payload);
    return this.find((m) => m.startsWith("40") || m.startsWith("44"));
  }

  async find(match, timeout) {
    let found;
    await until(
      () => (found = this.got.find(match)) !== undefined || this.ended,
      () => `a message among ${JSON.stringify(this.got.slice(-5))}`,
      timeout,
    );
    return found;
  }

  /** Waits for the end, and returns the code of the CLOSE frame: 1005 if it has no code, 1006 without a frame. */
  async end(timeout) {
    await until(
      () => this.code !== undefined || this.ended,
      () => `the WebSocket to end; had ${JSON.stringify(this.got.slice(-5))}`,
      timeout,
    );
    this.socket.destroy();
    return this.code ?? 1006;
  }

  close() {
    this.socket.destroy();
  }

  #data(d) {
    this.buffer = Buffer.concat([this.buffer, d]);
    if (!this.upgraded) {
      const at = this.buffer.indexOf("\r\n\r\n");
      if (at < 0) return;
      this.response = this.buffer.subarray(0, at).toString("latin1");
      this.buffer = this.buffer.subarray(at + 4);
      if (!this.response.startsWith("HTTP/1.1 101")) {
        this.ended = true;
        return;
      }
      this.upgraded = true;
    }
    while (this.#frame());
  }

  #frame() {
    const b = this.buffer;
    if (b.length < 2) return false;
    let n = b[1] & 0x7f;
    let at = 2;
    if (n === 126) {
      if (b.length < 4) return false;
      n = b.readUInt16BE(2);
      at = 4;
    } else if (n === 127) {
      if (b.length < 10) return false;
      n = Number(b.readBigUInt64BE(2));
      at = 10;
    }
    if (b.length < at + n) return false;
    const payload = b.subarray(at, at + n);
    const op = b[0] & 0xf;
    if (op === CLOSE) this.code ??= n >= 2 ? payload.readUInt16BE(0) : 1005;
    else if (op === TEXT && payload.toString() === "2") this.text("3");
    else if (op === PONG) this.pongs = (this.pongs ?? 0) + 1;
    else this.got.push(payload.toString());
    this.buffer = b.subarray(at + n);
    return true;
  }
}
