// The command line and the configuration, as an operator meets them.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { Holdfast, binary, onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { request } from "../lib/raw.js";
import { App } from "../lib/server.js";
import { Client } from "../lib/client.js";
import { until, within } from "../lib/wait.js";

const skip = onlyHoldfast;
const GOOD = `listen: 127.0.0.1:18080
upstream:
  url: http://127.0.0.1:13000
recovery:
  max_disconnection_duration: 90s
  buffer:
    max_packets: 5000
admin:
  listen: 127.0.0.1:19090
`;

describe("the command line", { concurrency: 2, skip }, () => {
  it("-version", async () => {
    const r = await runHoldfast(["-version"]);
    assert.equal(r.code, 0, r.all);
    assert.match(r.stdout, /holdfast/);
  });

  it("-check prints the effective settings", async () => {
    const r = await runHoldfast(["-check", "-config", "c.yaml"], { files: { "c.yaml": GOOD } });
    assert.equal(r.code, 0, r.all);
    for (const part of ["127.0.0.1:18080", "http://127.0.0.1:13000", "max_disconnection_duration", "1m30s", "5000"]) {
      if (part === "1m30s") assert.match(r.stdout, /1m30s|90s/);
      else assert.ok(r.stdout.includes(part), `${part} is not in\n${r.stdout}`);
    }
  });

  it("-check of the example file", async () => {
    const { readFile } = await import("node:fs/promises");
    const text = await readFile(new URL("../../../config.example.yaml", import.meta.url), "utf8");
    const r = await runHoldfast(["-check", "-config", "c.yaml"], { files: { "c.yaml": text } });
    assert.equal(r.code, 0, r.all);
  });

  it("flags win over the environment, which wins over the file", async () => {
    const files = { "c.yaml": GOOD };
    const env = { HOLDFAST_UPSTREAM_URL: "http://127.0.0.1:14000", HOLDFAST_RECOVERY_MAX_DISCONNECTION_DURATION: "70s" };
    const r = await runHoldfast(["-check", "-config", "c.yaml", "-upstream", "http://127.0.0.1:15000"], { files, env });
    assert.equal(r.code, 0, r.all);
    assert.ok(r.stdout.includes("http://127.0.0.1:15000"));
    assert.ok(!r.stdout.includes("http://127.0.0.1:14000"));
    assert.match(r.stdout, /1m10s|70s/);
    assert.ok(r.stdout.includes("127.0.0.1:18080"));
  });

  it("-help", async () => {
    const r = await runHoldfast(["-help"]);
    assert.match(r.all, /-upstream/);
    assert.match(r.all, /-config/);
  });

  it("an unknown flag, and surplus arguments", async () => {
    for (const args of [["-nonsense"], ["-check", "word"]]) {
      const r = await runHoldfast(args);
      assert.equal(r.code, 2, r.all);
      assert.ok(r.stderr.length > 10);
    }
  });

  const bad = [
    ["an unknown key", "listen: :1\nupstraem:\n  url: x\n", /upstraem/, /2/],
    ["an unknown key below", "recovery:\n  max_disconection_duration: 2m\n", /max_disconection_duration/, /2/],
    ["a bad duration", "recovery:\n  max_disconnection_duration: soon\n", /max_disconnection_duration.*soon/s, /2/],
    ["a duration without a unit", "recovery:\n  max_disconnection_duration: 120\n", /max_disconnection_duration/, /2/],
    ["a negative duration", "recovery:\n  going_away_duration: -1s\n", /going_away_duration/, /2/],
    ["a bad size", "recovery:\n  buffer:\n    max_bytes: many\n", /max_bytes.*many/s, /3/],
    ["a bad number", "recovery:\n  max_parked_sessions: 0\n", /max_parked_sessions/, /2/],
    ["a bad URL", "upstream:\n  url: 127.0.0.1:3000\n", /upstream\.url|url/, /2/],
    ["a URL of another kind", "upstream:\n  url: ftp://127.0.0.1\n", /url/, /2/],
    ["a bad path", "engineio:\n  paths: [socket.io]\n", /paths/, /2/],
    ["a bad choice", "log:\n  level: loud\n", /level.*loud/s, /2/],
    ["a bad expression", "recovery:\n  clients: {mode: opt-in, user_agent: '('}\n", /user_agent/, /2/],
    ["a bad address", "listen: nowhere\n", /listen/, /1/],
    ["a key twice", "listen: :1\nlisten: :2\n", /listen/, /2/],
    ["no YAML at all", "listen: [\n", /c\.yaml/, /./],
    ["a list for a map", "- a\n- b\n", /c\.yaml/, /./],
  ];
  for (const [what, text, key, line] of bad) {
    it(`${what}: status 2, and an error with key and line`, async () => {
      for (const args of [["-check", "-config", "c.yaml"], ["-config", "c.yaml"]]) {
        const r = await runHoldfast(args, { files: { "c.yaml": text } });
        assert.equal(r.code, 2, `${args}: ${r.all}`);
        assert.match(r.stderr, key);
        assert.match(r.stderr, new RegExp(`c\\.yaml:?.*${line.source}`, "s"));
        assert.ok(!/goroutine|panic/.test(r.all), r.all);
        assert.ok(r.stderr.length < 1500, "one clear error");
      }
    });
  }

  it("a bad environment variable: status 2, with its name", async () => {
    const r = await runHoldfast(["-check"], { env: { HOLDFAST_RECOVERY_MAX_PARKED_SESSIONS: "lots" } });
    assert.equal(r.code, 2, r.all);
    assert.match(r.stderr, /HOLDFAST_RECOVERY_MAX_PARKED_SESSIONS/);
    assert.match(r.stderr, /lots/);
  });

  it("a missing file: status 2", async () => {
    const r = await runHoldfast(["-config", "absent.yaml"]);
    assert.equal(r.code, 2, r.all);
    assert.match(r.stderr, /absent\.yaml/);
  });

  for (const which of ["listen", "admin"]) {
    it(`the port of ${which} in use: status 2, and which one`, async (t) => {
      const taken = createServer().listen(0, "127.0.0.1");
      await new Promise((resolve) => taken.once("listening", resolve));
      t.after(() => taken.close());
      const port = taken.address().port;
      const other = await freePort();
      const r = await runHoldfast([
        "-listen", `127.0.0.1:${which === "listen" ? port : other}`,
        "-admin", `127.0.0.1:${which === "admin" ? port : other}`,
      ]);
      assert.equal(r.code, 2, r.all);
      assert.match(r.stderr, new RegExp(`${port}`));
      assert.match(r.stderr, /in use/);
    });
  }
});

describe("ways to run it", { concurrency: 2, skip }, () => {
  it("with two flags and nothing else", async (t) => {
    const app = await App.start("4.5.4");
    t.after(() => app.stop());
    const [port, admin] = [await freePort(), await freePort()];
    const child = spawn(await binary(), ["-upstream", app.url, "-listen", `127.0.0.1:${port}`, "-admin", `127.0.0.1:${admin}`], { env: { PATH: process.env.PATH } });
    const exited = new Promise((resolve) => child.once("exit", (code) => resolve(code)));
    child.stderr.resume();
    child.stdout.resume();
    t.after(() => child.kill("SIGKILL"));
    const c = new Client("4.8.4", `http://127.0.0.1:${port}`);
    t.after(() => c.close());
    await c.main.connected(1, 10000);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
    c.close();
    child.kill("SIGTERM");
    assert.equal(await within(exited, "the exit"), 0);
  });

  it("everything from the environment", async (t) => {
    const app = await App.start("4.5.4");
    t.after(() => app.stop());
    const [port, admin] = [await freePort(), await freePort()];
    const child = spawn(await binary(), [], {
      env: {
        HOLDFAST_UPSTREAM_URL: app.url,
        HOLDFAST_LISTEN: `127.0.0.1:${port}`,
        HOLDFAST_ADMIN_LISTEN: `127.0.0.1:${admin}`,
        HOLDFAST_LOG_FORMAT: "json",
      },
    });
    child.stderr.resume();
    child.stdout.resume();
    t.after(() => child.kill("SIGKILL"));
    await until(async () => (await request(`http://127.0.0.1:${port}/socket.io/?EIO=4&transport=polling`).catch(() => ({}))).status === 200, "an answer");
  });

  it("on unix sockets, towards clients and the server", async (t) => {
    const { mkdtemp, rm } = await import("node:fs/promises");
    const os = await import("node:os");
    const path = await import("node:path");
    const net = await import("node:net");
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-"));
    const app = await App.start("4.5.4");
    // A relay from a unix socket to the server, and one from a port to holdfast's unix socket.
    const up = net.createServer((a) => {
      const b = net.connect(app.port, "127.0.0.1");
      a.pipe(b).pipe(a);
      a.on("error", () => b.destroy());
      b.on("error", () => a.destroy());
    });
    await new Promise((resolve) => up.listen(path.join(dir, "up.sock"), resolve));
    const hf = await Holdfast.start(0, { upstream: { url: `unix://${dir}/up.sock` } });
    t.after(async () => {
      await app.stop();
      up.close();
      await hf.stop();
      await rm(dir, { recursive: true, force: true });
    });
    for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
      const c = new Client("4.8.4", hf.url, { transports });
      t.after(() => c.close());
      await c.main.connected();
      assert.equal((await c.main.ask("echo", 1))[0], 1);
      c.close();
    }
    assert.equal((await request(`${hf.url}/x`)).status, 404);
  });

  it("starts without its server, and is not ready or says so", async (t) => {
    const hf = await Holdfast.start(await freePort(), {}, {});
    t.after(() => hf.stop());
    assert.equal((await hf.admin("/healthz")).status, 200);
  });

  it("-demo: shows a recovery, and keeps serving", async (t) => {
    const child = spawn(await binary(), ["-demo"], { env: { PATH: process.env.PATH, HOME: "/" } });
    const exited = new Promise((resolve) => child.once("exit", (code) => resolve(code)));
    t.after(() => child.kill("SIGKILL"));
    let out = "";
    child.stdout.on("data", (d) => (out += d));
    child.stderr.on("data", (d) => (out += d));
    const url = await until(() => /Recovered:/.test(out) && /holdfast +(http:\S+:\d+)/.exec(out)?.[1], () => `the demo's story:\n${out}`, 30000);
    await until(() => /id/.test(out), "the id");
    const c = new Client("4.8.4", url.replace("localhost", "127.0.0.1"), { transports: ["websocket"] });
    t.after(() => c.close());
    await c.main.connected(1, 15000);
    assert.equal(typeof c.socket._pid, "string");
    c.close();
    child.kill("SIGINT");
    assert.equal(await within(exited, "the demo to end"), 0);
  });
});
