// Waiting for conditions, for events, and for promises that must not hang.

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// HOLDFAST_E2E_SLOW multiplies every timeout, for slow machines. It is doubled for binaries built
// with -race.
export const SLOW = Number(process.env.HOLDFAST_E2E_SLOW || (process.env.HOLDFAST_E2E_RACE === "1" ? 2 : 1));

// A machine that stalls for seconds stalls holdfast, too, and its first act afterwards is to fire the timers that are due. So
// time limits count only what this process was awake: it is late by a few ticks at most for each stall.
const TICK = 20;
let ticked = performance.now();
let awakeMs = 0;
const tick = () => {
  const now = performance.now();
  awakeMs += Math.min(now - ticked, 5 * TICK);
  ticked = now;
};
setInterval(tick, TICK).unref();

/** Starts a stopwatch, for promises about time; returns a function that reads it in ms. It stands still while the machine does. */
export function stopwatch() {
  tick();
  const since = awakeMs;
  return () => {
    tick();
    return awakeMs - since;
  };
}

/**
 * Polls fn until it returns something truthy, and returns that.
 * `what` may be a function, which is called after a timeout to describe the state.
 */
export async function until(fn, what = fn.toString(), timeout = 8000) {
  const elapsed = stopwatch();
  for (;;) {
    const value = await fn();
    if (value) return value;
    if (elapsed() > timeout * SLOW) {
      const text = typeof what === "function" ? await what() : what;
      throw new Error(`timed out after ${timeout * SLOW} ms waiting for: ${text}`);
    }
    await sleep(5);
  }
}

/** Checks that fn stays falsy for ms: for things that must not happen. */
export async function never(fn, what, ms = 300) {
  const elapsed = stopwatch();
  while (elapsed() < ms) {
    if (await fn()) throw new Error(`must not happen: ${what}`);
    await sleep(5);
  }
}

/** The arguments of the next `event` of any kind of emitter. */
export function once(emitter, event, timeout = 8000) {
  return within(
    new Promise((resolve) => emitter.once(event, (...args) => resolve(args))),
    `event "${event}"`,
    timeout,
  );
}

/** Rejects if the promise does not settle in time. */
export function within(promise, what, timeout = 8000) {
  const elapsed = stopwatch();
  let timer;
  const late = new Promise((_, reject) => {
    const check = () => {
      const left = timeout * SLOW - elapsed();
      if (left > 0) timer = setTimeout(check, left);
      else reject(new Error(`timed out after ${timeout * SLOW} ms waiting for: ${what}`));
    };
    timer = setTimeout(check, timeout * SLOW);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
