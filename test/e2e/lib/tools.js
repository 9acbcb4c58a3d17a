// Programs from Debian packages that tests run.
import { spawn, spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { until, within } from "./wait.js";

/** The project's directory. */
export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

const env = { ...process.env, PATH: `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin` };

/**
 * Why a test cannot run here, or false, for {skip}. In CI nothing may be missing, so the test runs and fails.
 */
export function missing(program, debianPackage = program) {
  if (process.env.CI || !spawnSync("which", [program], { env }).status) return false;
  return `${program} is not installed (Debian: ${debianPackage})`;
}

/** Runs a program to its end: {status, output}. */
export function run(program, args, options = {}) {
  const result = spawnSync(program, args, { env, encoding: "utf8", ...options });
  if (result.error) throw result.error;
  return { status: result.status, output: result.stdout + result.stderr };
}

/** A background program with its own directory, stopped at the end of the test. */
export class Daemon {
  /** setup(dir) writes what the program needs and returns {args, env, ready}: ready() says when it serves. */
  static async start(t, program, setup) {
    const d = new Daemon();
    d.name = program;
    d.dir = await mkdtemp(path.join(os.tmpdir(), `holdfast-e2e-${program}-`));
    t.after(() => d.stop());
    const { args, ready, ...more } = await setup(d.dir);
    d.output = "";
    d.process = spawn(program, args, { cwd: d.dir, env: { ...env, ...more.env }, stdio: ["ignore", "pipe", "pipe"] });
    d.process.stdout.on("data", (text) => (d.output += text));
    d.process.stderr.on("data", (text) => (d.output += text));
    d.exited = new Promise((resolve) => {
      d.process.once("exit", resolve);
      d.process.once("error", (err) => resolve((d.output += err)));
    }).then(() => (d.ended = true));
    await until(
      async () => {
        if (d.ended) throw new Error(`${program} ended:\n${d.output}`);
        return ready();
      },
      () => `${program} to serve\n${d.output}`,
      20000,
    );
    return d;
  }

  async stop() {
    if (this.process && !this.ended) {
      this.process.kill("SIGTERM");
      await within(this.exited, `${this.name} to end`, 3000).catch(() => this.process.kill("SIGKILL"));
      await this.exited;
    }
    await rm(this.dir, { recursive: true, force: true });
  }
}
