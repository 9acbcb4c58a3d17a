// Clients in other languages: programs that print one JSON object a line.
import { spawn } from "node:child_process";
import { until } from "./wait.js";

/** A program that says {"nsp", "connected": sid}, {"nsp", "disconnected": true} and {"nsp", "n": number}. */
export class OtherClient {
  constructor(t, command, args, env = {}) {
    this.said = [];
    this.output = "";
    this.process = spawn(command, args, { env: { ...process.env, ...env } });
    this.process.stdout.on("data", (d) => {
      this.output += d;
      this.said = this.output.split("\n").slice(0, -1).map((line) => JSON.parse(line));
    });
    this.process.stderr.on("data", (d) => (this.errors = (this.errors ?? "") + d));
    const exited = new Promise((resolve) => this.process.once("exit", resolve));
    t.after(() => {
      this.process.kill("SIGKILL");
      return exited;
    });
  }

  /** The ids under which it has connected a namespace. */
  idsOf(nsp) {
    return this.said.filter((x) => x.connected && x.nsp === nsp).map((x) => x.connected);
  }

  get ids() {
    return this.idsOf("/");
  }

  /** The first arguments of its events "n". */
  numbersOf(nsp = "/") {
    return this.said.filter((x) => "n" in x && x.nsp === nsp).map((x) => x.n);
  }

  /** The answers to what it asked. */
  get answers() {
    return this.said.filter((x) => x.answer).map((x) => x.answer);
  }

  send(...command) {
    this.process.stdin.write(`${JSON.stringify(command)}\n`);
  }

  async connected(n, nsp = "/") {
    await until(() => this.idsOf(nsp).length >= n, () => `connection ${n} of the client\n${this.output}${this.errors ?? ""}`, 20000);
    return this.idsOf(nsp)[n - 1];
  }

  disconnected(n) {
    return until(() => this.said.filter((x) => x.disconnected).length >= n, () => `disconnect ${n} of the client\n${this.output}`, 20000);
  }
}
