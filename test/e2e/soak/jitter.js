// `node soak/jitter.js [--seconds 60] [--clients 200] [--rate 20] [--seed N] [--json FILE]`: the
// share of a steady broadcast that arrives at clients on a bad network, which drops each of them
// for about 2 s repeatedly. It compares a server without recovery, one with Socket.IO's own, and
// the first one behind holdfast.
import { setMaxListeners } from "node:events";
import { writeFile } from "node:fs/promises";
import { setTimeout as wait } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Holdfast } from "../lib/holdfast.js";
import { Relay } from "../lib/relay.js";
import { sleep, until } from "../lib/wait.js";
import { Child } from "./child.js";
import { Random } from "./random.js";

const TARGETS = [
  { name: "socket.io 4.5.4", server: "4.5.4" },
  { name: "socket.io 4.8.4, connection state recovery", server: "4.8.4", recovery: true },
  { name: "socket.io 4.5.4 behind holdfast", server: "4.5.4", holdfast: true },
];

const DEFAULTS = { seconds: "60", clients: "200", rate: "20", seed: "1" };

function options() {
  const { values } = parseArgs({
    options: {
      json: { type: "string" },
      ...Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, { type: "string", default: value }])),
    },
  });
  const numbers = Object.keys(DEFAULTS).map((name) => {
    const n = Number(values[name]);
    if (!(n > 0)) throw new Error(`--${name} ${values[name]}: a number above 0 is wanted`);
    return [name, n];
  });
  return { ...Object.fromEntries(numbers), json: values.json };
}

/** Runs all clients against one target; returns what they received. */
async function measure(target, { seconds, clients: count, rate, seed }) {
  const cleanups = [];
  try {
    const server = Child.script("jitter-server.js", { version: target.server, recovery: target.recovery, rate });
    cleanups.push(() => server.kill());
    let port = await server.call("ready");
    if (target.holdfast) {
      const hf = await Holdfast.start(port, { log: { level: "info" } });
      cleanups.push(() => hf.stop());
      port = hf.port;
    }
    const relays = [];
    cleanups.push(() => Promise.all(relays.map((r) => r.stop())));
    for (let i = 0; i < count; i++) relays.push(await Relay.start(port));
    const clients = Child.script("jitter-clients.js", { urls: relays.map((r) => r.url) });
    cleanups.push(() => clients.kill());
    await until(() => clients.call("connected"), "all clients to connect", 60_000);

    await server.call("start");
    await until(() => clients.call("receiving"), "the first events", 30_000);
    const stop = new AbortController();
    setMaxListeners(0, stop.signal); // each client's drops wait for it
    const drops = relays.map((relay, i) => jitter(relay, new Random(seed, i), stop.signal));
    await sleep(seconds * 1000);
    stop.abort();
    await Promise.all(drops);
    await until(() => clients.call("connected"), "all clients to be back", 60_000);
    await sleep(1000); // for the last clients to return
    const last = await server.call("stop");

    // Wait for events in flight.
    let result;
    for (let still = 0, before = -1; still < 3; still = result.delivered === before ? still + 1 : 0) {
      before = result?.delivered;
      await sleep(500);
      result = await clients.call("result", last);
    }
    return { ...result, served: await server.call("connections") };
  } finally {
    for (const cleanup of cleanups.reverse()) await cleanup();
  }
}

/** Disconnects one client for about 2 s, repeatedly. */
async function jitter(relay, random, signal) {
  try {
    await wait(random.int(0, 5000), null, { signal });
    for (;;) {
      relay.down();
      await wait(random.int(1500, 2500), null, { signal });
      relay.up();
      await wait(random.int(4000, 10_000), null, { signal });
    }
  } catch (err) {
    if (!signal.aborted) throw err;
  } finally {
    relay.up();
  }
}

function table(results) {
  const rows = results.map(({ name, sent, delivered, doubled, reordered, reconnections, recovered, served }) => [
    name,
    `${percent(delivered, sent)} %`,
    String(sent - delivered),
    String(doubled),
    String(reordered),
    String(reconnections),
    String(recovered),
    String(served),
  ]);
  const all = [["", "delivered", "lost", "doubled", "reordered", "reconnections", "recovered", "connections served"], ...rows];
  const width = all[0].map((_, i) => Math.max(...all.map((r) => r[i].length)));
  return all.map((r) => r.map((cell, i) => (i ? cell.padStart(width[i]) : cell.padEnd(width[i]))).join("  ")).join("\n");
}

// Rounded down, so that 100.00 % is all of them.
const percent = (part, all) => (Math.floor((part / all) * 1e4) / 100).toFixed(2);

let opts;
try {
  opts = options();
} catch (err) {
  console.error(err.message);
  process.exit(2);
}
try {
  const { clients, rate, seconds } = opts;
  console.log(`Jitter: ${clients} clients, ${rate} broadcasts/s for ${seconds} s, each client dropped for about 2 s again and again.`);
  const results = [];
  for (const target of TARGETS) {
    console.error(`  ${target.name} ...`);
    results.push({ name: target.name, ...(await measure(target, opts)) });
  }
  console.log(`\n${table(results)}`);
  if (opts.json) await writeFile(opts.json, `${JSON.stringify({ ...opts, results }, null, 2)}\n`);
  const ours = results.at(-1);
  if (ours.delivered !== ours.sent || ours.doubled || ours.reordered) {
    console.error("\nA promise was broken: behind holdfast everything must arrive, once and in order.");
    process.exitCode = 1;
  }
} catch (err) {
  console.error(err.stack);
  process.exitCode = 1;
}
process.exit(); // a half-open socket must not keep this process alive
