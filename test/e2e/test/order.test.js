// A client gets every packet in the server's order, of every type and over every transport, and the
// server what a client sends.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { NATIVE, onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { sleep, until } from "../lib/wait.js";

const parallel = { concurrency: 2 };

/** Sends a mix of packet kinds, each with its number first; records their order at the client. */
function mix(s, c, id) {
  const order = [];
  c.socket.on("n", (i) => order.push(i));
  c.socket.on("question", (i, ...rest) => {
    order.push(i);
    rest.pop()(i);
  });
  const answers = [];
  const socket = s.app.socket(id);
  const send = (i) => {
    switch (i % 6) {
      case 0:
        return socket.emit("n", i, Buffer.alloc(1 + (i % 3000), i & 255));
      case 1:
        return socket.emit("question", i, (x) => answers.push(x));
      case 2:
        return socket.emit("n", i, { deep: [Buffer.from([i & 255]), { more: Buffer.alloc(10) }] });
      case 3:
        return socket.emit("question", i, Buffer.from("b"), (x) => answers.push(x));
      case 4:
        return s.app.io.to(id).emit("n", i, "x".repeat(i % 500));
      default:
        return socket.emit("n", i);
    }
  };
  return { order, answers, send };
}

function assertOrder(got, last) {
  for (let i = 1; i <= last; i++) {
    if (got[i - 1] !== i) assert.fail(`at ${i}: ${got.slice(Math.max(0, i - 4), i + 4)} (${got.length} of ${last})`);
  }
  assert.equal(got.length, last);
}

describe("order", parallel, () => {
  combos("of text, binary and questions, live", { native: "legacy" }, async (t, how) => {
    const s = await stack(t, { native: "legacy" });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const { order, answers, send } = mix(s, c, id);
    for (let i = 1; i <= 1000; i++) {
      send(i);
      if (i % 50 === 0) await sleep(1);
    }
    await until(() => order.length >= 1000, () => `all, have ${order.length}`);
    assertOrder(order, 1000);
    await until(() => answers.length === 333 || answers.length === 334, "the answers");
    for (let i = 1; i < answers.length; i++) assert.ok(answers[i - 1] < answers[i], "answers in order");
  });

  combos("over drops, at most one question lost each", { native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const { order, send } = mix(s, c, id);
    let i = 0;
    for (let round = 0; round < 5; round++) {
      await c.settled();
      for (let k = 0; k < 100; k++) send(++i);
      await sleep(20);
      s.relay.down();
      await c.main.disconnected(round + 1);
      for (let k = 0; k < 100; k++) send(++i);
      s.relay.up();
      await c.main.connected(round + 2);
    }
    send(++i);
    while (i % 6 === 1 || i % 6 === 3) send(++i);
    await until(() => order.includes(i), () => `the last, ${i}; have ${order.length}`);
    c.main.assertRecovered(5);
    for (let k = 1; k < order.length; k++) assert.ok(order[k - 1] < order[k], `${order[k - 1]} before ${order[k]}`);
    // Only questions that were in flight may be missing.
    const seen = new Set(order);
    for (let k = 1; k <= i; k++) if (!seen.has(k)) assert.ok(k % 6 === 1 || k % 6 === 3, `event ${k} is missing`);
  });

  combos("over the client's upgrade with traffic in flight", { native: "legacy", transports: ["default"], timeout: 60000 }, async (t, how) => {
    for (const delay of [0, 5, 30]) {
      const s = await stack(t, { native: "legacy" });
      s.relay.delay(delay);
      const c = s.client(how.version, how.options);
      await c.main.connected();
      const { order, send } = mix(s, c, c.main.id);
      let i = 0;
      let up = 0;
      const timer = setInterval(() => {
        for (let k = 0; k < 5; k++) send(++i);
        c.socket.emit("up", ++up, up % 3 ? "t" : Buffer.alloc(500, up & 255));
      }, 1);
      await c.upgraded();
      await sleep(200);
      clearInterval(timer);
      await until(() => order.length >= i && s.app.receivedArgs("up").length >= up, () => `all: ${order.length} of ${i}, ${s.app.receivedArgs("up").length} of ${up}`);
      assertOrder(order, i);
      assert.deepEqual(s.app.receivedArgs("up").map(([x]) => x), Array.from({ length: up }, (_, k) => k + 1));
      c.close();
    }
  });

  combos("across the namespaces of a connection, live", { native: "legacy", transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { native: "legacy" });
    const c = s.client(how.version, how.options);
    await c.main.connected();
    const admin = c.of("/admin");
    await admin.connected();
    const order = [];
    c.socket.on("n", (i) => order.push(i));
    admin.socket.on("n", (i) => order.push(i));
    const sockets = [s.app.socket(c.main.id), s.app.socket(admin.id, "/admin")];
    for (let i = 1; i <= 500; i++) {
      sockets[(i >> 2) % 2].emit("n", i, i % 5 ? "t" : Buffer.from([1]));
      if (i % 40 === 0) await sleep(1);
    }
    await until(() => order.length === 500, () => `all, have ${order.length}`);
    assertOrder(order, 500);
  });

  combos("of what a client sends", { native: "legacy" }, async (t, how) => {
    const s = await stack(t, { native: "legacy" });
    const c = s.client(how.version, how.options);
    await c.main.connected();
    const acked = [];
    for (let i = 1; i <= 600; i++) {
      if (i % 3 === 0) c.socket.emit("echo", i, Buffer.alloc(i, 1), (x) => acked.push(x));
      else c.socket.emit("up", i, i % 2 ? "t" : { b: Buffer.from([1]) });
      if (i % 60 === 0) await sleep(2);
    }
    await until(() => s.app.received.length === 600, () => `all, have ${s.app.received.length}`);
    assert.deepEqual(s.app.received.map((r) => r.args[1]), Array.from({ length: 600 }, (_, i) => i + 1));
    await until(() => acked.length === 200, "the acks");
    assert.deepEqual(acked, Array.from({ length: 200 }, (_, i) => (i + 1) * 3));
  });

  it("two clients of one room see the same order", { skip: false }, async (t) => {
    const s = await stack(t, { native: "legacy" });
    const clients = [["websocket"], ["polling"]].map((transports) => s.client("4.8.4", { transports }));
    for (const c of clients) await c.main.connected();
    for (let i = 1; i <= 300; i++) {
      s.app.io.to("everyone").emit("n", i, i % 4 ? i : Buffer.from([1]));
      if (i % 30 === 0) await sleep(1);
    }
    for (const c of clients) await c.main.stream(1, 300);
  });

  it("a DISCONNECT comes after all that was sent before it", { skip: NATIVE && "as the server itself, no test of it" }, async (t) => {
    const s = await stack(t);
    for (const [open, kind] of [[Raw, "websocket"], [Polling, "polling"]]) {
      const raw = await open.open(s.direct);
      const { sid } = await raw.connect();
      const socket = s.app.socket(sid);
      for (let i = 1; i <= 50; i++) socket.emit("n", i, i % 10 ? "" : Buffer.from("b"));
      socket.disconnect();
      const got = [];
      if (kind === "websocket") {
        do got.push(await raw.next());
        while (got.at(-1) !== "41");
        raw.close();
      } else {
        got.push(...(await raw.pollFor((p) => p === "41")));
      }
      const texts = got.filter((m) => typeof m === "string" && /^4[25]/.test(m));
      assert.equal(texts.length, 50);
      assert.equal(got.at(-1), "41");
    }
  });

  it("after a recovery, across text and binary", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t);
    const raw = await Raw.open(s.direct);
    const { sid, pid } = await raw.connect();
    raw.close();
    const socket = s.app.socket(sid);
    for (let i = 1; i <= 30; i++) socket.emit("n", i, i % 3 ? "" : Buffer.from([i]));
    const again = await Raw.open(s.direct);
    again.send(`40{"pid":"${pid}"}`);
    const got = [];
    while (got.length < 41) got.push(await again.next());
    assert.match(got[0], /^40\{/);
    let i = 0;
    for (let k = 1; k < got.length; k++) {
      if (typeof got[k] === "string") assert.match(got[k], new RegExp(`^4(2|51-)\\["n",${++i},`));
      else assert.deepEqual(got[k], Buffer.from([i]));
    }
    again.close();
  });
});
