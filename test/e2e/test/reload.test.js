// SIGHUP: the configuration is read again, and clients notice only what has changed.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { request } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const skip = onlyHoldfast;
const good = async (s) => (await s.hf.metrics()).sum("holdfast_config_last_reload_successful");
const records = (s, what) => s.hf.records.filter((r) => what.test(r.msg));

describe("SIGHUP", { concurrency: 4, skip }, () => {
  combos("applies what can change, and drops no client", { versions: ["4.8.4"], transports: ["websocket", "polling"], native: false }, async (t, how) => {
    const s = await stack(t, );
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const started = (await s.hf.metrics()).sum("holdfast_config_last_reload_success_timestamp_seconds");
    assert.ok(Math.abs(started - Date.now() / 1000) < 60, `${started}`);
    assert.equal(await good(s), 1);
    const parked = async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" });

    // A session that is parked while the file is read keeps its original time.
    await s.lose(c);
    await until(async () => (await parked()) === 1, "parking");
    s.app.stream("/", id, 1, 5);
    const said = await s.hf.reload({ recovery: { max_disconnection_duration: "200ms" }, limits: { max_namespaces_per_connection: 1 } });
    assert.deepEqual(said.changed, ["recovery.max_disconnection_duration", "limits.max_namespaces_per_connection"]);
    s.relay.up();
    await c.main.connected(2);
    await c.main.stream(1, 5);
    c.main.assertRecovered(1);
    assert.equal(s.app.disconnects.length, 0);

    // The next one is parked for the new time.
    await s.lose(c);
    await until(() => s.app.disconnects.length === 1, "the session to expire");
    s.relay.up();
    await c.main.connected(3);
    assert.equal(c.main.last.recovered, false);
    // One more namespace is one too many.
    c.of("/admin");
    await c.main.disconnected(3);
    await until(() => s.hf.records.some((r) => /namespaces/.test(r.why ?? "")), "the reason in the log");
  });

  combos("again and again, while events stream", { versions: ["4.8.4"], transports: ["websocket", "polling"], native: false }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const ticker = s.app.ticker("/", id, { every: 2 });
    for (let i = 1; i <= 10; i++) {
      await s.hf.reload({ recovery: { ack_events: i % 2 ? "at-least-once" : "at-most-once" }, trusted_proxies: i % 2 ? ["127.0.0.1"] : [] });
      if (i === 5) await s.hit(c);
    }
    await c.main.connected(2);
    await c.main.stream(1, ticker.stop());
    c.main.assertRecovered(1);
    assert.equal(s.app.disconnects.length, 0);
  });

  it("says what needs a restart, and leaves it as it is", async (t) => {
    const s = await stack(t);
    const said = await s.hf.reload({ listen: "127.0.0.1:1", limits: { header_bytes: "32KiB", handshakes_per_second_per_address: 1 } });
    assert.deepEqual(said.changed, ["limits.handshakes_per_second_per_address"]);
    const [warning] = await until(() => {
      const found = records(s, /need a restart/);
      return found.length && found;
    }, "the warning");
    assert.equal(warning.level, "WARN");
    assert.deepEqual(warning.keys, ["listen", "limits.header_bytes"]);
    assert.equal(await good(s), 1);
    const handshake = () => request(`${s.direct}/socket.io/?EIO=4&transport=polling`);
    assert.equal((await handshake()).status, 200, "still on the same address");
    let status;
    for (let i = 0; i < 20 && status !== 429; i++) ({ status } = await handshake());
    assert.equal(status, 429, "the new limit is in force");
  });

  it("with a bad file changes nothing, and says what is wrong with it", async (t) => {
    const s = await stack(t);
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    const bad = {
      "a misspelt key": ["recovery:\n  max_duration: 1s\n", /config\.yaml:2: recovery\.max_duration: unknown key/],
      "a bad value": ["log:\n  level: info\nlimits:\n  max_connections: -1\n", /limits\.max_connections: found \\?"-1/],
      "no YAML": ["listen: [", /invalid YAML/],
    };
    for (const [what, [text, why]] of Object.entries(bad)) {
      const said = await s.hf.reload(text);
      assert.equal(said.level, "ERROR", what);
      assert.match(said.error, why, what);
      await until(async () => (await good(s)) === 0, `the metric, with ${what}`);
    }
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    await s.hf.says((r) => r.level === "DEBUG");
    await s.hf.reload({ log: { level: "warn" } });
    await until(async () => (await good(s)) === 1, "the metric, with a good file").catch((err) => {
      throw new Error(`${err.message}\n${s.hf.log}`);
    });
    assert.equal(c.main.disconnects.length, 0);
  });
});
