// Finds the binary, which is in an optional package for each platform.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { HoldfastError } from "./error.js";

/** The platforms that have a package: process.platform, process.arch. The release program adds them as optional dependencies. */
export const PLATFORMS = ["linux-x64", "linux-arm64", "linux-arm", "darwin-x64", "darwin-arm64", "win32-x64", "win32-arm64"];

const SOURCE = "Build it from https://github.com/holdfast/holdfast, and name the binary in HOLDFAST_BINARY_PATH.";

/** The binary's path. HOLDFAST_BINARY_PATH names another one. */
export function findBinary({ platform = process.platform, arch = process.arch, env = process.env } = {}) {
  const path = env.HOLDFAST_BINARY_PATH;
  if (path) {
    if (!existsSync(path)) throw new HoldfastError("NO_BINARY", `HOLDFAST_BINARY_PATH is ${path}, and there is no such file`);
    return path;
  }
  const name = `${platform}-${arch}`;
  if (!PLATFORMS.includes(name))
    throw new HoldfastError("NO_BINARY", `there is no prebuilt binary for ${platform} on ${arch}, only for ${PLATFORMS.join(", ")}. ${SOURCE}`);
  const file = `@holdfast/${name}/bin/holdfast${platform === "win32" ? ".exe" : ""}`;
  try {
    return createRequire(import.meta.url).resolve(file);
  } catch {
    throw new HoldfastError(
      "NO_BINARY",
      `the package @holdfast/${name}, which has the binary for this platform, is not installed. ` +
        "This happens if optional dependencies are left out (--omit=optional), or if node_modules comes from another platform. " +
        "Run npm install again, here, with --include=optional.",
    );
  }
}
