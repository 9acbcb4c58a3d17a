// recovery.bind: a client that presents a pid without what its session is bound to gets a fresh
// session.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { Client } from "../lib/client.js";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const skip = onlyHoldfast;
const parallel = { concurrency: 4 };
const parked = async (s) => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" });
const failed = async (s) => (await s.hf.metrics()).sum("holdfast_recoveries_total", { result: "failed", reason: "binding" });

const config = { recovery: { bind: { headers: ["X-Device"], cookies: ["user"], auth: ["token", "who"] } } };
const own = () => ({
  extraHeaders: { "x-device": "phone", cookie: "theme=dark; user=ann" },
  auth: { token: "t-1", who: { id: 7, roles: ["a", "b"] }, attempt: 1 },
});

describe("recovery.bind", { ...parallel, skip }, () => {
  combos("the client itself recovers", { native: false }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, { ...how.options, ...own() });
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 5);
    await c.main.stream(1, 5);
    // What is not bound may change, and so may the order of an object's keys.
    c.socket.auth = { attempt: 2, who: { roles: ["a", "b"], id: 7 }, token: "t-1" };
    await s.lose(c);
    s.app.stream("/", id, 6, 20);
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 20);
    c.main.assertRecovered(1);
  });

  combos("a client that logs in as another user gets a session of its own", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, { ...how.options, ...own() });
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    await s.lose(c);
    await until(async () => (await parked(s)) === 1, "parking", 30000);
    s.app.stream("/", id, 1, 5); // for the first user only
    c.socket.auth = { token: "t-2", who: { id: 8 } };
    s.relay.up();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.notEqual(c.main.last.id, id);
    assert.equal((await c.main.ask("echo", "x"))[0], "x");
    assert.deepEqual(c.main.numbers, [], "nothing of the first user's");
    assert.deepEqual(s.app.connections.map((x) => x.auth.token), ["t-1", "t-2"]);
    assert.equal(await parked(s), 1, "the first user's session waits on");
    assert.equal(await failed(s), 1);
  });

  const thieves = {
    "another cookie": { extraHeaders: { "x-device": "phone", cookie: "user=eve" } },
    "no cookie": { extraHeaders: { "x-device": "phone" } },
    "another header": { extraHeaders: { "x-device": "laptop", cookie: "user=ann" } },
    "another auth": { auth: { token: "t-1", who: { id: 7, roles: ["a", "b", "root"] } } },
    "no auth": { auth: {} },
  };
  for (const [what, options] of Object.entries(thieves)) {
    it(`a stolen pid, with ${what}, is worth nothing, and its owner recovers`, async (t) => {
      const s = await stack(t, { config });
      const c = s.client("4.8.4", { transports: ["websocket"], ...own() });
      const { id } = await c.main.connected();
      const pid = c.socket._pid;
      s.app.stream("/", id, 1, 3);
      await c.main.stream(1, 3);
      const other = own();
      const auth = { ...(options.auth ?? other.auth), pid, offset: c.socket._lastOffset };
      const steal = async () => {
        const thief = new Client("4.8.4", s.direct, { transports: ["websocket"], ...other, ...options, auth });
        t.after(() => thief.close());
        const got = await thief.main.connected();
        assert.notEqual(got.id, id);
        assert.ok(!got.recovered);
        thief.close();
      };
      await steal(); // while the session is live
      assert.equal(c.main.disconnects.length, 0, "the owner keeps its connection");
      await s.lose(c);
      await until(async () => (await parked(s)) >= 1, "parking");
      s.app.stream("/", id, 4, 10);
      await steal(); // while it is parked
      s.relay.up();
      await c.main.connected(2);
      await c.main.stream(1, 10);
      c.main.assertRecovered(1);
      assert.equal(await failed(s), 2);
      const text = s.hf.log;
      for (const secret of [pid, "t-1", "user=", "phone"]) assert.ok(!text.includes(secret), `${secret} is in the log`);
      await s.hf.says((r) => r.msg === "not recovered" && r.reason === "binding");
    });
  }
});

describe("takeovers of one session", { ...parallel, skip }, () => {
  combos("beyond the limit are refused after a while, and nothing is lost", { native: false, transports: ["websocket"] }, async (t, how) => {
    const s = await stack(t, { config: { limits: { takeovers_per_minute_per_session: 3 } } });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    for (let i = 1; i <= 3; i++) {
      await s.hit(c, "abandon");
      await c.main.connected(1 + i);
    }
    const refused = async () => (await s.hf.metrics()).sum("holdfast_refused_total", { limit: "takeovers_per_session" });
    assert.equal(await refused(), 0);
    const dead = await s.hit(c, "abandon");
    s.app.stream("/", id, 4, 50); // into the void
    await until(async () => (await refused()) >= 1, "a refusal");
    const since = Date.parse((await s.hf.says((r) => r.msg === "limit reached" && r.limit === "takeovers_per_session")).time);
    const opened = s.app.engineConnections;
    for (const conn of dead) conn.kill("reset"); // the previous connection is gone
    await c.main.connected(5, 20000);
    assert.ok(Date.now() - since >= 2000, `back after ${Date.now() - since} ms, with a back-off of 20 ms`);
    assert.ok(s.app.engineConnections - opened <= 2, "the server is spared");
    await c.main.stream(1, 50);
    c.main.assertRecovered(4);
    assert.equal(s.app.disconnects.length, 0);
    assert.equal(s.app.connections.length, 1);
  });
});
