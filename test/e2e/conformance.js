// Runs the maintainers' protocol test suites, and their tests of socket.io-client, against a server
// behind holdfast and against the server itself, and compares what passes.
//
//   SUITES=DIR node conformance.js [NAME]
//
// DIR is a clone of socketio/socket.io. NAME is a part of a run's name.
//
// The suites have a hard-coded address, so they run from a copy with a different one. Their
// heartbeats are short, so a suite with an unexpected difference runs again. A test that passes
// once counts as passed. Known differences are listed with their reason. The exit code is 1 if
// there is any other, or if a known one no longer occurs. Recovery is off for the Socket.IO suite,
// which forbids what recovery adds (pid and offset).
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { runClientSuite, serveClientSuite } from "./lib/client-suite.js";
import { Holdfast } from "./lib/holdfast.js";

const require = createRequire(import.meta.url);
const HERE = path.dirname(fileURLToPath(import.meta.url));
const timing = { pingInterval: 300, pingTimeout: 200 };

const engine = {
  suite: "engine.io-protocol/v4-test-suite",
  paths: ["/engine.io/"],
  serve(http) {
    const { Server } = require("engine.io-6.2.1");
    const server = new Server({ ...timing, maxHttpBufferSize: 1e6 });
    server.attach(http, { path: "/engine.io/" });
    server.on("connection", (socket) => socket.on("data", (data) => socket.send(data)));
    return () => server.close();
  },
};

/** Engine.IO v3 passes through. */
const engine3 = (version) => ({
  suite: "engine.io-protocol/v3-test-suite",
  paths: ["/engine.io/"],
  serve(http) {
    const { Server } = version === "4" ? require("engine.io-6.2.1") : createRequire(require.resolve("socket.io-2.5.1"))("engine.io");
    const server = new Server({ ...timing, maxHttpBufferSize: 1e6, allowEIO3: true });
    server.attach(http, { path: "/engine.io/" });
    server.on("connection", (socket) => socket.on("data", (data) => socket.send(data)));
    return () => server.close();
  },
});

const socketio = (version) => ({
  suite: "socket.io-protocol/v5-test-suite",
  paths: ["/socket.io/"],
  serve(http) {
    const lib = require(`socket.io-${version}`);
    const Server = lib.Server ?? lib; // before 3.0
    // The suite waits 2 s at most for a connection without CONNECT to be closed.
    const io = new Server(http, { ...timing, maxHttpBufferSize: 1e6, connectTimeout: 1000, serveClient: false });
    for (const name of ["/", "/custom"]) {
      io.of(name).on("connection", (socket) => {
        const { token } = socket.handshake.query; // of a client whose auth holdfast translates
        socket.emit("auth", socket.handshake.auth ?? (token ? { token } : {}));
        socket.on("message", (...args) => socket.emit("message-back", ...args));
        socket.on("message-with-ack", (...args) => args.pop()(...args));
        socket.on("error", () => {});
      });
    }
    return () => io.close();
  },
});

/** The client's own tests. `recovery`: against a server that recovers by itself, as the maintainers do. */
const client = (version, recovery) => ({
  test: (dir, suites, url) => runClientSuite(dir, suites, url),
  serve: (http, suites) => serveClientSuite(http, suites, version, recovery),
  paths: ["/socket.io/"],
  config: {},
});

const off = { recovery: { max_disconnection_duration: "0" } };
const runs = [
  { name: "Engine.IO v4, engine.io 6.2.1", ...engine, config: {} },
  { name: "Engine.IO v4, engine.io 6.2.1, recovery off", ...engine, config: off },
  { name: "Socket.IO v5, socket.io 4.5.4, recovery off", ...socketio("4.5.4"), config: off },
  { name: "Socket.IO v5, socket.io 4.0.2, recovery off", ...socketio("4.0.2"), config: off },
  { name: "Engine.IO v3, engine.io of socket.io 2.5.1", ...engine3("3"), config: {} },
  { name: "Engine.IO v3, engine.io 6.2.1 with allowEIO3", ...engine3("4"), config: {} },
  {
    name: "Socket.IO v5, socket.io 2.5.1 translated, compared with 4.5.4, recovery off",
    ...socketio("2.5.1"),
    direct: socketio("4.5.4"),
    known: {
      "Engine.IO protocol handshake HTTP long-polling should fail with an invalid 'EIO' query parameter":
        "holdfast passes through what it does not speak, and engine.io 3 takes every version",
    },
    config: { ...off, upstream: { protocol: 3, translate: { auth_to_query: ["token"] } }, engineio: { ping_interval: "300ms", ping_timeout: "200ms" } },
  },
  { name: "socket.io-client 4.8.4, server 4.8.4 with its own recovery", ...client("4.8.4", true) },
  {
    name: "socket.io-client 4.8.4, server 4.5.4",
    ...client("4.5.4", false),
    known: {
      "connection state recovery should have an accessible socket id equal to the server-side socket id (default namespace)":
        "holdfast recovers what this server does not",
    },
  },
];

/** Runs a protocol's suite against a URL; returns mocha's JSON report. */
async function protocolSuite(dir, from, url) {
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  await cp(path.join(from, "node-imports.js"), path.join(dir, "node-imports.js"));
  const text = await readFile(path.join(from, "test-suite.js"), "utf8");
  if (!text.includes("http://localhost:3000")) throw new Error("the suite's address has changed: adapt conformance.js");
  await writeFile(path.join(dir, "test-suite.js"), text.replaceAll("http://localhost:3000", url));
  await writeFile(path.join(dir, "package.json"), '{"type":"module"}\n');
  const mocha = path.join(HERE, "node_modules/mocha/bin/mocha.js");
  const child = spawn(process.execPath, [mocha, "--exit", "--timeout", "4000", "--reporter", "json", "--reporter-option", "output=result.json", "test-suite.js"], {
    cwd: dir,
    stdio: ["ignore", "ignore", "inherit"],
  });
  await new Promise((resolve) => child.once("exit", resolve));
  return JSON.parse(await readFile(path.join(dir, "result.json"), "utf8"));
}

const ATTEMPTS = 3;

/** Runs a run's suite against a URL; returns Map(title -> "passed" or the error). */
async function suite(run, dir, suites, url) {
  const { tests } = await (run.test ? run.test(dir, suites, url) : protocolSuite(dir, path.join(suites, "docs", run.suite), url));
  return new Map(tests.map((t) => [t.fullTitle, Object.keys(t.err).length ? t.err.message : "passed"]));
}

/** Adds the results of another run of a suite. */
function passedOnce(all, results) {
  for (const [title, result] of results) if (all.get(title) !== "passed") all.set(title, result);
}

const unexpected = (run, differences) => differences.filter((title) => !run.known?.[title]);

async function compare(run, suites) {
  const http = createServer((req, res) => res.writeHead(404).end());
  const stop = await run.serve(http, suites);
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  const { port } = http.address();
  const http2 = createServer((req, res) => res.writeHead(404).end());
  const stop2 = run.direct?.serve(http2);
  if (stop2) await new Promise((resolve) => http2.listen(0, "127.0.0.1", resolve));
  const hf = await Holdfast.start(port, { ...run.config, engineio: { ...run.config.engineio, paths: run.paths } });
  try {
    const dir = path.join(HERE, ".conformance", String(process.pid));
    const direct = new Map();
    const through = new Map();
    let differences = [];
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      passedOnce(direct, await suite(run, path.join(dir, "direct"), suites, `http://127.0.0.1:${stop2 ? http2.address().port : port}`));
      passedOnce(through, await suite(run, path.join(dir, "through"), suites, hf.url));
      differences = [...new Set([...direct.keys(), ...through.keys()])].filter((t) => (direct.get(t) === "passed") !== (through.get(t) === "passed"));
      if (!unexpected(run, differences).length) break;
    }
    await rm(dir, { recursive: true, force: true });
    const count = (map) => [...map.values()].filter((v) => v === "passed").length;
    console.log(`${run.name}: ${count(through)} of ${through.size} pass through holdfast, ${count(direct)} of ${direct.size} directly`);
    for (const title of differences) {
      const known = run.known?.[title];
      console.log(`  ${title}\n    directly: ${direct.get(title)}\n    through holdfast: ${through.get(title)}\n    ${known ? `known: ${known}` : "NOT KNOWN"}`);
    }
    const gone = Object.keys(run.known ?? {}).filter((title) => !differences.includes(title));
    for (const title of gone) console.log(`  no difference any more: ${title}`);
    return unexpected(run, differences).length + gone.length;
  } finally {
    for (const [end, server] of [[stop, http], [stop2, http2]]) {
      end?.();
      server.closeAllConnections();
      server.close();
    }
    await hf.stop();
  }
}

const suites = process.env.SUITES;
if (!suites) {
  console.error("conformance: set SUITES to a clone of socketio/socket.io");
  process.exit(2);
}
let differences = 0;
const chosen = runs.filter((run) => run.name.includes(process.argv[2] ?? ""));
for (const run of chosen) differences += await compare(run, path.resolve(suites));
console.log(differences ? `${differences} unexpected differences` : "no unexpected difference");
process.exit(differences ? 1 : 0);
