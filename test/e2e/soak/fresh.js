// A client gets a fresh session only if its previous one has ended, and that one ends only for a reason.

/** The server may see the end of a session that much later, in ms: it is sometimes stopped for 3 s. */
const SEEN_LATER = 5000;

/**
 * Returns messages about fresh sessions that a client should not have got, where one holdfast serves all clients. `kills` are
 * [{from, to}]; `expired` is when holdfast said that a session has. If `mayEnd`, sessions may also end for what is sent to them.
 */
export function needlesslyFresh({ clients, servers, kills, expired, mayEnd }) {
  const broken = [];
  for (const client of clients)
    for (const n of client.namespaces)
      for (const f of n.fresh) {
        const why = wrong(before(f, servers), f, { kills, expired, mayEnd });
        if (why) broken.push(`${client.name} (${client.version}, ${client.transport}) ${n.nsp}, session ${f.sid}: fresh, ${why}`);
      }
  return broken;
}

/** What is wrong about a fresh session `f` after the session `was`. */
function wrong(was, f, { kills, expired, mayEnd }) {
  if (!was) return null; // the server of one of them was killed
  if (was.endedAt === null || was.endedAt > was.next + SEEN_LATER) return `although the previous one, ${was.sid}, had not ended`;
  const killed = kills.some(({ from, to }) => was.endedAt >= from && was.endedAt <= to + SEEN_LATER);
  const had = expired.some((at) => was.endedAt >= at - 100 && was.endedAt <= at + SEEN_LATER);
  if (!killed && !had && !mayEnd) return `as the previous one, ${was.sid}, had ended (${was.ended}), but not because it expired; its client was away for ${f.away} ms`;
  return null;
}

/** The session that a client had before a fresh one, as the server has it, and when that one began (`next`). */
function before({ previous, sid }, servers) {
  const home = servers.find((x) => x.sessions[sid]);
  return home?.sessions[previous] && { sid: previous, ...home.sessions[previous], next: home.sessions[sid].began };
}
