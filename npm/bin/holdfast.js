#!/usr/bin/env node
// Runs the binary in this process's place, as far as Node.js can: same arguments, output, signals
// and exit status.
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { findBinary } from "../lib/binary.js";

const windows = process.platform === "win32";
const args = process.argv.slice(2);
// Without a subcommand holdfast serves. It stops when its standard input ends, which also happens
// if this process is killed.
const serves = !args.length || args[0].startsWith("-");

let binary;
try {
  binary = findBinary();
} catch (err) {
  console.error(`holdfast: ${err.message}`);
  process.exit(1);
}
const env = { ...process.env };
delete env.HOLDFAST_BINARY_PATH;
const child = spawn(binary, serves ? ["-stop-with-stdin", ...args] : args, {
  env,
  stdio: [serves ? "pipe" : "inherit", "inherit", "inherit"],
  // Out of the terminal's process group: a Ctrl-C reaches this process, which forwards it once. A
  // second signal would end holdfast without draining. Windows has no such groups.
  detached: serves && !windows,
});
child.stdin?.on("error", () => {}); // holdfast ends before this process

const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];
for (const signal of signals)
  process.on(signal, () => {
    if (windows) child.stdin?.end(); // holdfast has got a Ctrl-C itself; a signal would kill it
    else if (serves || signal !== "SIGINT") child.kill(signal);
  });

child.on("error", (err) => {
  console.error(`holdfast: cannot run ${binary}: ${err.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => {
  if (!signal) process.exit(code);
  for (const s of signals) process.removeAllListeners(s);
  process.kill(process.pid, signal);
  // A signal that does not end this process still decides its exit status, as in a shell.
  setTimeout(() => process.exit(128 + (constants.signals[signal] ?? 0)), 100);
});
