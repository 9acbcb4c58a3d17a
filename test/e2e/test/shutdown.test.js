// SIGTERM: no new clients; those that are connected continue until the server closes them or the
// time is over.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { WebSocketServer } from "ws";
import { combos } from "../lib/combos.js";
import { Holdfast, accepts, onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw, request } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { never, sleep, stopwatch, until, within } from "../lib/wait.js";

const skip = onlyHoldfast;
const config = { shutdown: { drain_timeout: "60s" } }; // longer than any wait of these tests

/** Sends SIGTERM, and waits until holdfast has begun to drain. */
async function draining(s) {
  s.hf.signal("SIGTERM");
  await until(async () => (await s.hf.admin("/readyz")).status !== 200, "readiness to turn false");
}

describe("SIGTERM", { concurrency: 4, skip }, () => {
  it("without clients ends immediately, with status 0", async (t) => {
    const s = await stack(t, { config });
    const elapsed = stopwatch();
    s.hf.signal("SIGTERM");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    assert.ok(elapsed() < 5000, `after ${elapsed()} ms, and not after a drain of 60 s`);
    s.hf.checkHealth();
  });

  it("SIGINT is the same", async (t) => {
    const s = await stack(t, { config });
    s.hf.signal("SIGINT");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
  });

  it("refuses new handshakes with 503 and Connection: close, and turns readiness off, not health", async (t) => {
    const s = await stack(t, { config });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    await draining(s);
    assert.equal((await s.hf.admin("/readyz")).status, 503);
    assert.equal((await s.hf.admin("/healthz")).status, 200);
    const res = await request(`${s.direct}/socket.io/?EIO=4&transport=polling`);
    assert.equal(res.status, 503);
    assert.equal(res.headers.connection, "close");
    assert.ok(res.body.length > 0);
    const raw = new Raw(s.direct);
    await until(() => raw.refused, "the refusal");
    assert.equal(raw.refused.status, 503);
    assert.equal(s.hf.exit, undefined, "it still runs for the one that is there");
  });

  combos("lets polls, POSTs, events and acks of known sessions continue", {}, async (t, how) => {
    const s = await stack(t, { config, io: { pingInterval: 300 } });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    await draining(s);
    s.app.stream("/", id, 1, 20);
    await c.main.stream(1, 20);
    await s.app.heartbeats(3);
    assert.equal((await c.main.ask("echo", "x"))[0], "x");
    assert.deepEqual(c.main.disconnects, []);
    assert.equal(s.hf.exit, undefined);
    // It ends with its last client.
    c.close();
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    assert.equal(s.app.disconnects.length, 1);
  });

  it("lets a session upgrade", async (t) => {
    const s = await stack(t, { config });
    const poll = await Polling.open(s.direct);
    await poll.connect();
    await draining(s);
    const raw = await Raw.open(s.direct, { sid: poll.sid });
    raw.send("2probe");
    assert.equal(await raw.next(), "3probe");
    raw.send("5", '421["echo","x"]');
    assert.equal(await raw.next(), '431["x"]');
    raw.close();
  });

  it("a client that had its handshake before may still resume its session", async (t) => {
    const s = await stack(t, { config });
    const first = await Raw.open(s.direct);
    const { sid, pid } = await first.connect();
    const [ws, poll] = [await Raw.open(s.direct), await Polling.open(s.direct)];
    first.close();
    s.app.stream("/", sid, 1, 2);
    await draining(s);
    assert.equal((await ws.connect({ pid })).sid, sid);
    assert.match(await ws.find(/^42/), /^42\["n",1,/);
    // It may also resume by a takeover: its handshake is the later one.
    assert.equal((await poll.connect({ pid })).sid, sid);
    s.app.stream("/", sid, 3, 3);
    await poll.pollFor((p) => p.startsWith('42["n",3'));
    assert.equal(s.app.disconnects.length, 0);
  });

  combos("a client that drops while it drains is refused, and comes back to the next holdfast", { transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { config: { shutdown: { drain_timeout: "1s" } } });
    const c = s.client(how.version, how.options);
    await c.main.connected();
    const other = s.client("4.8.4", { transports: ["websocket"], reconnection: false });
    await other.main.connected();
    await draining(s);
    await s.hit(c);
    await until(() => c.main.errors.length > 0, "a refusal");
    assert.equal(c.main.connects.length, 1);
    await within(s.hf.exited, "the exit");
    const next = await Holdfast.start(s.app.port, { listen: s.hf.config.listen });
    t.after(() => next.stop());
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    c.close();
    await sleep(50);
    await s.app.stop();
  });

  it("waits for the server, which closes its sockets by itself", async (t) => {
    const s = await stack(t, { config });
    const c = s.client("4.8.4", { transports: ["websocket"], reconnection: false });
    await c.main.connected();
    await draining(s);
    await never(() => s.hf.exit, "an exit while the server holds on", 300);
    await s.app.stop();
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    await c.main.disconnected();
  });

  it("ends when the drain time is over, with status 0", async (t) => {
    const s = await stack(t, { config: { shutdown: { drain_timeout: "700ms" } } });
    const c = s.client("4.8.4", { transports: ["websocket"], reconnection: false });
    await c.main.connected();
    const since = Date.now();
    s.hf.signal("SIGTERM");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    assert.ok(Date.now() - since >= 690, `not before: after ${Date.now() - since} ms`);
    await s.hf.says((r) => r.msg === "session closed" && r.reason === "draining"); // it did not wait for its client
    await c.main.disconnected();
    await until(() => s.app.disconnects.length === 1, "the server to see it");
    assert.equal(await accepts(s.hf.port), false);
    s.hf.checkHealth();
  });

  it("drain_timeout 0 ends immediately", async (t) => {
    const s = await stack(t, { config: { shutdown: { drain_timeout: "0" } } });
    const c = s.client("4.8.4", { transports: ["polling"], reconnection: false });
    await c.main.connected();
    s.hf.signal("SIGTERM");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    await c.main.disconnected();
  });

  it("a second signal ends immediately", async (t) => {
    const s = await stack(t, { config });
    const c = s.client("4.8.4", { transports: ["websocket"], reconnection: false });
    await c.main.connected();
    await draining(s);
    const elapsed = stopwatch();
    s.hf.signal("SIGTERM");
    const exit = await within(s.hf.exited, "the exit");
    assert.ok(elapsed() < 5000, `after ${elapsed()} ms, and not after a drain of 60 s`);
    assert.ok(exit.code !== null || exit.signal === "SIGTERM", JSON.stringify(exit));
    s.hf.checkHealth();
  });

  it("with parked sessions only: does not wait for them forever", async (t) => {
    const s = await stack(t, { config: { shutdown: { drain_timeout: "1s" } } });
    const c = s.client("4.8.4", { transports: ["websocket"], reconnection: false });
    await c.main.connected();
    await s.lose(c);
    s.hf.signal("SIGTERM");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    await until(() => s.app.disconnects.length === 1, "the server to see it");
  });

  describe("what passes through", { concurrency: 4 }, () => {
    /** A server of slow answers, and of WebSockets at /echo. `release()` ends the answers. */
    async function slow(t, drainTimeout) {
      const waiting = [];
      const s = await stack(t, {
        config: { shutdown: { drain_timeout: drainTimeout } },
        http: (req, res) => {
          if (req.url !== "/silent") {
            res.writeHead(200);
            res.write("begin ");
          }
          if (req.url === "/quick") res.end("end");
          else waiting.push(() => res.end("end"));
        },
      });
      const sockets = new WebSocketServer({ noServer: true });
      s.app.http.on("upgrade", (req, socket, head) => {
        if (!req.url.startsWith("/echo")) return;
        sockets.handleUpgrade(req, socket, head, (ws) => ws.on("message", (m) => ws.send(`${m}`)));
      });
      s.release = () => waiting.splice(0).forEach((end) => end());
      s.waiting = waiting;
      s.echo = () => new Raw(s.direct, { path: "/echo", eio: "", transport: "" });
      return s;
    }

    it("a download may continue for longer than a second, and ends the drain when it ends", async (t) => {
      const s = await slow(t, "60s");
      const res = request(`${s.direct}/download`);
      await until(() => s.waiting.length === 1, "the request");
      await draining(s);
      await never(() => s.hf.exit, "an exit while it continues", 1500);
      s.release();
      assert.equal((await res).body, "begin end");
      assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    });

    it("a WebSocket stays until it ends by itself", async (t) => {
      const s = await slow(t, "60s");
      const raw = s.echo();
      await raw.opened();
      await draining(s);
      await never(() => s.hf.exit || raw.closed, "an end", 1500);
      raw.send("still there?");
      assert.equal(await raw.next(), "still there?");
      raw.close();
      assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    });

    it("is cut when the drain time is over; what has no answer yet gets 503", async (t) => {
      const s = await slow(t, "1500ms");
      const raw = s.echo();
      await raw.opened();
      const cut = request(`${s.direct}/download`).then(
        () => "complete",
        () => "cut",
      );
      const silent = request(`${s.direct}/silent`);
      await until(() => s.waiting.length === 2, "the requests");
      const since = Date.now();
      await draining(s);
      await until(() => raw.closed, "the WebSocket's end");
      assert.ok(Date.now() - since > 1300, `cut after ${Date.now() - since} ms`);
      assert.equal((await silent).status, 503);
      assert.equal(await cut, "cut");
      assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    });

    it("while it drains: requests are answered, with Connection: close, and WebSockets refused", async (t) => {
      const s = await slow(t, "60s");
      const res = request(`${s.direct}/download`);
      await until(() => s.waiting.length === 1, "the request");
      await draining(s);
      const quick = await request(`${s.direct}/quick`);
      assert.equal(quick.body, "begin end");
      assert.equal(quick.headers.connection, "close");
      const raw = s.echo();
      await until(() => raw.refused, "the refusal");
      assert.equal(raw.refused.status, 503);
      s.release();
      assert.equal((await res).body, "begin end");
      assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
    });
  });

  it("a download in progress may finish", async (t) => {
    let begun;
    const s = await stack(t, {
      config,
      http: (req, res) => {
        begun = true;
        res.writeHead(200);
        res.write("begin ");
        setTimeout(() => res.end("end"), 500);
      },
    });
    const res = request(`${s.direct}/download`);
    await until(() => begun, "the request");
    s.hf.signal("SIGTERM");
    assert.equal((await res).body, "begin end");
    assert.deepEqual(await within(s.hf.exited, "the exit"), { code: 0, signal: null });
  });
});
