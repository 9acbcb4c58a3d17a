// The soak's checks find what they look for, in streams that are not as they should be.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { lostWhileAway } from "../soak/away.js";
import { compare } from "../soak/compare.js";
import { needlesslyFresh } from "../soak/fresh.js";
import { Random } from "../soak/random.js";
import { Arrivals, body, broadcastKind, Incoming, kind, Outgoing } from "../soak/stream.js";

const NSP = "/";
const ASK = 7; // the first number that asks for an ack
const BEGAN = 0; // when the session did
const CUT_AT = 1000; // when the second connection was made
const FIRST = { number: 1, attemptedAt: -10, connectedAt: 0 };
const SECOND = { number: 2, attemptedAt: CUT_AT - 10, connectedAt: CUT_AT };
/** When the predecessor of number i was sent. */
const before = (i) => (i - 1) * 100;

/** A client and a server that agree: 20 events and 5 broadcasts down, 10 up on each of two connections. */
class Run {
  constructor() {
    this.own = new Incoming(kind);
    this.broadcasts = new Incoming(broadcastKind);
    this.outgoing = new Outgoing();
    this.arrivals = new Arrivals();
    this.ended = null;
    this.connections = 2;
    this.unanswered = [];
    this.live = true;
    this.next = false; // whether there is another session after this one
    this.openedAt = 0; // when the engine was over which the client learned of the session
    this.answered = 2; // 7 and 18
    this.answersKept = true;
    this.down = Array.from({ length: 20 }, (_, k) => k + 1);
    this.up = [];
    this.outgoing.connect("s");
    for (let k = 0; k < 10; k++) this.up.push(this.outgoing.next());
    this.outgoing.disconnect();
    this.outgoing.connect("s");
    for (let k = 0; k < 10; k++) this.up.push(this.outgoing.next());
  }

  /** Events up to number `cut` come over the first connection. Number i is sent at i * 100. */
  compare({ cut = 9, broadcasts = [4, 5, 6, 7, 8], ...options } = {}) {
    let connection = 1;
    for (const i of this.down) {
      if (i > cut) connection = 2;
      this.own.take(i, before(i), this.altered === i ? "?" : body(i), connection === 2 ? SECOND : FIRST);
    }
    for (const i of broadcasts) this.broadcasts.take(i, before(i), body(i), SECOND);
    for (const { i, epoch } of this.up) this.arrivals.take("s", i, epoch, body(i));
    const ledger = (x) => JSON.parse(JSON.stringify(x));
    return compare(
      ledger({
        clients: [
          {
            name: "c",
            version: "4.6.2",
            answersKept: this.answersKept,
            namespaces: [
              {
                nsp: NSP,
                live: this.live,
                sessions: [
                  { sid: "s", openedAt: this.openedAt, connections: this.connections, own: this.own, broadcasts: this.broadcasts },
                  ...(this.next ? [{ sid: "t", openedAt: CUT_AT, connections: 1, own: new Incoming(kind), broadcasts: new Incoming(broadcastKind) }] : []),
                ],
                fresh: [],
                asked: 2,
                epochs: this.outgoing,
                unanswered: this.unanswered,
              },
            ],
          },
        ],
        server: {
          sessions: {
            s: { client: "c", nsp: NSP, began: BEGAN, sent: 20, firstBroadcast: 4, answered: this.answered, ended: this.ended },
            t: { client: "c", nsp: NSP, began: CUT_AT, sent: 0, firstBroadcast: 9, answered: 0, ended: null },
          },
          arrivals: { [`c ${NSP}`]: this.arrivals },
          broadcasts: { [NSP]: 8 },
        },
        ...options,
      }),
    );
  }
}

const without = (list, ...gone) => list.filter((x) => !gone.includes(x.i ?? x));

/** Runs with a change, and returns {down, up: totals of the recovered sessions, broken}. */
function changed(change, options) {
  const run = new Run();
  change(run);
  const { down, up, broken, pending } = run.compare(options);
  return { down: down.recovered, up: up.recovered, broken, pending };
}

describe("the soak's checks, from server to client", () => {
  it("accept a complete stream", () => {
    const { down, up, broken, pending } = changed(() => {});
    assert.deepEqual(broken, []);
    assert.equal(pending, 0);
    assert.deepEqual([down.sent, down.delivered, up.sent, up.delivered], [25, 25, 20, 20]);
  });

  it("find a lost event", () => {
    const { down, broken } = changed((run) => (run.down = without(run.down, 10)));
    assert.equal(down.lost, 1);
    assert.match(broken.join(), /lost 10, after 9/);
  });

  it("find a duplicate event", () => {
    const { down, broken } = changed((run) => run.down.splice(10, 0, 9));
    assert.equal(down.doubled, 1);
    assert.equal(broken.length, 1);
  });

  it("find events in another order", () => {
    const { down, broken } = changed((run) => run.down.splice(11, 2, 13, 12));
    assert.deepEqual([down.reordered, down.lost, down.doubled], [1, 0, 0]);
    assert.equal(broken.length, 1);
  });

  it("find an altered event", () => {
    const { down, broken } = changed((run) => (run.altered = 12));
    assert.equal(down.altered, 1);
    assert.equal(broken.length, 1);
  });

  it("find that the last event has not arrived yet", () => {
    const { down, broken, pending } = changed((run) => run.down.pop());
    assert.deepEqual([down.lost, pending], [1, 1]);
    assert.equal(broken.length, 1);
  });

  it("find a lost broadcast: in the middle, and the first", () => {
    assert.equal(changed(() => {}, { broadcasts: [4, 5, 7, 8] }).broken.length, 1);
    assert.equal(changed(() => {}, { broadcasts: [5, 6, 7, 8] }).broken.length, 1);
  });

  it("count what had not arrived at a session's end as its tail", () => {
    const { down, broken, pending } = changed((run) => {
      run.down.splice(-3);
      run.ended = "transport close";
      run.next = true;
    });
    assert.deepEqual([down.lost, down.tail, pending], [0, 3, 0]);
    assert.deepEqual(broken, []);
  });

  it("find that a client is not connected in the end, or believes it is", () => {
    for (const [change, says] of [
      [{ live: false }, /the client is not connected/],
      [{ ended: "ping timeout" }, /the server has ended it: ping timeout/],
    ]) {
      const { broken, pending } = changed((run) => Object.assign(run, change));
      assert.match(broken.join(), says);
      assert.equal(pending, 1);
    }
  });

  it("find an event that the server never sent", () => {
    assert.match(changed((run) => run.down.push(21)).broken.join(), /21 came, 20 was the last/);
  });

  it("find a session with the id of an earlier one", () => {
    const server = (again) => ({ server: { sessions: { s: { client: "c", nsp: NSP, again, began: BEGAN, sent: 20, firstBroadcast: 4, answered: 2, ended: null } }, arrivals: {}, broadcasts: { [NSP]: 8 } } });
    const says = (again) => changed((run) => (run.up = []), server(again)).broken.some((b) => b.includes("it has the id of an earlier one"));
    assert.deepEqual([says(true), says(false)], [true, false]);
  });

  it("find a session that no server knows", () => {
    assert.match(changed(() => {}, { server: { sessions: {}, arrivals: {}, broadcasts: {} } }).broken.join(), /no server knows it/);
  });

  describe("a client with a key that does not count", () => {
    /** 1..9 over the first connection, then what is given over the second. */
    const run = (redeliver, second, options) => {
      const r = new Run();
      r.own = new Incoming(kind, { redeliver });
      for (let i = 1; i <= 9; i++) r.own.take(i, before(i), body(i), FIRST);
      r.down = second;
      return r.compare({ cut: 0, ...options });
    };
    const from = (i) => Array.from({ length: 21 - i }, (_, k) => i + k);

    it("may get a run of events twice at a cut, with at-least-once", () => {
      const { down, broken } = run("at-least-once", from(6), { ackEvents: "at-least-once" });
      assert.deepEqual([down.recovered.doubled, down.recovered.ambiguous], [0, 4]);
      assert.deepEqual(broken, []);
      assert.deepEqual(run("at-least-once", [6, ...from(8)]).broken, [], "but the one with an ack");
    });

    it("may not get them with a gap, in disorder, or on a connection that holds", () => {
      for (const second of [[5, ...from(8)], [6, 5, ...from(10)], [...from(10), 20]])
        assert.equal(run("at-least-once", second, { ackEvents: "at-least-once" }).broken.length, 1, second.join());
      assert.equal(run("at-least-once", from(11)).broken.length, 1, "a gap");
    });

    it("may lose some at a cut, and never has one twice, with at-most-once", () => {
      const { down, broken } = run("at-most-once", from(11));
      assert.deepEqual([down.recovered.lost, down.recovered.ambiguous], [0, 1]);
      assert.deepEqual(broken, []);
      assert.equal(run("at-most-once", from(9)).broken.length, 1);
      assert.equal(run("at-most-once", [10, 11, ...from(13)]).broken.length, 1, "on a connection that holds");
      assert.equal(run("at-most-once", from(12)).broken.length, 1, "sent over the connection that holds");
    });
  });

  describe("a session that began over a connection that its client does not know", () => {
    const run = (change, ...streams) => {
      const r = new Run();
      [r.own, r.broadcasts] = [new Incoming(kind, ...streams), new Incoming(broadcastKind, ...streams)];
      r.openedAt = BEGAN + 450;
      r.connections = 1;
      change(r);
      for (const i of [6, 7, 8]) r.broadcasts.take(i, before(i), body(i), { ...FIRST, connectedAt: 500 }); // 4 and 5 were sent before that
      return r.compare({ cut: 20, broadcasts: [] });
    };
    const atMostOnce = { redeliver: "at-most-once" };

    it("may miss the first ones, with at-most-once", () => {
      assert.deepEqual(run(() => {}, atMostOnce).broken, []);
      assert.deepEqual(run((r) => r.down.splice(0, 3), atMostOnce).broken.length, 1, "but not of the other stream: its connection had its reply before");
    });

    it("may not miss any otherwise", () => {
      assert.match(run(() => {}).broken.join(), /broadcasts: 4 to 5 lost, the first/);
      assert.match(run((r) => (r.openedAt = BEGAN), atMostOnce).broken.join(), /broadcasts: 4 to 5 lost, the first/);
    });
  });

  describe("a client with a key that counts", () => {
    const counting = (run) => (run.own = new Incoming(kind, { counts: true }));

    it("has each event once, also those with an ack", () => {
      assert.deepEqual(changed(counting, { cut: ASK - 1 }).broken, []);
      const lost = (run) => {
        counting(run);
        run.down = without(run.down, ASK);
      };
      assert.equal(changed(lost, { cut: ASK - 1 }).down.lost, 1);
      const again = (run) => {
        counting(run);
        for (const i of [1, 2, 3, 4, 5, 6, ASK]) run.own.take(i, before(i), body(i), FIRST);
        run.down = [ASK, 8, ...run.down.slice(8)];
      };
      assert.equal(changed(again, { cut: 0, ackEvents: "at-least-once" }).down.doubled, 1);
    });
  });

  describe("an event with an ack", () => {
    const lost = (run) => (run.down = without(run.down, ASK));

    it("may be lost at a cut, with at-most-once", () => {
      const { down, broken } = changed(lost, { cut: ASK - 1 });
      assert.deepEqual([down.lost, down.ambiguous], [0, 1]);
      assert.deepEqual(broken, []);
    });

    it("may not with at-least-once", () => {
      assert.equal(changed(lost, { cut: ASK - 1, ackEvents: "at-least-once" }).broken.length, 1);
    });

    it("may not be lost on a connection that holds", () => {
      assert.equal(changed(lost, { cut: 20 }).down.lost, 1);
      // Number 18 was sent after the second connection was made.
      assert.equal(changed((run) => (run.down = without(run.down, 18)), { cut: ASK }).down.lost, 1);
    });

    it("may come twice at a cut, with at-least-once", () => {
      const run = () => {
        const r = new Run();
        for (const i of [1, 2, 3, 4, 5, 6, ASK]) r.own.take(i, before(i), body(i), FIRST);
        r.down = [ASK, 8, ...r.down.slice(8)];
        return r;
      };
      const { down, broken } = run().compare({ cut: 0, ackEvents: "at-least-once" });
      assert.deepEqual([down.recovered.doubled, down.recovered.ambiguous], [0, 1]);
      assert.deepEqual(broken, []);
      assert.equal(run().compare({ cut: 0 }).broken.length, 1);
    });
  });
});

describe("the soak's check of what was sent while a client was away", () => {
  // Numbers 1 to 3 over a connection that ended at 2000; number i was sent at 1000i; the next connection was tried at 8000.
  const lost = ({ ended = 2000, arrives, redeliver = "at-most-once", more = [] }) => {
    const own = new Incoming(kind, { redeliver });
    for (const i of [1, 2]) own.take(i, (i - 1) * 1000, body(i), FIRST);
    own.take(arrives, (arrives - 1) * 1000, body(arrives), { number: 2, attemptedAt: 8000, connectedAt: 8100 });
    const sessions = [{ sid: "s", own, broadcasts: new Incoming(broadcastKind) }];
    const times = { own: { s: Array.from({ length: 20 }, (_, k) => (k + 1) * 1000) }, broadcasts: { [NSP]: [] } };
    return lostWhileAway({
      clients: JSON.parse(JSON.stringify([{ name: "c", namespaces: [{ nsp: NSP, sessions }] }])),
      servers: [{ sessions: { s: { firstBroadcast: 1 } }, times }],
      connections: new Map([["c", [{ opened: 0, ended }, ...more, { opened: 8000, ended: null }]]]),
    });
  };

  it("accepts what may have been on the way when a connection ended", () => {
    assert.deepEqual(lost({ arrives: 4 }), []);
    assert.deepEqual(lost({ arrives: 7, ended: 5500 }), []);
    assert.deepEqual(lost({ arrives: 7, more: [{ opened: 6500, ended: 6900 }] }), [], "a connection that had no reply");
  });

  it("finds what was sent later", () => {
    assert.match(lost({ arrives: 7 }).join(), /events: 4,5,6 lost/);
    assert.deepEqual(lost({ arrives: 7, redeliver: null }), [], "compare() finds what may never be lost");
  });

  it("finds an event with an ack", () => {
    assert.match(lost({ arrives: 9, redeliver: null }).join(), /events: 7 lost/);
  });
});

describe("the soak's check of fresh sessions", () => {
  const fresh = ({ endedAt = 5000, began = 6000, away = 800, kills = [], ...options }) =>
    needlesslyFresh({
      clients: [{ name: "c", namespaces: [{ nsp: NSP, fresh: [{ previous: "s", sid: "t", away }] }] }],
      servers: [{ sessions: { s: { began: 0, ended: endedAt && "transport close", endedAt }, t: { began, ended: null } } }],
      kills,
      expired: [],
      ...options,
    });

  it("accepts one after the previous one expired, was killed, or had too much", () => {
    assert.deepEqual(fresh({ expired: [4999] }), []);
    assert.deepEqual(fresh({ kills: [{ from: 4900, to: 5900 }] }), []);
    assert.deepEqual(fresh({ mayEnd: true }), []);
  });

  it("finds one beside the previous one, and one whose previous one ended without a reason", () => {
    for (const endedAt of [null, 12_000]) assert.match(fresh({ endedAt, expired: [4999, 11_999] }).join(), /the previous one, s, had not ended/);
    assert.match(fresh({}).join(), /had ended \(transport close\), but not because it expired; its client was away for 800 ms/);
    assert.equal(fresh({ kills: [{ from: 5100, to: 5900 }, { from: -2000, to: -1000 }], expired: [-1000, 5200] }).length, 1);
  });
});

describe("the soak's checks, from client to server", () => {
  it("accept that a cut costs the last events of a connection", () => {
    const { up, broken, pending } = changed((run) => (run.up = without(run.up, 8, 9, 10)));
    assert.deepEqual([up.lost, up.tail, pending], [0, 3, 0]);
    assert.deepEqual(broken, []);
  });

  it("find one that was lost while later ones arrived", () => {
    assert.equal(changed((run) => (run.up = without(run.up, 8))).up.lost, 1);
    assert.equal(changed((run) => (run.up = without(run.up, 1))).up.lost, 1);
    assert.equal(changed((run) => (run.up = without(run.up, 11))).broken.length, 1);
  });

  it("find that the last one is missing, on the connection that stayed open", () => {
    assert.equal(changed((run) => run.up.pop()).pending, 1);
  });

  it("find a duplicate, also over two connections", () => {
    assert.equal(changed((run) => run.up.splice(5, 0, run.up[4])).up.doubled, 1);
    assert.equal(changed((run) => run.up.splice(12, 0, run.up[4])).up.doubled, 1);
  });

  it("know the events that a client keeps for its next connection", () => {
    const run = new Run();
    const { i, epoch } = run.outgoing.next();
    run.up.push({ i, epoch: run.outgoing.postpone() });
    assert.equal(run.up.at(-1).epoch, epoch + 1);
    run.outgoing.disconnect();
    run.up.splice(-3, 2); // the last two of the connection that died
    run.up.push(run.outgoing.next());
    run.outgoing.connect("s");
    const { up, broken, pending } = run.compare();
    assert.deepEqual(broken, []);
    assert.deepEqual([up.recovered.lost, up.recovered.tail, pending], [0, 2, 0]);
  });

  it("find one that a stale connection delivered late", () => {
    const late = (run) => run.up.splice(12, 0, ...run.up.splice(9, 1));
    assert.equal(changed(late).up.reordered, 1);
  });

  it("find an answer that was lost, but not one whose question was", () => {
    assert.equal(changed((run) => (run.unanswered = [ASK])).broken.length, 1);
    const { broken } = changed((run) => {
      run.up = without(run.up, 7, 8, 9, 10);
      run.unanswered = [ASK];
    });
    assert.deepEqual(broken, []);
  });

  it("find an answer that was lost on a connection that holds, whatever its client forgets when the previous one ends", () => {
    const unanswered = (i) =>
      changed((run) => {
        run.answersKept = false;
        run.unanswered = [i];
      });
    assert.deepEqual(unanswered(ASK).broken, []);
    assert.equal(unanswered(18).broken.length, 1);
    assert.equal(unanswered(18).pending, 1);
  });

  it("find that the server has no answer, from a client that was never cut", () => {
    const owing = (connections) =>
      changed((run) => {
        run.answered = 1;
        run.connections = connections;
      });
    assert.equal(owing(1).pending, 1);
    assert.equal(owing(1).broken.length, 1);
    assert.deepEqual(owing(2).broken, []);
  });
});

describe("the soak's randomness", () => {
  it("depends on the seed only", () => {
    const draw = (...args) => {
      const random = new Random(...args);
      return Array.from({ length: 5 }, () => random.next()).join();
    };
    assert.equal(draw(1, "a"), draw(1, "a"));
    assert.notEqual(draw(1, "a"), draw(2, "a"));
    assert.notEqual(draw(1, "a"), draw(1, "b"));
  });
});
