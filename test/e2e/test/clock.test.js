// The wall clock jumps: nothing that holdfast does depends on it.
import { after, before, describe, it } from "node:test";
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { noOpenSSL, secret } from "../lib/certificates.js";
import { jump, jumpyBinary } from "../lib/clock.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { SLOW, stopwatch, until } from "../lib/wait.js";

const skip = onlyHoldfast;
const heartbeats = { io: { pingInterval: 300, pingTimeout: 20000 } }; // the jumps are by an hour
const plain = { transports: ["websocket"] };

describe("a jump of the clock", { skip, concurrency: 3 }, () => {
  let dir, bin;
  before(async () => {
    dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-clock-"));
    bin = await jumpyBinary(dir);
  });
  after(() => rm(dir, { recursive: true, force: true }));
  const start = (t, options) => stack(t, { ...heartbeats, ...options, holdfast: { bin } });

  for (const tls of [false, true]) {
    it(`ends no connection and no session${tls ? ", with TLS" : ""}`, { timeout: 60000 * SLOW, skip: tls && noOpenSSL }, async (t) => {
      const files = tls && (await secret(t));
      const s = await start(t, { config: tls ? { tls: { cert_file: files.cert, key_file: files.key } } : {} });
      const options = tls ? { rejectUnauthorized: false } : {};
      if (tls) for (const o of [s, s.hf]) o.url = o.url.replace("http:", "https:");
      const live = [["websocket"], ["polling"], ["polling", "websocket"]].map((transports) => s.client("4.8.4", { transports, ...options }));
      const away = s.client("4.8.4", { ...plain, ...options, reconnectionDelay: 200, reconnectionDelayMax: 200 });
      for (const c of [...live, away]) await c.main.connected();
      await live[2].upgraded();
      const seen = s.app.footprint();
      const tickers = [...live, away].map((c) => s.app.ticker("/", c.main.id, { every: 10 }));
      const counts = live.map((c) => {
        const count = { pings: 0 };
        c.manager.on("ping", () => count.pings++);
        return count;
      });
      for (const [times, by] of [1, -1, -1, 1].entries()) {
        away.manager.engine.close(); // it is parked at the jump
        await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === 1, "the session to be parked");
        const from = counts.map((c) => c.pings);
        await jump(s.hf, by, options);
        await away.main.connected(times + 2);
        await until(() => counts.every((c, i) => c.pings >= from[i] + 4), "heartbeats after the jump", 10000);
      }
      const lasts = tickers.map((x) => x.stop());
      for (const [i, c] of [...live, away].entries()) {
        await c.main.stream(1, lasts[i]);
        assert.deepEqual(await c.main.ask("echo", i), [i]);
      }
      for (const c of live) assert.deepEqual(c.main.disconnects, []);
      away.main.assertRecovered(4);
      assert.deepEqual(s.app.footprint(), seen, "the server must not notice");
    });
  }

  for (const [way, by] of [["forward", 1], ["back", -1]]) {
    it(`${way} does not change how long sessions stay parked`, { timeout: 60000 * SLOW }, async (t) => {
      const s = await start(t, { config: { recovery: { max_disconnection_duration: "3s" } } });
      const c = s.client("4.8.4", { ...plain, reconnection: false });
      await c.main.connected();
      const said = (msg) => s.hf.records.find((r) => r.msg === msg && r.namespace === "/");
      const earliest = performance.now() + 3000;
      c.manager.engine.close();
      await until(() => said("session parked"), "the session to be parked");
      const elapsed = stopwatch();
      await jump(s.hf, by);
      const ended = await until(() => said("session closed"), "the session to expire", 10000);
      const now = performance.now();
      assert.equal(ended.reason, "expired");
      assert.ok(now >= earliest, `expired ${earliest - now} ms too early`);
      assert.ok(elapsed() < 3000 + 1000 * SLOW, `expired ${elapsed()} ms after it was parked`);
    });

    it(`${way} does not hide a client or a server that is silent`, { timeout: 60000 * SLOW }, async (t) => {
      const s = await start(t, { upstreamRelay: true, io: { pingInterval: 300, pingTimeout: 2700 }, config: { engineio: { ping_interval: "300ms", ping_timeout: "1500ms" } } });
      const c = s.client("4.8.4", plain);
      await c.main.connected();
      const parkings = async (reason) => (await s.hf.metrics()).sum("holdfast_parkings_total", { reason });
      s.relay.mode = "refuse"; // or the client might be back before holdfast finds out
      s.relay.blackhole({ up: true, down: true });
      await jump(s.hf, by);
      await until(() => parkings("ping_timeout"), "the client's silence to be found");
      s.relay.up();
      await c.main.connected(2);
      c.main.assertRecovered();
      const drops = c.main.disconnects.length;
      s.upRelay.blackhole({ up: true, down: true });
      await jump(s.hf, by);
      await c.main.disconnected(drops + 1);
      await c.main.connected(drops + 2);
      assert.equal(c.main.last.recovered, false);
    });

    it(`${way} in the middle of a poll, a POST, a header and an upgrade: all succeed`, { timeout: 60000 * SLOW }, async (t) => {
      const s = await start(t, { io: {} }); // without pings in between
      const client = await Polling.open(s.direct);
      const { sid } = await client.connect();
      const probe = await Raw.open(s.direct, { sid: client.sid, pings: true });
      probe.send("2probe");
      assert.equal(await probe.next(), "3probe");

      const half = (text) => {
        const socket = net.connect(s.hf.port, "127.0.0.1").on("error", () => {});
        t.after(() => socket.destroy());
        socket.answer = "";
        socket.on("data", (d) => (socket.answer += d));
        socket.write(text);
        return socket;
      };
      const target = new URL(client.at());
      const body = '42["up","in two parts"]';
      const post = half(`POST ${target.pathname}${target.search} HTTP/1.1\r\nHost: app\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 9)}`);
      const header = half("GET /api/hello HTTP/1.1\r\nHost: a");
      const other = await Polling.open(s.direct);
      const { sid: otherID } = await other.connect();
      const poll = other.poll();
      await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "live" }) === 2, "both sessions");
      await jump(s.hf, by);

      s.app.socket(otherID).emit("n", 1);
      assert.match((await poll).body, /"n",1,/);
      post.write(body.slice(9));
      await until(() => /^HTTP\/1.1 200 [^]*ok$/.test(post.answer), () => `the POST's answer: ${post.answer}`);
      await until(() => s.app.receivedArgs("up").length === 1, "what was posted");
      header.write("pp\r\n\r\n");
      await until(() => /^HTTP\/1.1 \d+ /.test(header.answer), "an answer to the header");
      probe.send("5");
      s.app.socket(sid).emit("n", 2);
      await probe.find(/"n",2,/);
    });
  }
});
