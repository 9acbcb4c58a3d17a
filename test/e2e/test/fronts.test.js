// nginx, HAProxy and Caddy in front of two replicas of holdfast, with the configurations in
// deploy/fronts.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import http from "node:http";
import { Client, TRANSPORTS } from "../lib/client.js";
import { front } from "../lib/fronts.js";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw, request } from "../lib/raw.js";
import { Relay } from "../lib/relay.js";
import { App } from "../lib/server.js";
import { missing } from "../lib/tools.js";
import { until } from "../lib/wait.js";

const COOKIE = "holdfast_replica";

/** Clients come from addresses of their own: 127.0.0.2 and so on, each a connection's local address. */
const from = (n) => new http.Agent({ localAddress: `127.0.0.${n}` });

/** relay -> front -> two replicas -> one server. */
async function path(t, kind, { drain = "1s", ...options } = {}) {
  const s = {};
  const config = { trusted_proxies: ["127.0.0.1"], shutdown: { drain_timeout: drain } };
  s.app = await App.start("4.5.4", options);
  s.replicas = [await Holdfast.start(s.app.port, config), await Holdfast.start(s.app.port, config)];
  t.after(async () => {
    await s.relay?.stop();
    await s.app.stop();
    for (const hf of s.replicas) await hf.stop();
  });
  s.front = await front(t, kind, s.replicas);
  s.relay = await Relay.start(s.front.port);
  s.client = (options, url = s.relay.url) => {
    const c = new Client("4.8.4", url, options);
    t.after(() => c.close());
    return c;
  };
  /** One number for each replica. */
  s.sums = (...args) => Promise.all(s.replicas.map(async (hf) => (await hf.metrics()).sum(...args)));
  return s;
}

const sum = (numbers) => numbers.reduce((a, b) => a + b);

/** What a browser would send back, from an answer. */
const cookieOf = (headers) => headers["set-cookie"]?.find((c) => c.startsWith(`${COOKIE}=`))?.split(";")[0];

for (const kind of ["nginx", "haproxy", "caddy"]) {
  const skip = onlyHoldfast || missing(kind);

  describe(kind, { concurrency: 3, skip }, () => {
    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      it(`a client is cut and recovers (${name})`, async (t) => {
        const s = await path(t, kind);
        // A browser has the cookie from the page, or from its first poll.
        const cookie = cookieOf((await request(`${s.front.url}/socket.io/socket.io.js`)).headers);
        const c = s.client({ transports: transports ?? ["polling", "websocket"], extraHeaders: { cookie } });
        const { id } = await c.main.connected();
        if (name === "default") await c.upgraded();
        s.app.stream("/", id, 1, 20);
        await c.main.stream(1, 20);
        // holdfast notices the end of a poll that waits. The front has passed it on before holdfast
        // answers for its metrics.
        if (name === "polling") {
          await until(() => s.relay.pollWaits, "the next poll");
          await s.sums("holdfast_sessions");
        }
        s.relay.down();
        await until(async () => sum(await s.sums("holdfast_sessions", { state: "parked" })) === 1, "holdfast to learn of it from the front");
        await c.main.disconnected();
        s.app.stream("/", id, 21, 40);
        s.relay.up();
        await c.main.connected(2);
        await c.main.stream(1, 40);
        c.main.assertRecovered(1);
        assert.equal(s.app.connections.length, 1);
        assert.equal(s.app.disconnects.length, 0);
      });
    }

    it("the server learns a client's address from the front alone", async (t) => {
      const s = await path(t, kind);
      for (const transports of [["polling"], ["websocket"]]) {
        const c = s.client({ transports, agent: from(7), extraHeaders: { "x-forwarded-for": "192.0.2.66", "x-forwarded-proto": "gopher" } }, s.front.url);
        await c.main.connected();
        const { headers } = s.app.connections.at(-1);
        assert.equal(headers["x-forwarded-for"], "127.0.0.7, 127.0.0.1");
        assert.equal(headers["x-forwarded-proto"], "http");
        assert.equal(headers.host, `127.0.0.1:${s.front.port}`);
        assert.equal(headers["x-forwarded-host"], headers.host);
      }
    });

    it("a client that moves to another address comes back to its replica by cookie", async (t) => {
      const s = await path(t, kind);
      const clients = [];
      for (let n = 2; n < 10; n++) {
        const page = await request(s.front.url, { agent: from(n) });
        const cookie = cookieOf(page.headers);
        assert.ok(cookie, "no cookie");
        const c = s.client({ transports: [n % 2 ? "polling" : "websocket"], agent: from(n), extraHeaders: { cookie } }, s.front.url);
        clients.push(c);
        await c.main.connected();
      }
      assert.ok(Math.min(...(await s.sums("holdfast_sessions", { state: "live" }))) > 0, "both replicas have clients");
      for (const [i, c] of clients.entries()) {
        c.manager.opts.agent = from(50 + i);
        c.manager.engine.close();
        await c.main.connected(2);
        c.main.assertRecovered(1);
      }
      assert.equal(sum(await s.sums("holdfast_recoveries_total", { result: "failed" })), 0);
    });

    it("a client continues while its replica drains, and moves to the other one when that is gone", async (t) => {
      const s = await path(t, kind, { drain: "60s" });
      const cookie = cookieOf((await request(s.front.url)).headers);
      const c = s.client({ transports: ["polling"], extraHeaders: { cookie }, reconnectionDelayMax: 20 }, s.front.url);
      await c.main.connected();
      const [old, other] = (await s.sums("holdfast_clients"))[0] ? s.replicas : s.replicas.toReversed();
      old.signal("SIGTERM");
      await until(async () => (await old.admin("/readyz")).status === 503, "the replica to drain");
      if (kind !== "caddy") {
        // A new client with the old replica's cookie gets the other replica, and its cookie.
        const fresh = await Polling.open(s.front.url, { headers: { cookie } });
        const moved = cookieOf(fresh.handshakeResponse.headers);
        assert.ok(moved && moved !== cookie, `cookie ${moved}`);
        fresh.headers = { cookie: moved };
        await fresh.connect();
        const socket = await Raw.open(s.front.url, { headers: { cookie } });
        assert.equal(cookieOf(socket.upgradeResponse.headers), moved);
        await socket.connect();
        assert.equal((await other.metrics()).sum("holdfast_clients"), 2);
        socket.close();
      }
      s.app.stream("/", c.main.id, 1, 20);
      await c.main.stream(1, 20);
      assert.deepEqual((await c.main.ask("echo", "still there"))[0], "still there");
      assert.deepEqual(c.main.disconnects, []);
      old.signal("SIGKILL");
      await old.exited;
      await c.main.connected(2, 15000);
      assert.equal(c.main.last.recovered, false);
      const raw = await Raw.open(s.front.url, { headers: { cookie } });
      assert.ok((await raw.connect()).pid);
      raw.close();
    });
  });
}
