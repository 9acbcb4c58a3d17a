// What tests of a handover need: a binary that they may replace, the outcome, and a service
// manager.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { binary, onlyHoldfast, toYAML } from "./holdfast.js";
import { stack as plainStack } from "./stack.js";
import { until } from "./wait.js";

export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

export const skip = onlyHoldfast || (process.platform !== "linux" && "needs Linux");

/** For programs with the race detector, which otherwise wait a second before they exit. */
export const env = { GORACE: "atexit_sleep_ms=0" };

export const stack = (t, options = {}) => plainStack(t, { ...options, holdfast: { env, ...options.holdfast } });

export async function status(s) {
  const { status, text } = await s.hf.admin("/api/status");
  return status === 200 ? JSON.parse(text) : null;
}

/** Hands over, and returns the outcome from the status report. */
export async function handOver(s, result = "ok") {
  const before = (await status(s)).handover.count;
  s.hf.signal("SIGUSR2");
  let last;
  await until(
    async () => (last = (await status(s))?.handover) && last.count > before,
    () => `the outcome of a handover\n${s.hf.log.slice(-4000)}`,
    15000,
  );
  assert.equal(last.result, result, `${last.reason}\n${s.hf.log.slice(-4000)}`);
  return last;
}

/** Runs `holdfast handover`, and returns its exit status and output. */
export async function command(s, ...args) {
  const child = spawn(await binary(), ["handover", "-admin", `127.0.0.1:${s.hf.adminPort}`, ...args], { env: { PATH: process.env.PATH, ...env } });
  let text = "";
  for (const out of [child.stdout, child.stderr]) out.on("data", (d) => (text += d));
  const code = await new Promise((resolve) => child.once("close", resolve));
  return { code, text };
}

/** A copy of the binary that a test may replace. */
export async function ownBinary(t) {
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-handover-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const bin = path.join(dir, "holdfast");
  await install(bin, await binary());
  return bin;
}

// Other processes write the programs. If this one did, a child that it has just forked might have
// the file open for writing. The file could not be executed meanwhile.
const shell = (script, ...args) => promisify(execFile)("sh", ["-c", script, "sh", ...args]);

/** Replaces the binary by a file, as an upgrade would. */
export async function install(bin, file) {
  await shell('cp "$1" "$2.new" && chmod 755 "$2.new" && mv "$2.new" "$2"', file, bin);
}

/** Replaces the binary by a shell script, in which $REAL is the real one. */
export async function replace(bin, script) {
  await shell('printf "#!/bin/sh\\nREAL=%s\\n%s\\n" "$1" "$2" >"$3.new" && chmod 755 "$3.new" && mv "$3.new" "$3"', await binary(), script, bin);
}

/** The beginning of a script that passes all checks before clients are closed. */
export const real = 'case "$*" in *formats|*-check) exec "$REAL" "$@";; esac';

/** The beginning of a script that also passes the check of the snapshot. */
export const verified = 'case "$*" in *formats|*verify|*-check) exec "$REAL" "$@";; esac';

/** A client with a session, over WebSocket, in front of its own binary. */
export async function begin(t, options = {}) {
  const bin = await ownBinary(t);
  const s = await stack(t, { ...options, holdfast: { bin, ...options.holdfast } });
  s.bin = bin;
  s.c = s.client("4.8.4", { transports: ["websocket"] });
  s.id = (await s.c.main.connected()).id;
  return s;
}

/** Checks that the client is served, with the session that it began with. */
export async function serves(s, connects) {
  await s.c.main.connected(connects);
  if (connects > 1) s.c.main.assertRecovered(connects - 1);
  assert.equal((await s.c.main.ask("echo", "x"))[0], "x");
  const n = (s.c.main.numbers.at(-1) ?? 0) + 1;
  s.app.stream("/", s.id, n, n + 9);
  await s.c.main.stream(1, n + 9);
  assert.equal(s.app.disconnects.length, 0);
  assert.equal(s.hf.exit, undefined);
}

/** Replaces its configuration atomically: a program that is just starting must not read half a file. */
export async function configure(s, config) {
  const file = path.join(s.hf.dir, "config.yaml");
  await writeFile(`${file}.new`, typeof config === "string" ? config : toYAML(config));
  await rename(`${file}.new`, file);
}

const builds = new Map();

/** Builds the sources in a directory as they are shipped, and returns the path. */
export function build(dir) {
  if (!builds.has(dir))
    builds.set(
      dir,
      (async () => {
        const out = path.join(await mkdtemp(path.join(os.tmpdir(), "holdfast-build-")), "holdfast");
        await promisify(execFile)("go", ["build", "-trimpath", "-o", out, "."], { cwd: dir, env: { ...process.env, CGO_ENABLED: "0" } });
        return out;
      })(),
    );
  return builds.get(dir);
}

let building;

/** The path of a service manager that stores descriptors. */
export function manager() {
  building ??= (async () => {
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-manager-"));
    await promisify(execFile)("go", ["build", "-o", path.join(dir, "manager"), "./test/e2e/manager"], { cwd: ROOT });
    return path.join(dir, "manager");
  })();
  return building;
}

/** How to start holdfast by the manager. The process id is the manager's. */
export const managed = async (more) => ({ bin: await manager(), env: { PROGRAM: await binary(), ...env, ...more } });

/** How often the manager has started holdfast. */
export const started = (hf) => hf.stdout.match(/manager: started .*/g)?.length ?? 0;

/** Restarts holdfast like systemctl restart. */
export async function restart(hf, how = () => hf.signal("SIGUSR1")) {
  const before = started(hf);
  how();
  await until(() => started(hf) > before, () => `the restart\n${hf.log.slice(-4000)}`, 10000);
  await until(async () => (await hf.admin("/readyz")).status === 200, () => `holdfast to be ready\n${hf.log.slice(-4000)}`, 10000);
}
