// The packages for npm, as a new user has them: packed, installed into an empty folder without a
// registry, and used with socket.io 4.5.4 and a client that is cut. Only this platform's package is
// built; `make npm` checks all of them.
import { after, before, describe, it } from "node:test";
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { accepts, onlyHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { ROOT, run } from "../lib/tools.js";
import { until, within } from "../lib/wait.js";

const require = createRequire(import.meta.url);
const execute = promisify(execFile);
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_")));

describe("the npm packages", { skip: onlyHoldfast, concurrency: 4 }, () => {
  let dir;
  let holdfast; // the module
  before(async () => {
    dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-npm-"));
    const packages = path.join(dir, "packages");
    const release = ["-out", packages, "-platforms", "host", "-version", "v0.1.2", "-commit", "0123abcd", "-date", "2026-01-02T03:04:05Z"];
    const built = run("go", ["run", "./scripts/release", "npm", ...release], { cwd: ROOT });
    assert.equal(built.status, 0, built.output);
    const tarballs = (await readdir(packages)).map((f) => path.join(packages, f));
    assert.equal(tarballs.length, 2);
    await writeFile(path.join(dir, "package.json"), "{}");
    const installed = run("npm", ["install", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", ...tarballs], { cwd: dir });
    assert.equal(installed.status, 0, installed.output);
    holdfast = await import(pathToFileURL(path.join(dir, "node_modules/holdfast/index.js")));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  /** A five-line server. */
  async function startServer(t) {
    const { Server } = require("socket.io-4.5.4");
    const httpServer = createServer();
    const io = new Server(httpServer);
    httpServer.listen(0, "127.0.0.1");
    await once(httpServer, "listening");
    t.after(() => io.close());
    return { io, httpServer, url: `http://127.0.0.1:${httpServer.address().port}` };
  }

  /** Cuts a client's connection while the server has something to say, and checks that it is recovered with it. */
  async function recovers(t, io, url) {
    const { io: connect } = require("socket.io-client-4.8.4");
    const client = connect(url, { transports: ["websocket"], reconnectionDelay: 50, reconnectionDelayMax: 50 });
    t.after(() => client.close());
    const got = [];
    client.on("news", (text) => got.push(text));
    await within(once(client, "connect"), "the client to connect");
    const { id } = client;
    io.emit("news", "first"); // with an offset, from which the client can resume
    await until(() => got.length === 1, "the first event");
    const connected = once(client, "connect");
    client.io.engine.transport.ws.terminate();
    await within(once(client, "disconnect"), "the cut");
    io.emit("news", "missed");
    await within(connected, "the client to reconnect");
    await until(() => got.length === 2, "what it missed");
    assert.deepEqual([client.recovered, client.id, got], [true, id, ["first", "missed"]]);
  }

  /** Starts the command that npm installed. */
  function launch(t, args, options = {}) {
    const child = spawn(path.join(dir, "node_modules/.bin/holdfast"), args, {
      cwd: dir,
      env: { ...env, HOLDFAST_SHUTDOWN_DRAIN_TIMEOUT: "1s" },
      stdio: ["ignore", "pipe", "pipe"],
      ...options,
    });
    child.output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (child.output += text));
    child.ended = once(child, "close");
    t.after(() => child.kill("SIGKILL"));
    return child;
  }

  async function launchServing(t, server) {
    const port = await freePort();
    const child = launch(t, ["--upstream", server.url, "--listen", `127.0.0.1:${port}`, "--admin", ""]);
    await until(() => accepts(port), () => `holdfast to listen\n${child.output}`, 15000);
    return { child, port };
  }

  it("startHoldfast recovers a client of a server that cannot", async (t) => {
    const { io, httpServer, url } = await startServer(t);
    for (const upstream of [httpServer, io, url, new URL(url)]) {
      const hf = await holdfast.startHoldfast({ upstream, log: false });
      assert.match(hf.url, /^http:\/\/127\.0\.0\.1:\d+$/);
      assert.equal((await fetch(`${hf.adminUrl}/readyz`)).status, 200);
      if (upstream === httpServer) await recovers(t, io, hf.url);
      assert.deepEqual(await hf.stop(), { code: 0, signal: null });
      assert.deepEqual(await hf.stop(), { code: 0, signal: null });
    }
  });

  it("passes settings and the log", async (t) => {
    const { httpServer } = await startServer(t);
    const log = [];
    const hf = await holdfast.startHoldfast({
      upstream: httpServer,
      settings: { recovery: { max_disconnection_duration: "0", namespaces: { include: ["/a", "/b"] } } },
      logLevel: "info",
      log: (entry) => log.push(entry),
    });
    assert.ok(log.some((e) => e.msg === "holdfast is ready" && e.level === "INFO"), JSON.stringify(log));
    process.kill(hf.pid, "SIGTERM");
    assert.deepEqual(await hf.exited, { code: 0, signal: null });
    assert.ok(log.some((e) => e.msg === "stopped"), JSON.stringify(log));
  });

  it("startHoldfast says what is wrong", async (t) => {
    const { httpServer, url } = await startServer(t);
    const { startHoldfast, HoldfastError } = holdfast;
    const fails = async (code, message, options) =>
      assert.rejects(startHoldfast({ log: false, ...options }), (err) => {
        assert.ok(err instanceof HoldfastError, err);
        assert.equal(err.code, code, err.message);
        assert.match(err.message, message);
        return true;
      });
    await fails("BAD_OPTION", /unknown option prot; allowed: upstream, port/, { upstream: url, prot: 1 });
    await fails("BAD_OPTION", /upstream is missing/, {});
    await fails("BAD_OPTION", /port is 70000/, { upstream: url, port: 70000 });
    await fails("BAD_OPTION", /does not listen yet/, { upstream: createServer() });
    await fails("BAD_OPTION", /logLevel is loud/, { upstream: url, logLevel: "loud" });
    await fails("BAD_SETTING", /upstream\.url.*ftp:/s, { upstream: "ftp://localhost" });
    await fails("BAD_SETTING", /HOLDFAST_RECOVERY_ACK_EVENT/, { upstream: url, settings: { recovery: { ack_event: "x" } } });
    await fails("BAD_SETTING", /upstream\.url.*different one than listen/s, { upstream: url, port: httpServer.address().port });
    const other = await startServer(t);
    await fails("EADDRINUSE", /did not start: .*address already in use/s, { upstream: url, port: other.httpServer.address().port });
  });

  it("says which binary is missing", async (t) => {
    const { findBinary } = await import(pathToFileURL(path.join(dir, "node_modules/holdfast/lib/binary.js")));
    assert.throws(() => findBinary({ platform: "sunos", env: {} }), { code: "NO_BINARY", message: /no prebuilt binary for sunos on .* only for linux-x64/ });
    assert.throws(() => findBinary({ platform: "win32", arch: "arm64", env: {} }), { code: "NO_BINARY", message: /@holdfast\/win32-arm64.*--include=optional/ });
    const early = path.join(dir, "early");
    await writeFile(early, "#!/bin/sh\necho 'a reason' >&2\nexit 3\n");
    await chmod(early, 0o755);
    const child = launch(t, ["-demo"], { env: { ...env, HOLDFAST_BINARY_PATH: early } });
    assert.deepEqual(await child.ended, [3, null]);
    assert.match(child.output, /a reason/);
    const script = `import { startHoldfast } from "holdfast"; await startHoldfast({ upstream: "http://x", log: false }).catch((err) => console.log(err.code, err.message));`;
    const api = run(process.execPath, ["--input-type=module", "-e", script], { cwd: dir, env: { ...env, HOLDFAST_BINARY_PATH: early } });
    assert.match(api.output, /^EXITED holdfast did not start: a reason/);
  });

  it("the command serves, and hands signals and exit status on", async (t) => {
    const server = await startServer(t);
    const { child, port } = await launchServing(t, server);
    await recovers(t, server.io, `http://127.0.0.1:${port}`);
    child.kill("SIGTERM");
    assert.deepEqual(await within(child.ended, "the command to end"), [0, null], child.output);
    assert.match(child.output, /msg=stopped/);

    const version = launch(t, ["--version"]);
    assert.deepEqual(await version.ended, [0, null]);
    assert.match(version.output, /^holdfast v0\.1\.2 \(commit 0123abcd, 2026-01-02T03:04:05Z, go/);
    const bad = launch(t, ["--upstreem", server.url]);
    assert.deepEqual(await bad.ended, [2, null]);
    assert.match(bad.output, /did you mean -upstream/);
    const unreachable = launch(t, ["health", "-url", "http://127.0.0.1:1"]);
    assert.deepEqual(await unreachable.ended, [1, null]);
  });

  it("leaves nothing behind when the launcher or the caller is killed", async (t) => {
    const server = await startServer(t);
    const { child, port } = await launchServing(t, server);
    child.kill("SIGKILL");
    await until(async () => !(await accepts(port)), "holdfast to stop after its launcher");

    const script = `import { startHoldfast } from "holdfast"; const { url } = await startHoldfast({ upstream: "${server.url}" }); console.log(url); setInterval(() => {}, 1000);`;
    const caller = spawn(process.execPath, ["--input-type=module", "-e", script], { cwd: dir, env, stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => caller.kill("SIGKILL"));
    const [line] = await within(once(caller.stdout, "data"), "the caller's line");
    const { port: second } = new URL(String(line));
    assert.ok(await accepts(Number(second)));
    caller.kill("SIGKILL");
    await until(async () => !(await accepts(Number(second))), "holdfast to stop after its caller");
  });

  it("does not keep its caller from exiting", () => {
    const script = `import { startHoldfast } from "holdfast"; await startHoldfast({ upstream: "http://127.0.0.1:1" }); console.log("done");`;
    const caller = run(process.execPath, ["--input-type=module", "-e", script], { cwd: dir, env, timeout: 15000 });
    assert.deepEqual([caller.status, caller.output], [0, "done\n"]);
  });

  it("has types that TypeScript accepts, and that find mistakes", async () => {
    const tsc = require.resolve("typescript/bin/tsc");
    const settings = { strict: true, noEmit: true, target: "ES2022", lib: ["ES2022"], types: ["node"], typeRoots: [path.join(ROOT, "test/e2e/node_modules/@types")] };
    const compile = async (name, module, code) => {
      const folder = path.join(dir, "types", name);
      await mkdir(folder, { recursive: true });
      await writeFile(path.join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...settings, ...module, skipLibCheck: false }, files: ["index.ts"] }));
      await writeFile(path.join(folder, "index.ts"), code);
      // Not with run(), which would block the other tests for seconds.
      const { stdout } = await execute(process.execPath, [tsc, "--project", folder]).catch((err) => err);
      return stdout.trim().split("\n").filter(Boolean);
    };
    const good = `
      import { createServer } from "node:http";
      import { Server } from "socket.io";
      import { startHoldfast, HoldfastError, type Exit, type Holdfast, type LogEntry, type StartOptions } from "holdfast";
      const httpServer = createServer();
      const io = new Server(httpServer);
      const options: StartOptions = {
        upstream: httpServer, port: 0, host: "127.0.0.1", adminPort: 0, timeout: 1000, logLevel: "debug",
        settings: { recovery: { max_disconnection_duration: "30s" } },
        log: (entry: LogEntry) => console.log(entry.level, entry.msg, entry["listen"]),
      };
      async function main(): Promise<Exit> {
        for (const upstream of ["http://localhost:3000", new URL("http://localhost"), httpServer, io]) await startHoldfast({ upstream, log: false });
        const hf: Holdfast = await startHoldfast(options);
        const all: string = hf.url + hf.adminUrl + hf.pid.toFixed();
        const exit = await Promise.race([hf.exited, hf.stop()]);
        console.log(all, exit.code, exit.signal);
        return exit;
      }
      main().catch((err: unknown) => {
        if (err instanceof HoldfastError && err.code === "EADDRINUSE") console.error(err.message);
      });`;
    await writeFile(path.join(dir, "package.json"), JSON.stringify({ type: "module" }));
    // The types of socket.io before 4.4 do not work with newer compilers.
    const before = { module: "esnext", moduleResolution: "node10" };
    for (const [version, module] of [
      ["4.0.2", before],
      ["4.5.4", { module: "node16" }],
      ["4.8.4", { module: "esnext", moduleResolution: "bundler" }],
    ]) {
      const link = path.join(dir, "node_modules/socket.io");
      await rm(link, { force: true });
      await symlink(path.join(ROOT, `test/e2e/node_modules/socket.io-${version}`), link);
      assert.deepEqual(await compile(version, module, good), [], version);
    }
    const mistakes = [
      ["await startHoldfast({ upstream: 1 });", /not assignable/],
      ["await startHoldfast({ upstream: 'http://a', prot: 1 });", /'prot' does not exist/],
      ["await startHoldfast({ upstream: 'http://a', logLevel: 'loud' });", /not assignable/],
      ["(await startHoldfast({ upstream: 'http://a' })).close();", /'close' does not exist/],
      ["(await startHoldfast({ upstream: 'http://a' })).url = 'x';", /read-only/],
      ["if (new HoldfastError('x').code === 'NOPE') {}", /no overlap/],
    ];
    const lines = ['import { startHoldfast, HoldfastError } from "holdfast";', ...mistakes.map(([code]) => code)];
    const found = (await compile("bad", { module: "node16" }, lines.join("\n"))).filter((line) => !line.startsWith(" "));
    assert.equal(found.length, mistakes.length, found.join("\n"));
    mistakes.forEach(([code, says], i) => {
      assert.match(found[i], new RegExp(`index\\.ts\\(${i + 2},`), code);
      assert.match(found[i], says, code);
    });
  });

  it("documents each option, and lists the platforms that are built", async () => {
    const read = (name) => readFile(path.join(ROOT, "npm", name), "utf8");
    const options = /const OPTIONS = \[(.*)\]/.exec(await read("lib/options.js"))[1].match(/\w+/g);
    const [, typed] = /interface StartOptions \{\n(.*?)\n\}/s.exec(await read("index.d.ts"));
    assert.deepEqual([...typed.matchAll(/^ {2}(\w+)\?:/gm)].map((m) => m[1]), options);
    const codes = /readonly code: (.*);/.exec(await read("index.d.ts"))[1].match(/\w+/g).sort();
    const thrown = (await Promise.all(["index.js", "lib/options.js", "lib/binary.js"].map(read))).join("");
    assert.deepEqual([...new Set([...thrown.matchAll(/"([A-Z]+_?[A-Z]+)"(?=[,)]| :)/g)].map((m) => m[1]))].filter((c) => codes.includes(c)).sort(), codes);
    const manifest = JSON.parse(await readFile(path.join(dir, "node_modules/holdfast/package.json")));
    const { PLATFORMS } = await import(pathToFileURL(path.join(dir, "node_modules/holdfast/lib/binary.js")));
    assert.deepEqual(Object.keys(manifest.optionalDependencies).sort(), PLATFORMS.map((p) => `@holdfast/${p}`).sort());
    assert.ok(Object.values(manifest.optionalDependencies).every((v) => v === "0.1.2") && manifest.version === "0.1.2");
    assert.equal(manifest.scripts, undefined);
  });
});
