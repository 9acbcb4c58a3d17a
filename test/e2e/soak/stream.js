// Numbered streams, and what each end records of them. sim/stream.go has the same rules.
//
// From server to client each session (one namespace of one client) has two streams: events of its
// own ("n"), and the namespace's broadcasts ("b"). From client to server each namespace of a client
// has one ("u"), which continues across its sessions.

/** The kind of number i in a session's own stream: an "ask" expects an answer, a "binary" has an attachment. */
export const kind = (i) => (i % 11 === 7 ? "ask" : broadcastKind(i));
export const broadcastKind = (i) => (i % 4 === 3 ? "binary" : "text");

/** A session's streams: `field` is the client's record, `begins` the first number, `times` when the server sent each. */
export const STREAMS = [
  { name: "events", field: "own", kindOf: kind, begins: () => 1, times: (home, sid) => home.times.own[sid] },
  { name: "broadcasts", field: "broadcasts", kindOf: broadcastKind, begins: (session) => session.firstBroadcast, times: (home, sid, nsp) => home.times.broadcasts[nsp] },
];

const size = (i) => (i % 101 === 50 ? 40_000 : (i * 131) % 600);

/** The content of number i. */
export const body = (i) => (broadcastKind(i) === "binary" ? Buffer.alloc(size(i), i & 255) : "x".repeat(size(i)));

export function intact(i, got) {
  const want = body(i);
  return typeof want === "string" ? got === want : Buffer.isBuffer(got) && want.equals(got);
}

/** What a client has recorded of one stream from the server. Its memory does not grow with the stream. */
export class Incoming {
  /**
   * `kindOf` is the stream's kind(). `redeliver` is recovery.keyed.redeliver for a client with a key that does not count.
   * `counts` is true for one that does: it gets each event exactly once, also those with an ack.
   */
  constructor(kindOf, { redeliver = null, counts = false } = {}) {
    this.kindOf = kindOf;
    this.redeliver = redeliver;
    this.counts = counts;
    this.first = null; // {i, before, connection} of the first number that has arrived
    this.last = null; // the highest one
    this.lastConnection = 0; // the session's connection it arrived on
    this.delivered = 0; // without duplicates
    this.missing = new Set();
    // Those that did not arrive, may be lost when a connection ends, and were sent before the next one had its reply -> when the
    // client began to open that one.
    this.ambiguous = new Map();
    this.askedAgain = 0; // asks that arrived twice, and were in flight when a connection ended
    this.again = 0; // others that did, which only redeliver: at-least-once allows
    this.repeated = { connection: 0, i: 0 }; // the last of these
    this.doubled = 0;
    this.reordered = 0;
    this.altered = 0;
    this.notes = []; // the first few errors
  }

  /**
   * Number i has arrived. `before` is when the server sent its predecessor (0 if there is none). `connection` is the session's:
   * {number: from 1 on, attemptedAt: when the client began to open it, connectedAt: when it had its reply}. What was missed
   * before the first number is up to compare(), which knows where the session began.
   */
  take(i, before, content, connection) {
    const { number, attemptedAt, connectedAt } = connection;
    if (this.first === null) {
      this.first = { i, before, connection: { number, attemptedAt, connectedAt } };
      this.last = i - 1;
    }
    if (!intact(i, content)) this.#note("altered", i);
    if (i <= this.last) return this.#late(i, number);
    for (let m = this.last + 1; m < i; m++) {
      // What was sent after this connection had its reply cannot have been in flight when another one ended.
      if (number > 1 && before <= connectedAt && mayBeLost(m, this)) this.ambiguous.set(m, attemptedAt);
      else {
        this.missing.add(m);
        this.#note("lost", m);
      }
    }
    this.last = i;
    this.lastConnection = number;
    this.delivered++;
  }

  #late(i, connection) {
    if (this.missing.delete(i) || this.ambiguous.delete(i)) {
      this.delivered++;
      this.#note("reordered", i);
    } else if (i < this.first.i) {
      this.#note("reordered", i);
    } else if (this.#askedAgain(i, connection)) {
      this.askedAgain++;
    } else if (this.#repeats(i, connection)) {
      this.again++;
    } else {
      this.#note("doubled", i);
    }
  }

  /** Whether number i is the last one, an ask, and arrives with another connection. */
  #askedAgain(i, connection) {
    return !this.counts && this.kindOf(i) === "ask" && i === this.last && connection > this.lastConnection;
  }

  /** Whether number i belongs to the events that a connection begins with although the client has them: a run without gaps. */
  #repeats(i, connection) {
    if (this.redeliver !== "at-least-once" || connection <= this.lastConnection) return false;
    const { repeated } = this;
    if (repeated.connection === connection) {
      if (i <= repeated.i) return false;
      for (let m = repeated.i + 1; m < i; m++) if (this.kindOf(m) !== "ask") return false;
    }
    this.repeated = { connection, i };
    return true;
  }

  #note(what, i) {
    if (what !== "lost") this[what]++; // a lost one may still arrive
    if (this.notes.length < 5) this.notes.push(`${what} ${i}, after ${this.last}`);
  }

  toJSON() {
    const { first, last, delivered, askedAgain, again, doubled, reordered, altered, notes, redeliver, counts } = this;
    return { first, last, delivered, askedAgain, again, doubled, reordered, altered, notes, redeliver, counts, lost: this.missing.size, ambiguous: [...this.ambiguous] };
  }
}

/** Whether number m may be lost if it was in flight when a connection ended: docs/guarantees.md, Delivery and Clients with a key. */
export function mayBeLost(m, { kindOf, redeliver, counts }) {
  return redeliver === "at-most-once" || (!counts && kindOf(m) === "ask");
}

/**
 * What a client sends in one namespace. Numbers are grouped in *epochs*, one per connection. Events emitted without a
 * connection are sent with the next one. Order is kept within an epoch, so a cut can only lose its end.
 */
export class Outgoing {
  constructor() {
    this.number = 0;
    this.epoch = 0;
    this.connected = false;
    this.epochs = new Map(); // epoch -> {epoch, at, sid, first, last, over}
  }

  connect(sid) {
    this.disconnect(); // in case it was not reported
    this.epoch++;
    this.connected = true;
    const e = this.epochs.get(this.epoch);
    if (e) e.sid = sid;
    this.sid = sid;
  }

  disconnect() {
    this.connected = false;
    const e = this.epochs.get(this.epoch);
    if (e) e.over = true;
  }

  /** The next number to be emitted, and its epoch. */
  next() {
    const epoch = this.connected ? this.epoch : this.epoch + 1;
    const i = ++this.number;
    let e = this.epochs.get(epoch);
    if (!e) this.epochs.set(epoch, (e = { epoch, at: Date.now(), sid: this.connected ? this.sid : null, first: i, last: i, over: false }));
    e.last = i;
    return { i, epoch };
  }

  /** Marks the latest number as sent with the next connection, although the client is connected. Returns its epoch. */
  postpone() {
    const e = this.epochs.get(this.epoch);
    if (--e.last < e.first) this.epochs.delete(this.epoch);
    const i = this.number;
    const next = this.epochs.get(this.epoch + 1);
    if (next) next.last = i;
    else this.epochs.set(this.epoch + 1, { epoch: this.epoch + 1, at: Date.now(), sid: null, first: i, last: i, over: false });
    return this.epoch + 1;
  }

  toJSON() {
    return [...this.epochs.values()];
  }
}

/** Counts notes, and keeps the first few. */
function note(e, what, i) {
  e[what]++;
  if (e.notes.length < 5) e.notes.push(`${what} ${i}, with ${e.next} to come`);
}

/** What the server has recorded of one client's stream in one namespace. */
export class Arrivals {
  constructor() {
    this.epochs = new Map(); // epoch -> {epoch, first, next, lost, doubled, reordered, altered, notes}
    this.lastOf = { sid: null, i: 0 };
  }

  take(sid, i, epoch, content) {
    let e = this.epochs.get(epoch);
    if (!e) this.epochs.set(epoch, (e = { epoch, first: i, next: i, lost: 0, doubled: 0, reordered: 0, altered: 0, notes: [] }));
    if (!intact(i, content)) note(e, "altered", i);
    if (this.lastOf.sid !== sid) this.lastOf = { sid, i: 0 };
    if (i < e.next) {
      note(e, "doubled", i);
      return;
    }
    // Within a session, epochs also arrive in order.
    if (i < this.lastOf.i) note(e, "reordered", i);
    for (; e.next < i; e.next++) note(e, "lost", e.next);
    e.next = i + 1;
    this.lastOf.i = Math.max(i, this.lastOf.i);
  }

  toJSON() {
    return [...this.epochs.values()];
  }
}
