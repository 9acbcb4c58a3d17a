// Starts holdfast beside a Socket.IO server, in development and tests.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { findBinary } from "./lib/binary.js";
import { HoldfastError } from "./lib/error.js";
import { LEVELS, resolveOptions } from "./lib/options.js";

export { HoldfastError };

/** How long stop() waits after the drain before it kills. */
const KILL_AFTER = 40000;

/** Starts holdfast and resolves when it is ready for clients. index.d.ts documents the options. */
export async function startHoldfast(options) {
  const { args, env, level, log, timeout } = resolveOptions(options ?? {});
  const binary = findBinary();
  const child = spawn(binary, args, {
    env,
    stdio: ["pipe", "ignore", "pipe"],
    // A Ctrl-C is for this process, which decides when holdfast stops: by stop(), or by ending,
    // which ends the pipe.
    detached: process.platform !== "win32",
    windowsHide: true,
  });
  child.stdin.on("error", () => {}); // holdfast has ended
  const said = []; // what is not a log line: the reason why holdfast did not start
  const ready = new Promise((resolve) => {
    let admin;
    createInterface({ input: child.stderr }).on("line", (line) => {
      const entry = parse(line);
      if (!entry) {
        said.push(line);
        if (log !== false) (log ?? print)({ level: "ERROR", msg: line });
        return;
      }
      if (entry.msg === "admin listener is ready") admin = entry.listen;
      if (entry.msg === "holdfast is ready") resolve({ listen: entry.listen, admin });
      if (log !== false && LEVELS.indexOf(String(entry.level).toLowerCase()) >= level) (log ?? print)(entry);
    });
  });
  const exited = new Promise((resolve) => {
    child.once("close", (code, signal) => resolve({ code, signal }));
    child.once("error", (error) => resolve({ code: null, signal: null, error }));
  });
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, timeout, "late")));
  const first = await Promise.race([ready, exited.then((exit) => ({ exit })), late]);
  clearTimeout(timer);
  if (first === "late") {
    child.kill("SIGKILL");
    throw new HoldfastError("TIMEOUT", `holdfast was not ready within ${timeout} ms`);
  }
  if (first.exit) throw failure(binary, first.exit, said);

  // The caller's process may end without stop(): the pipe to holdfast ends with it.
  child.unref();
  child.stdin.unref?.();
  child.stderr.unref?.();
  let stopping;
  return {
    url: `http://${reachable(first.listen)}`,
    adminUrl: `http://${reachable(first.admin)}`,
    pid: child.pid,
    exited: exited.then(({ code, signal }) => ({ code, signal })),
    stop: () => (stopping ??= stop(child, exited)),
  };
}

/** Lets holdfast drain and end. */
async function stop(child, exited) {
  child.ref();
  child.stderr.ref?.();
  const timer = setTimeout(() => child.kill("SIGKILL"), KILL_AFTER);
  child.stdin.end();
  const { code, signal } = await exited;
  clearTimeout(timer);
  return { code, signal };
}

function failure(binary, { code, signal, error }, said) {
  if (error) return new HoldfastError("CANNOT_RUN", `cannot run ${binary}: ${error.message}`, { cause: error });
  const reason = said.join("\n").trim();
  const how = signal ? `by ${signal}` : `with status ${code}`;
  const message = reason ? `holdfast did not start: ${reason.replace(/^holdfast: /, "")}` : `holdfast ended ${how} before it was ready`;
  if (/address already in use|Only one usage of each socket address/.test(reason)) return new HoldfastError("EADDRINUSE", message);
  return new HoldfastError(code === 2 ? "BAD_SETTING" : "EXITED", message);
}

function parse(line) {
  try {
    const entry = JSON.parse(line);
    return typeof entry === "object" ? entry : null;
  } catch {
    return null;
  }
}

function print({ level, msg, time, ...more }) {
  const rest = Object.entries(more).map(([k, v]) => ` ${k}=${typeof v === "object" ? JSON.stringify(v) : v}`);
  process.stderr.write(`holdfast: ${level} ${msg}${rest.join("")}\n`);
}

/** Where a listener on all addresses can be reached on this machine. */
function reachable(address) {
  return address.replace(/^\[::\]/, "[::1]").replace(/^0\.0\.0\.0/, "127.0.0.1");
}
