// python-socketio, from Debian's packages, as a server behind holdfast.
import { execFileSync, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { accepts } from "./holdfast.js";
import { freePort } from "./ports.js";
import { request } from "./raw.js";
import { until } from "./wait.js";

export const PYTHON = "/usr/bin/python3"; // Debian's: where its python3-... packages are
const APP = fileURLToPath(new URL("../python/app.py", import.meta.url));

const RETURNING = fileURLToPath(new URL("../python/returning.py", import.meta.url));

const packages = { wsgi: ["socketio", "werkzeug"], asgi: ["socketio", "aiohttp"] };

/** Why this kind of server cannot run here, or false. */
export function missing(kind) {
  return lacking(packages[kind]);
}

/** What lacks of Python's modules, whose packages are named alike, or false. */
function lacking(modules) {
  try {
    execFileSync(PYTHON, ["-c", modules.map((m) => `import ${m}`).join("\n")], { stdio: "pipe" });
    return false;
  } catch {
    return `needs Debian's packages ${modules.map((m) => `python3-${m}`).join(" and ")}`;
  }
}

const clientModules = { threads: ["socketio", "requests", "websocket"], asyncio: ["socketio", "aiohttp"] };

/** Why python-socketio's client of a kind cannot run here, or false. */
export function missingClient(kind) {
  return lacking(clientModules[kind]);
}

/** python-socketio's own client, on threads or asyncio, and what it says. */
export class PythonClient {
  /** The last argument may be {snippet}: Python with a class CountingClient to use. */
  constructor(t, kind, url, transport, ...namespaces) {
    const { snippet } = typeof namespaces.at(-1) === "object" ? namespaces.pop() : {};
    this.said = [];
    this.output = "";
    this.process = spawn(PYTHON, ["-u", RETURNING, kind, url, transport, ...namespaces], { env: { ...process.env, ...(snippet && { SNIPPET: snippet }) } });
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
    await until(() => this.idsOf(nsp).length >= n, () => `connection ${n} of the Python client\n${this.output}${this.errors ?? ""}`, 20000);
    return this.idsOf(nsp)[n - 1];
  }

  disconnected(n) {
    return until(() => this.said.filter((x) => x.disconnected).length >= n, () => `disconnect ${n} of the Python client\n${this.output}`, 20000);
  }
}

export class PythonApp {
  static async start(kind, { pingInterval = 25, pingTimeout = 20, alwaysConnect = false, port } = {}) {
    const app = new PythonApp();
    app.port = port ?? await freePort();
    app.url = `http://127.0.0.1:${app.port}`;
    app.output = "";
    app.process = spawn(PYTHON, ["-u", APP, kind, `${app.port}`, `${pingInterval}`, `${pingTimeout}`, ...(alwaysConnect ? ["always_connect"] : [])]);
    app.process.stdout.on("data", (d) => (app.output += d));
    app.process.stderr.on("data", (d) => (app.output += d));
    app.exited = new Promise((resolve) => app.process.once("exit", resolve));
    await until(() => accepts(app.port), () => `the Python server to listen\n${app.output}`, 15000);
    return app;
  }

  async control(...path) {
    const res = await request(`${this.url}/ctl/${path.join("/")}`);
    if (res.status !== 200) throw new Error(`${res.status} ${res.body}\n${this.output}`);
    return JSON.parse(res.body);
  }

  log() {
    return this.control("log");
  }

  /** How many pings it has sent. */
  async pings() {
    return (await this.log()).pings;
  }

  async stop(signal = "SIGKILL") {
    this.process.kill(signal);
    await this.exited;
  }
}
