// Compares what both ends recorded, and reports the fate of every event and the broken guarantees.

import { kind } from "./stream.js";

const EMPTY = { sent: 0, delivered: 0, lost: 0, doubled: 0, reordered: 0, altered: 0, ambiguous: 0, tail: 0 };

/**
 * `clients` are the clients' ledgers, `server` the server's, `killed` those of servers that were killed, taken just
 * before. Returns {down, up: totals, sessions, reconnections, fresh, broken: messages, pending: events that may still
 * arrive}.
 *
 * No session, recovered or not, may miss events in the middle, or get them twice or in another order. Events that had not
 * arrived when a session ended were lost with it: `tail`.
 */
export function compare({ clients, server, killed = [], ackEvents = "at-most-once" }) {
  const servers = [...killed.map((s) => ({ ...s, killed: true })), server];
  const result = {
    down: { recovered: { ...EMPTY }, steady: { ...EMPTY } },
    up: { recovered: { ...EMPTY }, steady: { ...EMPTY } },
    sessions: { recovered: 0, steady: 0, live: 0, ended: 0 },
    reconnections: { recovered: 0, fresh: 0 },
    answers: { clients: 0, server: 0 }, // given by them
    fresh: [],
    broken: [],
    pending: 0,
  };
  for (const client of clients) {
    for (const n of client.namespaces) {
      const who = `${client.name} (${[client.version, client.transport].filter(Boolean).join(", ")}) ${n.nsp}`;
      for (const s of n.sessions) {
        s.kind = s.connections > 1 || s.own.beganBefore || s.broadcasts.beganBefore ? "recovered" : "steady";
        s.live = n.live && s === n.sessions.at(-1) && server.sessions[s.sid]?.ended === null;
        result.sessions[s.kind]++;
        result.sessions[s.live ? "live" : "ended"]++;
        result.reconnections.recovered += s.connections - 1;
        checkSession(result, { s, who, servers, ackEvents });
      }
      result.reconnections.fresh += n.fresh.length;
      result.answers.server += n.asked - n.unanswered.length;
      result.fresh.push(...n.fresh.map((f) => ({ client: client.name, version: client.version, nsp: n.nsp, ...f })));
      checkEpochs(result, { client, n, who, servers });
    }
  }
  return result;
}

function asksUpTo(last) {
  let n = 0;
  for (let i = 1; i <= last; i++) if (kind(i) === "ask") n++;
  return n;
}

/** Server to client: one session's own stream, and the broadcasts to it. */
function checkSession(result, { s, who, servers, ackEvents }) {
  const home = servers.find((x) => x.sessions[s.sid]);
  const broken = (what) => result.broken.push(`${who}, session ${s.sid}, ${s.connections} connections: ${what}`);
  if (!home) {
    // It connected between a killed server's ledger and its end.
    if (s.live || servers.length === 1) broken("the server does not know it");
    return;
  }
  const { nsp, sent, firstBroadcast, answered } = home.sessions[s.sid];
  const totals = result.down[s.kind];
  result.answers.clients += answered;
  const owed = asksUpTo(sent) - answered;
  if (s.live && s.kind === "steady" && owed > 0) {
    result.pending += owed;
    broken(`${owed} of the client's answers lost`);
  }
  for (const [name, stream, first, last] of [
    ["events", s.own, 1, sent],
    ["broadcasts", s.broadcasts, firstBroadcast, home.broadcasts[nsp]],
  ]) {
    const came = stream.last ?? first - 1;
    // Broadcasts after a session's end were not meant for it, and a killed server's ledger is
    // slightly outdated.
    const until = s.live ? last : name === "broadcasts" ? came : Math.max(last, came);
    const started = stream.first ?? first;
    const missed = Math.max(0, started - first);
    // The first broadcasts may have been in flight when the first connection ended.
    const inFlight = stream.redeliver === "at-most-once" && (stream.firstConnection > 1 || stream.beganBefore);
    const early = inFlight ? 0 : missed;
    const tail = Math.max(0, until - came);
    totals.sent += until - first + 1;
    totals.delivered += stream.delivered;
    totals.doubled += stream.doubled;
    totals.reordered += stream.reordered;
    totals.altered += stream.altered;
    totals.ambiguous += stream.ambiguous + stream.askedAgain + (stream.again ?? 0) + (missed - early);
    totals.lost += stream.lost + early;
    const bad = stream.lost + stream.doubled + stream.reordered + stream.altered + early;
    if (bad > 0) broken(`${name}: ${stream.notes.join("; ") || `the first ${early} lost`}`);
    if (stream.ambiguous > 0 && ackEvents !== "at-most-once" && stream.redeliver !== "at-most-once") broken(`${stream.ambiguous} events with an ack lost, with ack_events ${ackEvents}`);
    if (stream.askedAgain > 0 && ackEvents === "at-most-once") broken(`${stream.askedAgain} events with an ack doubled, with ack_events ${ackEvents}`);
    if (!s.live) totals.tail += tail;
    else if (tail > 0) {
      result.pending += tail;
      totals.lost += tail;
      broken(`${name}: ${stream.last ?? 0} came last, ${until} was sent`);
    }
  }
}

/** Client to server: what was sent over each of a client's connections. */
function checkEpochs(result, { client, n, who, servers }) {
  for (const e of n.epochs) {
    const session = n.sessions.find((s) => s.sid === e.sid);
    const home = servers.find((x) => x.sessions[e.sid]);
    const totals = result.up[session?.kind ?? "steady"];
    const broken = (what) => result.broken.push(`${who}, connection ${e.epoch}: to the server, ${what}`);
    const a = home?.arrivals[`${client.name} ${n.nsp}`]?.find((x) => x.epoch === e.epoch);
    const sent = e.last - e.first + 1;
    const early = a ? a.first - e.first : 0;
    const end = a ? a.next - 1 : e.first - 1;
    const tail = e.last - end;
    totals.sent += sent;
    if (a) {
      totals.delivered += a.next - a.first - a.lost;
      totals.lost += a.lost + early;
      totals.doubled += a.doubled;
      totals.reordered += a.reordered;
      totals.altered += a.altered;
      if (early > 0) broken(`lost ${e.first} to ${a.first - 1}, the first`);
      if (a.notes.length > 0) broken(`${a.notes.join("; ")}; ${e.first} to ${e.last} were sent`);
    }
    if (tail < 0) broken(`${end} came, ${e.last} was the last`);
    // The end of a connection loses its last events, and it is unknown how many were in flight.
    if (tail > 0 && e.over) totals.tail += tail;
    else if (tail > 0) {
      totals.lost += tail;
      result.pending += tail;
      broken(`${end} came last, ${e.last} was sent`);
    }
    // Answers are kept like events. Clients from 4.7.5 on, and simulated ones, drop their callback
    // when they are cut.
    if (session?.live && (client.answersKept || !e.over)) {
      const owed = n.unanswered.filter((i) => i >= e.first && i <= end);
      if (owed.length > 0) {
        result.pending += owed.length;
        broken(`answers to ${owed.join(", ")} lost`);
      }
    }
  }
}
