// Runs the test files with Node's own runner:
// `node run.js [names of files, or how they begin] [-- runner options]`.
// It builds the binary once, first.
import { spawn } from "node:child_process";
import { readdir } from "node:fs/promises";
import { binary, NATIVE } from "./lib/holdfast.js";

const args = process.argv.slice(2);
const split = args.indexOf("--");
const wanted = split < 0 ? args : args.slice(0, split);
const options = split < 0 ? [] : args.slice(split + 1);

const all = (await readdir(new URL("test/", import.meta.url))).filter((f) => f.endsWith(".test.js")).sort();
const files = all.filter((f) => !wanted.length || wanted.some((w) => f.startsWith(w.replace(/^.*\//, ""))));
if (!files.length) {
  console.error(`no such test file among: ${all.join(", ")}`);
  process.exit(2);
}

const env = { ...process.env };
if (!NATIVE) env.HOLDFAST_BIN = await binary();
const child = spawn(
  process.execPath,
  ["--test", "--test-force-exit", `--test-concurrency=${env.HOLDFAST_E2E_JOBS || 3}`, "--test-reporter=spec", ...options, ...files.map((f) => `test/${f}`)],
  { cwd: new URL(".", import.meta.url), env, stdio: "inherit" },
);
child.on("exit", (code) => process.exit(code ?? 1));
