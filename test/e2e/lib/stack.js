// A whole path for one test: client -> relay -> holdfast -> [relay] -> server.
// With HOLDFAST_E2E_TARGET=native there is no holdfast: recovery tests use socket.io 4.8 with its
// own recovery, all others the legacy server directly.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { App } from "./server.js";
import { Client } from "./client.js";
import { Holdfast, NATIVE } from "./holdfast.js";
import { Relay } from "./relay.js";
import { sleep, until } from "./wait.js";

/** The server's version, for tests that run against any: HOLDFAST_E2E_SERVER. */
const SERVER = process.env.HOLDFAST_E2E_SERVER;

/**
 * Starts the path and stops it after the test `t`.
 *
 * options: {server: version or false (bring `upstreamPort`), io, http, app, recovery: for the server,
 *   config: holdfast's, upstreamRelay: true for a relay before the server,
 *   native: "recovery" (default) or "legacy": what takes holdfast's place in native mode}
 */
export async function stack(t, options = {}) {
  if (SERVER && !options.upstreamPort && !NATIVE) {
    options = { ...options, server: SERVER, config: { ...options.config } };
    if (SERVER < "3") {
      const { pingInterval, pingTimeout } = options.io ?? {};
      if (pingInterval) options.config.engineio = { ping_interval: `${pingInterval}ms`, ping_timeout: `${pingTimeout}ms` };
      const translate = { auth_to_query: ["room", "role", "token"] };
      options.config.upstream = { protocol: 3, translate, ...options.config.upstream };
    }
  }
  const s = { cleanups: [] };
  t.after(async () => {
    const errors = [];
    for (const fn of s.cleanups.reverse()) {
      try {
        await fn();
      } catch (err) {
        errors.push(err);
      }
    }
    if (s.hf && process.env.HOLDFAST_E2E_LOGS) {
      const name = t.name.replace(/[^\w.]+/g, "-");
      writeFileSync(path.join(process.env.HOLDFAST_E2E_LOGS, `${name}.${s.hf.pid}.log`), s.hf.log);
    }
    if (errors.length) throw errors[0];
  });

  let port = options.upstreamPort;
  if (!port) {
    const recovery = NATIVE && (options.native ?? "recovery") === "recovery";
    s.app = await App.start(recovery ? "4.8.4" : (options.server ?? "4.5.4"), {
      ...options,
      recovery: recovery || options.recovery,
    });
    port = s.app.port;
  }

  if (options.upstreamRelay) {
    s.upRelay = await Relay.start(port);
    port = s.upRelay.port;
  }

  if (!NATIVE) {
    s.hf = await Holdfast.start(port, options.config, options.holdfast);
    port = s.hf.port;
  }
  s.relay = await Relay.start(port);
  s.url = s.relay.url;
  s.direct = `http://127.0.0.1:${port}`;

  // In reverse order: clients, relay, server (so that holdfast need not wait for it), holdfast.
  if (s.hf) s.cleanups.push(() => s.hf.stop());
  if (s.upRelay) s.cleanups.push(() => s.upRelay.stop());
  if (s.app) s.cleanups.push(() => s.app.stop());
  s.cleanups.push(() => s.relay.stop());

  s.client = (version, opts) => {
    const client = new Client(version, s.url, opts);
    s.cleanups.push(() => client.close());
    return client;
  };

  /**
   * Cuts (or resets, or abandons) the client's connections until it notices. Between two polls, and while
   * it polls during a probe, that can take more than one cut.
   */
  s.hit = async (client, fault = "cut") => {
    const before = client.main.disconnects.length;
    const hurt = [];
    while (client.main.disconnects.length === before) {
      hurt.push(...s.relay.list());
      s.relay[fault]();
      const end = Date.now() + 100;
      while (client.main.disconnects.length === before && Date.now() < end) await sleep(2);
    }
    return hurt;
  };

  /**
   * Disconnects the client in a way that both sides notice: while a poll waits. Between two polls there is
   * nothing to cut, and holdfast would only notice at its ping timeout.
   */
  s.lose = async (client) => {
    await client.settled();
    const before = client.main.disconnects.length;
    const waits = (conn) => conn.websocket || (/^GET/.test(conn.request) && conn.up.passed > 0 && !conn.server.connecting && conn.down.passed === 0);
    await until(() => s.relay.list(waits).length > 0, "a poll to wait");
    if (!client.ws) await sleep(30);
    s.relay.down();
    await client.main.disconnected(before + 1);
  };
  return s;
}
