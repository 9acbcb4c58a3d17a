// notify.parked and notify.resumed tell the server when a client is away and when it is back.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { PythonApp, missing } from "../lib/python.js";
import { Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const config = { notify: { parked: "client_parked", resumed: "client zurück" } };
const NAMES = Object.values(config.notify);
const forged = async (s) => (await s.hf.metrics()).sum("holdfast_events_dropped_total", { reason: "forged" });
const told = (app, nsp = "/") => app.received.filter((r) => r.nsp === nsp && NAMES.includes(r.args[0])).map((r) => r.args);

describe("presence", parallel, () => {
  combos("the server is told on the client's socket, in each namespace", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const admin = c.of("/admin");
    const adminId = (await admin.connected()).id;
    if (how.transport === "default") await c.upgraded();
    await c.main.ask("echo", 1);
    const handled = [];
    s.app.socket(id).on("client_parked", (...args) => handled.push(args));

    await s.lose(c);
    // A cut between two polls is noticed only when the client is back.
    await until(async () => told(s.app).length > 0 || how.transport === "polling", "the server to be told");
    s.app.emit("/", id, "n", 1);
    s.relay.up();
    await c.main.connected(2);
    await admin.connected(2);
    c.socket.emit("up", 1);
    await until(() => s.app.receivedArgs("up").length === 1 && told(s.app, "/admin").length === 2, "the client's event");
    for (const nsp of ["/", "/admin"]) {
      const [parked, resumed, ...more] = told(s.app, nsp);
      assert.deepEqual(more, []);
      assert.equal(parked[0], "client_parked");
      assert.match(parked[1].reason, /^[a-z_]+$/);
      assert.equal(parked[1].expires_in, 120);
      assert.equal(resumed[0], "client zurück");
      assert.ok(resumed[1].away >= 0 && resumed[1].away < 60 && Number.isInteger(resumed[1].missed), JSON.stringify(resumed));
    }
    assert.deepEqual(handled, [[told(s.app)[0][1]]], "one argument, to the handler of that socket");
    const order = s.app.received.filter((r) => r.nsp === "/").map((r) => r.args[0]);
    assert.deepEqual(order, ["echo", "client_parked", "client zurück", "up"], "before what the client sends then");
    assert.equal(s.app.received.filter((r) => r.nsp === "/admin").every((r) => r.id === adminId), true);
    c.main.assertRecovered(1);
    assert.equal(await forged(s), 0);
  });

  combos("a client cannot say it", { native: false, versions: ["4.8.4"], transports: ["websocket", "polling"] }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    await c.main.connected();
    for (const name of NAMES) {
      c.socket.emit(name, { reason: "x" });
      c.socket.emit(name, Buffer.from("binary"), 1, Buffer.from("more"));
      c.socket.emit(name, () => assert.fail("answered"));
      c.socket.emit(name, Buffer.from("binary"), () => assert.fail("answered"));
    }
    assert.deepEqual(await c.main.ask("echo", "client_parked", Buffer.from("b")), ["client_parked", Buffer.from("b")]);
    assert.deepEqual(told(s.app), []);
    assert.equal(await forged(s), 8);
    assert.deepEqual([c.main.disconnects, s.app.disconnects, s.app.errors], [[], [], []], "and nothing else happens to it");
  });

  // Packets that no known client writes, but that some servers read as events.
  for (const server of ["4.5.4", "3.1.2"]) {
    it(`nor by other spellings, to socket.io ${server}`, { skip: onlyHoldfast }, async (t) => {
      const s = await stack(t, { config, server });
      const spellings = [
        '42["client_p\\u0061rked"]',
        '42[ "client_parked"]',
        '42[["client_parked"]]',
        '42 ["client_parked"]',
        '42 1["client_parked"]',
        '45-["client_parked"]',
        '4２["client_parked"]',
        '42["client zur\\u00fcck"]',
      ];
      for (const before of [[], ["41"], ["41 "]]) {
        for (const spelling of spellings) {
          const ws = await Raw.open(s.url);
          for (const text of [...before, "40"]) ws.send(text);
          if (!before.length) await ws.find(/^40/);
          ws.send(spelling);
          ws.send('42["up",1]');
          await until(() => ws.closed || s.app.received.some((r) => r.args[0] === "up"), `the end of ${before} ${spelling}`);
          s.app.received = s.app.received.filter((r) => r.args[0] !== "up");
          ws.close();
        }
      }
      // These clients are away for a while.
      const ours = ([name, info]) => name === "client_parked" && info?.expires_in === 120;
      assert.deepEqual(s.app.received.map((r) => r.args).filter((args) => !ours(args)), []);
      assert.ok((await forged(s)) >= spellings.length);
    });
  }

  for (const kind of ["wsgi", "asgi"]) {
    it(`python-socketio, ${kind}, is told too`, { skip: onlyHoldfast || missing(kind) }, async (t) => {
      const app = await PythonApp.start(kind);
      const s = await stack(t, { upstreamPort: app.port, config: { notify: { parked: "client_parked", resumed: "client_resumed" } } });
      s.cleanups.unshift(() => app.stop());
      const c = s.client("4.8.4", { transports: [kind === "wsgi" ? "polling" : "websocket"] });
      const { id } = await c.main.connected();
      await s.lose(c);
      s.relay.up();
      await c.main.connected(2);
      const { presence } = await until(async () => ((x) => x.presence.length === 2 && x)(await app.log()), "the server to be told");
      assert.deepEqual(presence.map((p) => [p.sid, p.event]), [[id, "client_parked"], [id, "client_resumed"]]);
      assert.equal(presence[0].info.expires_in, 120);
      assert.equal(presence[1].info.missed, 0);
      c.socket.emit("client_resumed", {});
      await c.main.ask("echo", 1);
      assert.equal((await app.log()).presence.length, 2);
      c.main.assertRecovered(1);
    });
  }

  it("implausible names are refused", async () => {
    const { code, stderr } = await runHoldfast(["-check", "-config", "c.yaml"], {
      files: { "c.yaml": "notify:\n  parked: disconnect\n  resumed: '12'\n" },
    });
    assert.equal(code, 2);
    assert.match(stderr, /c\.yaml:2: notify\.parked: found "disconnect"; allowed: an event name/);
    assert.match(stderr, /c\.yaml:3: notify\.resumed: found "12"; allowed: an event name/);
  });
});
