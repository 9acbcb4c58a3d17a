// Random numbers from a seed, so that a run's faults can be repeated.

export class Random {
  #state;

  /** `seed` is a number. `name` gives everyone who shares the seed, such as each client, a separate sequence. */
  constructor(seed, name = "") {
    // FNV-1a over both, so that similar seeds and names give unrelated sequences.
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

  /** One of [{weight, ...}], with a probability proportional to its weight. */
  pick(list) {
    let x = this.next() * list.reduce((sum, item) => sum + item.weight, 0);
    return list.find((item) => (x -= item.weight) < 0) ?? list.at(-1);
  }
}
