// Clients that `make clients` tests: one socket.io-client of each minor version, and clients in
// other languages. What is needed for each is in clients/.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { example } from "./examples.js";
import { OtherClient } from "./other-client.js";

const run = promisify(execFile);
const CLIENTS = fileURLToPath(new URL("../clients", import.meta.url));

/** The versions in clients/package.json. */
export const VERSIONS = Object.keys(JSON.parse(await readFile(path.join(CLIENTS, "package.json"), "utf8")).dependencies)
  .map((name) => name.replace("socket.io-client-", ""));

/** Why these tests do not run, or false. */
export const notAsked = process.env.HOLDFAST_E2E_CLIENTS ? false : "make clients runs these";

/** A client in another language: how it is built, and from what. build(dir) returns [command, ...args]. */
export const OTHERS = {
  go: {
    name: "zishang520's client for Go",
    transports: ["polling", "websocket", "upgrade"],
    recovers: true,
    // The transport over which it gives up once a connection was refused, with and without
    // holdfast.
    stuck: "websocket",
    async build(dir) {
      const bin = path.join(dir, "client");
      await run("go", ["build", "-o", bin, "."], { cwd: path.join(CLIENTS, "go") });
      return [bin];
    },
  },
  java: {
    name: "socket.io-client-java",
    transports: ["polling", "websocket", "upgrade"],
    counts: true,
    needs: "HOLDFAST_E2E_JAVA_CLASSPATH",
    async build(dir) {
      const classpath = `${dir}:${process.env.HOLDFAST_E2E_JAVA_CLASSPATH}`;
      const key = example("java", "setQuery").replace('IO.socket(URI.create("https://example.com"), options)', "open(options)");
      const source = (await readFile(path.join(CLIENTS, "java/Returning.java"), "utf8"))
        .replace("// KEY", () => key)
        .replace("// COUNT", () => example("java", '"packet"'));
      const file = path.join(dir, "Returning.java");
      await writeFile(file, source);
      await run("javac", ["-d", dir, "-cp", classpath, file]);
      return ["java", "-cp", classpath, "Returning"];
    },
  },
  cpp: {
    name: "socket.io-client-cpp",
    transports: ["websocket"],
    needs: "HOLDFAST_E2E_CPP_SOURCE",
    oneID: true, // it has no id for each namespace
    async build(dir) {
      const source = process.env.HOLDFAST_E2E_CPP_SOURCE;
      const bin = path.join(dir, "client");
      const files = ["sio_client.cpp", "sio_socket.cpp", "internal/sio_client_impl.cpp", "internal/sio_packet.cpp"].map((f) => path.join(source, f));
      const defines = ["-DASIO_STANDALONE", "-D_WEBSOCKETPP_CPP11_STL_", "-D_WEBSOCKETPP_CPP11_FUNCTIONAL_"];
      await run("g++", ["-std=c++11", "-include", "algorithm", ...defines, `-I${source}`, "-o", bin, path.join(CLIENTS, "cpp/returning.cpp"), ...files, "-lpthread"]);
      return [bin];
    },
  },
};

/** Why a client in another language cannot run, or false. */
export function missingOther(other) {
  return notAsked || (other.needs && !existsSync((process.env[other.needs] ?? "").split(":")[0]) && `needs ${other.needs}: see README.md`);
}

const built = new Map();
const dirs = [];

async function build(other) {
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-clients-"));
  dirs.push(dir);
  return other.build(dir);
}

/** Removes what was built. */
export async function discard() {
  for (const dir of dirs) await rm(dir, { recursive: true, force: true });
}

/** Starts one. mode: plain, key, or count. */
export async function startOther(t, other, url, transport, mode) {
  if (!built.has(other)) built.set(other, build(other));
  const [command, ...args] = await built.get(other);
  return new OtherClient(t, command, [...args, url, transport, mode]);
}
