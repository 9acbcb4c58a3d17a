// python-socketio, from Debian's packages, as a server behind holdfast.
import { execFileSync, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { accepts } from "./holdfast.js";
import { freePort } from "./ports.js";
import { request } from "./raw.js";
import { until } from "./wait.js";

export const PYTHON = "/usr/bin/python3"; // Debian's: where its python3-... packages are
const APP = fileURLToPath(new URL("../python/app.py", import.meta.url));

const packages = { wsgi: ["socketio", "werkzeug"], asgi: ["socketio", "aiohttp"] };

/** Why this kind of server cannot run here, or false. */
export function missing(kind) {
  try {
    execFileSync(PYTHON, ["-c", packages[kind].map((p) => `import ${p}`).join("\n")], { stdio: "pipe" });
    return false;
  } catch {
    return `needs Debian's packages ${packages[kind].map((p) => `python3-${p}`).join(" and ")}`;
  }
}

export class PythonApp {
  static async start(kind, { pingInterval = 25, pingTimeout = 20 } = {}) {
    const app = new PythonApp();
    app.port = await freePort();
    app.url = `http://127.0.0.1:${app.port}`;
    app.output = "";
    app.process = spawn(PYTHON, ["-u", APP, kind, `${app.port}`, `${pingInterval}`, `${pingTimeout}`]);
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

  async stop() {
    this.process.kill("SIGKILL");
    await this.exited;
  }
}
