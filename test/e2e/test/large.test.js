// Large messages from clients: who judges them, and what they may cost.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { onlyHoldfast } from "../lib/holdfast.js";
import { BINARY, frame, Frames, TEXT } from "../lib/frames.js";
import { HUNGER, resident } from "../lib/memory.js";
import { Polling, Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { SLOW, until } from "../lib/wait.js";

const MB = 1e6;
const skip = onlyHoldfast;
const parallel = { concurrency: 2 };

/** An application that says how much it got. */
const sized = (io) =>
  io.on("connection", (socket) => socket.on("big", (data, ack) => ack(data.length)));

describe("a server that announces no maxPayload", parallel, () => {
  for (const transports of [["websocket"], ["polling"]]) {
    for (const links of [["polling", "websocket"], ["polling"]]) {
      if (transports[0] === "websocket" && links.length === 1) continue;
      it(`is sent what it takes: ${transports}, the server with ${links}`, { timeout: 60_000 * SLOW }, async (t) => {
        const s = await stack(t, { server: "4.0.2", io: { maxHttpBufferSize: 2e7, transports: links }, app: sized, native: "legacy" });
        const c = s.client("4.8.4", { transports });
        await c.main.connected();
        assert.deepEqual(await c.main.ask("big", "x".repeat(5 * MB)), [5 * MB]);
        assert.deepEqual(await c.main.ask("big", Buffer.alloc(3 * MB)), [3 * MB]);
        assert.equal(c.main.disconnects.length, 0);
      });
    }

    it(`judges, and the client is closed as without holdfast: ${transports}`, { skip }, async (t) => {
      const s = await stack(t, { server: "4.0.2", io: { maxHttpBufferSize: 2 * MB }, app: sized });
      const seen = [];
      for (const url of [s.app.url, s.direct]) {
        const { io } = await import("socket.io-client-4.8.4");
        const c = io(url, { transports, reconnection: false, forceNew: true });
        t.after(() => c.close());
        seen.push(
          await new Promise((resolve) => {
            c.on("connect", () => c.emit("big", "x".repeat(6 * MB), () => resolve("taken")));
            c.on("disconnect", resolve);
          }),
        );
      }
      // engine.io 5 breaks the connection. A client that polls sees that as an error of its POST, or
      // as the end of its poll, whichever comes first.
      for (const reason of seen) assert.match(reason, transports[0] === "polling" ? /^transport (close|error)$/ : /^transport close$/);
    });
  }

  it("is sent fragmented messages, whole", async (t) => {
    const s = await stack(t, { server: "4.0.2", io: { maxHttpBufferSize: 2e7 }, app: sized, native: "legacy" });
    const w = await Frames.open(s.direct);
    await w.connect();
    const part = "x".repeat(100_000);
    w.write(frame(TEXT, '421["big","', { fin: false }));
    for (let i = 0; i < 30; i++) w.write(frame(0, part, { fin: false }));
    w.write(frame(0, '"]'));
    await w.find((m) => m === "431[3000000]");
    w.close();
  });

  it("is not asked where engineio.max_payload says what is too large, and the log names the key", { skip }, async (t) => {
    const s = await stack(t, { server: "4.0.2", io: { maxHttpBufferSize: 2e7 }, app: sized, config: { engineio: { max_payload: "2MB" } } });
    const raw = await Raw.open(s.direct);
    assert.equal(raw.handshake.maxPayload, 2 * MB);
    await raw.connect();
    raw.send(`421["big","${"x".repeat(1.5 * MB)}"]`);
    assert.match(await raw.find(/^43/), /1500000/);
    raw.send(`421["big","${"x".repeat(2.5 * MB)}"]`);
    assert.equal((await raw.end()).code, 1009);
    const p = await Polling.open(s.direct);
    await p.connect();
    assert.equal((await p.post(`421["big","${"x".repeat(2.5 * MB)}"]`)).status, 413);
    await s.hf.says(/message is too large.*engineio\.max_payload/);
  });

  it("has the memory for incomplete messages shared by all clients", { skip, timeout: 60_000 * SLOW }, async (t) => {
    const config = { recovery: { buffer: { total_bytes: "32MiB", window: "64KiB", max_bytes: "1MiB" } } };
    const s = await stack(t, { server: "4.0.2", io: { maxHttpBufferSize: 1e8 }, app: sized, config });
    const before = await resident(s.hf.pid);
    const part = frame(0, Buffer.alloc(500_000), { fin: false });
    const wires = await Promise.all(Array.from({ length: 20 }, () => Frames.open(s.direct)));
    for (const w of wires) {
      w.write(frame(BINARY, "", { fin: false }));
      for (let i = 0; i < 10; i++) w.write(part);
    }
    await until(() => wires.filter((w) => w.code === 1013 || w.ended).length >= 18, "most to be turned away");
    const grown = (await resident(s.hf.pid)) - before;
    assert.ok(grown < 48 * MB * HUNGER, `RSS grew by ${grown}`);
    await s.hf.says(/limit reached.*recovery\.buffer\.total_bytes/);
    wires.forEach((w) => w.close());
    await until(async () => (await s.hf.metrics()).sum("holdfast_clients") === 0, "the clients to be gone");
    const c = s.client("4.8.4", { transports: ["websocket"] }); // all is given back
    await c.main.connected();
    assert.deepEqual(await c.main.ask("big", "x".repeat(5 * MB)), [5 * MB]);
  });

  it("and reads nothing: what waits for it counts in that memory too", { skip, timeout: 60_000 * SLOW }, async (t) => {
    const config = { recovery: { buffer: { total_bytes: "32MiB", window: "64KiB", max_bytes: "1MiB" } } };
    const s = await stack(t, { server: "4.0.2", io: { maxHttpBufferSize: 1e8 }, app: sized, config, upstreamRelay: true });
    const clients = Array.from({ length: 8 }, () => s.client("4.8.4", { transports: ["websocket"], reconnection: false }));
    for (const c of clients) await c.main.connected();
    const before = await resident(s.hf.pid);
    s.upRelay.blackhole({ down: false });
    for (const c of clients) {
      c.socket.emit("big", "x".repeat(5 * MB), () => {});
      await until(async () => (await s.hf.metrics()).sum("holdfast_refused_total", { limit: "incomplete_bytes" }) > 0 || c.ws.bufferedAmount === 0, "the message to be taken or refused");
    }
    await until(async () => (await s.hf.metrics()).sum("holdfast_refused_total", { limit: "incomplete_bytes" }) >= 1, "clients to be turned away");
    const grown = (await resident(s.hf.pid)) - before;
    assert.ok(grown < 64 * MB * HUNGER, `RSS grew by ${grown}`);
    s.upRelay.heal();
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    await until(() => s.app.received.length >= 1, "what was taken to arrive");
    assert.deepEqual(await c.main.ask("big", "x".repeat(5 * MB)), [5 * MB]);
  });
});

describe("a large broadcast", () => {
  it("reaches everybody, though memory is short", { timeout: 60_000 }, async (t) => {
    const config = { recovery: { buffer: { total_bytes: "8MiB" } } };
    const s = await stack(t, { config, native: "legacy" });
    const clients = Array.from({ length: 10 }, () => s.client("4.8.4", { transports: ["websocket"] }));
    for (const c of clients) await c.main.connected();
    s.app.io.emit("big", "x".repeat(0.8 * MB));
    for (const c of clients) await until(() => c.main.events.some((e) => e[0] === "big"), "the broadcast to arrive");
    assert.deepEqual(clients.map((c) => c.main.disconnects.length), clients.map(() => 0));
  });
});
