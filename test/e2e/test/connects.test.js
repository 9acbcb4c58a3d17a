// Clients that connect and disconnect namespaces over one connection, as pages do whose components
// come and go.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import { App } from "../lib/server.js";
import { Client } from "../lib/client.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { SLOW, never, sleep, until } from "../lib/wait.js";

const parallel = { concurrency: 3 };

/** A namespace "/a" whose middleware takes `ms`, and a log of what happens in it. */
function slow(ms) {
  return (io, app) => {
    app.log = [];
    app.gate = Promise.resolve(); // who comes waits for it
    io.of("/a").use((socket, next) => app.gate.then(() => setTimeout(next, ms)));
    io.of("/a").on("connection", (socket) => {
      app.log.push("connection");
      socket.on("disconnect", () => app.log.push("disconnect"));
      socket.on("echo", (value, ack) => ack(value, socket.handshake.auth));
    });
    io.of(/^\/room-\d+$/).on("connection", (socket) => socket.on("echo", (value, ack) => ack(value)));
  };
}

describe("a namespace that is connected again before the reply", parallel, () => {
  for (const [server, client] of [["4.5.4", "4.8.4"], ["4.8.4", "4.8.4"], ["4.5.4", "4.6.2"], ["4.0.2", "4.5.4"]]) {
    for (const transports of [["websocket"], ["polling"]]) {
      for (const auth of ["one auth", "an auth that changes"]) {
        it(`is connected once for the client, and nothing else is dropped (${client} to ${server}, ${transports}, ${auth})`, async (t) => {
          const s = await stack(t, { server, app: slow(100), native: "legacy" });
          const c = s.client(client, { transports });
          await c.main.connected();
          const chat = c.of("/chat");
          await chat.connected();
          let mounts = 0;
          let open;
          s.app.gate = new Promise((resolve) => (open = resolve));
          const a = c.of("/a", (cb) => cb(auth === "one auth" ? { token: 1 } : { token: ++mounts }));
          a.socket.disconnect();
          a.socket.connect();
          a.socket.disconnect();
          a.socket.connect(); // all in one tick: three CONNECTs
          await until(() => c.manager.engine.writeBuffer.length === 0, "all of them to be sent");
          open();
          await a.connected();
          const [value, given] = await a.ask("echo", "here");
          assert.equal(value, "here");
          assert.deepEqual(given, { token: auth === "one auth" ? 1 : 3 }, "the latest counts");
          await never(() => c.main.disconnects.length + chat.disconnects.length + a.disconnects.length > 0, "a drop", 300);
          assert.equal(s.app.disconnects.length, 0, "of the other namespaces");
          if (!s.hf) return; // without holdfast the earlier sockets stay
          await until(() => s.app.log.filter((e) => e === "connection").length - s.app.log.filter((e) => e === "disconnect").length === 1, "one socket in the end");
          assert.equal(a.connects.length, 1);
          // The client recovers.
          const { id } = a;
          await s.hit(c);
          await a.connected(2);
          await chat.connected(2);
          if (client === "4.5.4") return; // too old to recover
          assert.deepEqual([a.id, a.last.recovered, chat.last.recovered, c.main.last.recovered], [id, true, true, true]);
        });
      }
    }
  }

  // Compared with the server itself: which orders of packets it accepts, and which close the
  // connection.
  const reply = Symbol("reply");
  const orders = {
    "CONNECT, CONNECT": ["40/a,", "40/a,"],
    "CONNECT, CONNECT, reply, event": ["40/a,", "40/a,", reply, '421/a,["echo",1]'],
    "CONNECT, reply, CONNECT": ["40/a,", reply, "40/a,"],
    "CONNECT, DISCONNECT, CONNECT": ["40/a,", "41/a,", "40/a,"],
    "CONNECT, CONNECT, reply, CONNECT": ["40/a,", "40/a,", reply, "40/a,"],
    "CONNECT, CONNECT, reply, DISCONNECT": ["40/a,", "40/a,", reply, "41/a,"],
  };
  for (const server of ["4.5.4", "4.8.4"]) {
    for (const [title, steps] of Object.entries(orders)) {
      it(`${title}: the connection ends where the server ends it (${server})`, { skip: onlyHoldfast }, async (t) => {
        const s = await stack(t, { server, app: slow(100) });
        let want;
        for (const url of [s.app.url, s.direct]) {
          const raw = await Raw.open(url);
          await raw.connect();
          const got = (start) => raw.got.some((m) => m.startsWith(start));
          const seen = () => ({ closed: raw.closed !== null, connected: got("40/a,"), answered: got("431/a,") });
          for (const step of steps) {
            if (step !== reply) raw.send(step);
            else await until(() => raw.closed || got("40/a,"), "the reply").then(() => sleep(150)); // for a second one
          }
          await sleep(300);
          if (want) await until(() => isDeepStrictEqual(seen(), want), () => `what the server itself does: ${JSON.stringify(want)}, not ${JSON.stringify(seen())}`);
          want = seen();
          raw.close();
        }
      });
    }
  }
});

describe("many namespaces over one connection, one after the other", parallel, () => {
  const config = { limits: { max_namespaces_per_connection: 4 } };
  for (const transports of [["websocket"], ["polling"]]) {
    it(`are limited by how many are open (${transports})`, { skip: onlyHoldfast }, async (t) => {
      const s = await stack(t, { server: "4.8.4", app: slow(0), config });
      const c = s.client("4.8.4", { transports });
      await c.main.connected();
      const stays = c.of("/chat");
      await stays.connected();
      for (let i = 0; i < 40; i++) {
        const room = c.of(`/room-${i}`);
        await room.connected();
        assert.deepEqual(await room.ask("echo", i), [i]);
        if (i % 4 === 0) s.app.io.of(`/room-${i}`).disconnectSockets();
        else room.socket.disconnect();
        await room.disconnected();
      }
      assert.equal(c.main.disconnects.length + stays.disconnects.length, 0);
      // Four are open, and one more is too many.
      await c.of("/room-100").connected();
      await c.of("/room-101").connected();
      c.of("/room-102");
      await c.main.disconnected();
      assert.equal((await s.hf.metrics()).sum("holdfast_refused_total", { limit: "namespaces" }) > 0, true);
      await s.hf.says(/limit reached.*limits\.max_namespaces_per_connection/);
    });
  }

  it("leave nothing behind in holdfast, and a link is replaced now and then", { skip: onlyHoldfast, timeout: 120_000 * SLOW }, async (t) => {
    const s = await stack(t, { server: "4.8.4", app: slow(0) });
    const raw = await Raw.open(s.direct);
    await raw.connect();
    const name = (i) => `/room-${i}`;
    let upTo = 0;
    const rounds = async (n) => {
      const end = upTo + n;
      for (; upTo < end; upTo += 50) {
        for (let i = upTo; i < upTo + 50; i++) raw.send(`40${name(i)},`);
        await until(() => raw.got.filter((m) => m.startsWith("40/room")).length === 50, "50 to connect");
        raw.got.length = 0;
        for (let i = upTo; i < upTo + 50; i++) raw.send(`41${name(i)},`);
      }
      await until(async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "live" }) === 1, "one session to be left");
    };
    await rounds(2500);
    const links = s.app.engineConnections;
    assert.ok(links >= 3 && links <= 4, `${links} connections to the server for 2500 namespaces`);
    assert.ok((await s.hf.metrics()).sum("holdfast_links") <= 2, "links that are no longer needed end");
    raw.send('421["echo","still here"]');
    assert.equal(await raw.find(/^43/), '431["still here"]');
    raw.close();
  });
});
