// events.join: what clients send in their connect handlers, which also run after a recovery.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const parallel = { concurrency: 4, skip: onlyHoldfast };
const config = { events: { join: ["enter", "/admin login*"] }, recovery: { keyed: { query: "hf_key" } } };

/** A server that records the events that it gets. */
const app = (io, app) => {
  app.entered = [];
  for (const nsp of ["/", "/admin"]) {
    io.of(nsp).on("connection", (socket) => {
      for (const name of ["enter", "login-1", "say"]) {
        socket.on(name, (...args) => {
          const ack = typeof args.at(-1) === "function" ? args.pop() : undefined;
          app.entered.push([nsp, name, ...args]);
          ack?.(`${name} ${app.entered.length}`, Buffer.from("history"));
        });
      }
    });
  }
};

describe("events.join", parallel, () => {
  const kinds = { "4.8.4": {}, "4.5.4": { query: { hf_key: "0123456789abcdef0123" } } };
  combos("what a client repeats after a recovery is not passed on, and gets the earlier answer", { versions: Object.keys(kinds) }, async (t, how) => {
    const s = await stack(t, { config, app });
    const c = s.client(how.version, { ...how.options, ...kinds[how.version] });
    const answers = [];
    const connected = () => {
      c.socket.emit("enter", "room", { a: [1] });
      c.socket.emit("enter", Buffer.from("token"), (text, history) => answers.push([text, Buffer.from(history).toString()]));
      c.socket.emit("say", "hello");
    };
    c.socket.on("connect", connected);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    await until(() => answers.length === 1, "the answer");
    for (let i = 2; i <= 4; i++) {
      await s.lose(c);
      s.relay.up();
      await c.main.connected(i);
      assert.equal(c.main.id, id);
      await until(() => answers.length === i, "the answer again");
    }
    const of = (name) => s.app.entered.filter((e) => e[1] === name).length;
    await until(() => of("say") === 4, "what is not named");
    assert.equal(of("enter"), 2);
    assert.deepEqual(answers, answers.map(() => ["enter 2", "history"]));
    c.socket.emit("enter", "room", { a: [1] });
    await until(() => of("enter") === 3, "what it says again over one connection, which it means");
    c.socket.emit("enter", "room", { a: [2] });
    await until(() => of("enter") === 4, "what is not equal");
    assert.equal((await s.hf.metrics()).sum("holdfast_events_dropped_total", { reason: "rejoined" }), 6);
  });

  it("only what is named, in its namespace; a fresh session sends it again", async (t) => {
    const s = await stack(t, { config: { ...config, recovery: { max_disconnection_duration: "50ms" } }, app });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const admin = c.of("/admin");
    c.socket.on("connect", () => c.socket.emit("login-1"));
    admin.socket.on("connect", () => admin.socket.emit("login-1"));
    await admin.connected();
    await until(() => s.app.entered.length === 2, "both");
    await s.lose(c);
    await until(() => s.app.disconnects.length === 2, "both to expire");
    s.relay.up();
    await until(() => s.app.entered.length === 4, "both again");
  });
});
