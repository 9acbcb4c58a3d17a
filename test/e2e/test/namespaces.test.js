// Namespaces without recovery: recovery.namespaces.
import { spawn } from "node:child_process";
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { combos } from "../lib/combos.js";
import { onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { PYTHON, missing } from "../lib/python.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const namespaces = (include, exclude = []) => ({ recovery: { namespaces: { include, exclude } } });
const sessions = async (s, state) => (await s.hf.metrics()).sum("holdfast_sessions", { state });
const drops = (app, nsp) => app.disconnects.filter((d) => d.nsp === nsp).map((d) => d.reason);

describe("recovery.namespaces", parallel, () => {
  for (const handshake of ["eager", "lazy"]) {
    const options = handshake === "lazy" ? { versions: ["4.8.4"], transports: ["websocket", "polling"] } : {};
    combos(`the others of a client recover, ${handshake} handshakes`, { native: false, ...options }, async (t, how) => {
      const s = await stack(t, { config: { ...namespaces(["*"], ["/adm*"]), upstream: { handshake } } });
      const c = s.client(how.version, how.options);
      const admin = c.of("/admin", { token: "x" });
      const chat = c.of("/chat");
      const id = {};
      const each = [c.main, admin, chat];
      for (const nsp of each) id[nsp.socket.nsp] = (await nsp.connected()).id;
      if (how.transport === "default") await c.upgraded();
      let sent = 0;
      const stream = async (n) => {
        for (const nsp of [c.main, chat]) {
          s.app.stream(nsp.socket.nsp, id[nsp.socket.nsp], sent + 1, sent + n);
        }
        sent += n;
      };
      const arrived = async () => {
        for (const nsp of [c.main, chat]) await nsp.stream(1, sent);
      };
      await stream(10);
      await arrived();
      for (const nsp of each) await nsp.ask("echo", 1); // no upgrade is in progress any more

      for (let drop = 1; drop <= 3; drop++) {
        // What it gets in the namespace without recovery is as the server sent it.
        s.app.emit("/admin", admin.id, "news", "text");
        s.app.emit("/admin", admin.id, "news", Buffer.from("binary"), 2);
        await until(() => admin.events.length === 2, "the events");
        assert.deepEqual(admin.events, [
          ["news", "text"],
          ["news", Buffer.from("binary"), 2],
        ]);
        admin.events.length = 0;
        const last = admin.id;

        await s.lose(c);
        // A cut between two polls is noticed only when the client is back.
        if (how.transport !== "polling") {
          await until(() => drops(s.app, "/admin").length === drop, "the server to see the drop");
          await until(async () => (await sessions(s, "parked")) === 2, "the others to be parked");
        }
        s.app.io.of("/admin").to(last).emit("news", "nobody is there");
        await stream(20);
        s.relay.up();
        for (const nsp of each) await nsp.connected(drop + 1);
        await arrived();
        assert.equal(admin.last.recovered, false);
        assert.notEqual(admin.id, last);
        assert.deepEqual(await admin.ask("visit"), [1, [admin.id, "everyone"].sort()], "its socket is a new one");
        assert.deepEqual(s.app.connections.at(-1).auth, { token: "x" }, "the CONNECT has no pid");
        await until(() => drops(s.app, "/admin").length === drop, "the server to see the drop");
        for (const nsp of [c.main, chat]) assert.deepEqual((await nsp.ask("echo", drop))[0], drop);
      }
      for (const nsp of [c.main, chat]) nsp.assertRecovered(3);
      assert.deepEqual(drops(s.app, "/"), []);
      assert.deepEqual(drops(s.app, "/chat"), []);
      // One for each of the client's, and one more where the CONNECTs do not come together: the
      // first needs none.
      const made = s.app.engineConnections;
      assert.ok(made >= 4 && made <= 7, `${made} connections to the server`);
      const m = await s.hf.metrics();
      assert.equal(m.sum("holdfast_recoveries_total", { result: "failed" }), 0);
      assert.equal(m.sum("holdfast_sessions_closed_total", { reason: "not_parked" }), 3);
    });
  }

  combos("a client without any other is as one that is left out", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { config: namespaces(["/chat"]) });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    await c.main.ask("echo", 1);
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    assert.deepEqual(c.main.events, [["n", 1], ["n", 2], ["n", 3]]);
    await s.lose(c);
    if (how.transport !== "polling") {
      await until(() => drops(s.app, "/").length === 1, "the server to see the drop");
      assert.deepEqual(drops(s.app, "/"), ["transport close"], "as without holdfast");
    }
    s.relay.up();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.equal(s.app.footprint().connections, 2);
    assert.equal(await sessions(s, "parked"), 0);
    await until(() => drops(s.app, "/").length === 1, "the server to see the drop");
  });

  it("its socket disconnects as usual, and connects again", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config: namespaces(["*"], ["/admin"]) });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    await c.main.connected();
    const admin = c.of("/admin");
    await admin.connected();
    admin.socket.disconnect();
    await until(() => drops(s.app, "/admin").length === 1, "the DISCONNECT");
    assert.deepEqual(drops(s.app, "/admin"), ["client namespace disconnect"]);
    admin.socket.connect();
    await admin.connected(2);
    assert.equal((await admin.ask("echo", 1))[0], 1);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    assert.deepEqual(c.main.disconnects, []);
  });

  it("applies to what clients connect to after a reload", { skip: onlyHoldfast }, async (t) => {
    const s = await stack(t, { config: namespaces(["*"]) });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    await s.hf.reload({ recovery: { namespaces: { include: ["*"], exclude: ["/admin", "/"] } } });
    const admin = c.of("/admin");
    await admin.connected();
    for (const nsp of [c.main, admin]) s.app.stream(nsp.socket.nsp, nsp.id, 1, 1);
    for (const nsp of [c.main, admin]) await nsp.stream(1, 1);
    assert.deepEqual([c.main.events[0].length, admin.events[0].length], [3, 2], "what is open stays what it is");
    await s.lose(c);
    s.relay.up();
    for (const nsp of [c.main, admin]) await nsp.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.notEqual(c.main.id, id);
    const failed = (reason) => s.hf.metrics().then((m) => m.sum("holdfast_recoveries_total", { result: "failed", reason }));
    assert.equal(await failed("excluded"), 1, "the one that presents a pid from before");
    s.app.stream("/", c.main.id, 2, 2);
    await until(() => c.main.numbers.includes(2), "an event");
    assert.equal(c.main.events.at(-1).length, 2);
  });

  it("a client with strict handlers", { skip: onlyHoldfast || missing("asgi") }, async (t) => {
    const { recovery } = namespaces(["*"], ["/strict"]);
    // Otherwise holdfast would recognize it by its handshake.
    const config = { recovery: { ...recovery, clients: { mode: "all" } } };
    const s = await stack(t, { config, app: (io, app) => app.serve("/strict") });
    const client = fileURLToPath(new URL("../python/client.py", import.meta.url));
    const process = spawn(PYTHON, ["-u", client, s.url, "/strict"]);
    s.cleanups.push(async () => {
      process.kill("SIGKILL");
      await new Promise((resolve) => (process.exitCode ?? process.signalCode) !== null ? resolve() : process.once("exit", resolve));
    });
    let output = "";
    for (const stream of [process.stdout, process.stderr]) stream.on("data", (d) => (output += d));
    const lines = () => output.split("\n").filter((l) => l.startsWith("{")).map((l) => JSON.parse(l));
    const connected = async (n) => {
      await until(() => lines().filter((l) => l.connected).length === n, () => `connection ${n}\n${output}`, 15000);
      return lines().filter((l) => l.connected).at(-1).connected;
    };
    const id = await connected(1);
    const say = (to) => {
      s.app.emit("/strict", to, "n", 1);
      s.app.emit("/strict", to, "pair", "a", "text");
      s.app.emit("/strict", to, "pair", "b", Buffer.from("binary"));
    };
    const heard = () => lines().filter((l) => l.event).map((l) => l.args);
    say(id);
    const want = [[1], ["a", "text"], ["b", 6]];
    await until(() => heard().length === 3, () => `its events\n${output}`);
    assert.deepEqual(heard(), want, "exactly the arguments sent");
    const answers = [];
    s.app.socket(id, "/strict").emit("question", 41, (x) => answers.push(x));
    await until(() => answers.length === 1, "the answer");
    assert.deepEqual(answers, [42]);

    s.relay.cut();
    const next = await connected(2);
    assert.notEqual(next, id);
    await until(() => drops(s.app, "/strict").length === 1, "the server to see the drop");
    say(next);
    await until(() => heard().length === 6, () => `its events\n${output}`);
    assert.deepEqual(heard().slice(3), want);
    assert.doesNotMatch(output, /Error|error/);
  });

  it("an implausible pattern is refused", async () => {
    const file = "recovery:\n  namespaces:\n    include: [admin]\n    exclude:\n      - /a\n      - '*'\n";
    const { code, stderr } = await runHoldfast(["-check", "-config", "c.yaml"], { files: { "c.yaml": file } });
    assert.equal(code, 2);
    assert.match(stderr, /c\.yaml:3: recovery\.namespaces\.include: found "admin"; allowed: a namespace, .*; it must begin with a slash: "\/admin"/);
    assert.match(stderr, /c\.yaml:5: recovery\.namespaces\.exclude: found "\*"; allowed: patterns that do not exclude every namespace; to turn recovery off/);
  });
});
