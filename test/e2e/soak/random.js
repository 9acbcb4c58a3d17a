// Random numbers that a seed determines, so that a run's faults can be had again.

export class Random {
  #state;

  /** `seed` is a number, `name` tells apart who shares it: every client has a sequence of its own. */
  constructor(seed, name = "") {
    // FNV-1a over both, so that neighbouring seeds and names have nothing in common.
    let h = 2166136261;
    for (const c of `${seed}/${name}`) h = Math.imul(h ^ c.codePointAt(0), 16777619);
    this.#state = h >>> 0;
  }

  /** From 0 to below 1 (mulberry32). */
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** From low to high, both possible. */
  int(low, high) {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  chance(p) {
    return this.next() < p;
  }

  /** One of [{weight, ...}], the heavier the likelier. */
  pick(list) {
    let x = this.next() * list.reduce((sum, item) => sum + item.weight, 0);
    return list.find((item) => (x -= item.weight) < 0) ?? list.at(-1);
  }
}
