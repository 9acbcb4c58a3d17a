// Processes that serve calls, as one JSON object per line: {id, name, args} on standard input, and
// {id, value} or {id, error} on standard output. The simulated clients (sim/, in Go) are one, too.
import { spawn } from "node:child_process";
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { within } from "../lib/wait.js";

/** A process started here. */
export class Child {
  /** A script of this directory, started with one JSON argument. */
  static script(name, options) {
    return new Child(name, process.execPath, [fileURLToPath(new URL(name, import.meta.url)), JSON.stringify(options)]);
  }

  constructor(name, command, args) {
    this.name = name;
    this.calls = 0;
    this.answers = new Map();
    this.said = "";
    this.process = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.process.stderr.setEncoding("utf8").on("data", (text) => (this.said = (this.said + text).slice(-8000)));
    this.process.stdin.on("error", () => {}); // "exit" reports its end
    createInterface({ input: this.process.stdout }).on("line", (line) => {
      const answer = JSON.parse(line);
      this.answers.get(answer.id)?.(answer);
      this.answers.delete(answer.id);
    });
    this.exited = new Promise((resolve) => {
      const end = (how) => {
        this.exit = how;
        for (const answer of this.answers.values()) answer({ error: `${name} has ended (${how})\n${this.said}` });
        resolve(how);
      };
      this.process.once("exit", (code, signal) => end(signal ?? `status ${code}`));
      this.process.once("error", (err) => end(String(err)));
    });
  }

  call(name, ...args) {
    if (this.exit) return Promise.reject(new Error(`${this.name} has ended (${this.exit})\n${this.said}`));
    const id = ++this.calls;
    return within(
      new Promise((resolve, reject) => {
        this.answers.set(id, (m) => (m.error ? reject(new Error(`${this.name}: ${m.error}`)) : resolve(m.value)));
        this.process.stdin.write(`${JSON.stringify({ id, name, args })}\n`);
      }),
      `${this.name} to answer ${name}`,
      30000,
    );
  }

  signal(name) {
    if (!this.exit) this.process.kill(name);
  }

  async kill() {
    this.signal("SIGKILL");
    await this.exited;
  }
}

/**
 * In such a process: serves the methods of `object` until standard input ends. After the one with the name `last`, nothing more
 * happens in the process: it is stopped, and can only be killed.
 */
export function serve(object, { last } = {}) {
  const answer = (m) => process.stdout.write(`${JSON.stringify(m)}\n`);
  createInterface({ input: process.stdin })
    .on("line", async (line) => {
      const { id, name, args } = JSON.parse(line);
      if (name === last) return stopAfter({ id, value: object[name](...args) });
      try {
        answer({ id, value: (await object[name](...args)) ?? null });
      } catch (err) {
        answer({ id, error: String(err.stack) });
      }
    })
    .on("close", () => process.exit(0));
}

function stopAfter(message) {
  const text = Buffer.from(`${JSON.stringify(message)}\n`);
  for (let n = 0; n < text.length; ) {
    try {
      n += writeSync(1, text, n);
    } catch (err) {
      if (err.code !== "EAGAIN") throw err; // the pipe is full
    }
  }
  process.kill(process.pid, "SIGSTOP");
}
