// Waiting for conditions, for events, and for promises that must not hang.

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// HOLDFAST_E2E_SLOW multiplies every timeout, for slow machines. It is doubled for binaries built
// with -race.
export const SLOW = Number(process.env.HOLDFAST_E2E_SLOW || (process.env.HOLDFAST_E2E_RACE === "1" ? 2 : 1));

/**
 * Polls fn until it returns something truthy, and returns that.
 * `what` may be a function, which is called after a timeout to describe the state.
 */
export async function until(fn, what = fn.toString(), timeout = 8000) {
  const end = Date.now() + timeout * SLOW;
  for (;;) {
    const value = await fn();
    if (value) return value;
    if (Date.now() > end) {
      const text = typeof what === "function" ? what() : what;
      throw new Error(`timed out after ${timeout * SLOW} ms waiting for: ${text}`);
    }
    await sleep(5);
  }
}

/** Checks that fn stays falsy for ms: for things that must not happen. */
export async function never(fn, what, ms = 300) {
  const end = Date.now() + ms;
  while (Date.now() < end) {
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
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`timed out after ${timeout * SLOW} ms waiting for: ${what}`)),
      timeout * SLOW,
    );
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
