// What attackers send. Each attack gets the right answer, uses bounded memory, and does not affect
// other clients. The server receives clean requests only. docs/security.md says what each limit is
// for.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import net from "node:net";
import { onlyHoldfast } from "../lib/holdfast.js";
import { BINARY, CLOSE, Frames, PING, TEXT, closePayload, frame } from "../lib/frames.js";
import { Polling, Raw, exchange, request } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { never, until, within } from "../lib/wait.js";

const parallel = { concurrency: 2, skip: onlyHoldfast };
const MB = 1e6;

/** Resident memory of the process, in bytes. */
const rss = (hf) => 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${hf.pid}/status`, "utf8"))[1]);

// The race detector keeps several bytes for each byte.
const ROOM = process.env.HOLDFAST_E2E_RACE === "1" ? 6 : 1;

/** Checks that an attack leaves memory as it was, within `room` bytes; `attack` runs once before, to warm up. */
async function bounded(s, room, attack) {
  await attack();
  const before = rss(s.hf);
  await attack();
  await attack();
  const grown = rss(s.hf) - before;
  assert.ok(grown < room * ROOM, `memory grew by ${(grown / MB).toFixed(1)} MB, from ${(before / MB).toFixed(1)} MB`);
}

/** Checks that another client is served. */
async function fine(s) {
  const other = await Raw.open(s.direct);
  const { sid } = await other.connect();
  assert.ok(sid);
  other.send('421["echo","still here"]');
  await other.find((m) => m.startsWith('431["still here"'));
  other.close();
}

/** Checks that the log has a line with these attributes, but not one for each time: there is one in ten seconds. */
async function fewLines(s, msg, attrs) {
  const wanted = (r) => r.msg === msg && Object.entries(attrs).every(([k, v]) => r[k] === v);
  await s.hf.says(wanted);
  const lines = s.hf.records.filter(wanted);
  for (let i = 1; i < lines.length; i++)
    assert.ok(Date.parse(lines[i].time) - Date.parse(lines[i - 1].time) > 9900, `two lines in ten seconds: ${JSON.stringify(lines)}`);
}

const refusedBy = async (s, limit) => (await s.hf.metrics()).sum("holdfast_refused_total", { limit });

describe("WebSocket frames", parallel, () => {
  const f = frame;
  const long = "x".repeat(126);
  const cases = [
    ["without a mask", [f(TEXT, "42[]", { masked: false })], 1002],
    ["with the first reserved bit", [f(TEXT, "4x", { rsv: 4 })], 1002],
    ["with the second reserved bit", [f(TEXT, "4x", { rsv: 2 })], 1002],
    ["with the third reserved bit", [f(PING, "", { rsv: 1 })], 1002],
    ...[3, 7, 11, 15].map((op) => [`with the reserved opcode ${op}`, [f(op, "")], 1002]),
    ["a ping in fragments", [f(PING, "a", { fin: false })], 1002],
    ["a ping of 126 bytes", [f(PING, long)], 1002],
    ["a CLOSE of 126 bytes", [f(CLOSE, long)], 1002],
    ["a continuation of nothing", [f(0, "4x")], 1002],
    ["a message inside another", [f(TEXT, "4", { fin: false }), f(TEXT, "4x")], 1002],
    ["a length with the highest bit", [f(BINARY, "", { lengthBytes: 8, length: 2n ** 63n })], 1002],
    ["text that is not UTF-8", [f(TEXT, Buffer.from("34ff", "hex"))], 1007],
    ["an overlong form", [f(TEXT, Buffer.from("34c080", "hex"))], 1007],
    ["a surrogate", [f(TEXT, Buffer.from("34eda080", "hex"))], 1007],
    ["bad UTF-8 over fragments", [f(TEXT, Buffer.from("34e2", "hex"), { fin: false }), f(0, Buffer.from("28a1", "hex"))], 1007],
    ["half a character at the end", [f(TEXT, "4", { fin: false }), f(0, Buffer.from("e282", "hex"))], 1007],
    ["a CLOSE of one byte", [f(CLOSE, "x")], 1002],
    ...[0, 999, 1004, 1005, 1006, 1015, 2000, 5000].map((code) => [`a CLOSE with code ${code}`, [f(CLOSE, closePayload(code))], 1002]),
    ["a CLOSE whose reason is not UTF-8", [f(CLOSE, closePayload(1000, Buffer.from("ff", "hex")))], 1007],
    ["a CLOSE in order", [f(CLOSE, closePayload(3001, "bye"))], 3001],
    ["over the limit, as its header says", [f(BINARY, "", { length: 1_000_001 })], 1009],
    ["a length beyond all numbers", [f(BINARY, "", { lengthBytes: 8, length: 2n ** 63n - 1n })], 1009],
    ["over the limit in fragments", [f(BINARY, Buffer.alloc(700_000), { fin: false }), f(0, Buffer.alloc(300_001))], 1009],
    ["in endless fragments", [f(TEXT, "4", { fin: false }), ...Array(70_000).fill(f(0, "", { fin: false }))], 1008],
  ];

  it("that break RFC 6455 are answered by its close codes", async (t) => {
    const s = await stack(t);
    for (const [what, frames, code] of cases) {
      const w = await Frames.open(s.direct);
      await w.connect();
      w.write(...frames);
      assert.equal(await w.end(), code, what);
    }
    await until(() => s.hf.records.some((r) => r.msg === "session parked" && r.reason === "parse_error"), "a reason in the log");
    await fine(s);
  });

  it("that are unusual but valid", async (t) => {
    const s = await stack(t);
    const w = await Frames.open(s.direct);
    await w.connect();
    const message = Buffer.from('421["echo","grüße 🙂"]');
    for (const b of message) w.write(frame(PING, "p"), frame(b === message[0] ? TEXT : 0, Buffer.from([b]), { fin: false }));
    w.write(frame(0, ""));
    await w.find((m) => m === '431["grüße 🙂"]');
    // Servers' own libraries accept that.
    w.write(frame(TEXT, '422["echo","long"]', { lengthBytes: 8 }));
    await w.find((m) => m === '432["long"]');
    w.close();
  });

  it("in floods of control frames: memory is bounded, whether answers are read or not", async (t) => {
    const s = await stack(t);
    const pings = Buffer.concat(Array(20_000).fill(frame(PING, "x".repeat(125))));
    for (const reads of [true, false]) {
      await bounded(s, 12 * MB, async () => {
        const w = await Frames.open(s.direct);
        await w.connect();
        if (!reads) w.socket.pause();
        for (let i = 0; i < 5; i++) await new Promise((done) => w.socket.write(pings, done));
        w.text('429["echo","after the flood"]');
        await until(() => s.app.received.some((r) => r.args[1] === "after the flood"), "what came behind the flood");
        s.app.received.length = 0;
        w.close();
      });
    }
    await fine(s);
  });

  it("that never become messages share a bounded memory", async (t) => {
    const s = await stack(t, { config: { recovery: { buffer: { total_bytes: "16MiB", window: "64KiB", max_bytes: "1MiB" } } } });
    const half = [frame(BINARY, Buffer.alloc(400_000), { fin: false }), frame(0, Buffer.alloc(400_000), { fin: false })];
    await bounded(s, 24 * MB, async () => {
      const wires = await Promise.all(Array.from({ length: 30 }, () => Frames.open(s.direct)));
      for (const w of wires) w.write(...half);
      await until(() => wires.filter((w) => w.code === 1013).length > 20, "most to be turned away");
      await fine(s); // small messages are never affected
      wires.forEach((w) => w.close());
      await until(async () => (await s.hf.metrics()).sum("holdfast_clients") === 0, "the clients to be gone");
    });
    assert.ok((await refusedBy(s, "incomplete_bytes")) > 20);
    const w = await Frames.open(s.direct); // all is given back
    await w.connect();
    w.write(...half, frame(0, ""));
    await never(() => w.code === 1013, "a message turned away");
    w.close();
  });
});

/** An application that records what reaches it, byte by byte. */
async function recorder(t) {
  const r = { requests: [], bytes: "", upgrades: [] };
  const server = createServer((req, res) => {
    let body = "";
    req.on("data", (d) => (body += d));
    req.on("end", () => {
      r.requests.push({ method: req.method, url: req.url, headers: req.headers, raw: req.rawHeaders, trailers: req.trailers, body });
      res.end("seen");
    });
  });
  server.on("upgrade", (req, socket, head) => {
    r.upgrades.push({ url: req.url, headers: req.headers, head: head.toString() });
    socket.on("error", () => {});
    socket.end("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
  });
  server.on("connection", (socket) => socket.on("data", (d) => (r.bytes += d.toString("latin1"))));
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => server.closeAllConnections());
  t.after(() => server.close());
  r.port = server.address().port;
  r.clear = () => {
    r.requests.length = r.upgrades.length = 0;
    r.bytes = "";
  };
  return r;
}

const SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
const post = (headers, body) => `POST /x HTTP/1.1\r\nHost: app.test\r\n${headers}\r\n${body}`;
const wsHeaders = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/** The status lines of all answers. */
const statuses = (text) => [...text.matchAll(/HTTP\/1\.[01] (\d+)/g)].map((m) => Number(m[1]));

describe("HTTP requests", parallel, () => {
  // [what, request, status, body that reaches the server, if any]
  const cases = [
    ["a length and chunks", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + SMUGGLED), 200, ""],
    ["chunks and a length", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", `${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`), 200, SMUGGLED],
    ["chunks in a folded header", post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n" + SMUGGLED), 200, ""],
    ["chunks in HTTP/1.0", post("Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", SMUGGLED).replace("1.1", "1.0"), 200, ""],
    ["two lengths", post(`Content-Length: 0\r\nContent-Length: ${SMUGGLED.length}\r\n`, SMUGGLED), 400],
    ["a list of lengths", post(`Content-Length: 0, ${SMUGGLED.length}\r\n`, SMUGGLED), 400],
    ["one length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "hi"), 200, "hi"],
    ...["+2", "0x2", "-1", "2 2", ""].map((n) => [`the length ${JSON.stringify(n)}`, post(`Content-Length: ${n}\r\n`, "hi" + SMUGGLED), 400]),
    ...["xchunked", "identity", "chunked, chunked", "identity, chunked", "gzip, chunked", '"chunked"', "\x0bchunked", "chunked;x=y"].map((te) => [
      `the coding ${JSON.stringify(te)}`, post(`Transfer-Encoding: ${te}\r\nContent-Length: 0\r\n`, "0\r\n\r\n" + SMUGGLED), [400, 501]]),
    ["chunked and another coding", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n" + SMUGGLED), 501],
    ["a space before the colon", post("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + SMUGGLED), 400],
    ["a bare CR", post("X-A: b\rContent-Length: 3\r\n", "abc"), 400],
    ["a NUL", post("X-A: b\0\r\n", ""), 400],
    ["a header that begins with a space", "GET /x HTTP/1.1\r\n Host: a\r\n\r\n", 400],
    ["no Host", "GET /x HTTP/1.1\r\n\r\n", 400],
    ["two Hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400],
    ...["+2", "0x2", "-2", "2 ", "ffffffffffffffffff"].map((n) => [`a chunk of size ${JSON.stringify(n)}`, post("Transfer-Encoding: chunked\r\n", `${n}\r\nhi\r\n0\r\n\r\n${SMUGGLED}`), [400, 200], "hi"]),
    ["HTTP/2 without a warning", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 505]],
    ["CONNECT", "CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\n\r\n" + SMUGGLED, 405],
    ["an upgrade with a body", `GET /x HTTP/1.1\r\nHost: a\r\n${wsHeaders}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`, 400],
    ["an upgrade with chunks", `GET /x HTTP/1.1\r\nHost: a\r\n${wsHeaders}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`, 400],
  ];

  it("that two servers may read differently: one clean request reaches the server, or none", async (t) => {
    const up = await recorder(t);
    const s = await stack(t, { upstreamPort: up.port });
    for (const [what, text, want, body] of cases) {
      for (const path of ["/x", "/socket.io/x"]) { // passed through, under Socket.IO's path too
        up.clear();
        const got = await exchange(s.direct, text.replace("/x", path), { ms: 75, firstMs: 5000 });
        const [status, ...more] = statuses(got.text);
        assert.ok([want].flat().includes(status), `${what}: status ${status}`);
        assert.deepEqual(more, [], `${what}: more than one answer`);
        assert.equal(up.requests.length, status === 200 ? 1 : 0, `${what}: ${JSON.stringify(up.requests)}`);
        for (const r of up.requests) {
          assert.deepEqual([r.url, r.body], [path, body], what);
          assert.ok(!(r.headers["content-length"] && r.headers["transfer-encoding"]), `${what}: both forms of length`);
        }
        assert.ok(!/^GET \/smuggled/m.test(up.bytes) || body === SMUGGLED, `${what}: smuggled`);
      }
    }
  });

  it("behind an upgrade are no requests", async (t) => {
    const up = await recorder(t);
    const s = await stack(t, { upstreamPort: up.port });
    const got = await exchange(s.direct, `GET /x HTTP/1.1\r\nHost: a\r\n${wsHeaders}\r\n${SMUGGLED}`, { ms: 150, firstMs: 8000 });
    assert.deepEqual(statuses(got.text), [101]);
    assert.equal(up.upgrades.length, 1);
    assert.deepEqual(up.requests, []);

    const app = await stack(t); // under Socket.IO's path they are WebSocket frames, and bad ones
    const w = await Frames.open(app.direct, { headers: "\r\n" + SMUGGLED.slice(0, -2) });
    assert.equal(await w.end(), 1002);
    assert.equal(app.app.engineConnections, 1);
  });

  it("reach the server without what is for one connection, and as WebSocket only if they are upgraded", async (t) => {
    const up = await recorder(t);
    const s = await stack(t, { upstreamPort: up.port });
    const hop = "Keep-Alive: 5\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nTE: gzip\r\nTrailer: X-A\r\nX-Mine: 1\r\n";
    await exchange(s.direct, `GET /x HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\n${hop}X-Kept: 1\r\n\r\n`);
    await exchange(s.direct, `GET /h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n`, { ms: 100, firstMs: 8000 });
    assert.equal(up.requests.length, 2);
    for (const { headers } of up.requests)
      for (const name of ["keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "x-mine", "upgrade", "http2-settings"])
        assert.equal(headers[name], undefined, name);
    assert.equal(up.requests[0].headers["x-kept"], "1");
  });

  it("with forwarding headers of their own are not believed, in any spelling", async (t) => {
    const up = await recorder(t);
    const s = await stack(t, { upstreamPort: up.port });
    const claims = ["Forwarded: for=6.6.6.6", ...["For", "Host", "Proto", "Port", "Server", "Prefix"].map((x) => `X-Forwarded-${x}: 6.6.6.6`), "X-Real-IP: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "x_real-ip: 6.6.6.6"];
    for (const path of ["/x", "/socket.io/?EIO=4&transport=polling"]) {
      up.clear();
      await exchange(s.direct, `GET ${path} HTTP/1.1\r\nHost: app.test\r\n${claims.join("\r\n")}\r\nConnection: close, X-Forwarded-For\r\n\r\n`);
      assert.equal(up.requests.length, 1);
      assert.ok(!JSON.stringify(up.requests[0].raw).includes("6.6.6.6"), JSON.stringify(up.requests[0].raw));
      assert.equal(up.requests[0].headers["x-forwarded-for"], "127.0.0.1");
      assert.equal(up.requests[0].headers["x-forwarded-host"], "app.test");
    }
  });

  it("with huge headers, or thousands, are refused", async (t) => {
    const s = await stack(t, { config: { limits: { header_bytes: "16KiB" } } });
    for (const header of ["X-A: " + "x".repeat(30_000), Array.from({ length: 5000 }, (_, i) => `X-${i}: y`).join("\r\n")]) {
      for (const path of ["/", "/socket.io/?EIO=4&transport=polling"]) {
        const { text } = await exchange(s.direct, `GET ${path} HTTP/1.1\r\nHost: a\r\n${header}\r\n\r\n`);
        assert.deepEqual(statuses(text), [431]);
      }
    }
    const { text } = await exchange(s.direct, `GET /${"x".repeat(30_000)} HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.deepEqual(statuses(text), [431]);
    await fine(s);
  });
});

describe("slow requests", parallel, () => {
  /** Sends a byte now and then until the connection ends. */
  const trickle = async (port, head) => {
    const ended = new Promise((resolve) => {
      const socket = net.connect(port, "127.0.0.1");
      socket.resume();
      socket.on("error", () => {});
      socket.write(head);
      const timer = setInterval(() => socket.write("x"), 50);
      socket.on("close", () => {
        clearInterval(timer);
        resolve();
      });
    });
    await within(ended, `the end of ${head.slice(0, 60)}`);
  };
  const config = { limits: { read_header_timeout: "400ms", body_timeout: "400ms", idle_timeout: "400ms" } };

  it("time out: headers, bodies, idle connections, on both listeners", async (t) => {
    const s = await stack(t, { config });
    const body = "Host: a\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n4";
    const p = await Polling.open(s.direct);
    const path = `/socket.io/?EIO=4&transport=polling&sid=${p.sid}`;
    await Promise.all([
      trickle(s.hf.port, "GET / HTTP/1.1\r\nHost: a\r\nX-A: "),
      trickle(s.hf.adminPort, "GET /metrics HTTP/1.1\r\nHost: a\r\nX-A: "),
      trickle(s.hf.adminPort, `POST /metrics HTTP/1.1\r\n${body}`),
      trickle(s.hf.port, "G"),
      trickle(s.hf.port, `POST ${path} HTTP/1.1\r\n${body}`),
      trickle(s.hf.port, `GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n${body}`),
      trickle(s.hf.port, `POST /socket.io/?EIO=4&transport=polling&sid=nobody HTTP/1.1\r\n${body}`),
      exchange(s.direct, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").then(({ ended }) => assert.ok(ended, "an idle connection")),
    ]);
    await until(async () => /Session ID unknown/.test((await p.poll()).body), "the client of the slow POST to be gone");
    await fine(s);
  });
});

describe("Socket.IO packets", parallel, () => {
  /** Connects, sends messages (strings, or Buffers for attachments), and returns the outcome: end, life, or silence. */
  const outcome = async (url, messages) => {
    const w = await Frames.open(url);
    await w.connect();
    w.write(...messages.map((m) => frame(typeof m === "string" ? TEXT : BINARY, m)), frame(TEXT, '429["echo","still here"]'));
    const ended = () => w.ended || w.code !== undefined;
    await until(() => ended() || w.got.includes('439["still here"]'), "", 4000).catch(() => {});
    const what = ended() ? "end" : w.got.includes('439["still here"]') ? "life" : "silence";
    w.close();
    return what;
  };
  const placeholders = (n) => Array.from({ length: n }, (_, i) => `{"_placeholder":true,"num":${i}}`).join(",");

  it("that are malformed end the connection where the server would end it", async (t) => {
    const s = await stack(t);
    const cases = [
      ["no type", "4"],
      ["an unknown type", "47"],
      ["an event that is no array", "42{}"],
      ["an event without a name", "42[]"],
      ["half an event", '42["echo"'],
      ["an acknowledgement without an id", "43[]"],
      ["a binary event without a count", '45["x"]'],
      ["a count that is no number", '45-1-["x"]'],
      ["a count beyond all numbers", `45${"9".repeat(400)}-["x"]`],
      ["a CONNECT with a list", "40[]"],
      ["a second CONNECT", "40"],
      ["an event for a namespace that is not connected", '42/admin,["x"]'],
      ["a CONNECT_ERROR from a client", '44{"message":"x"}'],
      ["an attachment that was not announced", Buffer.from("x")],
      ["text among attachments", ['452-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', Buffer.from("x"), '42["x"]']],
      ["a client's ping", "2"],
      ["an unknown Engine.IO type", "9"],
      ["nothing at all", ""],
    ];
    const stricter = [
      ["two billion attachments", '452147483647-["x"]'],
      ["more attachments than are allowed", `451025-["x",${placeholders(1025)}]`],
      ["a namespace's name of 5 KB", `40/${"n".repeat(5000)},`],
      ["a client's close, which the server leaves to the ping timeout", "1"],
    ];
    const got = {};
    const want = {};
    await Promise.all([
      ...[...cases, ...stricter].map(async ([what, messages]) => (got[what] = await outcome(s.direct, [messages].flat()))),
      ...cases.map(async ([what, messages]) => (want[what] = await outcome(s.app.url, [messages].flat()))),
    ]);
    for (const [what] of stricter) want[what] = "end";
    assert.deepEqual(got, want);
    assert.deepEqual(s.app.received.filter((r) => r.args[0] !== "echo"), [], "nothing of it reached a handler");
    await fine(s);
  });

  it("in ten thousand namespaces: a limit, a metric, a line in the log", async (t) => {
    const s = await stack(t, { config: { limits: { max_namespaces_per_connection: 20 } } });
    for (let i = 0; i < 3; i++) {
      const w = await Frames.open(s.direct);
      await w.connect();
      w.text(...Array.from({ length: 10_000 }, (_, n) => `40/n${n},`));
      assert.equal(await w.end(), 1005);
    }
    assert.equal(await refusedBy(s, "namespaces"), 3);
    await fewLines(s, "limit reached", { limit: "namespaces", key: "limits.max_namespaces_per_connection", level: "WARN", address: "127.0.0.1" });
    assert.ok((await s.hf.metrics()).sum("holdfast_parkings_total", { reason: "limit" }) >= 3);
  });

  it("with attachments that never come share a bounded memory", async (t) => {
    const s = await stack(t, { config: { recovery: { buffer: { total_bytes: "16MiB", window: "64KiB", max_bytes: "1MiB" } } } });
    const part = Buffer.alloc(300_000);
    await bounded(s, 24 * MB, async () => {
      const wires = await Promise.all(Array.from({ length: 30 }, () => Frames.open(s.direct)));
      for (const w of wires) {
        w.text("40", `451000-["x",${placeholders(1000)}]`);
        w.write(frame(BINARY, part), frame(BINARY, part), frame(BINARY, part));
      }
      await until(() => wires.filter((w) => w.ended || w.code).length > 20, "most to be turned away");
      await fine(s);
      wires.forEach((w) => w.close());
      await until(async () => (await s.hf.metrics()).sum("holdfast_clients") === 0, "the clients to be gone");
    });
    assert.ok((await refusedBy(s, "incomplete_bytes")) > 20);
    const c = s.client("4.8.4", { transports: ["websocket"] }); // all is given back
    await c.main.connected();
    c.socket.emit("echo", ...Array.from({ length: 10 }, () => Buffer.alloc(300_000, 1)));
    await until(() => s.app.receivedArgs("echo").some((args) => args.length === 10), "another client's large packet");
  });

  it("of deep JSON take no longer than flat ones, and reach the server unchanged", async (t) => {
    const s = await stack(t);
    const deep = (n) => "[".repeat(n) + "]".repeat(n);
    const w = await Frames.open(s.direct);
    const start = Date.now();
    // holdfast reads the CONNECT. The escape prevents it from searching for the keys as plain
    // bytes.
    const { sid } = JSON.parse((await w.connect(`{"a":${deep(2000)},"\\u0070id":"hfnone"}`)).slice(2));
    assert.ok(sid);
    w.text(`421["echo",${deep(2000)}]`);
    await w.find((m) => m === `431[${deep(2000)}]`);
    w.close();
    // Deeper than any parser goes. Whichever side gives up first, all other clients are served.
    for (const payload of [`40{"a":${deep(400_000)},"pid":"x"}`, `40{"pid":${"[".repeat(900_000)}`, `40{${'"a":1,'.repeat(130_000)}"offset":"x"}`]) {
      const x = await Frames.open(s.direct);
      x.text(payload);
      await until(() => x.ended || x.code || x.got.some((m) => m.startsWith("40{") || m.startsWith("44")), "an answer to deep JSON");
      x.close();
    }
    assert.ok(Date.now() - start < 10_000 * ROOM, `took ${Date.now() - start} ms`);
    await fine(s);
  });

  it("in floods: CONNECTs to nowhere, events, acknowledgements; memory is bounded", async (t) => {
    const s = await stack(t);
    const count = 10_000;
    const floods = {
      nowhere: Array(count).fill("40/nowhere,"),
      events: Array(count).fill('42["flood","' + "x".repeat(100) + '"]'),
      acks: Array(count).fill("43999[]"),
      early: Array(count).fill("43/admin,1[]"),
    };
    await bounded(s, 40 * MB, async () => {
      for (const messages of Object.values(floods)) {
        const w = await Frames.open(s.direct);
        await w.connect();
        w.text(...messages, "1");
        await w.end(20_000);
      }
      s.app.received.length = 0;
    });
  });
});

describe("polling", parallel, () => {
  it("bodies of separators, garbage and too many bytes", async (t) => {
    const s = await stack(t);
    const cases = [
      ["only separators", "\x1e".repeat(900_000), 200, true],
      ["empty messages", "4\x1e".repeat(50_000) + "4", 200, true],
      ["pongs", "3\x1e".repeat(200_000) + "3", 200, false],
      ["bad base64", "b!!!!" + "x".repeat(100_000), 200, true],
      ["base64 that was not announced", "bAAAA\x1e".repeat(50_000) + "bAAAA", 200, true],
      ["bytes that are no UTF-8", Buffer.alloc(300_000, 0xff), 200, true],
      ["over the limit", "4".repeat(1_000_001), 413, false],
      ["nothing", "", 200, true],
    ];
    await bounded(s, 60 * MB, async () => {
      for (const [what, body, status, ends] of cases) {
        const p = await Polling.open(s.direct);
        await p.connect();
        const res = await p.post(body);
        assert.equal(res.status, status, what);
        if (!ends) await p.post('421["echo","still here"]').then(() => p.pollFor((m) => m.startsWith("431[")));
        else await until(async () => /[16]|unknown/.test((await p.poll()).body), `the end after ${what}`);
      }
    });
    await fine(s);
  });

  it("chunked and wrongly counted bodies", async (t) => {
    const s = await stack(t, { config: { limits: { body_timeout: "2s" } } });
    const send = async (headers, body) => {
      const p = await Polling.open(s.direct);
      await p.connect();
      const path = `/socket.io/?EIO=4&transport=polling&sid=${p.sid}`;
      const { text } = await exchange(s.direct, `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n${headers}\r\n\r\n${body}`, { ms: 500, firstMs: 8000 });
      return [p, statuses(text)];
    };
    const chunk = `10000\r\n${"4".repeat(0x10000)}\r\n`;
    const [p, over] = await send("Transfer-Encoding: chunked", chunk.repeat(20) + "0\r\n\r\n");
    assert.deepEqual(over, [413]);
    await p.post('421["echo","still here"]');
    await p.pollFor((m) => m.startsWith("431["));
    assert.deepEqual((await send("Content-Length: 4", '42["x"]'))[1], [200], "more than it says: the rest is no request");
    assert.deepEqual((await send("Content-Length: 1000", '42["x"]'))[1], [], "less than it says");
    assert.deepEqual((await send("Content-Length: 99999999", ""))[1], [413], "more than is allowed, by its header");
    await fine(s);
  });
});

describe("limits", parallel, () => {
  it("of connections, in total and for each address", async (t) => {
    for (const [key, limit] of [["max_connections", "connections"], ["max_connections_per_address", "connections_per_address"]]) {
      const s = await stack(t, { config: { limits: { [key]: 4 } } });
      const held = [];
      while (held.length < 4) {
        // The check whether holdfast listens may still be in progress.
        const w = await Frames.open(s.direct);
        if (!w.ended) held.push(w);
      }
      const before = await refusedBy(s, limit);
      for (let i = 0; i < 3; i++) assert.deepEqual(statuses((await exchange(s.direct, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").catch(() => ({ text: "" }))).text), []);
      assert.equal((await refusedBy(s, limit)) - before, 3);
      await fewLines(s, "limit reached", { limit, level: "WARN", address: "127.0.0.1" });
      held[0].close();
      await until(async () => statuses((await exchange(s.direct, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").catch(() => ({ text: "" }))).text)[0] === 404, "room for one more");
    }
  });

  it("of handshakes: 429 for the address, others are admitted; behind a trusted proxy each client has its own", async (t) => {
    const s = await stack(t, { config: { limits: { handshakes_per_second_per_address: 1 }, trusted_proxies: ["127.0.0.0/8"] } });
    const get = (address, query = "?EIO=4&transport=polling") => request(`${s.direct}/socket.io/${query}`, { headers: { "x-forwarded-for": address } });
    /** Handshakes until one is refused; `address` may differ from one to the next. */
    const exhaust = async (address, query) => {
      for (let i = 0; i < 100; i++) {
        const res = await get(address(i), query);
        if (res.status === 429) return [i, res];
      }
      throw new Error(`never refused: ${address(0)} ${query}`);
    };
    // The client itself wrote what precedes the address.
    const [allowed, refused] = await exhaust((i) => `6.6.6.${i}, 198.51.100.1`);
    assert.ok(allowed >= 10, `${allowed} were allowed`);
    assert.equal(refused.headers["retry-after"], "1");
    assert.equal((await get("198.51.100.2")).status, 200);
    await exhaust((i) => `2001:db8:0:1::${i}`); // an IPv6 address counts by its /64
    assert.equal((await get("2001:db8:0:2::1")).status, 200);
    assert.equal((await get("<garbage>, \u00ff")).status, 200);
    // Other versions of the protocol, and other spellings of the same, are handshakes too.
    for (const query of ["?EIO=3&transport=polling", "?%45IO=4&%74ransport=polling", "?EIO=4&transport=polling&j=1"])
      await exhaust(() => "198.51.100.1", query);
    await fewLines(s, "limit reached", { limit: "handshakes_per_address", level: "WARN" });
    assert.ok((await refusedBy(s, "handshakes_per_address")) >= 5);
  });

  it("of handshakes: also of those that a client's disconnects and connects cause", async (t) => {
    const s = await stack(t, { config: { limits: { handshakes_per_second_per_address: 1 } } });
    const w = await Frames.open(s.direct);
    await w.connect();
    for (let i = 0; i < 100 && !w.ended && !w.code; i++) {
      w.got.length = 0;
      w.text("41", "40");
      await until(() => w.ended || w.code || w.got.some((m) => m.startsWith("40{")), "an answer to CONNECT");
    }
    assert.equal(await w.end(), 1005);
    assert.equal(await refusedBy(s, "handshakes_per_address"), 1);
    assert.ok(s.app.engineConnections < 60, `${s.app.engineConnections} handshakes`);
  });

  it("of failed recoveries: pids are long, and not guessed", async (t) => {
    const s = await stack(t, { config: { limits: { failed_resumes_per_second_per_address: 1 } } });
    const real = await Raw.open(s.direct);
    const { sid, pid } = await real.connect();
    assert.match(pid, /^hf[\w-]{27}$/); // 160 bits
    const reasons = async () => {
      const m = await s.hf.metrics();
      return ["unknown_pid", "limit"].map((reason) => m.sum("holdfast_recoveries_total", { result: "failed", reason }));
    };
    let guesses = 0;
    while ((await reasons())[1] < 3) {
      assert.ok(++guesses <= 100, "pids are still looked up");
      const guess = await Raw.open(s.direct);
      assert.ok((await guess.connect({ pid: pid.slice(0, -3) + String(100 + guesses), offset: "hfAAAAAAAA1" })).sid, "guessers get fresh sessions");
      guess.close();
    }
    const [unknown, limited] = await reasons();
    assert.ok(unknown >= 10 && unknown + limited === guesses, `${guesses} guesses, ${unknown} looked up, ${limited} not`);
    await fewLines(s, "not recovered", { reason: "limit", level: "WARN", address: "127.0.0.1" });
    const again = await Raw.open(s.direct); // the client still has its session
    real.send('421["echo","mine"]');
    await real.find((m) => m.startsWith('431["mine"'));
    assert.notEqual((await again.connect()).sid, sid);
    again.close();
    assert.ok(!s.hf.log.includes(pid));
    real.close();
  });
});
