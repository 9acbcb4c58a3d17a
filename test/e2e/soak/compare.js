// Compares what both ends recorded, and reports the fate of every event and the broken guarantees.

import { kind, mayBeLost, STREAMS } from "./stream.js";

const EMPTY = { sent: 0, delivered: 0, lost: 0, doubled: 0, reordered: 0, altered: 0, ambiguous: 0, tail: 0 };

/**
 * `clients` are the clients' ledgers, `server` the server's, `killed` the last ones of servers that were killed. Returns
 * {down, up: totals, sessions, reconnections, fresh, broken: messages, pending: what may still come right}.
 *
 * No session, recovered or not, may miss events in the middle, or get them twice or in another order. Events that had not
 * arrived when a session ended were lost with it: `tail`. In the end each client has a session in each namespace, which the
 * server has, too.
 */
export function compare({ clients, server, killed = [], ackEvents = "at-most-once" }) {
  const servers = [...killed, server];
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
      // A client of 2.x may have another id than its socket in the server (docs/guarantees.md). Which socket that is, and so what
      // was sent to it, cannot be told.
      const renamed = client.keyed && client.version < "3" && n.sessions.some((s) => !servers.some((x) => x.sessions[s.sid]));
      for (const s of n.sessions) {
        const home = servers.find((x) => x.sessions[s.sid]);
        // Such a session began over a connection that the client does not know of: it ended before its reply arrived.
        s.beganBefore = home?.sessions[s.sid].began < s.openedAt;
        s.kind = s.connections > 1 || s.beganBefore ? "recovered" : "steady";
        s.live = n.live && s === n.sessions.at(-1) && server.sessions[s.sid]?.ended === null;
        result.sessions[s.kind]++;
        result.sessions[s.live ? "live" : "ended"]++;
        result.reconnections.recovered += s.connections - 1;
        if (!renamed) checkSession(result, { s, who, home, ackEvents });
      }
      checkEnd(result, { client, n, who, server });
      result.reconnections.fresh += n.fresh.length;
      result.answers.server += n.asked - n.unanswered.length;
      result.fresh.push(...n.fresh.map((f) => ({ client: client.name, version: client.version, keyed: client.keyed, nsp: n.nsp, ...f })));
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

/** Whether a namespace is connected, and the server thinks so, too. */
function checkEnd(result, { client, n, who, server }) {
  const sid = n.sessions.at(-1)?.sid;
  const ended = server.sessions[sid]?.ended;
  const wrong = !n.live ? "the client is not connected" : ended === undefined ? !(client.keyed && client.version < "3") && "the server does not know it" : ended && `the server has ended it: ${ended}`;
  if (!wrong) return;
  result.pending++;
  result.broken.push(`${who}, session ${sid}, at the end: ${wrong}`);
}

/** Server to client: one session's own stream, and the broadcasts to it. */
function checkSession(result, { s, who, home, ackEvents }) {
  const broken = (what) => result.broken.push(`${who}, session ${s.sid}, ${s.connections} connections: ${what}`);
  if (!home) return broken("no server knows it");
  // In clients of 2.x a new socket of a namespace has the id of the one before, if "/" was recovered. They cannot tell them apart.
  if (home.sessions[s.sid].again) return isOfClient2(s.sid) ? undefined : broken("it has the id of an earlier one");
  const { nsp, sent, answered } = home.sessions[s.sid];
  const totals = result.down[s.kind];
  result.answers.clients += answered;
  const owed = asksUpTo(sent) - answered;
  if (s.live && s.kind === "steady" && owed > 0) {
    result.pending += owed;
    broken(`${owed} of the client's answers lost`);
  }
  for (const { name, field, kindOf, begins } of STREAMS) {
    const stream = s[field];
    const first = begins(home.sessions[s.sid]);
    const last = name === "events" ? sent : home.broadcasts[nsp];
    const came = stream.last ?? first - 1;
    // Broadcasts after a session's end were not meant for it.
    const until = s.live || name === "events" ? last : came;
    const early = earlyOnes(s, stream, kindOf, first);
    const tail = Math.max(0, until - came);
    totals.sent += until - first + 1;
    totals.delivered += stream.delivered;
    totals.doubled += stream.doubled;
    totals.reordered += stream.reordered;
    totals.altered += stream.altered;
    totals.ambiguous += stream.ambiguous.length + stream.askedAgain + (stream.again ?? 0) + early.ambiguous;
    totals.lost += stream.lost + early.lost;
    const bad = stream.lost + stream.doubled + stream.reordered + stream.altered;
    if (bad > 0) broken(`${name}: ${stream.notes.join("; ")}`);
    if (early.lost > 0) broken(`${name}: ${first} to ${stream.first.i - 1} lost, the first`);
    if (came > last) broken(`${name}: ${came} came, ${last} was the last`);
    const ambiguous = stream.ambiguous.length + early.ambiguous;
    if (ambiguous > 0 && ackEvents !== "at-most-once" && stream.redeliver !== "at-most-once") broken(`${ambiguous} events with an ack lost, with ack_events ${ackEvents}`);
    if (stream.askedAgain > 0 && ackEvents === "at-most-once") broken(`${stream.askedAgain} events with an ack doubled, with ack_events ${ackEvents}`);
    if (!s.live) totals.tail += tail;
    else if (tail > 0) {
      result.pending += tail;
      totals.lost += tail;
      broken(`${name}: ${stream.last ?? 0} came last, ${until} was sent`);
    }
  }
}

/** Whether this is the id of a client of 2.x in a namespace other than "/". */
const isOfClient2 = (sid) => sid.startsWith("/");

/** The fate of the numbers before the first one that has arrived: {lost, ambiguous: how many}. */
function earlyOnes(s, stream, kindOf, from) {
  const early = { lost: 0, ambiguous: 0 };
  if (!stream.first) return early;
  const { i, before, connection } = stream.first;
  // The session had a connection before, and they were sent before this one had its reply.
  const inFlight = (connection.number > 1 || s.beganBefore) && before <= connection.connectedAt;
  for (let m = from; m < i; m++) early[inFlight && mayBeLost(m, { ...stream, kindOf }) ? "ambiguous" : "lost"]++;
  return early;
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
