// Clients before 4.6, which know nothing of recovery, and clients that are left out by
// configuration.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { combos } from "../lib/combos.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { PythonClient, missingClient } from "../lib/python.js";
import { LEGACY } from "../lib/server.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const versions = ["3.1.3", "4.0.2", "4.5.4"];
const sessions = async (s, state) => (await s.hf.metrics()).sum("holdfast_sessions", { state });

describe("old clients", parallel, () => {
  for (const server of LEGACY) {
    combos(`connect to socket.io ${server}, emit, ack, and reconnect fresh`, { versions, native: "legacy" }, async (t, how) => {
      const s = await stack(t, { native: "legacy", server, config: { recovery: { max_disconnection_duration: "1s" } } });
      const c = s.client(how.version, how.options);
      const { id } = await c.main.connected();
      if (how.transport === "default") await c.upgraded();
      s.app.stream("/", id, 1, 20, (i) => (i % 4 ? ["t"] : [Buffer.from([i]), { b: Buffer.alloc(2000, i) }]));
      await c.main.stream(1, 20);
      const [back, bin] = await c.main.ask("echo", "x", Buffer.from("abc"));
      assert.equal(back, "x");
      assert.equal(Buffer.from(bin).toString(), "abc");
      const answers = [];
      c.socket.on("question", (...args) => args.pop()(args));
      s.app.socket(id).emit("question", 1, "two", (x) => answers.push(x));
      await until(() => answers.length === 1, "the answer");
      assert.deepEqual(answers, [[1, "two"]], "no offset where an acknowledgement is asked for");
      const admin = c.of("/admin");
      await admin.connected();

      await s.hit(c);
      await c.main.connected(2);
      assert.notEqual(c.main.last.id, id);
      assert.deepEqual(s.app.connections.at(-1).auth, {});
      const [visits] = await c.main.ask("visit");
      assert.equal(visits, 1, "a fresh session");
      // Dropped sessions stay until they expire, and then the server learns of their end.
      await until(() => s.app.disconnects.length === 2, "the dropped sessions to end", 4000);
      if (s.hf) assert.deepEqual(s.app.disconnects.map((d) => d.reason), s.app.disconnects.map(() => "transport close"));
      assert.equal((await c.main.ask("echo", 2))[0], 2);
      c.socket.disconnect();
      await until(() => s.app.disconnects.length >= 3, "the DISCONNECT", 2000);
    });
  }

  it("see one more string argument on events, as with native recovery", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t);
    const c = s.client("4.0.2", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    const got = [];
    c.socket.on("e", (...args) => got.push(args));
    s.app.socket(id).emit("e", 1);
    await until(() => got.length === 1, "the event");
    assert.equal(got[0].length, 2);
    assert.equal(typeof got[0][1], "string");
  });
});

describe("clients that cannot resume", { ...parallel, skip: onlyHoldfast }, () => {
  for (const kind of ["threads", "asyncio"]) {
    for (const transport of ["polling", "websocket"]) {
      it(`python-socketio on ${kind}, by ${transport}, gets exactly what was sent, and leaves no parked session`, { skip: missingClient(kind) }, async (t) => {
        const s = await stack(t);
        const c = new PythonClient(t, kind, s.url, transport);
        const id = await c.connected(1);
        s.app.emit("/", id, "n", 1);
        s.app.emit("/", id, "pair", "a", Buffer.from("binary"));
        s.app.emit("/", id, "n", 2);
        await until(() => c.numbersOf().length === 2, () => `its events\n${c.output}${c.errors ?? ""}`);
        assert.deepEqual(c.said.filter((x) => x.pair).map((x) => x.pair), [["a", 6]]);
        s.relay.down();
        await c.disconnected(1);
        s.relay.up();
        await c.connected(2);
        if (transport === "websocket") {
          await until(() => s.app.disconnects.length > 0, "the server to see the drop", 2000);
          assert.equal(await sessions(s, "parked"), 0);
        }
        s.app.emit("/", c.ids.at(-1), "n", 3);
        await until(() => c.numbersOf().length === 3, () => `the next event\n${c.output}${c.errors ?? ""}`);
        assert.doesNotMatch(c.errors ?? "", /TypeError/);
        assert.equal((await s.hf.metrics()).sum("holdfast_clients_unable_to_resume_total"), 2);
        await s.hf.says(/"library":"python-socketio"/);
      });
    }
  }

  // Whatever User-Agent they send.
  for (const agent of [undefined, "App/2.1", "Mozilla/5.0 (Linux; Android 14)"]) {
    combos(`socket.io-client for Node.js with the agent ${agent} is none, and recovers from its first drop`, { transports: ["websocket", "polling"] }, async (t, how) => {
      const s = await stack(t);
      const c = s.client(how.version, { ...how.options, query: { token: "1795960447" }, ...(agent && { extraHeaders: { "user-agent": agent } }) });
      const { id } = await c.main.connected();
      await s.lose(c);
      s.app.stream("/", id, 1, 3);
      s.relay.up();
      assert.deepEqual(await c.main.connected(2), { id, recovered: true });
      await c.main.stream(1, 3);
    });
  }

  it("socket.io-client in a browser is not one of them: it recovers from its first drop", { skip: noBrowser }, async (t) => {
    const s = await stack(t, { server: "4.8.4", http: (req, res) => res.setHeader("content-type", "text/html").end("<p>page") });
    const browser = await openBrowser(t);
    for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
      const page = await browser.newPage();
      await page.goto(s.url);
      await page.addScriptTag({ url: `${s.url}/socket.io/socket.io.js` });
      await page.evaluate((transports) => {
        globalThis.got = [];
        globalThis.connects = [];
        globalThis.socket = globalThis.io({ transports, reconnectionDelay: 50, randomizationFactor: 0, forceNew: true });
        globalThis.socket.on("connect", () => globalThis.connects.push([globalThis.socket.id, globalThis.socket.recovered]));
        globalThis.socket.on("n", (i) => globalThis.got.push(i));
      }, transports);
      await page.waitForFunction("connects.length === 1");
      const [[id]] = await page.evaluate("connects");
      await page.evaluate("socket.io.engine.close()");
      s.app.emit("/", id, "n", 1);
      await page.waitForFunction("connects.length === 2 && got.length === 1");
      assert.deepEqual((await page.evaluate("connects"))[1], [id, true], transports.join());
      await page.close();
    }
  });

  it("get what all clients get with mode: all", { skip: missingClient("asyncio") }, async (t) => {
    const s = await stack(t, { config: { recovery: { clients: { mode: "all" } } } });
    const c = new PythonClient(t, "asyncio", s.url, "websocket");
    const id = await c.connected(1);
    s.app.emit("/", id, "n", 1);
    await until(() => /TypeError/.test(c.errors ?? ""), "an argument too many");
  });
});

describe("recovery.clients", { ...parallel, skip: onlyHoldfast }, () => {
  const cases = [
    ["opt-in by query, asked for", { mode: "opt-in", query: "recover" }, { query: { recover: "1" } }, true],
    ["opt-in by query, not asked for", { mode: "opt-in", query: "recover" }, {}, false],
    ["opt-in by query, asked for with 0", { mode: "opt-in", query: "recover" }, { query: { recover: "0" } }, false],
    ["opt-out by query, asked for", { mode: "opt-out", query: "norecover" }, { query: { norecover: "yes" } }, false],
    ["opt-out by query, not asked for", { mode: "opt-out", query: "norecover" }, {}, true],
    ["opt-in by user agent", { mode: "opt-in", user_agent: "^App/[23]\\." }, { extraHeaders: { "user-agent": "App/2.1" } }, true],
    ["opt-in by user agent, another", { mode: "opt-in", user_agent: "^App/[23]\\." }, { extraHeaders: { "user-agent": "App/1.9" } }, false],
    ["opt-out by user agent", { mode: "opt-out", user_agent: "Old" }, { extraHeaders: { "user-agent": "An Old One" } }, false],
    ["opt-out by user agent, another", { mode: "opt-out", user_agent: "Old" }, { extraHeaders: { "user-agent": "New" } }, true],
  ];
  for (const [what, clients, options, recovers] of cases) {
    combos(what, { versions: ["4.8.4"], transports: ["websocket", "polling"] }, async (t, how) => {
      const s = await stack(t, { config: { recovery: { clients } } });
      const c = s.client(how.version, { ...how.options, ...options });
      const { id } = await c.main.connected();
      s.app.stream("/", id, 1, 3);
      await c.main.stream(1, 3);
      assert.deepEqual(c.main.events.map((e) => e.length), recovers ? [3, 3, 3] : [2, 2, 2]);
      s.relay.down();
      await c.main.disconnected();
      if (!recovers) {
        if (how.transport === "websocket") await until(() => s.app.disconnects.length === 1, "the server to see the drop", 2000);
        assert.equal(await sessions(s, "parked"), 0);
        for (const { reason } of s.app.disconnects) assert.equal(reason, "transport close");
      } else {
        s.app.stream("/", id, 4, 5);
      }
      s.relay.up();
      await c.main.connected(2);
      assert.equal(c.main.last.recovered, recovers);
      if (recovers) await c.main.stream(1, 5);
      else assert.equal(s.app.footprint().connections, 2);
    });
  }
});
