// The maintainers' tests of socket.io-client (packages/socket.io-client/test in their repository),
// with our copies of client and server. They are written in TypeScript and have a hard-coded address.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { cp, mkdir, readFile, readdir, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const require = createRequire(import.meta.url);
const E2E = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const CLIENT = path.join(E2E, "node_modules/socket.io-client-4.8.4");
const ADDRESS = "http://localhost:3210";

const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022, esModuleInterop: true };
const compile = (text) => ts.transpileModule(text, { compilerOptions }).outputText;

/** Replaces a text, which must occur. */
function replace(text, from, to) {
  if (!text.includes(from)) throw new Error(`the suite no longer contains ${from}: adapt client-suite.js`);
  return text.replaceAll(from, to);
}

/**
 * Starts the suite's server on `http`. `recovery`: with Socket.IO's own recovery, as the maintainers
 * do. Returns a function that closes it.
 */
export async function serveClientSuite(http, clone, version, recovery) {
  let text = await readFile(path.join(clone, "packages/socket.io-client/test/support/server.ts"), "utf8");
  text = replace(text, "new Server(3210,", "new Server(http,");
  if (!recovery) text = replace(text, "connectionStateRecovery: {},", "");
  const suiteRequire = createRequire(path.join(E2E, "suites/package.json"));
  const exported = {};
  const given = (name) => (name === "socket.io" ? require(`socket.io-${version}`) : suiteRequire(name));
  new Function("exports", "require", "http", compile(text))(exported, given, http);
  const server = exported.createServer();
  return () => server.close();
}

/** Runs the suite in `dir` against a URL; returns mocha's JSON report. */
export async function runClientSuite(dir, clone, url) {
  await rm(dir, { recursive: true, force: true });
  const test = path.join(dir, "test");
  await mkdir(dir, { recursive: true });
  await cp(CLIENT, dir, { recursive: true }); // the tests require ".."
  await symlink(path.join(E2E, "suites/node_modules"), path.join(path.dirname(dir), "node_modules")).catch(() => {});
  const from = path.join(clone, "packages/socket.io-client/test");
  let addresses = 0;
  for (const file of await readdir(from, { recursive: true })) {
    if (!file.endsWith(".ts") || /\.d\.ts$|browser-runner|hooks|server/.test(file)) continue;
    const text = await readFile(path.join(from, file), "utf8");
    addresses += text.includes(ADDRESS);
    const fixture = file.startsWith("fixtures");
    const to = path.join(test, fixture ? file : file.replace(/ts$/, "js"));
    await mkdir(path.dirname(to), { recursive: true });
    await writeFile(to, compile(text.replaceAll(ADDRESS, url)));
  }
  if (!addresses) throw new Error("the suite's address has changed: adapt client-suite.js");
  // "reconnect timeout" tests the client's timers, without a server. On a slow machine it fails,
  // and all later tests inherit its fake timers.
  const args = ["--fgrep", "reconnect timeout", "--invert", "--exit", "--timeout", "4000", "--reporter", "json", "--reporter-option", "output=result.json", "test/index.js"];
  const child = spawn(process.execPath, [path.join(E2E, "node_modules/mocha/bin/mocha.js"), ...args], { cwd: dir, stdio: ["ignore", "ignore", "inherit"], detached: true });
  await new Promise((resolve) => child.once("exit", resolve));
  try {
    process.kill(-child.pid, "SIGKILL"); // a test starts a program that does not end by itself
  } catch (err) {
    if (err.code !== "ESRCH") throw err;
  }
  return JSON.parse(await readFile(path.join(dir, "result.json"), "utf8"));
}
