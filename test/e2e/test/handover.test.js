// A handover: another program takes over, and no session is lost.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { CLIENTS, TRANSPORTS } from "../lib/client.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { sleep, until } from "../lib/wait.js";

const skip = onlyHoldfast || (process.platform !== "linux" && "needs Linux");

const status = async (s) => {
  const { status, text } = await s.hf.admin("/api/status");
  return status === 200 ? JSON.parse(text) : null;
};

/** Hands over, and returns the outcome from the status report. */
async function handOver(s, result = "ok") {
  const before = (await status(s)).handover.count;
  s.hf.signal("SIGUSR2");
  let last;
  await until(
    async () => (last = (await status(s))?.handover) && last.count > before,
    () => `the outcome of a handover\n${s.hf.log.slice(-4000)}`,
    15000,
  );
  assert.equal(last.result, result, `${last.reason}\n${s.hf.log.slice(-4000)}`);
  return last;
}

describe("a handover", { concurrency: 3, skip }, () => {
  it("keeps a client's session, in the same process", async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 10);
    await c.main.stream(1, 10);
    const out = await handOver(s);
    assert.equal(out.sessions, 1);
    assert.equal(out.lost_sessions, 0);
    await c.main.connected(2);
    c.main.assertRecovered(1);
    s.app.stream("/", id, 11, 20);
    await c.main.stream(1, 20);
    assert.equal((await c.main.ask("echo", "x"))[0], "x");
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(s.hf.exit, undefined);
  });

  // Every client receives numbered events all the time, and sends some. What a client sends counts if its
  // WebSocket was open: socket.io-client drops the rest without a word. Polling ones send again until there
  // is an acknowledgement.
  it("ten in a row, with 30 clients of all transports and floods both ways", { timeout: 120000 }, async (t) => {
    const answer = (io) => io.on("connection", (socket) => socket.on("up", (n, ack) => ack?.()));
    const s = await stack(t, { config: { log: { level: "info" } }, app: answer });
    const clients = [];
    for (let i = 0; i < 30; i++) {
      const transport = Object.keys(TRANSPORTS)[i % 3];
      const options = transport === "polling" ? { retries: 20, ackTimeout: 10000 } : {};
      const c = s.client(CLIENTS[i % 2], { transports: TRANSPORTS[transport] ?? ["polling", "websocket"], ...options });
      clients.push(c);
      c.polls = transport === "polling";
      c.sent = 0;
    }
    for (const c of clients) c.id = (await c.main.connected()).id;
    for (const c of clients) if (!c.polls) await c.upgraded();
    const pings = s.app.pings;
    const tickers = clients.map((c, i) => s.app.ticker("/", c.id, { every: 10 + (i % 5) }));
    const timers = clients.map((c, i) =>
      setInterval(() => {
        if (c.polls ? c.sent < 200 : c.ws?.readyState === 1 && c.main.socket.connected) c.main.socket.emit("up", ++c.sent);
      }, 15 + (i % 7)),
    );
    for (let n = 1; n <= 10; n++) {
      const out = await handOver(s);
      assert.equal(out.sessions, 30);
      assert.equal(out.lost_sessions, 0);
      for (const c of clients) await c.main.connected(n + 1);
      if (n % 3 === 0) await sleep(200); // some handovers come before all clients have upgraded
    }
    timers.forEach(clearInterval);
    const last = tickers.map((ticker) => ticker.stop());
    for (const [i, c] of clients.entries()) {
      await c.main.stream(1, last[i]);
      c.main.assertRecovered(10);
    }
    const received = (c) => s.app.received.filter((r) => r.id === c.id && r.args[0] === "up").map((r) => r.args[1]);
    for (const c of clients) {
      await until(() => received(c).at(-1) === c.sent, () => `event ${c.sent} at the server, have ${received(c).at(-1)}`);
      const got = c.polls ? received(c).filter((n, i, all) => all.indexOf(n) === i) : received(c);
      assert.deepEqual(got, Array.from({ length: c.sent }, (_, i) => i + 1));
    }
    assert.deepEqual(s.app.disconnects, []);
    assert.equal(s.app.connections.length, 30);
    assert.ok(s.app.pings - pings <= 2 * 30, "one ping loop for each connection");
  });
});
