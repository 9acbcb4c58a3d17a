// Faults of a client's network and of the server. When a fault's promise resolves, it is over and
// has left nothing in the relay.
import { once } from "node:events";
import { setTimeout as wait } from "node:timers/promises";

/** Faults of one client: {name, weight, run({relay, random, signal, clients, name})}. */
export const FAULTS = [
  { name: "cut", weight: 10, run: ({ relay }) => relay.cut() },
  { name: "reset", weight: 10, run: ({ relay }) => relay.reset() },
  {
    // A poll or a POST alone. It may have arrived, and have been answered. After a half-close the client reads the answer.
    name: "one request is cut",
    weight: 8,
    run: async ({ relay, random, signal }) => {
      const soon = AbortSignal.any([signal, AbortSignal.timeout(2000)]);
      const [conn] = await once(relay, "request", { signal: soon }).catch(() => relay.list());
      await wait(random.int(0, 30), null, { signal });
      if (random.chance(0.3)) conn?.server.end();
      else conn?.kill(random.chance(0.5) ? "cut" : "reset");
    },
  },
  { name: "new network path", weight: 10, run: ({ relay }) => relay.abandon() },
  { name: "half-close to holdfast", weight: 4, run: ({ relay }) => relay.halfClose() },
  {
    name: "half-close to the client",
    weight: 4,
    run: ({ relay }) => {
      for (const conn of relay.list()) conn.client.end();
    },
  },
  ...[
    ["blackhole", {}],
    ["blackhole to holdfast", { down: false }],
    ["blackhole to the client", { up: false }],
  ].map(([name, directions]) => ({
    name,
    weight: 3,
    // If it ends early it was only a delay; if late, both sides have given up. Held bytes arrive
    // late either way.
    run: async ({ relay, random, signal }) => {
      relay.blackhole(directions);
      await wait(random.int(200, 12_000), null, { signal });
      relay.heal();
    },
  })),
  {
    name: "one byte per write",
    weight: 3,
    run: async ({ relay, random, signal }) => {
      relay.oneByteWrites();
      await wait(random.int(500, 3000), null, { signal });
      relay.oneByteWrites(false);
    },
  },
  {
    name: "delay",
    weight: 5,
    run: async ({ relay, random, signal }) => {
      relay.delay(random.int(50, 2000), random.chance(0.5) ? ["up", "down"] : [random.chance(0.5) ? "up" : "down"]);
      await wait(random.int(1000, 6000), null, { signal });
      if (random.chance(0.5)) relay.reset();
      relay.delay(0);
    },
  },
  {
    // A round trip takes longer than a ping interval, and bytes in flight at the end are lost.
    name: "a long way",
    weight: 4,
    run: async ({ relay, random, signal }) => {
      relay.delay(random.int(1500, 2000));
      await wait(random.int(6000, 12_000), null, { signal });
      relay.reset();
      relay.delay(0);
    },
  },
  {
    name: "throttle",
    weight: 5,
    run: async ({ relay, random, signal }) => {
      relay.throttle(random.int(5_000, 60_000));
      await wait(random.int(1000, 5000), null, { signal });
      if (random.chance(0.5)) relay.cut();
      relay.throttle(0);
    },
  },
  {
    name: "no network",
    weight: 8,
    run: async ({ relay, random, signal }) => {
      relay.down();
      await wait(random.int(100, 6000), null, { signal });
      relay.up();
    },
  },
  {
    // The client abandons a connection whose CONNECT is in flight, and arrives after the next
    // connection's.
    name: "reconnections race",
    weight: 8,
    run: async ({ relay, random, signal }) => {
      const late = random.int(100, 700);
      relay.reset();
      relay.delay(late, ["up"]);
      await wait(late * 2 + random.int(0, late), null, { signal });
      for (const conn of relay.list()) conn.client.destroy();
      relay.delay(0);
    },
  },
  {
    name: "cut again and again",
    weight: 5,
    run: async ({ relay, random, signal }) => {
      for (let n = random.int(3, 10); n > 0; n--) {
        relay[random.chance(0.5) ? "cut" : "abandon"]();
        await wait(random.int(1, 150), null, { signal });
      }
    },
  },
  { name: "engine.close()", weight: 4, run: ({ clients, name }) => clients.call("closeEngine", name) },
  { name: "leaving", weight: 1, run: ({ clients, name, random }) => clients.call("leave", name, random.chance(0.5)) },
  {
    name: "away for too long",
    weight: 1,
    run: async ({ relay, random, signal, expiry }) => {
      relay.down();
      await wait(expiry + random.int(1000, 3000), null, { signal });
      relay.up();
    },
  },
];

/** Removes everything that an aborted fault has left. */
export function calm(relay) {
  relay.delay(0);
  relay.throttle(0);
  relay.oneByteWrites(false);
  relay.heal();
}

/** Injects faults into one client until the signal. Calls `happened(name)` for each. */
export async function injectFaults(target, happened) {
  const { relay, random, signal } = target;
  try {
    for (;;) {
      await wait(random.int(200, 6000), null, { signal });
      const fault = random.pick(FAULTS);
      happened(fault.name);
      await fault.run(target);
    }
  } catch (err) {
    if (!signal.aborted) throw err;
  } finally {
    calm(relay);
  }
}

/**
 * Injects faults into the servers. The application is stopped for less than its heartbeat allows, and killed once a minute,
 * after a third of the first minute. holdfast is also killed once a minute, after two thirds of it.
 */
export async function injectServerFaults({ lane, random, signal }, happened) {
  const start = Date.now();
  let kills = 0;
  let holdfastKills = 0;
  const late = () => (Date.now() - start) / 60_000;
  try {
    for (;;) {
      await wait(random.int(5_000, 15_000), null, { signal });
      if (lane.replicas === 1 && late() > holdfastKills + 2 / 3) {
        holdfastKills++;
        happened("holdfast killed");
        await lane.killHoldfast(() => wait(random.int(100, 3000), null, { signal }));
      } else if (late() > kills + 1 / 3) {
        kills++;
        happened("server killed");
        await lane.killServer(() => wait(random.int(100, 3000), null, { signal }));
      } else {
        happened("server stopped and resumed");
        lane.server.signal("SIGSTOP");
        await wait(random.int(300, 3000), null, { signal });
        lane.server.signal("SIGCONT");
      }
    }
  } catch (err) {
    if (!signal.aborted) throw err;
  } finally {
    lane.server.signal("SIGCONT");
  }
}

const both = { up: true, down: true };

/** Faults between replicas: {name, weight, run({ways, random, wait})}. ways are those of one pair, in both directions. */
const PEER_FAULTS = [
  { name: "peers: cut", weight: 4, run: ({ ways }) => ways.forEach((w) => w.relay.cut()) },
  { name: "peers: reset one way", weight: 4, run: ({ ways }) => ways[0].relay.reset() },
  ...[
    ["partition", () => [both, both]],
    ["one connection hangs", () => [both, null]],
    ["nothing arrives at one side", () => [{ up: true, down: false }, { up: false, down: true }]],
  ].map(([name, directions]) => ({
    name: `peers: ${name}`,
    weight: 3,
    run: async ({ ways, random, wait }) => {
      for (const [i, holes] of directions().entries()) {
        if (!holes) continue;
        Object.assign(ways[i].relay, { mode: "hole", holes });
        ways[i].relay.blackhole(holes);
      }
      await wait(random.int(200, 12_000));
      for (const w of ways) w.relay.heal();
    },
  })),
  {
    name: "peers: delay",
    weight: 3,
    run: async ({ ways, random, wait }) => {
      for (const w of ways) w.relay.delay(random.int(20, 800));
      await wait(random.int(1000, 5000));
      for (const w of ways) w.relay.delay(0);
    },
  },
];

/**
 * Injects faults into replicas and the connections between them. Each minute one is killed, one is stopped for longer than
 * the others wait, one drains, and one hands over.
 */
export async function injectReplicaFaults({ lane, fleet, random, signal }, happened) {
  const pause = (ms) => wait(ms, null, { signal });
  const hurtPair = async (ways) => {
    for (;;) {
      await pause(random.int(300, 5000));
      const fault = random.pick(PEER_FAULTS);
      happened(fault.name);
      await fault.run({ ways: random.chance(0.5) ? ways : [...ways].reverse(), random, wait: pause });
    }
  };
  const start = Date.now();
  let kills = 0;
  let freezes = 0;
  let drains = 0;
  let handovers = 0;
  const late = () => (Date.now() - start) / 60_000;
  const hurtReplica = async () => {
    for (;;) {
      await pause(random.int(1000, 8000));
      const i = random.int(0, fleet.size - 1);
      if (late() > kills + 1 / 2) {
        kills++;
        happened("replica killed");
        await lane.killHoldfast(() => pause(random.int(100, 4000)), i);
      } else if (late() > freezes + 1 / 4) {
        freezes++;
        happened("replica stopped for long");
        await fleet.freeze(i, () => pause(random.int(6000, 15_000)));
      } else if (late() > drains + 0.1) {
        drains++;
        happened("replica drained");
        await lane.killHoldfast(() => pause(random.int(100, 4000)), i, { drain: true });
      } else if (late() > handovers + 0.35) {
        handovers++;
        happened("replica handed over");
        await fleet.handOver(i);
      } else {
        happened("replica stopped and resumed");
        await fleet.freeze(i, () => pause(random.int(300, 3500)));
      }
    }
  };
  const all = await Promise.allSettled([hurtReplica(), ...fleet.pairs.map(hurtPair)]);
  for (const { reason } of all) if (!signal.aborted) throw reason;
}

/** Faults of Redis, and replicas that come and go. A new one needs Redis to be found by the others, but clients may reach it before that. */
export async function injectRedisFaults({ lane, fleet, random, signal }, happened) {
  const pause = (ms) => wait(ms, null, { signal });
  const { redis } = fleet;
  const away = () => pause(random.int(500, 9000));
  const faults = [
    async () => {
      happened("Redis killed");
      await redis.kill();
      await away().finally(() => redis.run());
    },
    async () => {
      happened("Redis stopped and resumed");
      redis.signal("SIGSTOP");
      await away().finally(() => redis.signal("SIGCONT"));
    },
    async () => {
      happened("Redis emptied");
      await redis.command("FLUSHALL");
    },
  ];
  const hurtRedis = async () => {
    for (let i = random.int(0, 2); ; i++) {
      await pause(random.int(1000, 8000));
      await faults[i % faults.length]();
    }
  };
  const visits = async () => {
    for (;;) {
      await pause(random.int(3000, 12_000));
      happened("another replica for a while");
      await fleet.visit(() => pause(random.int(2000, 15_000)));
      lane.metrics = undefined;
    }
  };
  const all = await Promise.allSettled([hurtRedis(), visits()]);
  for (const { reason } of all) if (!signal.aborted) throw reason;
}
