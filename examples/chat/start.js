// Installs what the chat needs, builds holdfast, and starts both:
// `node start.js [--lan] [--port 8080]`
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { networkInterfaces } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = path.dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    lan: { type: "boolean", default: false }, // also for phones in the same network
    port: { type: "string", default: "8080" },
    bot: { type: "string", default: "3" }, // how often the bot talks, in seconds; 0 for never
  },
});

function install() {
  if (existsSync(path.join(here, "node_modules", "socket.io-client"))) return;
  console.log("Installing socket.io 4.5.4, and a client that can recover ...");
  execFileSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: here, stdio: ["ignore", "ignore", "inherit"] });
}

/** HOLDFAST_BIN, or what is built from the sources that this is a part of. */
function holdfast() {
  if (process.env.HOLDFAST_BIN) return path.resolve(process.env.HOLDFAST_BIN);
  const bin = path.join(here, ".bin", "holdfast");
  mkdirSync(path.dirname(bin), { recursive: true });
  console.log("Building holdfast ...");
  try {
    execFileSync("go", ["build", "-o", bin, "."], { cwd: path.join(here, "..", ".."), stdio: "inherit" });
  } catch (err) {
    if (err.code !== "ENOENT") throw err;
    throw new Error("Go is not installed. With a holdfast of your own: HOLDFAST_BIN=/path/to/holdfast npm start");
  }
  return bin;
}

function addresses() {
  const hosts = ["localhost"];
  if (options.lan) {
    const all = Object.values(networkInterfaces()).flat();
    hosts.push(...all.filter((a) => a.family === "IPv4" && !a.internal).map((a) => a.address));
  }
  return hosts.map((host) => `http://${host}:${options.port}`);
}

install();
const bin = holdfast();
const { startChat } = await import("./server.js"); // now that it is installed
const chat = await startChat({ botEvery: Number(options.bot) * 1000 });

const proxy = spawn(bin, [], {
  stdio: "inherit",
  env: {
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_"))),
    HOLDFAST_LISTEN: `${options.lan ? "0.0.0.0" : "127.0.0.1"}:${options.port}`,
    HOLDFAST_UPSTREAM_URL: chat.url,
    HOLDFAST_ADMIN_LISTEN: "",
    HOLDFAST_SHUTDOWN_DRAIN_TIMEOUT: "0",
    // The page asks its server for the client, as it always did, and gets one that can recover.
    HOLDFAST_CLIENT_BUNDLE_DIR: path.join(here, "node_modules", "socket.io-client", "dist"),
    // Who is typing is of no interest later; of the list of people only the newest is.
    HOLDFAST_EVENTS_VOLATILE: "typing",
    HOLDFAST_EVENTS_LATEST: "people",
    HOLDFAST_NOTIFY_PARKED: "away",
    HOLDFAST_NOTIFY_RESUMED: "back",
  },
});
proxy.on("error", (err) => console.error(`holdfast: ${err.message}`));
proxy.on("close", (code) => {
  chat.stop();
  process.exitCode = code ?? 1;
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => proxy.kill("SIGTERM"));
console.log(`\nThe chat is at ${addresses().join(" and ")}\nStop it with Ctrl-C.\n`);
