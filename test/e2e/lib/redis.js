// Debian's Redis, without persistence, on a port of its own.
import { accepts } from "./holdfast.js";
import { freePort } from "./ports.js";
import { Daemon } from "./tools.js";

/** Starts Redis until the end of the test: a Daemon with its port. */
export async function startRedis(t) {
  const port = await freePort();
  const redis = await Daemon.start(t, "redis-server", async (dir) => ({
    args: ["--port", String(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no"],
    ready: () => accepts(port),
  }));
  redis.port = port;
  return redis;
}
