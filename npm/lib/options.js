// Turns the options of startHoldfast into arguments and variables of the binary.
import { Server as TLSServer } from "node:tls";
import { HoldfastError } from "./error.js";

export const LEVELS = ["debug", "info", "warn", "error"];
const OPTIONS = ["upstream", "port", "host", "adminPort", "config", "settings", "log", "logLevel", "timeout"];

const bad = (message) => new HoldfastError("BAD_OPTION", message);

/** {args, env, level, log, timeout}, or a HoldfastError with code BAD_OPTION. */
export function resolveOptions(options, env = process.env) {
  if (options === null || typeof options !== "object") throw bad("startHoldfast takes an object with options");
  for (const name of Object.keys(options))
    if (!OPTIONS.includes(name)) throw bad(`unknown option ${name}; allowed: ${OPTIONS.join(", ")}`);
  const { upstream, port = 0, host = "127.0.0.1", adminPort = 0, config, settings = {}, log, logLevel = "warn", timeout = 10000 } = options;
  checkPort("port", port);
  checkPort("adminPort", adminPort);
  if (typeof host !== "string" || !host) throw bad("host is not a text such as 127.0.0.1");
  if (config !== undefined && typeof config !== "string") throw bad("config is not the path of a YAML file; use settings for an object");
  if (!LEVELS.includes(logLevel)) throw bad(`logLevel is ${logLevel}; allowed: ${LEVELS.join(", ")}`);
  if (log !== undefined && log !== false && typeof log !== "function") throw bad("log is neither a function nor false");
  if (!(timeout > 0)) throw bad("timeout is not a number of milliseconds above 0");

  const address = (p) => `${host.includes(":") ? `[${host}]` : host}:${p}`;
  // At debug holdfast tells more; "ready" is told at info.
  const args = ["-stop-with-stdin", "-log-format", "json", "-log-level", logLevel === "debug" ? "debug" : "info"];
  args.push("-listen", address(port), "-admin", `127.0.0.1:${adminPort}`);
  if (config !== undefined) args.push("-config", config);
  if (upstream !== undefined) args.push("-upstream", upstreamURL(upstream));
  else if (config === undefined && !("upstream" in settings)) throw bad("upstream is missing: a URL, or an http.Server that listens");

  const own = { ...env };
  delete own.HOLDFAST_BINARY_PATH;
  // Development and tests stop often.
  if (config === undefined) own.HOLDFAST_SHUTDOWN_DRAIN_TIMEOUT ??= "1s";
  for (const [name, value] of variables(settings)) own[name] = value;
  return { args, env: own, level: LEVELS.indexOf(logLevel), log, timeout };
}

function checkPort(name, port) {
  if (!Number.isInteger(port) || port < 0 || port > 65535) throw bad(`${name} is ${port}; allowed: a whole number from 0 (a free port) to 65535`);
}

/** Takes a URL, an http or https server, or a socket.io Server. */
function upstreamURL(upstream) {
  if (typeof upstream === "string") return upstream;
  if (upstream instanceof URL) return upstream.href.replace(/\/$/, "");
  const server = upstream?.httpServer ?? upstream;
  if (typeof server?.address !== "function") throw bad("upstream is neither a URL nor an http.Server nor a socket.io Server");
  const address = server.address();
  if (!address) throw bad("the upstream server does not listen yet: await its 'listening' event first");
  if (typeof address === "string") return `unix://${address}`;
  const hosts = { "::": "[::1]", "0.0.0.0": "127.0.0.1" };
  const host = hosts[address.address] ?? (address.address.includes(":") ? `[${address.address}]` : address.address);
  return `${server instanceof TLSServer ? "https" : "http"}://${host}:${address.port}`;
}

/** The variables of nested settings, by the names of the configuration file. */
function* variables(settings, prefix = "") {
  if (settings === null || typeof settings !== "object" || Array.isArray(settings)) throw bad("settings is not an object");
  for (const [key, value] of Object.entries(settings)) {
    const name = prefix + key;
    if (value === undefined) continue;
    if (Array.isArray(value)) {
      const comma = value.find((item) => String(item).includes(","));
      if (comma !== undefined) throw bad(`settings.${name} has an item with a comma, ${comma}: put it into a file, and name that in config`);
      yield [variable(name), value.join(",")];
    } else if (value !== null && typeof value === "object") yield* variables(value, `${name}.`);
    else if (["string", "number", "boolean"].includes(typeof value)) yield [variable(name), String(value)];
    else throw bad(`settings.${name} is ${value}; allowed: a text, a number, a boolean, a list or a section`);
  }
}

const variable = (key) => `HOLDFAST_${key.toUpperCase().replaceAll(".", "_")}`;
