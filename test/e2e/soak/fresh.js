// A client gets a fresh session only if its previous one has ended, and that one ends only for a reason.

/**
 * A client may notice the end of its connection that much later than holdfast, by its heartbeat, in ms. So a session may have
 * expired although its client believes that it was away for less.
 */
const NOTICED_LATER = 8500;
/** How long after a process was killed the sessions that it has ended may be seen to end, in ms. */
const AFTERMATH = 3000;

/**
 * Returns messages about fresh sessions that a client should not have got, where one holdfast serves all clients. `kills` are
 * [{from, to}]; `expiry` is how long a session is kept. If `mayEnd`, sessions may also end for what is sent to them.
 */
export function needlesslyFresh({ clients, servers, kills, expiry, mayEnd }) {
  const broken = [];
  for (const client of clients)
    for (const n of client.namespaces)
      for (const f of n.fresh) {
        const why = wrong(before(f, servers), f, { kills, expiry, mayEnd });
        if (why) broken.push(`${client.name} (${client.version}, ${client.transport}) ${n.nsp}, session ${f.sid}: fresh, ${why}`);
      }
  return broken;
}

/** What is wrong about a fresh session `f` after the session `was`. */
function wrong(was, f, { kills, expiry, mayEnd }) {
  if (!was) return null; // the server of one of them was killed
  if (was.endedAt === null || was.endedAt > was.next) return `although the previous one, ${was.sid}, had not ended`;
  const killed = kills.some(({ from, to }) => was.endedAt >= from && was.endedAt <= to + AFTERMATH);
  if (!killed && !mayEnd && f.away < expiry - NOTICED_LATER) return `as the previous one, ${was.sid}, had ended (${was.ended}) although its client was away for ${f.away} ms only`;
  return null;
}

/** The session that a client had before a fresh one, as the server has it, and when that one began (`next`). */
function before({ previous, sid }, servers) {
  const home = servers.find((x) => x.sessions[sid]);
  return home?.sessions[previous] && { sid: previous, ...home.sessions[previous], next: home.sessions[sid].began };
}
