// Balancers that bind a TCP connection to a worker by its first request, and servers that close
// idle connections early.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { Client } from "../lib/client.js";
import { request } from "../lib/raw.js";
import { once, sleep, until } from "../lib/wait.js";

const CLUSTER = fileURLToPath(new URL("../lib/sticky-cluster.js", import.meta.url));

describe("polling links have connections of their own", { skip: onlyHoldfast }, () => {
  for (const [version, eio3] of [["4.8.4", false], ["2.5.0", true]]) {
    it(`a cluster with @socket.io/sticky, client ${version}${eio3 ? ", which passes through" : ""}`, async (t) => {
      const cluster = fork(CLUSTER, [], { stdio: ["ignore", "inherit", "inherit", "ipc"], env: { ...process.env, NETWORK: eio3 ? "1" : "" } });
      t.after(() => cluster.kill());
      const [{ port }] = await once(cluster, "message", 20000);
      const hf = await Holdfast.start(port, {});
      t.after(() => hf.stop());
      const clients = Array.from({ length: 24 }, () => new Client(version, hf.url, { transports: ["polling"], upgrade: false }));
      t.after(() => Promise.all(clients.map((c) => c.close())));
      // Pages use connections that may lead to any worker.
      let pages = 0;
      const browsing = setInterval(() => request(`${hf.url}/page`).then((res) => (pages += res.status === 200), () => {}), 20);
      t.after(() => clearInterval(browsing));
      const workers = new Set();
      await Promise.all(
        clients.map(async (c) => {
          await c.main.connected();
          for (let i = 0; i < 12; i++) {
            const [worker] = await c.main.ask("worker", i);
            c.worker ??= worker;
            assert.equal(worker, c.worker);
            workers.add(worker);
            await sleep(30 * (i % 4)); // some connections are idle for a while
          }
        }),
      );
      assert.ok(workers.size > 1, "several workers have clients");
      assert.ok(pages > 0);
      for (const c of clients) {
        assert.deepEqual(c.main.errors, []);
        const ends = hf.log.split("\n").filter((line) => line.includes("link closed"));
        assert.equal(c.main.disconnects.length, 0, `${c.main.disconnects}: ${ends.join("\n")}`);
      }
    });
  }
});

describe("a server that closes idle connections early", { skip: onlyHoldfast, concurrency: 6 }, () => {
  for (const idle of [300, 1000, 2000]) {
    for (const announced of [true, false]) {
      it(`after ${idle} ms, ${announced ? "as it announces" : "without notice"}: every POST arrives, once`, async (t) => {
        const s = await stack(t, {
          io: { transports: ["polling"] },
          app: (io, app) => {
            app.http.keepAliveTimeout = idle;
            if (!announced) app.http.on("request", (req, res) => res.setHeader("Keep-Alive", ""));
            app.closed = 0;
            app.http.on("connection", (socket) => socket.on("close", () => app.closed++));
          },
        });
        const clients = Array.from({ length: 12 }, () => s.client("4.8.4", { transports: ["polling"] }));
        await Promise.all(
          clients.map(async (c, k) => {
            await c.main.connected();
            for (let i = 0; i < 8; i++) {
              c.socket.emit("plain", k, i);
              // Around the moment at which the server closes the connection of the previous POST.
              await sleep(i % 2 ? idle - 20 + 5 * k : 20 * k);
            }
          }),
        );
        await until(() => s.app.received.length >= 96, "all events");
        for (const [k, c] of clients.entries()) {
          const got = s.app.received.filter((r) => r.args[1] === k).map((r) => r.args[2]);
          assert.deepEqual(got, [0, 1, 2, 3, 4, 5, 6, 7], `events of client ${k}`);
          assert.equal(c.main.disconnects.length, 0);
        }
        assert.equal(s.app.disconnects.length, 0);
      });
    }
  }
});
