// Every method with every kind of sid, by polling and by WebSocket: holdfast's answer compared with
// the server's own.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import http from "node:http";
import { createRequire } from "node:module";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw, exchange, request, sameShape } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const require = createRequire(import.meta.url);

const METHODS = ["GET", "POST", "OPTIONS", "PUT", "DELETE", "HEAD", "PATCH", "PROPFIND", "TRACE"];
const SIDS = {
  none: async () => "",
  unknown: async () => "abc",
  known: async (url) => (await connected(url)).sid, // by polling
  websocket: async (url) => (await Raw.open(url)).handshake.sid,
  ended: async (url) => {
    const poll = await connected(url);
    await poll.post("1");
    return poll.sid;
  },
  // The server's sid of a client that did not come through holdfast.
  foreign: async (url, server) => (await connected(server)).sid,
};
const FORMS = ["polling", "websocket", "abc", "polling, upgrade", "websocket, upgrade"];
const ORIGIN = "http://example.test";

// Where holdfast answers differently: "method sid form", why, and what it answers.
const DIFFERENCES = [
  [/^HEAD \w+ \w+, upgrade$/, "the server writes a body, which HTTP forbids: net/http leaves it out", ["400", "405"]],
  [/^GET (known|websocket) polling, upgrade$/, "the server accepts the WebSocket and closes it at once: holdfast refuses it", ["400"]],
  [/^GET websocket websocket, upgrade$/, "the server closes the second WebSocket later", ["101"]],
  [/^GET known websocket, upgrade$/, "4.8 adds CORS headers to the 101, which browsers do not look at", ["101"]],
  [/^(?!GET)\w+ (known|websocket) \w+, upgrade$/, "4.8 says 405, before it looks at the sid: holdfast says what 4.5 does", ["400", "405"]],
  [/^OPTIONS \w+ \w+, upgrade$/, "4.8 with cors ends the connection without an answer: a proxy has to say something", ["502"]],
  [/^\w+ websocket websocket$/, "the server never answers", ["400", "500"]],
  [/^(GET|POST) websocket polling$/, "a client that began by WebSocket: holdfast keeps no CORS headers for it", ["400"]],
];

/** A polling client for which a packet waits. */
async function connected(url) {
  const poll = await Polling.open(url);
  await poll.post("40");
  return poll;
}

const plain = (body) => sameShape(body).replace(',"pid":"*"', "");

async function ask(url, method, kind, sid, form, origin) {
  const [transport, upgrade] = form.split(", ");
  const path = `/socket.io/?EIO=4&transport=${transport}${sid && `&sid=${sid}`}`;
  const body = ["POST", "PUT", "PATCH"].includes(method) && !upgrade ? "40" : "";
  const head = [
    `${method} ${path} HTTP/1.1`,
    `Host: ${new URL(url).host}`,
    ...(origin ? [`Origin: ${ORIGIN}`] : []),
    ...(method === "OPTIONS" ? ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"] : []),
    ...(body ? [`Content-Length: ${body.length}`] : []),
    ...(upgrade ? ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="] : ["Connection: close"]),
  ];
  const silent = kind === "websocket" && form === "websocket"; // see DIFFERENCES
  const { text } = await exchange(url, `${head.join("\r\n")}\r\n\r\n${body}`, { ms: upgrade ? 150 : 5000, firstMs: silent ? 1000 : 20000 });
  const [top, ...rest] = text.split("\r\n\r\n");
  const [status, ...lines] = top.split("\r\n");
  const headers = Object.fromEntries(lines.map((l) => [l.slice(0, l.indexOf(":")).toLowerCase(), l.slice(l.indexOf(":") + 2)]));
  let content = rest.join("\r\n\r\n");
  if (headers["transfer-encoding"] === "chunked") content = content.replace(/(^|\r\n)[0-9a-f]+\r\n/g, "").replace(/\r\n$/, "");
  const answer = { status: status.split(" ")[1], type: headers["content-type"], body: plain(content) };
  for (const [k, v] of Object.entries(headers)) if (k.startsWith("access-control-") || k === "vary") answer[k] = v;
  return answer;
}

const short = ({ status, type, body, ...cors }) => JSON.stringify([status, type, body, ...Object.entries(cors).map(([k, v]) => `${k}: ${v}`)]);

describe("each method, with each kind of sid, by each transport", { skip: onlyHoldfast, concurrency: 2 }, () => {
  for (const server of ["4.5.4", "4.8.4"]) {
    for (const cors of [undefined, { origin: ORIGIN, credentials: true }]) {
      it(`socket.io ${server}, ${cors ? "with" : "without"} cors`, async (t) => {
        const s = await stack(t, { server, io: { cors } });
        const rows = [];
        for (const kind of Object.keys(SIDS)) {
          for (const form of FORMS) {
            rows.push(
              ...(await Promise.all(
                METHODS.map(async (method) => {
                  const [direct, through] = await Promise.all(
                    [s.app.url, s.direct].map(async (url) => ask(url, method, kind, await SIDS[kind](url, s.app.url), form, cors)),
                  );
                  return { what: `${method} ${kind} ${form}`, direct, through };
                }),
              )),
            );
          }
        }
        const unexpected = rows.filter((r) => {
          try {
            assert.deepEqual(r.through, r.direct);
            return false;
          } catch {
            return !DIFFERENCES.some(([what, , answers]) => what.test(r.what) && answers.includes(r.through.status));
          }
        });
        assert.deepEqual(unexpected.map((r) => `${r.what}: ${short(r.through)}, directly ${short(r.direct)}`), []);
      });
    }
  }
});

describe("cross-origin polling with headers of its own", { skip: onlyHoldfast, concurrency: 4 }, () => {
  const cors = { origin: ORIGIN, credentials: true, allowedHeaders: ["authorization"], methods: ["GET", "POST"] };

  for (const server of ["3.1.2", "4.0.2", "4.5.4", "4.8.4"]) {
    it(`the preflights of polls and POSTs are answered by the server, socket.io ${server}`, async (t) => {
      const s = await stack(t, { server, io: { cors } });
      const asked = [];
      for (const url of [s.direct, s.app.url]) {
        const poll = await Polling.open(url, { headers: { origin: ORIGIN, authorization: "Bearer x" } });
        for (const method of ["GET", "POST"]) {
          const headers = { origin: ORIGIN, "access-control-request-method": method, "access-control-request-headers": "authorization" };
          const res = await request(poll.at(), { method: "OPTIONS", headers });
          asked.push([res.status, res.body, ...Object.entries(res.headers).filter(([k]) => k.startsWith("access-control-") || k === "vary").sort()]);
        }
        assert.equal((await poll.connect()).error, undefined, "the session lives on");
      }
      assert.equal(asked[0][0], 204);
      for (const answer of asked) assert.deepEqual(answer, asked[0]);
    });
  }

  it("in a real browser", { skip: noBrowser }, async (t) => {
    const page = http.createServer((req, res) => res.writeHead(200, { "content-type": "text/html" }).end("<p>page"));
    await new Promise((resolve) => page.listen(0, "127.0.0.1", resolve));
    t.after(() => page.close());
    const origin = `http://127.0.0.1:${page.address().port}`;
    const s = await stack(t, { io: { cors: { ...cors, origin } } });
    const browser = await openBrowser(t);
    const tab = await browser.newPage();
    await tab.goto(origin);
    await tab.addScriptTag({ path: require.resolve("socket.io-client-4.8.4/dist/socket.io.js") });
    await tab.evaluate((url) => {
      globalThis.socket = globalThis.io(url, { transports: ["polling"], extraHeaders: { authorization: "Bearer x" }, withCredentials: true });
      globalThis.seen = [];
      socket.on("connect", () => seen.push(`connect ${socket.recovered}`));
      socket.on("connect_error", (err) => seen.push(`${err} ${err.description}`));
      socket.on("t", (n) => seen.push(n));
    }, s.direct);
    const seen = () => tab.evaluate(() => seen);
    await until(async () => (await seen()).length > 0, "the page to connect");
    assert.deepEqual(await seen(), ["connect false"]);
    assert.equal(s.app.connections[0].headers.authorization, "Bearer x");
    assert.equal(await tab.evaluate(() => new Promise((done) => socket.emit("echo", "there and back", done))), "there and back");
    s.app.io.emit("t", 1);
    await until(async () => (await seen()).length === 2, "an event");
    await tab.evaluate(() => socket.io.engine.close());
    s.app.io.emit("t", 2);
    await until(async () => (await seen()).length === 4, "the recovery");
    assert.deepEqual((await seen()).sort(), [1, 2, "connect false", "connect true"]);
    assert.deepEqual(browser.complaints, []);
  });
});

describe("paths with and without a slash at the end", { concurrency: 4 }, () => {
  const combinations = [];
  for (const addTrailingSlash of [true, false]) {
    for (const path of ["/socket.io/", "/socket.io"]) {
      for (const transports of [["polling"], ["websocket"], ["polling", "websocket"]]) combinations.push({ addTrailingSlash, path, transports });
    }
  }
  for (const { addTrailingSlash, path, transports } of combinations) {
    it(`addTrailingSlash: ${addTrailingSlash}, engineio.paths: ${path}, ${transports}`, { skip: onlyHoldfast }, async (t) => {
      const s = await stack(t, { server: "4.8.4", io: { addTrailingSlash }, config: { engineio: { paths: [path] } } });
      const c = s.client("4.8.4", { addTrailingSlash, transports });
      const { id } = await c.main.connected();
      if (transports.length > 1) await c.upgraded();
      await s.lose(c);
      s.app.stream("/", id, 1, 5);
      s.relay.up();
      await c.main.connected(2);
      await c.main.stream(1, 5);
      c.main.assertRecovered(1);
    });
  }

  it("the server decides which form it serves, and another path is not Socket.IO's", { skip: onlyHoldfast }, async (t) => {
    for (const addTrailingSlash of [true, false]) {
      const s = await stack(t, { server: "4.8.4", io: { addTrailingSlash } });
      for (const path of ["/socket.io/", "/socket.io", "/socket.iox/", "/x/socket.io/"]) {
        const [direct, through] = await Promise.all(
          [s.app.url, s.direct].map(async (url) => request(`${url}${path}?EIO=4&transport=polling`)),
        );
        assert.equal(through.status, direct.status, `${path} with addTrailingSlash: ${addTrailingSlash}`);
        if (direct.status !== 200) assert.equal(through.body, direct.body);
      }
    }
  });
});
