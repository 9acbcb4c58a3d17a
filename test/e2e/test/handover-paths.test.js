// A handover of everything that is not a modern client over WebSocket and plain HTTP: what is kept,
// and what is counted.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { createServer as createTLSServer } from "node:tls";
import { promisify } from "node:util";
import { noOpenSSL, secret } from "../lib/certificates.js";
import { ROOT, begin, env, handOver, install, serves, skip, stack, status } from "../lib/handover.js";
import { Holdfast, binary } from "../lib/holdfast.js";
import { PythonClient, missingClient } from "../lib/python.js";
import { Raw, request } from "../lib/raw.js";
import { App } from "../lib/server.js";
import { SLOW, until, within } from "../lib/wait.js";

const require = createRequire(import.meta.url);

/** The outcome is the same in the status report, the metrics and the log. */
async function counted(s, out, { sessions = 0, lost = 0, cut = 0 }) {
  assert.deepEqual([out.sessions, out.lost_sessions, out.cut_connections], [sessions, lost, cut]);
  const metrics = await s.hf.metrics();
  assert.equal(metrics.sum("holdfast_handover_sessions"), sessions);
  assert.equal(metrics.sum("holdfast_handover_lost_sessions"), lost);
  assert.equal(metrics.sum("holdfast_handover_cut_connections"), cut);
  await s.hf.says((r) => /^handover: this process has taken over/.test(r.msg) && r.sessions === sessions && r.lost_sessions === lost && r.cut_connections === cut);
}

describe("a handover of other clients", { concurrency: 3, skip }, () => {
  it("TLS to the server: the sessions end and are counted, the server sees it, the clients come back fresh", { skip: noOpenSSL }, async (t) => {
    const files = await secret(t, "upstream.test");
    const app = await App.start("4.5.4");
    t.after(() => app.stop());
    const tls = createTLSServer({ key: await readFile(files.key), cert: await readFile(files.cert) }, (socket) => {
      const plain = net.connect(app.port, "127.0.0.1");
      socket.pipe(plain).pipe(socket);
      socket.on("error", () => plain.destroy());
      plain.on("error", () => socket.destroy());
    });
    await new Promise((resolve) => tls.listen(0, "127.0.0.1", resolve));
    t.after(() => tls.close());
    const upstream = { url: `https://127.0.0.1:${tls.address().port}`, tls: { ca_file: files.cert, server_name: "upstream.test" } };
    const s = await stack(t, { upstreamPort: app.port, config: { upstream } });
    const c = s.client("4.8.4", { transports: ["websocket"] });
    const { id } = await c.main.connected();
    await counted(s, await handOver(s), { lost: 1 });
    await until(() => app.disconnects.some((d) => d.id === id), "the server to see the end");
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("another parser, and what passes through: cut, counted, and back", async (t) => {
    const parser = require("socket.io-msgpack-parser");
    const s = await stack(t, { io: { parser }, http: () => {}, config: { handover: { leave: "100ms" } } });
    const c = s.client("4.8.4", { transports: ["websocket"], parser });
    const { id } = await c.main.connected();
    const hangs = request(`${s.direct}/never`).catch(() => ({ status: "cut" }));
    await until(async () => (await s.hf.metrics()).sum("holdfast_passthrough_requests_total") === 1, "the request to pass through");
    await counted(s, await handOver(s), { cut: 2 });
    assert.equal((await within(hangs, "the end of the request")).status, "cut");
    await until(() => s.app.disconnects.some((d) => d.id === id), "the server to see the end");
    await c.main.connected(2);
    assert.equal((await c.main.ask("echo", 1))[0], 1);
  });

  it("python-socketio's client with a key gets each event exactly once, three times in a row", { skip: missingClient("threads"), timeout: 60000 * SLOW }, async (t) => {
    const snippet = /```python\n((?:(?!```)[^])*class CountingClient(?:(?!```)[^])*)```/.exec(readFileSync(path.join(ROOT, "docs/clients.md"), "utf8"))?.[1];
    assert.ok(snippet, "docs/clients.md has a CountingClient");
    const s = await stack(t, { config: { recovery: { keyed: { query: "hf_key" } } } });
    const c = new PythonClient(t, "threads", `${s.direct}/?hf_key=0123456789abcdef0123`, "websocket", { snippet });
    await c.connected(1);
    const [{ id }] = s.app.connections;
    const ticker = s.app.ticker("/", id, { every: 20 });
    for (let n = 2; n <= 4; n++) {
      assert.equal((await handOver(s)).sessions, 1);
      await c.connected(n);
    }
    const last = ticker.stop();
    await until(() => c.numbersOf().length >= last, () => `event ${last}\n${c.output.slice(-2000)}`, 20000);
    assert.deepEqual(c.numbersOf().sort((a, b) => a - b), Array.from({ length: last }, (_, i) => i + 1));
    assert.deepEqual(s.app.disconnects, []);
    assert.equal(c.errors, undefined);
  });

  it("python-socketio's client without a key comes back, and its old session is kept for its time", { skip: missingClient("asyncio") }, async (t) => {
    const s = await stack(t);
    const c = new PythonClient(t, "asyncio", s.direct, "polling");
    await c.connected(1);
    await handOver(s);
    await c.connected(2);
    assert.equal(c.said.some((x) => x.gone), false);
  });

  it("a full buffer: sessions kept before are kept afterwards, and evicted ones are gone", async (t) => {
    const buffer = { total_bytes: "1MiB", window: "64KiB", max_bytes: "600KiB" };
    const s = await stack(t, { config: { recovery: { buffer } } });
    const away = [];
    for (let i = 0; i < 3; i++) {
      const raw = await Raw.open(s.direct);
      away.push(await raw.connect());
      raw.close();
      await until(async () => (await status(s)).sessions.parked === i + 1, "it to be parked");
    }
    // Two sessions with all of their events take more than the whole buffer, so one remains.
    const settled = () =>
      until(async () => {
        const now = await status(s);
        return now.sessions.parked === 1 && now.buffer.packets === 8 && now.buffer.bytes <= 1 << 20;
      }, () => `one session with its events\n${s.hf.log.slice(-3000)}`);
    for (const { sid } of away) for (let i = 0; i < 8; i++) s.app.socket(sid)?.emit("large", randomBytes(48 << 10).toString("base64"));
    await settled();
    assert.equal((await handOver(s)).sessions, 1);
    await settled();
    let recovered = 0;
    for (const { sid, pid } of away) {
      const back = await Raw.open(s.direct);
      if ((await back.connect({ pid })).sid === sid) recovered++;
      back.close();
    }
    assert.equal(recovered, 1, "those that were evicted are gone, and no others");
  });

  it("as process 1 of a container", { skip: skip || noNamespaces() }, async (t) => {
    const s = await begin(t);
    await s.hf.stop();
    // unshare passes no signals on, so the test finds the process inside.
    const wrapper = `${s.bin}.unshare`;
    execFileSync("sh", ["-c", `printf '#!/bin/sh\\nexec unshare --pid --fork --mount-proc --kill-child "$0.real" "$@"\\n' > "$1" && chmod 755 "$1" && cp "$2" "$1.real"`, "sh", wrapper, await binary()]);
    s.hf = await Holdfast.start(s.app.port, { listen: `127.0.0.1:${s.hf.port}` }, { bin: wrapper, env });
    await s.c.main.connected(2);
    const inside = Number(execFileSync("ps", ["-o", "pid=", "--ppid", `${s.hf.pid}`], { encoding: "utf8" }));
    assert.equal((await status(s)).holdfast.pid, 1);
    for (let n = 1; n <= 2; n++) {
      process.kill(inside, "SIGUSR2");
      await until(async () => (await status(s))?.handover.count === n, () => `handover ${n}\n${s.hf.log}`, 15000);
      assert.equal((await status(s)).handover.result, "ok");
      await s.c.main.connected(2 + n);
      assert.equal(s.c.main.last.recovered, true);
    }
    assert.equal((await status(s)).holdfast.pid, 1);
    s.hf.ending = true;
    process.kill(inside, "SIGTERM");
    await within(s.hf.exited, "the exit", 10000);
  });
});

function noNamespaces() {
  try {
    execFileSync("unshare", ["--pid", "--fork", "--mount-proc", "true"], { stdio: "ignore" });
    return false;
  } catch {
    return "needs unshare, and the right to use it";
  }
}

describe("a handover between versions", { skip: skip || noFormerCommit() }, () => {
  it("from the commit before this one to this one, and back", { timeout: 240000 * SLOW }, async (t) => {
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-former-"));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const former = path.join(dir, "bin");
    const run = promisify(execFile);
    await run("sh", ["-c", 'git archive HEAD^ | tar x -C "$1"', "sh", dir], { cwd: ROOT });
    await run("go", ["build", "-o", former, "."], { cwd: dir });
    const s = await begin(t);
    const parked = await Raw.open(s.direct);
    const { sid, pid } = await parked.connect();
    parked.close();
    await until(async () => (await status(s)).sessions.parked === 1, "it to be parked");
    const ticker = s.app.ticker("/", s.id, { every: 20 });
    let n = 1;
    for (const bin of [former, await binary(), former, await binary()]) {
      await install(s.bin, bin);
      const out = await handOver(s);
      assert.deepEqual([out.sessions, out.lost_sessions], [2, 0]);
      await s.c.main.connected(++n);
      s.app.socket(sid).emit("missed", n);
    }
    const last = ticker.stop();
    await s.c.main.stream(1, last);
    await serves(s, n);
    const back = await Raw.open(s.direct);
    assert.equal((await back.connect({ pid })).sid, sid);
    for (let i = 2; i <= n; i++) assert.match(await back.find(/^42/), new RegExp(`^42\\["missed",${i}`));
    back.close();
  });
});

/** Why the commit before this one cannot be built here, or false. */
function noFormerCommit() {
  try {
    const git = (...args) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8", stdio: "pipe" });
    git("cat-file", "-e", "HEAD^^{tree}");
    return git("rev-parse", "--show-prefix").trim() !== "" && "is not a clone";
  } catch {
    return "needs the commit before this one: this is a shallow clone, or no clone";
  }
}
