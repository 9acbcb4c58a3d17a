// `holdfast doctor` and `holdfast init` against real servers of all kinds. What the doctor says
// about a server is compared with how that server was set up. holdfast starts with the file that
// init writes, and recovers a real client.
import { after, before, describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import net from "node:net";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { createRequire } from "node:module";
import { Client } from "../lib/client.js";
import { accepts, binary, onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { missing, PythonApp } from "../lib/python.js";
import { App, LEGACY, REFERENCE } from "../lib/server.js";
import { until } from "../lib/wait.js";

const require = createRequire(import.meta.url);
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_")));

/** Runs the doctor: {code, notes: codes of what is not ok, ...report}. */
async function examine(...args) {
  const { code, stdout, all } = await runHoldfast(["doctor", "-json", ...args], { timeout: 30000 });
  assert.ok(stdout.startsWith("{"), all);
  const report = JSON.parse(stdout);
  assert.equal(report.exit, code);
  const notes = report.findings.filter((f) => f.result !== "ok").map((f) => `${f.result} ${f.code}`);
  return { code, notes, ...report };
}

async function start(t, version, options) {
  const app = await App.start(version, options);
  t.after(() => app.stop());
  return app;
}

const old = (version) => Number(version.split(".")[1]) < 6 || version.startsWith("3");

describe("doctor", { skip: onlyHoldfast, concurrency: 4 }, () => {
  for (const version of [...LEGACY, REFERENCE]) {
    it(`describes socket.io ${version}`, async (t) => {
      const app = await start(t, version, { io: { pingInterval: 20000, maxHttpBufferSize: 5000, cookie: { name: "io" }, cors: { origin: "https://a.example" } } });
      const r = await examine(app.url);
      const tells = Number(version.split(".")[0]) === 4 && Number(version.split(".")[1]) >= 5;
      assert.deepEqual(r.notes, [...(tells ? [] : ["note payload"]), ...(old(version) ? ["note old_bundle"] : [])]);
      assert.deepEqual([r.code, r.ok], [0, true]);
      assert.deepEqual(r.server, {
        software: `socket.io ${version}`,
        client_bundle: version,
        engineio: [4],
        transports: ["polling", "websocket"],
        upgrade: true,
        ping_interval_ms: 20000,
        ping_timeout_ms: 20000,
        ...(tells ? { max_payload: 5000 } : {}),
        own_recovery: false,
        one_connection: false,
        cookies: ["io"],
        allow_origin: "https://a.example",
      });
      assert.deepEqual(app.connections.map((c) => c.nsp), ["/"], "one socket, which is gone");
      await until(() => app.disconnects.length === 1, "the doctor's socket to leave");
      assert.equal(app.disconnects[0].reason, "client namespace disconnect");
      await until(() => app.io.engine.clientsCount === 0, "all of the doctor's connections to be closed");
    });
  }

  it("sees the server's own recovery, and clients of Socket.IO 2", async (t) => {
    const app = await start(t, REFERENCE, { recovery: true, io: { allowEIO3: true } });
    const r = await examine(app.url);
    assert.deepEqual([r.code, r.notes, r.server.own_recovery, r.server.engineio], [1, ["fail own_recovery"], true, [4, 3]]);
  });

  it("sees what a server leaves out", async (t) => {
    const ws = await start(t, "4.5.4", { io: { transports: ["websocket"], serveClient: false } });
    const first = await examine(ws.url);
    assert.deepEqual([first.code, first.notes, first.server.transports, first.server.software], [0, ["note transports"], ["websocket"], undefined]);
    const poll = await start(t, "4.5.4", { io: { transports: ["polling"], path: "/chat/", serveClient: false } });
    const second = await examine("-path", "/chat", poll.url);
    assert.deepEqual([second.code, second.notes, second.server.transports], [0, ["note transports"], ["polling"]]);
    assert.equal(second.server.software, "socket.io 4.5 or later");
    assert.deepEqual((await examine(poll.url)).notes, ["fail not_found"], "another path");
  });

  it("sees what a server refuses", async (t) => {
    const app = await start(t, "4.5.4", {
      io: { allowRequest: (req, done) => done("who are you?", req.headers.authorization === "Bearer x") },
    });
    const without = await examine(app.url);
    assert.deepEqual([without.code, without.notes], [1, ["fail handshake_auth"]]);
    assert.match(without.findings.at(0).detail, /403.*who are you/);
    const denied = await examine("-header", "Authorization: Bearer x", "-auth", '{"deny":true}', app.url);
    assert.ok(denied.code === 1 && denied.notes.includes("fail connect_refused"), denied.notes);
    assert.equal((await examine("-header", "Authorization: Bearer x", app.url)).code, 0);
    const nowhere = await examine("-header", "Authorization: Bearer x", "-namespace", "/nowhere", app.url);
    assert.ok(nowhere.notes.includes("fail connect_refused"), nowhere.notes);
  });

  it("sees another parser", async (t) => {
    const app = await start(t, "4.5.4", { io: { parser: require("socket.io-msgpack-parser"), serveClient: false } });
    const r = await examine(app.url);
    assert.deepEqual([r.code, r.notes], [1, ["fail other_parser"]]);
  });

  for (const [kind, transports] of [["wsgi", ["polling"]], ["asgi", ["polling", "websocket"]]]) {
    it(`describes python-socketio (${kind})`, { skip: missing(kind) }, async (t) => {
      const app = await PythonApp.start(kind);
      t.after(() => app.stop());
      const r = await examine(app.url);
      assert.deepEqual([r.code, r.server.software, r.server.transports], [0, "python-socketio", transports], JSON.stringify(r.findings));
      await until(async () => (await app.log()).disconnects.length === 1, "the doctor's socket to leave");
    });
  }

  for (const version of ["1.7.4", "2.5.1"]) {
    it(`sees that socket.io ${version} needs a translation`, async (t) => {
      const http = createServer();
      const io = require(`socket.io-${version}`)(http);
      http.listen(0, "127.0.0.1");
      await once(http, "listening");
      t.after(() => io.close());
      const r = await examine(`http://127.0.0.1:${http.address().port}`);
      assert.deepEqual([r.code, r.notes, r.server.engineio], [0, ["note old_server", "note old_bundle"], [3]], JSON.stringify(r));
      // This is the version of the client bundle, whose last number may differ.
      assert.match(r.server.software, new RegExp(`^socket.io ${version.slice(0, 3)}`));
    });
  }

  it("finds no server", async (t) => {
    const web = createServer((req, res) => res.end("<title>Shop</title>")).listen(0, "127.0.0.1");
    const silent = net.createServer(() => {}).listen(0, "127.0.0.1");
    await Promise.all([once(web, "listening"), once(silent, "listening")]);
    t.after(() => web.close());
    t.after(() => silent.close());
    const at = (server) => `http://127.0.0.1:${server.address().port}`;
    for (const [args, note, says] of [
      [[at(web)], "fail not_socketio", /Shop/],
      [["-timeout", "300ms", at(silent)], "fail timeout", /no answer in time/],
      [[`http://127.0.0.1:${await freePort()}`], "fail unreachable", /nothing listens/],
    ]) {
      const r = await examine(...args);
      assert.deepEqual([r.code, r.notes], [3, [note]]);
      assert.match(r.findings[0].detail, says);
    }
  });
});

describe("init", { skip: onlyHoldfast }, () => {
  let dir;
  before(async () => (dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-init-"))));
  after(() => rm(dir, { recursive: true, force: true }));

  it("writes a file with which holdfast recovers a client", async (t) => {
    const app = await start(t, "4.5.4", { io: { path: "/live/" } });
    const file = path.join(dir, "holdfast.yaml");
    const written = await runHoldfast(["init", "-path", "/live", "-out", file, app.url]);
    assert.equal(written.code, 0, written.all);
    assert.match(written.stdout, /Wrote .*holdfast\.yaml/);
    const text = await readFile(file, "utf8");
    assert.match(text, /^# yaml-language-server: \$schema=https:\/\/.*config\.schema\.json\n/);
    assert.match(text, /get version 4\.5\.4, which\n# cannot resume/);
    const check = await runHoldfast(["-check", "-config", file]);
    assert.equal(check.code, 0, check.all);
    const again = await runHoldfast(["init", "-path", "/live", "-out", file, app.url]);
    assert.deepEqual([again.code, await readFile(file, "utf8")], [1, text], again.all);
    assert.match(again.all, /exists; -force replaces it/);

    const port = await freePort();
    const hf = spawn(await binary(), ["-config", file, "-listen", `127.0.0.1:${port}`, "-admin", "", "-stop-with-stdin"], { env, stdio: ["pipe", "ignore", "ignore"] });
    t.after(() => hf.kill("SIGKILL"));
    await until(() => accepts(port), "holdfast to listen");
    const client = new Client("4.8.4", `http://127.0.0.1:${port}`, { path: "/live/", transports: ["websocket"] });
    t.after(() => client.close());
    const { id } = await client.main.connected(1);
    app.emit("/", id, "n", 1);
    await client.main.stream(1, 1);
    client.ws.terminate();
    await client.main.disconnected(1);
    app.emit("/", id, "n", 2);
    assert.deepEqual(await client.main.connected(2), { id, recovered: true });
    await client.main.stream(1, 2);
  });
});
