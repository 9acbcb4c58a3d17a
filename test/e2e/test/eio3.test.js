// Servers that speak Engine.IO 3 only: socket.io 1.x and 2.x.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { TRANSPORTS } from "../lib/client.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { V2 } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { sleep, until } from "../lib/wait.js";

const parallel = { concurrency: 4, skip: onlyHoldfast };
const MODERN = ["3.1.3", "4.0.2", "4.5.4", "4.6.2", "4.8.4"];
const translate = { upstream: { protocol: 3, translate: { auth_to_query: ["token", "deny"] } } };

/** A modern client in front of a server of version 2.x. */
async function modern(t, server, version, transport, options = {}) {
  const s = await stack(t, { server, ...options, config: { ...translate, ...options.config } });
  const c = s.client(version, { transports: TRANSPORTS[transport] ?? ["polling", "websocket"], ...options.client });
  await c.main.connected();
  if (transport === "default") await c.upgraded();
  return { s, c, id: c.main.id };
}

describe("modern clients before socket.io 1.x and 2.x", parallel, () => {
  const pairs = MODERN.map((version) => ["2.5.1", version]).concat(V2.map((server) => [server, "4.8.4"]));
  for (const [server, version] of pairs) {
    for (const transport of Object.keys(TRANSPORTS)) {
      it(`connect, emit, ack, send binary (server ${server}, client ${version}, ${transport})`, async (t) => {
        const { s, c, id } = await modern(t, server, version, transport, { client: { auth: { token: "a&b" }, query: { user: "ü 1" } } });
        assert.equal(s.app.connections.length, 1);
        const { query, id: serverID } = s.app.connections[0];
        assert.equal(serverID, id);
        assert.deepEqual([query.token, query.user, query.EIO], ["a&b", "ü 1", "3"]);

        const [text, bin, deep] = await c.main.ask("echo", "€😀", Buffer.from([1, 2, 3]), { b: [Buffer.from("x")] });
        assert.equal(text, "€😀");
        assert.deepEqual([...bin], [1, 2, 3]);
        assert.equal(Buffer.from(deep.b[0]).toString(), "x");
        assert.deepEqual(s.app.received[0].args.slice(0, 2), ["echo", "€😀"]);

        s.app.stream("/", id, 1, 20, (i) => (i % 4 ? ["ü"] : [Buffer.from([i]), { b: Buffer.alloc(2000, i) }]));
        await c.main.stream(1, 20);
        const answers = [];
        c.socket.on("question", (...args) => args.pop()("yes", Buffer.from("b")));
        s.app.socket(id).emit("question", 1, (...args) => answers.push(args));
        await until(() => answers.length === 1, "the answer");
        assert.deepEqual(answers, [["yes", Buffer.from("b")]]);
        c.socket.disconnect();
        await until(() => s.app.disconnects.length === 1, "the server to see the end");
        assert.ok(s.app.disconnects[0].reason.startsWith("client namespace"), s.app.disconnects[0].reason);
      });
    }
  }
});
