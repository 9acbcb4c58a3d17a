// A holdfast whose wall clock can be set, as by an administrator, NTP or a resumed virtual machine.
// The monotonic clock, timers and the machine's own clock do not change.
//
// It is built from holdfast's source with a copy of Go's time.Now that adds an offset to the wall
// time. The copy is made from the Go installation that builds it. (libfaketime does not work with a
// static binary, and a time namespace has no wall clock.)
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { Raw } from "./raw.js";
import { ROOT } from "./tools.js";
import { until } from "./wait.js";

const run = promisify(execFile);
const HOUR = 3600000;

const READS_CLOCK = "\tsec, nsec, mono := runtimeNow()\n";
const OFFSET = `package time

import "sync/atomic"

var jumped atomic.Int64

// Jump sets the wall clock forward, or back.
func Jump(seconds int64) { jumped.Add(seconds) }
`;
const SIGNALS = `package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

func init() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGWINCH) // SIGUSR2 asks for a handover
	go func() {
		for s := range signals {
			if s == syscall.SIGUSR1 {
				time.Jump(3600)
			} else {
				time.Jump(-3600)
			}
		}
	}()
}
`;

/** Builds it in an empty directory; returns the binary's path. */
export async function jumpyBinary(dir) {
  const goroot = (await run("go", ["env", "GOROOT"], { cwd: ROOT })).stdout.trim();
  const source = path.join(goroot, "src", "time", "time.go");
  const before = await readFile(source, "utf8");
  const patched = before.replace(READS_CLOCK, `${READS_CLOCK}\tsec += jumped.Load()\n`);
  if (patched === before) throw new Error("this Go reads the clock in another way: see READS_CLOCK");
  const files = { [source]: patched, [path.join(goroot, "src", "time", "jump.go")]: OFFSET, [path.join(ROOT, "jump.go")]: SIGNALS };
  const overlay = { Replace: {} };
  for (const [i, [name, text]] of Object.entries(files).entries()) {
    overlay.Replace[name] = path.join(dir, `${i}.go`);
    await writeFile(overlay.Replace[name], text);
  }
  await writeFile(path.join(dir, "overlay.json"), JSON.stringify(overlay));
  await run("go", ["build", "-overlay", path.join(dir, "overlay.json"), "-o", path.join(dir, "holdfast"), "."], { cwd: ROOT });
  return path.join(dir, "holdfast");
}

/** Moves the clock of such a holdfast by hours, +1 or -1. It returns when the times in the log show it. */
export async function jump(hf, by, options) {
  hf.hours = (hf.hours ?? 0) + by;
  hf.signal(by > 0 ? "SIGUSR1" : "SIGWINCH");
  await until(async () => {
    (await Raw.open(hf.url, options)).close(); // causes a log line
    return Math.abs(Date.parse(hf.records.at(-1).time) - Date.now() - hf.hours * HOUR) < HOUR / 4;
  }, () => `the jump by ${by} h; the log's last time is ${hf.records.at(-1).time}`);
}
