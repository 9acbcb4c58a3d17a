// A process's resources, from /proc.
import { readdir, readFile } from "node:fs/promises";

/** Its resident memory, in bytes. */
export async function resident(pid) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)[1]) * 1024;
}

/** The factor by which the race detector increases memory. */
export const HUNGER = process.env.HOLDFAST_E2E_RACE === "1" ? 10 : 1;

/** How many file descriptors it has open. */
export async function descriptors(pid) {
  return (await readdir(`/proc/${pid}/fd`)).length;
}
