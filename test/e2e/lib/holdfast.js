// Builds holdfast, runs it with a generated configuration, and reads its log, metrics and status.
import { execFile, spawn } from "node:child_process";
import { mkdtemp, writeFile, rm, rename, mkdir } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePort } from "./ports.js";
import { SLOW, sleep, until, within } from "./wait.js";

const run = promisify(execFile);
const E2E = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const ROOT = path.resolve(E2E, "../..");

/** "holdfast", or "native": socket.io's own recovery, to validate the tests. */
export const TARGET = process.env.HOLDFAST_E2E_TARGET || "holdfast";
export const NATIVE = TARGET === "native";
/** For tests that make no sense without holdfast: {skip: onlyHoldfast}. */
export const onlyHoldfast = NATIVE ? "only holdfast does this" : false;

// holdfast reads every HOLDFAST_ variable as a setting, so remove the tests' own.
const cleanEnv = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_")));

let building;

/** Path of the binary: HOLDFAST_BIN, or built from the sources (HOLDFAST_E2E_RACE=1: with -race). */
export function binary() {
  if (process.env.HOLDFAST_BIN) return Promise.resolve(path.resolve(process.env.HOLDFAST_BIN));
  building ??= (async () => {
    const dir = path.join(E2E, ".bin");
    await mkdir(dir, { recursive: true });
    const out = path.join(dir, "holdfast");
    const fresh = `${out}.${process.pid}`; // test files run in parallel: replace it atomically
    const race = process.env.HOLDFAST_E2E_RACE === "1" ? ["-race"] : [];
    await run("go", ["build", ...race, "-o", fresh, "."], { cwd: ROOT });
    await rename(fresh, out);
    return out;
  })();
  return building;
}

/** A YAML text of nested objects, lists and scalars. */
export function toYAML(value, indent = "") {
  return Object.entries(value)
    .filter(([, v]) => v !== undefined)
    .map(([key, v]) => {
      if (Array.isArray(v)) return `${indent}${key}: ${JSON.stringify(v)}\n`;
      if (v !== null && typeof v === "object")
        return Object.keys(v).length ? `${indent}${key}:\n${toYAML(v, indent + "  ")}` : "";
      return `${indent}${key}: ${typeof v === "string" ? JSON.stringify(v) : v}\n`;
    })
    .join("");
}

function merge(a, b) {
  const out = { ...a };
  for (const [k, v] of Object.entries(b ?? {})) {
    const both = [out[k], v].every((x) => x && typeof x === "object" && !Array.isArray(x));
    out[k] = both ? merge(out[k], v) : v;
  }
  return out;
}

export class Holdfast {
  /**
   * Starts holdfast in front of the server on `upstreamPort`. `config` overrides the tests' defaults. `openFiles` is its limit
   * of file descriptors. `stderr` is where its log goes: a file descriptor, or "unread" for a pipe without a reader. `bin` is
   * a different binary than the tests' own.
   */
  static async start(upstreamPort, config = {}, { args = [], env = {}, ready = true, bin, ...surroundings } = {}) {
    bin ??= await binary();
    for (let attempt = 1; ; attempt++) {
      const hf = new Holdfast();
      hf.port = Number(config.listen?.split(":").at(-1)) || (await freePort());
      hf.adminPort = await freePort();
      hf.url = `http://127.0.0.1:${hf.port}`;
      hf.config = merge(
        {
          listen: `127.0.0.1:${hf.port}`,
          upstream: { url: `http://127.0.0.1:${upstreamPort}` },
          shutdown: { drain_timeout: "1s" },
          admin: { listen: `127.0.0.1:${hf.adminPort}` },
          log: { level: "debug", format: "json" },
          event_loop: process.env.HOLDFAST_E2E_EVENT_LOOP === "off" ? false : undefined,
        },
        config,
      );
      hf.dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-"));
      const file = path.join(hf.dir, "config.yaml");
      await writeFile(file, toYAML(hf.config));
      hf.#spawn(bin, ["-config", file, ...args], env, surroundings);
      try {
        if (ready) await hf.#ready();
        return hf;
      } catch (err) {
        await hf.kill();
        if (attempt < 3 && /address already in use/.test(hf.stderr)) continue;
        throw err;
      }
    }
  }

  #spawn(bin, args, env, { openFiles, stderr }) {
    this.stderr = "";
    this.stdout = "";
    const command = openFiles ? ["sh", "-c", `ulimit -n ${openFiles}; exec "$0" "$@"`, bin, ...args] : [bin, ...args];
    this.child = spawn(command[0], command.slice(1), {
      stdio: ["ignore", "pipe", Number.isInteger(stderr) ? stderr : "pipe"],
      env: { ...cleanEnv, GOTRACEBACK: "all", ...env },
    });
    this.pid = this.child.pid;
    const read = () => this.child.stderr?.setEncoding("utf8").on("data", (text) => (this.stderr += text));
    if (stderr === "unread") this.child.once("exit", read);
    else read();
    this.child.stdout.setEncoding("utf8").on("data", (text) => (this.stdout += text));
    this.exited = new Promise((resolve) => {
      this.child.once("close", (code, signal) => {
        this.exit = { code, signal };
        resolve(this.exit);
      });
      this.child.once("error", (error) => {
        this.exit = { code: null, signal: null, error };
        resolve(this.exit);
      });
    });
  }

  async #ready() {
    await until(
      async () => {
        if (this.exit) throw new Error(`holdfast ended: ${JSON.stringify(this.exit)}\n${this.log}`);
        return (await accepts(this.port)) && (await this.admin("/readyz")).status === 200;
      },
      () => `holdfast to be ready\n${this.log}`,
      10000,
    );
  }

  get log() {
    return this.stdout + this.stderr;
  }

  /** Log lines as objects (log.format json). The last one may not have arrived whole. */
  get records() {
    return [this.stdout, this.stderr]
      .flatMap((text) => text.split("\n").slice(0, -1))
      .filter((l) => l.startsWith("{"))
      .map((l) => JSON.parse(l));
  }

  /** Waits until the log has what `match` wants: a pattern, or a function of a record. It comes a little after what it tells of. */
  says(match) {
    const found = () => (match instanceof RegExp ? match.exec(this.log) : this.records.find(match));
    return until(found, () => `the log to say ${match}\n${this.log.slice(-3000)}`);
  }

  /** A GET on the admin listener; status 0 if it does not respond. */
  async admin(where, options = {}) {
    try {
      const res = await fetch(`http://127.0.0.1:${this.adminPort}${where}`, {
        signal: AbortSignal.timeout(8000 * SLOW),
        ...options,
      });
      return { status: res.status, headers: res.headers, text: await res.text() };
    } catch (err) {
      return { status: 0, text: String(err.cause ?? err) };
    }
  }

  async metrics() {
    const { status, text } = await this.admin("/metrics");
    if (status !== 200) throw new Error(`/metrics: ${status} ${text}`);
    return new Metrics(text);
  }

  signal(name) {
    if (this.exit) return;
    if (["SIGTERM", "SIGINT", "SIGKILL"].includes(name)) this.ending = true;
    process.kill(this.pid, name);
  }

  /** Writes its file (a text, or sections that override its configuration), reloads it, and returns the log's lines about it. */
  async reload(change) {
    const text = typeof change === "string" ? change : toYAML(merge(this.config, change));
    const done = () => this.records.filter((r) => /^configuration (not )?reloaded/.test(r.msg));
    const before = done().length;
    await writeFile(path.join(this.dir, "config.yaml"), text);
    this.signal("SIGHUP");
    await until(() => done().length > before, () => `the reload\n${this.log}`);
    return done().at(-1);
  }

  /** Stops it with SIGTERM, and checks that it exits with status 0. */
  async stop({ timeout = 8000 } = {}) {
    if (this.exit) {
      await this.kill();
      if (this.ending) return; // the test has stopped it
      this.checkHealth();
      throw new Error(`holdfast ended by itself: ${JSON.stringify(this.exit)}\n${this.log.slice(-6000)}`);
    }
    const before = this.ending; // a second signal would end it immediately
    if (!before) this.signal("SIGTERM");
    try {
      await within(this.exited, "holdfast to exit after SIGTERM", timeout);
    } catch (err) {
      if (before) return; // the test made it drain, with a long timeout
      this.signal("SIGQUIT"); // dumps all goroutines, for the report
      await Promise.race([this.exited, sleep(2000)]);
      err.message += `\n${this.log.slice(-12000)}`;
      throw err;
    } finally {
      await this.kill();
    }
    this.checkHealth();
    if (this.exit.code !== 0)
      throw new Error(`holdfast exited with ${JSON.stringify(this.exit)}\n${this.log.slice(-6000)}`);
  }

  checkHealth() {
    const bad = /^(panic:|fatal error:|WARNING: DATA RACE|goroutine \d+ \[)|http: panic serving/m.exec(this.log);
    if (bad) throw new Error(`holdfast said:\n${this.log.slice(bad.index, bad.index + 6000)}`);
  }

  async kill() {
    this.signal("SIGKILL");
    await this.exited;
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** Runs holdfast to its end, for command line tests. */
export async function runHoldfast(args, { env = {}, timeout = 15000, files = {} } = {}) {
  const bin = await binary();
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-"));
  try {
    for (const [name, text] of Object.entries(files)) await writeFile(path.join(dir, name), text);
    return await new Promise((resolve) => {
      const child = spawn(bin, args, { cwd: dir, env: { ...cleanEnv, ...env } });
      let stdout = "";
      let stderr = "";
      child.stdout.on("data", (d) => (stdout += d));
      child.stderr.on("data", (d) => (stderr += d));
      const timer = setTimeout(() => child.kill("SIGKILL"), timeout * SLOW);
      child.on("close", (code, signal) => {
        clearTimeout(timer);
        resolve({ code, signal, stdout, stderr, all: stdout + stderr });
      });
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

export function accepts(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** A scrape in the Prometheus text format. */
export class Metrics {
  constructor(text) {
    this.text = text;
    this.samples = [];
    this.types = new Map();
    for (const line of text.split("\n")) {
      const type = /^# TYPE (\S+) (\S+)/.exec(line);
      if (type) this.types.set(type[1], type[2]);
      if (!line || line.startsWith("#")) continue;
      const m = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (!m) throw new Error(`not a sample: ${line}`);
      const labels = {};
      for (const l of (m[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[l[1]] = l[2];
      this.samples.push({ name: m[1], labels, value: Number(m[3]) });
    }
  }

  names() {
    return [...this.types.keys()];
  }

  /** Sum of the samples of that name whose labels include the given ones. */
  sum(name, labels = {}) {
    return this.samples
      .filter((s) => s.name === name)
      .filter((s) => Object.entries(labels).every(([k, v]) => s.labels[k] === v))
      .reduce((n, s) => n + s.value, 0);
  }

  has(name) {
    return this.samples.some((s) => s.name === name);
  }
}
