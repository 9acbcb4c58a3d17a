// A handover that goes wrong: processes that are killed in each step, programs that fail, machines
// in need, and signals at the wrong moment. Before the point of no return the old process
// continues, and reports why.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdir, stat, writeFile } from "node:fs/promises";
import net from "node:net";
import { begin, command, configure, env, handOver, install, managed, real, replace, restart, serves, skip, stack, started, status, verified } from "../lib/handover.js";
import { Holdfast, binary } from "../lib/holdfast.js";
import { Raw, request } from "../lib/raw.js";
import { SLOW, sleep, until, within } from "../lib/wait.js";

const noPrlimit = (() => {
  try {
    execFileSync("prlimit", ["--version"], { stdio: "ignore" });
    return false;
  } catch {
    return "needs prlimit";
  }
})();

const exists = (file) => stat(file).then(() => true, () => false);

/** Hands over by `holdfast handover`, and checks that its exit status, status page, metric and log say the same. */
async function fails(s, result, reason) {
  const lines = () => s.hf.records.filter((r) => r.level === "ERROR" && /^handover: (failed, and this process continues|this process has taken over)/.test(r.msg));
  const told = lines().length;
  const before = (await s.hf.metrics()).sum("holdfast_handovers_total", { result });
  const { code, text } = await command(s, "-timeout", "60s");
  assert.equal(code, 1, text);
  assert.match(text, new RegExp(`handover ${result}: `));
  assert.match(text, reason);
  const { handover } = await status(s);
  assert.equal(handover.result, result);
  assert.match(handover.reason, reason);
  assert.equal((await s.hf.metrics()).sum("holdfast_handovers_total", { result }), before + 1);
  const line = await until(() => lines().length > told && lines().at(-1), () => `the log to tell\n${s.hf.log.slice(-3000)}`);
  assert.equal(line.result, result, s.hf.log.slice(-3000));
  assert.match(line.reason, reason);
}

/** Parks a session that misses an event of `bytes`, so that a snapshot is large. */
async function missEvents(s, bytes) {
  const away = await Raw.open(s.direct);
  const { sid } = await away.connect();
  away.close();
  await until(async () => (await status(s)).sessions.parked === 1, "it to be parked");
  s.app.socket(sid).emit("large", Buffer.alloc(bytes, 1));
  await until(async () => (await status(s)).buffer.bytes >= bytes, "the event");
}

describe("a handover that fails is reported by the command, the log, a metric and the status page", { concurrency: 3, skip }, () => {
  /** A copy of the binary for another kind of machine. */
  const foreign = async (s) =>
    // e_machine: IBM S/390.
    execFileSync("sh", ["-c", `cp "$1" "$2.new" && printf '\\026\\000' | dd of="$2.new" bs=1 seek=18 conv=notrunc 2>/dev/null && mv "$2.new" "$2"`, "sh", await binary(), s.bin]);
  const descriptors = async (s) => (await readdir(`/proc/${s.hf.pid}/fd`)).length;
  const limit = (s, what) => execFileSync("prlimit", ["--pid", `${s.hf.pid}`, `--${what}`]);

  for (const [what, change, reason, undo] of [
    ["the binary is for another kind of machine", foreign, /exec format error|cannot execute/],
    ["the binary is killed", (s) => replace(s.bin, "kill -9 $$"), /signal: killed/],
    ["the binary is another program", (s) => replace(s.bin, "echo hello"), /does not report which formats/],
    ["there are no file descriptors", async (s) => limit(s, `nofile=${await descriptors(s)}:`), /too many open files/, (s) => limit(s, "nofile=1024:")],
  ]) {
    it(`rejected: ${what}`, { skip: undo && noPrlimit }, async (t) => {
      const s = await begin(t);
      await change(s);
      // The command needs a connection.
      if (undo) assert.equal((await handOver(s, "rejected")).result, "rejected");
      await undo?.(s);
      if (undo) assert.match((await status(s)).handover.reason, reason);
      else await fails(s, "rejected", reason);
      await serves(s, 1);
      await install(s.bin, await binary());
      await handOver(s);
      await serves(s, 2);
    });
  }

  for (const [what, script, reason, undo] of [
    ["the check of the snapshot is killed", `${real}\nkill -9 $$`, / verify: signal: killed/],
    ["the check of the snapshot has no memory", `${real}\nulimit -v 30000; exec "$REAL" "$@"`, / verify: /],
    ["the snapshot is too large for the disk", "", /file too large/, (s) => limit(s, "fsize=unlimited:")],
    ["the exec fails", `${real}\ncase "$*" in *verify) cp /dev/null "$0"; chmod 644 "$0"; exit 0;; esac`, /permission denied|text file busy/],
  ]) {
    it(`failed: ${what}`, { skip: undo && noPrlimit }, async (t) => {
      const s = await begin(t);
      if (script) await replace(s.bin, script);
      else {
        await missEvents(s, 100000);
        limit(s, "fsize=65536:");
      }
      await fails(s, "failed", reason);
      await undo?.(s);
      await serves(s, 2);
      await install(s.bin, await binary());
      await handOver(s);
      await serves(s, 3);
    });
  }

  it("restored: the new program's address is in use, twice in a row", async (t) => {
    const s = await begin(t);
    const occupied = net.createServer();
    await new Promise((resolve) => occupied.listen(0, "127.0.0.1", resolve));
    t.after(() => occupied.close());
    await configure(s, { ...s.hf.config, listen: `127.0.0.1:${occupied.address().port}` });
    for (const n of [2, 3]) {
      await fails(s, "restored", /address already in use/);
      await serves(s, n);
    }
    await configure(s, s.hf.config);
    await handOver(s);
    await serves(s, 4);
  });

  it("a snapshot that neither program can read: clients are still served, and the server sees the sessions end", async (t) => {
    const s = await begin(t);
    await replace(s.bin, `${verified}
fd=\${_HANDOVER%%:*}
printf x | dd of=/proc/self/fd/$fd bs=1 seek=30 conv=notrunc 2>/dev/null
exec "$REAL" "$@"`);
    s.hf.signal("SIGUSR2");
    await s.c.main.connected(2, 15000);
    assert.equal(s.c.main.last.recovered, false);
    await s.hf.says(/the sessions are lost/);
    await until(() => s.app.disconnects.length === 1, "the server to see the end");
    assert.equal((await s.c.main.ask("echo", "x"))[0], "x");
    await install(s.bin, await binary());
    await handOver(s);
    await s.c.main.connected(3);
    assert.equal(s.c.main.last.recovered, true);
  });
});

describe("SIGKILL in the middle of a handover", { concurrency: 3, skip }, () => {
  // Each script stops at the point where the test kills the process, and reports that it is there.
  const stop = (at) => `case "$*" in ${at}) touch "$0.here"; exec sleep 60;; esac; exec "$REAL" "$@"`;
  for (const [when, script] of [
    ["while the new program says what it reads", stop("*formats")],
    ["while it checks the settings", stop("*-check")],
    ["while it checks the snapshot", stop("*verify")],
    ["after the exec, before it has taken over", `${verified}\ntouch "$0.here"; exec sleep 60`],
  ]) {
    it(`${when}: the sessions are lost, and the next start serves`, async (t) => {
      const s = await begin(t, { config: { handover: { timeout: "30s" } } });
      await replace(s.bin, script);
      s.hf.signal("SIGUSR2");
      await until(() => exists(`${s.bin}.here`), "the step", 15000);
      s.hf.signal("SIGKILL");
      assert.equal((await within(s.hf.exited, "the exit")).signal, "SIGKILL");
      await until(() => s.app.disconnects.length === 1, "the server to see the end");
      await s.hf.kill();
      s.hf = await Holdfast.start(s.app.port, { listen: `127.0.0.1:${s.hf.port}` }, { env });
      await s.c.main.connected(2, 15000);
      assert.equal(s.c.main.last.recovered, false);
      assert.equal((await s.c.main.ask("echo", "x"))[0], "x");
    });
  }

  const systemd = async (t, more, options = {}) =>
    stack(t, { ...options, config: { handover: { mode: "systemd" }, ...options.config }, holdfast: await managed(more) });

  for (const [when, at, recovers] of [
    ["with the links stored and not the snapshot", "holdfast-links", false],
    ["with everything stored", "holdfast-snapshot", true],
    ["after the links were read again, with the snapshot still stored", "second READY=1", false],
  ]) {
    it(`with a service manager, ${when}: the session ${recovers ? "is kept" : "ends at the server"}`, async (t) => {
      const s = await systemd(t, { KILL_AT: at });
      const c = s.client("4.8.4", { transports: ["websocket"] });
      await c.main.connected();
      const before = started(s.hf);
      s.hf.signal("SIGUSR1");
      await until(() => s.hf.stdout.includes(`killed at ${at}`), "the kill", 10000);
      await until(() => started(s.hf) > before + (at.includes("READY") ? 1 : 0), "the next start", 10000);
      await until(() => c.main.last?.recovered === recovers && c.main.socket.connected && c.main.connects.length > 1, () => `the client\n${s.hf.log.slice(-3000)}`, 15000);
      assert.equal((await c.main.ask("echo", "x"))[0], "x");
      if (recovers) assert.deepEqual(s.app.disconnects, []);
      else await until(() => s.app.disconnects.length === 1, "the server to see the end");
      await until(() => /manager: stored (holdfast-socket-\w+-\w+,?)+\n/.test(s.hf.stdout.slice(s.hf.stdout.lastIndexOf("manager: started"))), () => `only listeners to be stored\n${s.hf.stdout}`);
      await restart(s.hf);
      await until(() => c.main.socket.connected && c.main.last.recovered, "the client to recover as ever", 15000);
    });
  }
});

describe("other signals and a handover", { concurrency: 3, skip }, () => {
  // From the exec until the next program's runtime has begun, the signal has its default effect.
  const ended = (exit, when) => assert.ok(exit.code === 0 || exit.signal === "SIGTERM", `${when}: ${JSON.stringify(exit)}`);

  it("SIGTERM at any moment of it: the process ends, and the next one serves", { timeout: 120000 * SLOW }, async (t) => {
    const s = await begin(t, { config: { shutdown: { drain_timeout: "0" } } });
    let connects = 1;
    for (const delay of [0, 30, 60, 100, 150, 250]) {
      s.hf.signal("SIGUSR2");
      await sleep(delay);
      s.hf.signal("SIGTERM");
      ended(await within(s.hf.exited, `the exit after ${delay} ms`, 10000), `after ${delay} ms`);
      s.hf.checkHealth();
      s.hf = await Holdfast.start(s.app.port, { listen: `127.0.0.1:${s.hf.port}`, shutdown: { drain_timeout: "0" } }, { bin: s.bin, env });
      await until(() => s.c.main.connects.length > connects && s.c.main.socket.connected, "the client to be back", 15000);
      connects = s.c.main.connects.length;
      assert.equal((await s.c.main.ask("echo", delay))[0], delay);
    }
  });

  it("SIGUSR2 while it starts is a handover as soon as it serves", async (t) => {
    const s = await begin(t);
    await s.hf.stop();
    s.hf = await Holdfast.start(s.app.port, { listen: `127.0.0.1:${s.hf.port}` }, { bin: s.bin, env, ready: false });
    await until(() => /admin listener is ready/.test(s.hf.log), () => `the admin listener\n${s.hf.log}`, 10000);
    s.hf.signal("SIGUSR2");
    await until(async () => (await status(s))?.handover.count === 1, () => `a handover\n${s.hf.log}`, 15000);
    assert.equal((await status(s)).handover.result, "ok");
  });

  it("SIGUSR2 while it drains is rejected, and the drain continues", async (t) => {
    let answer;
    const s = await begin(t, { config: { shutdown: { drain_timeout: "60s" } }, http: (req, res) => (answer = () => res.end("done")) });
    const download = request(`${s.direct}/slow`);
    await until(() => answer, "the request");
    s.hf.signal("SIGTERM");
    await until(() => /draining/.test(s.hf.log), "the drain");
    await fails(s, "rejected", /being stopped/);
    answer();
    assert.equal((await download).body, "done");
    s.app.io.disconnectSockets(true);
    assert.deepEqual(await within(s.hf.exited, "the exit", 15000), { code: 0, signal: null });
  });

  it("SIGHUP in the middle of it: the settings apply afterwards, and the session is kept", async (t) => {
    const s = await begin(t);
    await replace(s.bin, `${real}\ncase "$*" in *verify) touch "$0.here"; while [ ! -e "$0.go" ]; do sleep 0.01; done;; esac; exec "$REAL" "$@"`);
    s.hf.signal("SIGUSR2");
    await until(() => exists(`${s.bin}.here`), "the snapshot", 15000);
    await s.hf.reload({ recovery: { max_parked_sessions: 77 } });
    await writeFile(`${s.bin}.go`, "");
    await serves(s, 2);
    assert.equal((await status(s)).sessions.max_parked, 77);
    assert.equal((await status(s)).handover.result, "ok");
  });

  it("twenty SIGHUPs and SIGUSR2s at once lose nothing", async (t) => {
    const s = await begin(t);
    for (let i = 0; i < 20; i++) {
      s.hf.signal("SIGHUP");
      s.hf.signal("SIGUSR2");
      await sleep(5);
    }
    await until(async () => (await status(s))?.handover.count > 0, "a handover", 15000);
    await until(() => s.c.main.connects.length > 1 && s.c.main.socket.connected, "the client");
    await serves(s, s.c.main.connects.length);
  });
});
