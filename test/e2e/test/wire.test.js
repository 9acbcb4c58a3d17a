// What HTTP and WebSocket clients see byte by byte: holdfast must answer as the server itself does.
// Every case runs against both and is compared, and checked against what it must be.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import zlib from "node:zlib";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw, exchange, request, sameShape } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { sleep, until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const cors = { origin: "http://example.test", credentials: true, exposedHeaders: ["x-seen"] };

/** A path, and a function that runs a case through holdfast and directly, and compares. */
async function pair(t, options = {}) {
  const s = await stack(t, { native: "legacy", ...options });
  return {
    ...s,
    async both(fn, { compare = true } = {}) {
      const through = await fn(s.direct);
      const direct = await fn(s.app.url);
      if (compare) assert.deepEqual(through, direct, "through holdfast (actual) as from the server (expected)");
      return through;
    },
  };
}

/** What was sent just before has arrived: something that was sent later is answered. */
async function arrived(url) {
  await sleep(50);
  for (let i = 0; i < 2; i++) await request(`${url}/arrived`);
}

const short = (res) => ({ status: res.status, type: res.headers["content-type"], body: res.body });
const error = (status, code, message) => ({
  status,
  type: "application/json",
  body: JSON.stringify({ code, message }),
});

describe("refused requests", parallel, () => {
  const cases = [
    ["no transport", "?EIO=4", {}, error(400, 0, "Transport unknown")],
    ["an unknown transport", "?EIO=4&transport=abc", {}, error(400, 0, "Transport unknown")],
    ["a transport that every object has", "?EIO=4&transport=constructor", {}, error(400, 0, "Transport unknown")],
    ["an unknown sid", "?EIO=4&transport=polling&sid=abc", {}, error(400, 1, "Session ID unknown")],
    ["a POST to an unknown sid", "?EIO=4&transport=polling&sid=abc", { method: "POST", body: "4x" }, error(400, 1, "Session ID unknown")],
    ["a PUT to an unknown sid", "?EIO=4&transport=polling&sid=abc", { method: "PUT" }, error(400, 1, "Session ID unknown")],
    ["a handshake by POST", "?EIO=4&transport=polling", { method: "POST" }, error(400, 2, "Bad handshake method")],
    ["a handshake by PUT", "?EIO=4&transport=polling", { method: "PUT" }, error(400, 2, "Bad handshake method")],
    ["a handshake by OPTIONS, without cors", "?EIO=4&transport=polling", { method: "OPTIONS" }, error(400, 2, "Bad handshake method")],
    ["websocket without an upgrade", "?EIO=4&transport=websocket", {}, error(400, 3, "Bad request")],
    ["no EIO", "?transport=polling", {}, error(400, 5, "Unsupported protocol version")],
    ["EIO=3 where it is not allowed", "?EIO=3&transport=polling", {}, error(400, 5, "Unsupported protocol version")],
    ["EIO=5", "?EIO=5&transport=polling", {}, error(400, 5, "Unsupported protocol version")],
    ["EIO=abc", "?EIO=abc&transport=polling", {}, error(400, 5, "Unsupported protocol version")],
    ["an unknown transport before an unknown sid", "?EIO=4&transport=abc&sid=abc", {}, error(400, 0, "Transport unknown")],
    ["a bad method before a bad EIO", "?EIO=abc&transport=polling", { method: "POST" }, error(400, 2, "Bad handshake method")],
  ];
  for (const [what, query, options, want] of cases) {
    it(what, async (t) => {
      const p = await pair(t);
      const got = await p.both(async (url) => short(await request(`${url}/socket.io/${query}`, options)));
      assert.deepEqual(got, want);
    });
  }

  it("with the server's CORS headers", async (t) => {
    const p = await pair(t, { io: { cors } });
    for (const query of ["?EIO=4&transport=abc", "?EIO=4&transport=polling&sid=abc", "?EIO=5&transport=polling"]) {
      await p.both(async (url) => {
        const res = await request(`${url}/socket.io/${query}`, { headers: { origin: "http://example.test" } });
        assert.equal(res.status, 400);
        assert.equal(res.headers["access-control-allow-origin"], "http://example.test");
        assert.equal(res.headers["access-control-allow-credentials"], "true");
        return res.headers["access-control-expose-headers"];
      });
    }
  });

  it("by allowRequest", async (t) => {
    const p = await pair(t, {
      io: { cors, allowRequest: (req, done) => done(req.headers["x-token"] === "let me in" ? null : "no token", req.headers["x-token"] === "let me in") },
    });
    const got = await p.both(async (url) => {
      const res = await request(`${url}/socket.io/?EIO=4&transport=polling`, { headers: { origin: "http://example.test" } });
      assert.equal(res.headers["access-control-allow-origin"], "http://example.test");
      return short(res);
    });
    assert.deepEqual(got, error(403, 4, "no token"));
    const ok = await p.both(async (url) => {
      const res = await request(`${url}/socket.io/?EIO=4&transport=polling`, { headers: { "x-token": "let me in" } });
      return res.status;
    });
    assert.equal(ok, 200);
    // By WebSocket too; the server writes the refusal on the socket.
    const refused = await p.both(async (url) => {
      const raw = new Raw(url);
      await until(() => raw.refused || raw.error || raw.closed, "the refusal");
      assert.equal(raw.got.length, 0, "no handshake");
      return raw.refused?.status ?? "broken";
    }, { compare: false });
    assert.ok([403, 400, "broken"].includes(refused), String(refused));
  });

  it("an upgrade with an unknown sid", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const { text } = await exchange(
        url,
        `GET /socket.io/?EIO=4&transport=websocket&sid=abc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`,
      );
      const [head, body] = text.split("\r\n\r\n");
      assert.match(head, /^HTTP\/1\.1 400 Bad Request\r\n/);
      assert.match(head, /connection: *close/i);
      return body;
    });
  });

  for (const [what, options] of [
    ["an unknown transport", { transport: "abc" }],
    ["no transport", { transport: "" }],
    ["EIO=5", { eio: "EIO=5" }],
    ["no EIO", { eio: "" }],
    ["transport=polling", { transport: "polling" }],
  ]) {
    it(`an upgrade with ${what} fails`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const raw = new Raw(url, options);
        await until(() => raw.closed || raw.refused || raw.error, "its end");
        assert.deepEqual(raw.got, []);
      });
    });
  }

  it("many strange requests do not stop it", async (t) => {
    const p = await pair(t);
    for (const text of [
      "GARBAGE\r\n\r\n",
      "GET / HTTP/1.1\r\n\r\n",
      "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
      "GET /socket.io/?%zz=4;x&transport=polling&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
      "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
      "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
      "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ]) {
      await exchange(p.direct, text, { ms: 150 }).catch(() => {});
    }
    const res = await request(`${p.direct}/socket.io/?EIO=4&transport=polling`);
    assert.equal(res.status, 200);
  });
});

describe("the polling handshake", parallel, () => {
  it("has the server's values, in the server's order", async (t) => {
    const p = await pair(t, { io: { pingInterval: 12345, pingTimeout: 6789, maxHttpBufferSize: 54321 } });
    const got = await p.both(async (url) => {
      const res = await request(`${url}/socket.io/?EIO=4&transport=polling`);
      assert.equal(Number(res.headers["content-length"]), res.raw.length);
      return { ...short(res), body: sameShape(res.body) };
    });
    assert.deepEqual(got, {
      status: 200,
      type: "text/plain; charset=UTF-8",
      body: '0{"sid":"*","upgrades":["websocket"],"pingInterval":12345,"pingTimeout":6789,"maxPayload":54321}',
    });
  });

  it("by WebSocket has no upgrades", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      assert.deepEqual(raw.handshake.upgrades, []);
      assert.equal(raw.upgradeResponse.headers["sec-websocket-extensions"], undefined, "no permessage-deflate");
      raw.close();
      return Object.keys(raw.handshake);
    });
  });

  it("offers no WebSocket where the server has none", async (t) => {
    const p = await pair(t, { io: { transports: ["polling"] } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      assert.deepEqual(poll.handshake.upgrades, []);
      return short(await request(`${url}/socket.io/?EIO=4&transport=websocket`));
    });
  });

  it("takes any path below its own, and none beside it", async (t) => {
    const p = await pair(t);
    const below = await p.both(async (url) => (await request(`${url}/socket.io/foo?EIO=4&transport=polling`)).status);
    assert.equal(below, 200);
    const beside = await p.both(async (url) => short(await request(`${url}/socket.io?EIO=4&transport=polling`)));
    assert.deepEqual(beside, { status: 404, type: undefined, body: "no such page\n" });
  });

  it("with Set-Cookie", async (t) => {
    const p = await pair(t, { io: { cookie: { name: "io", path: "/", httpOnly: true, sameSite: "lax" } } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const [cookie, ...more] = poll.handshakeResponse.headers["set-cookie"];
      assert.deepEqual(more, []);
      return cookie.replace(/^io=[^;]+/, "io=*");
    });
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      raw.close();
      return (raw.upgradeResponse.headers["set-cookie"] ?? []).map((c) => c.replace(/^io=[^;]+/, "io=*"));
    });
  });

  it("with headers that the application adds", async (t) => {
    const p = await pair(t, {
      app: (io) => {
        io.engine.on("initial_headers", (headers) => {
          headers["x-seen"] = "first";
          headers["set-cookie"] = ["a=1; Path=/", "b=2; Path=/"];
        });
      },
      io: { cors },
    });
    await p.both(async (url) => {
      const poll = await Polling.open(url, { headers: { origin: "http://example.test" } });
      assert.equal(poll.handshakeResponse.headers["x-seen"], "first");
      assert.deepEqual(poll.handshakeResponse.headers["set-cookie"], ["a=1; Path=/", "b=2; Path=/"]);
    });
  });
});

describe("CORS", parallel, () => {
  it("headers are on every answer to a poll and a POST", async (t) => {
    const p = await pair(t, { io: { cors } });
    await p.both(async (url) => {
      const poll = await Polling.open(url, { headers: { origin: "http://example.test" } });
      const seen = [];
      const note = (res) => {
        seen.push(Object.fromEntries(Object.entries(res.headers).filter(([k]) => /^(access-control|vary)/.test(k))));
        return res;
      };
      note(poll.handshakeResponse);
      note(await poll.post("40"));
      note(await poll.poll());
      note(await poll.post('42["echo",1]'));
      note(await poll.poll());
      for (const headers of seen) assert.equal(headers["access-control-allow-origin"], "http://example.test");
      for (const headers of seen) assert.equal(headers["access-control-allow-credentials"], "true");
      return seen;
    });
  });

  it("follow the origin of each request where the server reflects it", async (t) => {
    const p = await pair(t, { io: { cors: { origin: true } } });
    await p.both(async (url) => {
      const poll = await Polling.open(url, { headers: { origin: "http://one.test" } });
      await poll.post("40");
      return (await poll.poll()).headers["access-control-allow-origin"];
    });
  });

  it("preflights are the server's to answer", async (t) => {
    const p = await pair(t, { io: { cors } });
    const got = await p.both(async (url) => {
      const res = await request(`${url}/socket.io/?EIO=4&transport=polling`, {
        method: "OPTIONS",
        headers: { origin: "http://example.test", "access-control-request-method": "POST", "access-control-request-headers": "x-token" },
      });
      return {
        status: res.status,
        cors: Object.fromEntries(Object.entries(res.headers).filter(([k]) => k.startsWith("access-control"))),
      };
    });
    assert.equal(got.status, 204);
    assert.equal(got.cors["access-control-allow-headers"], "x-token");
  });
});

describe("polls and POSTs", parallel, () => {
  it("a POST is answered ok", async (t) => {
    const p = await pair(t);
    const got = await p.both(async (url) => {
      const poll = await Polling.open(url);
      return short(await poll.post("40"));
    });
    assert.deepEqual(got, { status: 200, type: "text/html", body: "ok" });
  });

  it("several packets in one payload, both ways, binary in base64", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      await poll.connect();
      const bytes = Buffer.from([0, 1, 2, 254, 255]).toString("base64");
      await poll.post(`421["echo","ü€😀"]\x1e451-2["echo",{"_placeholder":true,"num":0}]\x1eb${bytes}\x1e423["echo",3]`);
      const packets = [];
      while (!packets.some((x) => x.startsWith("433"))) packets.push(...(await poll.poll()).body.split("\x1e"));
      assert.deepEqual(packets, ['431["ü€😀"]', '461-2[{"_placeholder":true,"num":0}]', `b${bytes}`, "433[3]"]);
    });
  });

  it("the old encoding of form posts is not decoded", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const res = await poll.post("d=40", { headers: { "content-type": "application/x-www-form-urlencoded" } });
      return res.status;
    });
  });

  for (const [what, body] of [
    ["is empty", ""],
    ["is no payload", "xyz"],
    ["has a ping of the client", "2"],
  ]) {
    it(`a POST that ${what} ends the session`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const poll = await Polling.open(url);
        const { status } = await poll.post(body);
        assert.ok([200, 400].includes(status), `${status}`);
        // engine.io 6.2 keeps the session for one more poll, which gets its end.
        for (let i = 0; i < 3; i++) {
          const res = await poll.poll();
          if (res.status === 400) return;
          assert.ok(["6", "1", "6\x1e1"].includes(res.body), res.body);
        }
        assert.fail("the session continues");
      });
    });
  }

  it("the client's close: the waiting poll gets a noop, then the sid is unknown", async (t) => {
    const p = await pair(t);
    const got = await p.both(async (url) => {
      const poll = await Polling.open(url);
      const waiting = poll.poll();
      await arrived(url);
      const post = await poll.post("1");
      return [short(post), short(await waiting), short(await poll.poll())];
    });
    assert.deepEqual(got, [
      { status: 200, type: "text/html", body: "ok" },
      { status: 200, type: "text/plain; charset=UTF-8", body: "6" },
      error(400, 1, "Session ID unknown"),
    ]);
  });

  it("a body over maxPayload: 413, and the session lives on", async (t) => {
    const p = await pair(t, { io: { maxHttpBufferSize: 10000 } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      await poll.connect();
      const res = await poll.post(`42["echo","${"x".repeat(20000)}"]`).catch((err) => ({ status: err.code, body: "" }));
      // The connection may end before the whole body is sent. A client sees the status or the end.
      assert.ok([413, "ECONNRESET", "EPIPE"].includes(res.status), `${res.status}`);
      assert.equal(res.body, "");
      await poll.post('421["echo","y"]');
      return await poll.pollFor((x) => x.startsWith("43"));
    });
  });

  it("a body just within maxPayload", async (t) => {
    const p = await pair(t, { io: { maxHttpBufferSize: 10000 } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      await poll.connect();
      const head = '421["echo","';
      const body = head + "x".repeat(10000 - head.length - 2) + '"]';
      assert.equal(body.length, 10000);
      assert.equal((await poll.post(body)).status, 200);
      const packets = await poll.pollFor((x) => x.startsWith("43"));
      return packets.map((x) => x.length);
    });
  });

  it("chunked bodies are counted as well", async (t) => {
    const p = await pair(t, { io: { maxHttpBufferSize: 10000 } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const path = new URL(poll.at()).pathname + new URL(poll.at()).search;
      const chunk = "x".repeat(0x1000);
      const { text } = await exchange(
        url,
        `POST ${path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n` + `1000\r\n${chunk}\r\n`.repeat(4) + "0\r\n\r\n",
        { ms: 500, firstMs: 8000 },
      );
      assert.match(text, /^HTTP\/1\.1 413 /);
    });
  });

  for (const method of ["PUT", "DELETE", "HEAD"]) {
    it(`${method} with a valid sid: 500, and the session lives on`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const poll = await Polling.open(url);
        const res = await request(poll.at(), { method });
        assert.equal(res.status, 500);
        assert.equal(res.body, "");
        assert.equal((await poll.post("40")).status, 200);
        assert.match((await poll.poll()).body, /^40/);
      });
    });
  }

  it("gzip and deflate for large bodies only, when accepted", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const seen = [];
      for (const [encoding, size] of [["gzip", 5000], ["deflate", 5000], ["gzip", 100], ["identity", 5000], ["br", 5000]]) {
        const poll = await Polling.open(url);
        await poll.connect();
        await poll.post(`421["echo","${"x".repeat(size)}"]`);
        const res = await poll.poll({ headers: { "accept-encoding": encoding } });
        const used = res.headers["content-encoding"];
        const body = used === "gzip" ? zlib.gunzipSync(res.raw) : used === "deflate" ? zlib.inflateSync(res.raw) : res.raw;
        assert.equal(body.toString(), `431["${"x".repeat(size)}"]`);
        assert.equal(Number(res.headers["content-length"]), res.raw.length);
        seen.push([encoding, size, used, res.headers.vary]);
      }
      return seen;
    });
  });

  it("the server's DISCONNECT comes before the end", async (t) => {
    const p = await pair(t, { app: (io) => io.on("connection", (socket) => socket.on("kick", () => socket.disconnect(true))) });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      await poll.connect();
      const waiting = poll.poll();
      await arrived(url);
      await poll.post('42["kick"]');
      assert.equal((await waiting).body, "41");
      const last = await poll.poll();
      assert.ok(last.status === 400 || ["6\x1e1", "1", "6"].includes(last.body), `${last.status} ${last.body}`);
    });
  });

  for (const [what, packet] of [
    ["an unknown packet type", "4abc"],
    ["an EVENT that is no array", "42{}"],
    ["an EVENT before CONNECT", '42["x"]'],
    ["a bad acknowledgement id", '42abc["x"]'],
  ]) {
    it(`${what} ends the session`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const poll = await Polling.open(url);
        if (!/before/.test(what)) await poll.connect();
        const post = await poll.post(packet);
        assert.equal(post.status, 200);
        for (let i = 0; i < 3; i++) {
          const res = await poll.poll();
          if (res.status === 400) return;
          assert.ok(["6\x1e1", "1", "6"].includes(res.body), res.body);
        }
        assert.fail("the session continues");
      });
    });
  }

  it("other packets, which have no meaning from a client, are ignored", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      assert.equal((await poll.post("6\x1e5\x1e3")).status, 200);
      assert.equal((await poll.post("40")).status, 200);
      assert.match((await poll.poll()).body, /^40/);
    });
  });

  it("a JSONP poll", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const res = await request(`${url}/socket.io/?EIO=4&transport=polling&j=0`);
      assert.match(res.body, /^___eio\[0\]\("0\{.*\}"\);$/);
      return [res.status, res.headers["content-type"], res.body.replace(/\\"sid\\":\\"[^"]+\\"/, "*")];
    });
  });
});

describe("polls that overlap or are cancelled", parallel, () => {
  it("a second poll while one waits: the first gets a close, the second an error, the session has ended", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const first = poll.poll();
      await arrived(url);
      const second = await poll.poll();
      assert.ok([400, 500].includes(second.status), `${second.status}`);
      const one = await first;
      assert.deepEqual([one.status, one.body], [200, "1"]);
      return short(await poll.poll());
    });
  });

  it("a second POST while one arrives: an error, and the session has ended", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const at = new URL(poll.at());
      const slow = exchange(url, `POST ${at.pathname}${at.search} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n40`, { ms: 2000 }).catch(() => ({ text: "" }));
      await arrived(url);
      const second = await poll.post("40");
      assert.ok([400, 500].includes(second.status), `${second.status}`);
      assert.doesNotMatch((await slow).text, / 200 /);
      return short(await poll.poll());
    });
  });

  it("a poll repeated with the same t after its answer got lost gets the same again, once", { skip: onlyHoldfast }, async (t) => {
    const p = await pair(t);
    const poll = await Polling.open(p.direct);
    const { sid } = await poll.connect();
    p.app.stream("/", sid, 1, 3);
    const first = await poll.poll({ more: "t=same" });
    const numbers = (body) => [...body.matchAll(/42\["n",(\d+)/g)].map((m) => Number(m[1]));
    assert.deepEqual(numbers(first.body), [1, 2, 3]);
    const again = await poll.poll({ more: "t=same" });
    assert.equal(again.body, first.body);
    p.app.stream("/", sid, 4, 5);
    assert.deepEqual(numbers((await poll.poll({ more: "t=next" })).body), [4, 5]);
  });

  it("a cancelled poll ends the Engine.IO session", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const waiting = poll.poll();
      await arrived(url);
      waiting.abort();
      await until(() => p.app.io.engine.clientsCount === 0, "the end of the session");
      return short(await poll.poll());
    });
  });

  it("a cancelled POST ends the Engine.IO session", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      const at = new URL(poll.at());
      await exchange(url, `POST ${at.pathname}${at.search} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n40`, { ms: 100 }).catch(() => {});
      await until(() => p.app.io.engine.clientsCount === 0, "the end of the session");
      return short(await poll.poll());
    });
  });

  it("the session of a cancelled poll waits for its client", { skip: onlyHoldfast }, async (t) => {
    const p = await pair(t);
    const poll = await Polling.open(p.direct);
    const { sid, pid } = await poll.connect();
    const waiting = poll.poll();
    await arrived(p.direct);
    waiting.abort();
    p.app.stream("/", sid, 1, 2);
    const again = await Polling.open(p.direct);
    const reply = await again.connect({ pid });
    assert.deepEqual({ sid: reply.sid, pid: reply.pid }, { sid, pid });
    const packets = again.packets.some((x) => x.startsWith("42")) ? again.packets : await again.pollFor((x) => x.startsWith('42["n",2'));
    assert.deepEqual(packets.filter((x) => x.startsWith("42")).map((x) => x.slice(0, 8)), ['42["n",1', '42["n",2']);
  });
});

describe("WebSocket", parallel, () => {
  for (const [what, messages, connect = true] of [
    ["an unknown packet type", ["4abc"]],
    ["an EVENT that is no array", ["42{}"]],
    ["a bad acknowledgement id", ['42abc["x"]']],
    ["an EVENT to a namespace without CONNECT", ['42/admin,["x"]']],
    ["an EVENT before CONNECT", ['42["x"]'], false],
    ["a second CONNECT", ["40"]],
    ["an attachment that was not announced", [Buffer.from("?")]],
    ["a text between a binary event and its attachment", ['451-["x",{"_placeholder":true,"num":0}]', '42["y"]']],
    ["a message of no Engine.IO type", ["xyz"]],
  ]) {
    it(`${what} closes it`, async (t) => {
      const p = await pair(t);
      const got = await p.both(async (url) => {
        const raw = await Raw.open(url);
        if (connect) await raw.connect();
        raw.send(...messages);
        return (await raw.end()).code;
      });
      assert.equal(got, 1005);
    });
  }

  it("a message over maxPayload closes it with 1009", async (t) => {
    const p = await pair(t, { io: { maxHttpBufferSize: 10000 } });
    const got = await p.both(async (url) => {
      const raw = await Raw.open(url);
      await raw.connect();
      raw.send(`42["echo","${"x".repeat(20000)}"]`);
      return (await raw.end()).code;
    });
    assert.equal(got, 1009);
  });

  it("a message within maxPayload passes, also in fragments", async (t) => {
    const p = await pair(t, { io: { maxHttpBufferSize: 10000 } });
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      await raw.connect();
      const text = `421["echo","${"x".repeat(9000)}"]`;
      raw.send(text);
      assert.equal((await raw.find(/^43/)).length, text.length - 7);
      raw.ws.send('422["ec', { fin: false });
      raw.ws.send('ho","frag', { fin: false });
      raw.ws.ping();
      raw.ws.send('ment"]', { fin: true });
      assert.equal(await raw.find(/^43/), '432["fragment"]');
      raw.close();
    });
  });

  it("invalid UTF-8 closes it", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      await raw.connect();
      raw.ws._sender.sendFrame([Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe])]);
      await raw.end();
    });
  });

  it("an unmasked frame closes it", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      raw.ws._sender.sendFrame([Buffer.from([0x81, 0x01, 0x33])]);
      await raw.end();
    });
  });

  it("CONNECT to an unknown namespace is refused, and it stays open", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      raw.send("40/random,");
      assert.equal(await raw.next(), '44/random,{"message":"Invalid namespace"}');
      assert.ok((await raw.connect()).sid);
      raw.close();
    });
  });

  it("CONNECT refused by a middleware, with its data", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      raw.send('40{"deny":true}');
      const answer = await raw.next();
      assert.equal(answer, '44{"message":"not you","data":{"code":17}}');
      assert.ok((await raw.connect({}, "/admin")).sid);
      raw.close();
    });
  });

  it("no CONNECT in time closes it", async (t) => {
    const p = await pair(t, { io: { connectTimeout: 300 } });
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      await raw.end();
    });
  });

  it("no pong in time closes it", async (t) => {
    const p = await pair(t, { io: { pingInterval: 200, pingTimeout: 200 } });
    await p.both(async (url) => {
      const raw = await Raw.open(url, { pings: true });
      assert.equal(await raw.next(), "2");
      await raw.end();
    });
  });

  it("a ping of the WebSocket protocol gets its pong", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      let pong;
      raw.ws.on("pong", (data) => (pong = data.toString()));
      raw.ws.ping("hello");
      await until(() => pong === "hello", "the pong");
      raw.close();
    });
  });

  it("the client's DISCONNECT leaves the connection open for another CONNECT", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const raw = await Raw.open(url);
      const one = await raw.connect();
      raw.send("41");
      await sleep(50);
      const two = await raw.connect();
      assert.notEqual(one.sid, two.sid);
      raw.send('421["echo","x"]');
      assert.equal(await raw.find(/^43/), '431["x"]');
      raw.close();
    });
  });
});

describe("the upgrade", parallel, () => {
  async function polling(url) {
    const poll = await Polling.open(url);
    const { sid } = await poll.connect();
    return { poll, sid };
  }

  it("a waiting poll ends with a noop soon after the probe", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const { poll } = await polling(url);
      const waiting = poll.poll();
      await arrived(url);
      const raw = await Raw.open(url, { sid: poll.sid });
      raw.send("2probe");
      assert.equal(await raw.next(), "3probe");
      assert.equal((await waiting).body, "6");
      raw.send("5");
      raw.send('421["echo","over"]');
      assert.equal(await raw.next(), '431["over"]');
      const late = await poll.poll();
      raw.send('422["echo","still"]');
      assert.equal(await raw.next(), '432["still"]');
      raw.close();
      return short(late);
    });
  });

  it("between probe and upgrade polling continues in full", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const { poll } = await polling(url);
      const raw = await Raw.open(url, { sid: poll.sid });
      raw.send("2probe");
      assert.equal(await raw.next(), "3probe");
      const waiting = poll.poll();
      await poll.post('421["echo","by polling"]');
      const body = (await waiting).body;
      const packets = body === "6" ? (await poll.poll()).body : body;
      assert.equal(packets, '431["by polling"]');
      await poll.post('422["echo","kept"]');
      await sleep(30);
      raw.send("5");
      assert.equal(await raw.next(), '432["kept"]');
      raw.close();
    });
  });

  it("without a probe is accepted", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const { poll } = await polling(url);
      const raw = await Raw.open(url, { sid: poll.sid });
      raw.send("5", '421["echo","x"]');
      assert.equal(await raw.next(), '431["x"]');
      raw.close();
    });
  });

  for (const message of ["2foo", "40", "abc", null]) {
    it(`${message === null ? "its end" : `"${message}"`} on a probing WebSocket closes only that`, async (t) => {
      const p = await pair(t);
      await p.both(async (url) => {
        const { poll } = await polling(url);
        const raw = await Raw.open(url, { sid: poll.sid });
        raw.send("2probe");
        assert.equal(await raw.next(), "3probe");
        if (message === null) raw.close();
        else raw.send(message);
        await raw.end();
        await poll.post('421["echo","x"]');
        assert.ok((await poll.pollFor((x) => x.startsWith("43"))).includes('431["x"]'));
        // Another attempt succeeds.
        const next = await Raw.open(url, { sid: poll.sid });
        next.send("2probe");
        assert.equal(await next.next(), "3probe");
        next.send("5", '422["echo","y"]');
        assert.equal(await next.next(), '432["y"]');
        next.close();
      });
    });
  }

  it("a second WebSocket, while one probes and after the upgrade, is closed; the first continues", async (t) => {
    const p = await pair(t);
    await p.both(async (url) => {
      const { poll } = await polling(url);
      const first = await Raw.open(url, { sid: poll.sid });
      first.send("2probe");
      assert.equal(await first.next(), "3probe");
      const second = new Raw(url, { sid: poll.sid });
      await second.end();
      first.send("5", '421["echo","x"]');
      assert.equal(await first.next(), '431["x"]');
      const third = new Raw(url, { sid: poll.sid });
      await third.end();
      first.send('422["echo","y"]');
      assert.equal(await first.next(), '432["y"]');
      first.close();
    });
  });

  it("a probe that is never finished is closed, polling continues", async (t) => {
    const p = await pair(t, { io: { upgradeTimeout: 300 }, config: { engineio: { upgrade_timeout: "300ms" } } });
    await p.both(async (url) => {
      const { poll } = await polling(url);
      const raw = await Raw.open(url, { sid: poll.sid });
      raw.send("2probe");
      assert.equal(await raw.next(), "3probe");
      await raw.end();
      await poll.post('421["echo","x"]');
      assert.ok((await poll.pollFor((x) => x.startsWith("43"))).includes('431["x"]'));
    });
  });

  it("heartbeat over polling", async (t) => {
    const p = await pair(t, { io: { pingInterval: 300, pingTimeout: 2500 } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      for (let i = 0; i < 3; i++) {
        assert.equal((await poll.poll()).body, "2");
        await poll.post("3");
      }
      await until(() => p.app.io.engine.clientsCount === 0, "the end of the session");
      assert.equal((await poll.poll()).status, 400);
    });
  });

  it("no pong over polling: the waiting poll gets a close", async (t) => {
    const p = await pair(t, { io: { pingInterval: 200, pingTimeout: 2500 } });
    await p.both(async (url) => {
      const poll = await Polling.open(url);
      assert.equal((await poll.poll()).body, "2");
      const res = await poll.poll();
      assert.equal(res.body, "1");
      return short(await poll.poll());
    });
  });
});

describe("recovery on the wire", { ...parallel, skip: onlyHoldfast }, () => {
  it("pid in every CONNECT reply, offset on every event without an ack, none with one", async (t) => {
    const p = await pair(t);
    const raw = await Raw.open(p.direct);
    for (const nsp of ["/", "/admin"]) {
      const reply = await raw.connect(undefined, nsp);
      assert.deepEqual(Object.keys(reply).filter((k) => reply[k] !== undefined), ["sid", "pid"]);
      const ns = nsp === "/" ? "" : nsp + ",";
      const socket = p.app.socket(reply.sid, nsp);
      const offset = (m) => JSON.parse(m.slice(m.indexOf("["))).at(-1);
      const offsets = [];
      socket.emit("a");
      offsets.push(offset(await raw.find((m) => m.startsWith(`42${ns}["a"`))));
      socket.emit("b", { x: [1] }, "last");
      const b = await raw.next();
      assert.ok(b.startsWith(`42${ns}["b",{"x":[1]},"last","`), b);
      offsets.push(offset(b));
      socket.emit("c", Buffer.from("123"));
      const c = await raw.next();
      assert.ok(c.startsWith(`451-${ns}["c",{"_placeholder":true,"num":0},"`), c);
      offsets.push(offset(c));
      assert.deepEqual(await raw.next(), Buffer.from("123"));
      socket.emit("d", 1, () => {});
      assert.match(await raw.next(), /^42(\/admin,)?\d+\["d",1\]$/);
      socket.emit("e", Buffer.from("4"), () => {});
      assert.match(await raw.next(), /^451-(\/admin,)?\d+\["e",\{"_placeholder":true,"num":0\}\]$/);
      await raw.next();
      for (const o of offsets) assert.equal(typeof o, "string");
      assert.equal(new Set(offsets).size, 3, "no two alike");
      for (const o of offsets) assert.ok(!o.includes(reply.pid) && !reply.pid.includes(o), "an offset tells nothing of the pid");
    }
    raw.close();
  });

  it("pids are long and different", async (t) => {
    const p = await pair(t);
    const pids = new Set();
    for (let i = 0; i < 20; i++) {
      const raw = await Raw.open(p.direct);
      const { sid, pid } = await raw.connect();
      assert.ok(pid.length >= 20, pid);
      assert.notEqual(pid, sid);
      pids.add(pid);
      raw.send("41");
      raw.close();
    }
    assert.equal(pids.size, 20);
  });

  it("CONNECT first, then the missed events", async (t) => {
    const p = await pair(t);
    const raw = await Raw.open(p.direct);
    const { sid, pid } = await raw.connect();
    p.app.stream("/", sid, 1, 1);
    const offset = JSON.parse((await raw.next()).slice(2)).at(-1);
    raw.close();
    p.app.stream("/", sid, 2, 4);
    const again = await Raw.open(p.direct);
    again.send(`40${JSON.stringify({ pid, offset })}`);
    const got = [];
    for (let i = 0; i < 4; i++) got.push(await again.next());
    assert.deepEqual(JSON.parse(got[0].slice(2)), { sid, pid });
    assert.deepEqual(got.slice(1).map((m) => m.slice(0, 8)), ['42["n",2', '42["n",3', '42["n",4']);
    again.close();
  });

  it("an event without arguments but its name, and strange payloads, keep their bytes", async (t) => {
    const p = await pair(t);
    const raw = await Raw.open(p.direct);
    const { sid } = await raw.connect();
    const socket = p.app.socket(sid);
    for (const args of [
      ["]"],
      ['quote " and \\ back', "]"],
      [[[[]]], {}, null, 1.5e10, true],
      ["\u2028 ü€😀 \u0000"],
      [["nested", ["]"]]],
    ]) {
      socket.emit("odd", ...args);
      const parsed = JSON.parse((await raw.next()).slice(2));
      assert.deepEqual(parsed.slice(0, -1), ["odd", ...args]);
      assert.equal(typeof parsed.at(-1), "string");
    }
    raw.close();
  });
});
