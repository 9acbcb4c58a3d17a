// python-socketio behind holdfast: another server, with peculiarities of its own.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { NATIVE, onlyHoldfast } from "../lib/holdfast.js";
import { PythonApp, missing } from "../lib/python.js";
import { stack } from "../lib/stack.js";
import { SLOW, sleep, until } from "../lib/wait.js";

for (const kind of ["wsgi", "asgi"]) {
  const lacking = missing(kind);
  const transports = kind === "wsgi" ? ["polling", "default"] : ["polling", "websocket", "default"];

  describe(`python-socketio, ${kind === "wsgi" ? "threads, polling only" : "asyncio on aiohttp"}`, { concurrency: 2, skip: lacking }, () => {
    async function begin(t, how, options = {}) {
      const app = await PythonApp.start(kind, options);
      const s = await stack(t, { upstreamPort: app.port, config: options.config });
      s.cleanups.unshift(() => app.stop());
      const c = s.client(how.version, { ...how.options, ...options.client });
      await c.main.connected();
      if (how.transport === "default" && kind === "asgi") await c.upgraded();
      return { app, s, c, id: c.main.id };
    }

    function checkPayloads(c) {
      for (const [, i, second, third] of c.main.events.filter((e) => e[0] === "n")) {
        if (i % 3) assert.equal(second, "text");
        else {
          assert.deepEqual(Buffer.from(second), Buffer.alloc(i % 500, i % 256));
          assert.equal(Buffer.from(third.deep[0]).toString(), "x");
          assert.equal(third.deep[1], "ü€😀");
        }
      }
    }

    combos("events, binary and acks, both ways", { transports, native: "legacy" }, async (t, how) => {
      const { app, c, id } = await begin(t, how, { client: { auth: { token: "x" } } });
      await app.control("stream", id, 1, 60);
      await c.main.stream(1, 60);
      checkPayloads(c);
      const [text, bin] = await c.main.ask("echo", "hello", Buffer.from("bytes"));
      assert.equal(text, "hello");
      assert.equal(Buffer.from(bin).toString(), "bytes");
      c.socket.on("question", (x, answer) => answer(x + 1));
      await app.control("ask", id);
      await until(async () => (await app.log()).answer?.[0] === 21, "the answer");
      const admin = c.of("/admin");
      await admin.connected();
      assert.equal((await admin.ask("echo", 1))[0], 1);
      const log = await app.log();
      assert.deepEqual(log.connects.map((x) => x.auth), [{ token: "x" }, null]);
    });

    combos("recovers", { transports, native: false }, async (t, how) => {
      const { app, s, c, id } = await begin(t, how, { pingInterval: 1 });
      await app.control("stream", id, 1, 10);
      await c.main.stream(1, 10);
      s.relay.down();
      await c.main.disconnected();
      await app.control("stream", id, 11, 50);
      c.socket.on("question", (x, answer) => answer(x * 2));
      await app.control("ask", id);
      const pings = await app.pings();
      await until(async () => (await app.pings()) >= pings + 3, "heartbeats without the client"); // one only when the previous one is answered
      s.relay.up();
      await c.main.connected(2);
      await c.main.stream(1, 50);
      checkPayloads(c);
      await until(async () => (await app.log()).answer?.[0] === 40, "the answer");
      await s.hit(c, "abandon");
      await app.control("stream", id, 51, 60);
      await c.main.connected(3);
      await c.main.stream(1, 60);
      c.main.assertRecovered(2);
      // It accepts at most 16 packets in a payload, so a client must not send too much at a time.
      for (let i = 1; i <= 20; i++) {
        c.socket.emit("up", i);
        if (i % 5 === 0) await c.main.ask("echo", i);
      }
      await until(async () => (await app.log()).received.length === 20, "what the client sends");
      const log = await app.log();
      assert.deepEqual(log.received, Array.from({ length: 20 }, (_, i) => i + 1));
      assert.equal(log.connects.length, 1);
      assert.deepEqual(log.disconnects, []);
    });

    it("expires, and the application learns of it", { skip: onlyHoldfast }, async (t) => {
      const { app, s, c, id } = await begin(t, { version: "4.8.4", options: {} }, { config: { recovery: { max_disconnection_duration: "300ms" } } });
      // A cut in the middle of an upgrade would show only by the heartbeat.
      if (kind === "asgi") await c.upgraded();
      await s.lose(c);
      await until(async () => (await app.log()).disconnects.some((d) => d.sid === id), "the application to be told");
      s.relay.up();
      await until(() => c.socket.connected && c.main.id !== id, "a fresh session");
      assert.equal((await c.main.ask("echo", 1))[0], 1);
    });

    it("a refusal in its connect handler", { skip: NATIVE && "as the server itself" }, async (t) => {
      const app = await PythonApp.start(kind);
      const s = await stack(t, { upstreamPort: app.port });
      s.cleanups.unshift(() => app.stop());
      const c = s.client("4.8.4", { transports: ["polling"], auth: { deny: true } });
      await until(() => c.main.errors.length > 0, "the refusal");
      assert.equal(c.main.errors[0].message, "not you");
    });

    it("a refusal by DISCONNECT, with always_connect: no client is recovered to the socket that is gone", { skip: onlyHoldfast }, async (t) => {
      const app = await PythonApp.start(kind, { alwaysConnect: true });
      const s = await stack(t, { upstreamPort: app.port });
      s.cleanups.unshift(() => app.stop());
      const c = s.client("4.8.4", { transports: ["polling"], auth: { deny: true } });
      // It takes the packet for a parse error, as without holdfast.
      await c.main.connected(3, 10000);
      assert.deepEqual(c.main.connects.map((x) => x.recovered), c.main.connects.map(() => false));
    });

    it("its disconnect() while the client is away", { skip: onlyHoldfast }, async (t) => {
      const { app, s, c, id } = await begin(t, { version: "4.6.2", options: { transports: ["polling"] } });
      await app.control("stream", id, 1, 2);
      await c.main.stream(1, 2);
      await s.lose(c);
      await app.control("kick", id);
      await until(async () => (await app.log()).disconnects.length === 1, "the application's own disconnect");
      s.relay.up();
      await c.main.connected(2);
      assert.equal(c.main.last.recovered, false);
      assert.notEqual(c.main.last.id, id);
    });

    it("a heartbeat for a long time: one ping loop, not more and more", { skip: onlyHoldfast, timeout: 30000 * SLOW }, async (t) => {
      const { app, s, c } = await begin(t, { version: "4.8.4", options: {} }, { pingInterval: 1, config: { engineio: { ping_interval: "1s", ping_timeout: "1500ms" } } });
      let pings = 0;
      c.manager.on("ping", () => pings++);
      for (let i = 1; i <= 4; i++) {
        await s.hit(c);
        await c.main.connected(1 + c.main.disconnects.length);
        await sleep(600);
      }
      pings = 0;
      const since = performance.now();
      await until(() => pings >= 3, "three pings");
      await sleep(500);
      const seconds = (performance.now() - since) / 1000;
      assert.ok(pings <= seconds + 2, `${pings} pings in ${seconds} s`);
      assert.deepEqual((await app.log()).disconnects, []);
      c.main.assertRecovered(c.main.disconnects.length);
    });
  });
}
