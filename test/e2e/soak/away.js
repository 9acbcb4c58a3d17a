// What a client may lose when a connection ends was written to that connection. What the server sent while none was open must
// arrive, also with at-most-once.

import { mayBeLost, STREAMS } from "./stream.js";

/** How long after the end of a connection something may still have been on the way to it, in ms. */
const ON_THE_WAY = 1000;

/**
 * Returns messages about events that were lost although the server sent them while the client had no connection. `connections`
 * are those to holdfast by client's name: [{opened, ended}]. `servers` are ledgers with times: when each event was sent.
 */
export function lostWhileAway({ clients, servers, connections }) {
  const broken = [];
  for (const client of clients) {
    const known = connections.get(client.name);
    if (!known) continue;
    for (const n of client.namespaces)
      for (const s of n.sessions) {
        const home = servers.find((x) => x.sessions[s.sid]);
        if (!home) continue;
        for (const stream of STREAMS) {
          const gone = missed(home, s, stream).filter(([m, attemptedAt]) => {
            const at = stream.times(home, s.sid, n.nsp)[m - 1];
            return !known.some((c) => c.opened < attemptedAt && (c.ended ?? Infinity) >= at - ON_THE_WAY);
          });
          if (gone.length > 0) broken.push(`${client.name} (${client.version}, ${client.transport}) ${n.nsp}, session ${s.sid}: ${stream.name}: ${gone.map(([m]) => m)} lost, sent while it was away`);
        }
      }
  }
  return broken;
}

/** The numbers that did not arrive, and may be lost with a connection, each with when the client began to open the next one. */
function missed(home, s, { field, kindOf, begins }) {
  const stream = s[field];
  const out = [...stream.ambiguous];
  if (!stream.first) return out;
  const { i, connection } = stream.first;
  for (let m = begins(home.sessions[s.sid]); m < i; m++) if (mayBeLost(m, { ...stream, kindOf })) out.push([m, connection.attemptedAt]);
  return out;
}
