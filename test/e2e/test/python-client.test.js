// python-socketio's client behind holdfast. After Engine.IO's CLOSE packet in the answer to a poll
// it gives up for good. So holdfast must not send one to a client that should come back.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { PythonApp, PythonClient, missing, missingClient } from "../lib/python.js";
import { stack } from "../lib/stack.js";

for (const kind of ["threads", "asyncio"]) {
  const lacking = missing("asgi") || missingClient(kind) || onlyHoldfast;
  for (const transport of ["polling", "websocket"]) {
    describe(`python-socketio's client on ${kind}, by ${transport}`, { concurrency: 2, skip: lacking }, () => {
      async function begin(t, { server, config } = {}) {
        const app = await PythonApp.start("asgi", server);
        const s = await stack(t, { upstreamPort: app.port, upstreamRelay: true, config });
        const running = { app };
        s.cleanups.unshift(() => running.app.stop());
        const c = new PythonClient(t, kind, s.url, transport);
        await c.connected(1);
        return { s, c, running };
      }

      for (const signal of ["SIGKILL", "SIGTERM"]) {
        it(`returns when the server got ${signal}, and runs again`, async (t) => {
          const { c, running } = await begin(t);
          await running.app.stop(signal);
          await c.disconnected(1);
          running.app = await PythonApp.start("asgi", { port: running.app.port });
          await c.connected(2);
          assert.notEqual(c.ids[1], c.ids[0], "a fresh session");
          assert.equal(c.said.some((x) => x.gone), false);
        });
      }

      it("returns when the server's connection is reset", async (t) => {
        const { s, c } = await begin(t);
        s.upRelay.cut();
        await c.connected(2);
        assert.notEqual(c.ids[1], c.ids[0], "a fresh session");
      });

      it("returns when the server falls silent, and speaks again", async (t) => {
        const { c, running } = await begin(t, { server: { pingInterval: 1, pingTimeout: 1 } });
        running.app.process.kill("SIGSTOP");
        await c.disconnected(1);
        running.app.process.kill("SIGCONT");
        await c.connected(2);
      });

      it("returns when holdfast is stopped, and another listens", async (t) => {
        const { s, c } = await begin(t, { config: { shutdown: { drain_timeout: "100ms" } } });
        await s.hf.stop();
        s.hf = await Holdfast.start(s.upRelay.port, { listen: s.hf.config.listen });
        await c.connected(2);
      });
    });
  }
}
