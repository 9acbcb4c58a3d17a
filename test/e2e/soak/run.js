// `node soak/run.js [--minutes 10] [--seed N] [--clients 18] [--simulated 60]
// [--lanes 1,2,3,4,6,7,8,9,10] [--versions 4.6.2,4.8.4] [--json FILE]`: see README.md, The soak.
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { binary } from "../lib/holdfast.js";
import { sleep } from "../lib/wait.js";
import { Lane, VERSIONS } from "./lane.js";
import { summarise, text } from "./report.js";

const usage = "node soak/run.js [--minutes 10] [--seed N] [--clients 18] [--simulated 60] [--lanes 1,2,3,4,6,7,8,9,10] [--versions 4.6.2,4.8.4] [--json FILE]";

/** A lane is a holdfast with its own server. */
const LANES = [
  { server: "4.5.4", ackEvents: "at-most-once", buffer: {} },
  // Small buffers, so that links are paused and sessions overflow.
  { server: "4.0.2", ackEvents: "at-least-once", buffer: { window: "64KiB", max_bytes: "512KiB" } },
  // The server emits packets that its clients cannot decode.
  { server: "4.5.4", ackEvents: "at-most-once", buffer: {}, poison: true },
  // A server that speaks Engine.IO 3, and for which holdfast translates.
  { server: "2.5.1", ackEvents: "at-most-once", buffer: {} },
  // A smaller lane 3, to run beside others on a small machine. docs/guarantees.md says what clients
  // before 4.8 may lose then.
  { server: "4.5.4", ackEvents: "at-most-once", buffer: {}, poison: true, versions: ["4.8.4"], clients: 6, simulated: 4 },
  // Clients reach another replica with each connection, while replicas are killed, stopped, and cut
  // off from each other.
  { server: "4.5.4", ackEvents: "at-most-once", buffer: {}, replicas: 3 },
  // All real clients have a key, and every other one counts.
  { server: "4.5.4", ackEvents: "at-least-once", buffer: {}, keyed: "at-least-once" },
  { server: "4.5.4", ackEvents: "at-most-once", buffer: {}, keyed: "at-most-once" },
  // Replicas that find each other in Redis, which is killed, stopped and emptied. Others join, drain, and hand over. Some clients have a key.
  { server: "4.5.4", ackEvents: "at-most-once", buffer: {}, replicas: 3, redis: true },
  // The same, and all real clients have a key.
  { server: "4.5.4", ackEvents: "at-least-once", buffer: {}, replicas: 3, redis: true, keyed: "at-least-once" },
];

function wrong(what) {
  throw new Error(what);
}

function options() {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "10" },
      seed: { type: "string" },
      clients: { type: "string", default: "18" },
      simulated: { type: "string", default: "60" },
      json: { type: "string" },
      versions: { type: "string", default: VERSIONS.join(",") },
      lanes: { type: "string", default: "1,2,3,4,6,7,8,9,10" },
    },
  });
  const number = (name, min) => {
    const n = Number(values[name]);
    return n >= min ? n : wrong(`--${name} ${values[name]}: a number from ${min} on is wanted`);
  };
  return {
    minutes: number("minutes", 0.1),
    seed: values.seed ? number("seed", 0) : Math.floor(Math.random() * 1e6),
    clients: number("clients", 1),
    simulated: number("simulated", 0),
    json: values.json,
    versions: values.versions.split(","),
    lanes: values.lanes.split(",").map((n) => (LANES[n - 1] && { number: n, ...LANES[n - 1] }) ?? wrong(`--lanes ${values.lanes}: numbers from 1 to ${LANES.length} are wanted`)),
  };
}

async function soak({ minutes, seed, clients, versions, simulated, lanes: chosen }) {
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-soak-"));
  const lanes = [];
  try {
    const sim = path.join(dir, "sim");
    await promisify(execFile)("go", ["build", "-o", sim, "./test/e2e/soak/sim"], { cwd: fileURLToPath(new URL("../../..", import.meta.url)) });
    process.env.HOLDFAST_BIN = await binary();
    lanes.push(...(await Promise.all(chosen.map((l) => Lane.start({ versions, clients, simulated, ...l, seed, sim })))));
    console.log(`Soak of ${minutes} min, seed ${seed}: ${lanes.map((l) => `${l.name} (${l.options.clients} real and ${l.options.simulated} simulated clients)`).join(", ")}.`);
    for (const lane of lanes) lane.startFaults();
    await runFor(minutes, lanes);
    const results = await Promise.all(lanes.map((lane) => lane.finish()));
    const breaches = await Promise.all(lanes.map((lane) => lane.sim.call("breaches")));
    const leftovers = await Promise.all(lanes.map((lane) => lane.leave()));
    const ends = await Promise.allSettled(lanes.map((lane) => lane.close()));
    for (const [i, { reason }] of ends.entries()) if (reason) leftovers[i].push(`at its end: ${reason.message}`);
    return { minutes, seed, lanes: lanes.map((lane, i) => summarise(lane, results[i], leftovers[i], breaches[i])) };
  } finally {
    await Promise.all(lanes.map((lane) => lane.abort()));
    await rm(dir, { recursive: true, force: true });
  }
}

/** Waits, and prints progress every minute. Throws if a process exits. */
async function runFor(minutes, lanes) {
  const start = Date.now();
  const end = start + minutes * 60_000;
  let told = 0;
  while (Date.now() < end) {
    await sleep(Math.min(1000, Math.max(0, end - Date.now())));
    for (const lane of lanes) lane.check();
    const minute = Math.floor((Date.now() - start) / 60_000);
    if (minute > told && Date.now() < end) {
      told = minute;
      const recovered = lanes.map((l) => l.recovered);
      console.log(`  ${minute} min: ${recovered.join(" and ")} sessions recovered`);
    }
  }
}

let opts;
try {
  opts = options();
} catch (err) {
  console.error(`${err.message}\nusage: ${usage}`);
  process.exit(2);
}
try {
  const run = await soak(opts);
  console.log(`\n${text(run)}`);
  if (opts.json) await writeFile(opts.json, `${JSON.stringify(run, null, 2)}\n`);
  process.exitCode = run.lanes.some((l) => l.broken.length > 0) ? 1 : 0;
} catch (err) {
  console.error(`The soak failed (seed ${opts.seed}):\n${err.stack}`);
  process.exitCode = 1;
}
process.exit(); // all processes have exited; a half-open socket must not keep this one alive
