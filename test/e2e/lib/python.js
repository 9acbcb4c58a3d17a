// python-socketio, from Debian's packages, as a server behind holdfast.
import { execFileSync, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { accepts } from "./holdfast.js";
import { OtherClient } from "./other-client.js";
import { freePort } from "./ports.js";
import { request } from "./raw.js";
import { until } from "./wait.js";

export const PYTHON = "/usr/bin/python3"; // Debian's own, which finds its python3-... packages
const APP = fileURLToPath(new URL("../python/app.py", import.meta.url));

const RETURNING = fileURLToPath(new URL("../python/returning.py", import.meta.url));

const packages = { wsgi: ["socketio", "werkzeug"], asgi: ["socketio", "aiohttp"] };

/** Why this kind of server cannot run here, or false. */
export function missing(kind) {
  return lacking(packages[kind]);
}

/** Which packages are missing, or false. Debian's are named after Python's modules. */
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
export class PythonClient extends OtherClient {
  /** The last argument may be {snippet}: Python with a class CountingClient or CountingAsyncClient to use. */
  constructor(t, kind, url, transport, ...namespaces) {
    const { snippet } = typeof namespaces.at(-1) === "object" ? namespaces.pop() : {};
    super(t, PYTHON, ["-u", RETURNING, kind, url, transport, ...namespaces], snippet && { SNIPPET: snippet });
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
