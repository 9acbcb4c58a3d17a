// event_loop: false, the off switch for an incident. `HOLDFAST_E2E_EVENT_LOOP=off node run.js` runs
// any other file that way.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { readdir, readlink } from "node:fs/promises";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { SLOW, until } from "../lib/wait.js";

const off = { config: { event_loop: false } };

/** How many epoll instances a process has. The Go runtime has one of its own. */
async function epolls(pid) {
  const dir = `/proc/${pid}/fd`;
  const targets = await Promise.all((await readdir(dir)).map((fd) => readlink(`${dir}/${fd}`).catch(() => "")));
  return targets.filter((target) => target.includes("[eventpoll]")).length;
}

describe("without the event loop", { concurrency: 3, skip: onlyHoldfast }, () => {
  for (const on of [true, false]) {
    it(`there is ${on ? "an" : "no"} epoll instance of holdfast's own if it is ${on ? "on" : "off"}`, { timeout: 30000 * SLOW, skip: process.platform !== "linux" }, async (t) => {
      const s = await stack(t, { config: { event_loop: on } });
      const c = s.client("4.8.4", { transports: ["websocket"] });
      await c.main.connected();
      assert.deepEqual(await c.main.ask("echo", "hello"), ["hello"]);
      const n = await epolls(s.hf.pid);
      assert.ok(on ? n > 1 : n <= 1, `${n} epoll instances`);
      if (!on) await s.hf.says(/the event loop is off/);
      else assert.doesNotMatch(s.hf.log, /the event loop is off/);
    });
  }

  combos("a cut connection recovers, with what was sent both ways meanwhile", { native: false, ...off }, async (t, how) => {
    const s = await stack(t, off);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    const before = s.app.footprint();
    for (let cut = 1; cut <= 3; cut++) {
      if (how.transport === "default") await c.upgraded(); // or it might notice only by its heartbeat
      s.relay.down();
      await c.main.disconnected(cut);
      const first = 4 + (cut - 1) * 100;
      s.app.stream("/", id, first, first + 99);
      c.socket.emit("up", cut);
      s.relay.up();
      await c.main.connected(cut + 1);
      await c.main.stream(1, first + 99);
      await until(() => s.app.receivedArgs("up").length === cut, "what the client sent");
    }
    c.main.assertRecovered(3);
    assert.deepEqual(s.app.receivedArgs("up"), [[1], [2], [3]]);
    assert.deepEqual(s.app.footprint(), before, "the server must not notice the drops");
  });

  // More than the kernel buffers in either direction, so that reads are partial and writes have to
  // wait.
  combos("large messages arrive whole", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { ...off, io: { maxHttpBufferSize: 1e8 } });
    const c = s.client(how.version, how.options);
    await c.main.connected();
    const text = "0123456789abcdef".repeat(1 << 17);
    assert.deepEqual(await c.main.ask("echo", text), [text]);
    const [binary] = await c.main.ask("echo", Buffer.alloc(1 << 21, 7));
    assert.ok(Buffer.alloc(1 << 21, 7).equals(Buffer.from(binary)), "the binary message differs");
  });
});
