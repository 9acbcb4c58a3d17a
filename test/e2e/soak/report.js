// The report of a run: for people, and as JSON.

import { NAMESPACES } from "./lane.js";

const MIB = 2 ** 20;
const mib = (n) => `${(n / MIB).toFixed(1)} MiB`;

/** Labels and values of a counter's samples that are not 0, as {"label value ...": n}; of several processes, their sum. */
function nonzero(processes, name, ...labels) {
  const out = {};
  for (const s of processes.flatMap((m) => m.samples)) {
    const key = labels.map((l) => s.labels[l]).join(" ");
    if (s.name === name && s.value > 0) out[key] = (out[key] ?? 0) + s.value;
  }
  return out;
}

const sum = (processes, name) => processes.reduce((n, m) => n + m.sum(name), 0);

/** Legitimate reasons for not recovering a client that presents a pid, on any network. */
const KNOWN = ["expired", "upstream_lost", "client_disconnect", "stale", "limit"];

/** One more, for lanes with small buffers. */
const KNOWN_OF_SMALL_BUFFERS = ["buffer_full"];

/**
 * More reasons, for lanes whose replicas are killed, stopped and cut off. A client that returns between the end of a drain
 * and that of the process is told "draining".
 */
const KNOWN_OF_REPLICAS = ["owner_gone", "owner_unreachable", "owner_conflict", "draining"];

/**
 * The same for clients of 2.x with a key (docs/guarantees.md, Servers and clients of Engine.IO 3): while their engine closes, it
 * may ignore what their WebSocket layer confirms, and their count is then too low. The handshake of a connection that they gave
 * up may arrive after that of the next one. Any client with a key that counts may reach a replica that was cut off, and still
 * has an earlier session of its: it has counted for another one.
 */
const KNOWN_OF_KEYS = ["bad_offset", "key_in_use"];

/** Summarizes a lane after all its clients have left. */
export function summarise(lane, result, leftovers, breaches) {
  const processes = [...lane.fleet.past, lane.last]; // of holdfast
  const broken = [...result.broken, ...breaches, ...leftovers];
  // A restarted holdfast does not know its predecessor's sessions. A client asks again if it did
  // not get the reply.
  const { server, redis, buffer } = lane.options;
  const here = [...KNOWN, ...(lane.replicas > 1 ? KNOWN_OF_REPLICAS : []), ...(buffer.max_bytes ? KNOWN_OF_SMALL_BUFFERS : []), ...(server < "3" || redis ? KNOWN_OF_KEYS : [])];
  const foreign = 2 * NAMESPACES.length * (lane.options.clients + lane.options.simulated);
  for (const [i, m] of processes.entries()) {
    for (const [reason, n] of Object.entries(nonzero([m], "holdfast_recoveries_total", "result", "reason"))) {
      const [outcome, word] = reason.split(" ");
      const known = here.includes(word) || (word === "unknown_pid" && i > 0 && n <= foreign);
      if (outcome === "failed" && !known) broken.push(`${n} sessions not recovered for the reason ${word}`);
    }
  }
  for (const { name, key, version, reason } of lane.told(KNOWN_OF_KEYS))
    if (!key || (reason === "key_in_use" && version >= "3"))
      broken.push(`${name || "a simulated client"} (${version}, ${key ? "with a key" : "without a key"}): a session not recovered for the reason ${reason}`);
  const early = lane.fleet.refusedTooEarly;
  if (early > 0) broken.push(`${early} sessions not recovered although their replica still drained`);
  const panics = sum(processes, "holdfast_panics_total");
  if (panics > 0) broken.push(`${panics} panics`);
  if (result.reconnections.recovered === 0) broken.push("no session was ever recovered: nothing was tested");
  return {
    name: lane.name,
    traces: lane.traces(broken),
    options: { ackEvents: lane.options.ackEvents, ...lane.options.buffer, clients: lane.options.clients, simulated: lane.options.simulated },
    faults: lane.faults,
    sessions: result.sessions,
    reconnections: result.reconnections,
    answers: result.answers,
    down: result.down,
    up: result.up,
    fresh: result.fresh,
    recoveries: nonzero(processes, "holdfast_recoveries_total", "result", "reason"),
    closed: nonzero(processes, "holdfast_sessions_closed_total", "reason"),
    parkings: nonzero(processes, "holdfast_parkings_total", "reason"),
    takeovers: sum(processes, "holdfast_takeovers_total"),
    replayed: sum(processes, "holdfast_replayed_packets_total"),
    forwarded: sum(processes, "holdfast_forwarded_requests_total"),
    pauses: sum(processes, "holdfast_link_pauses_total"),
    resources: { before: lane.before, after: lane.after, peakRSS: lane.peak },
    broken,
  };
}

const COLUMNS = ["sent", "delivered", "lost", "doubled", "reordered", "altered", "ambiguous", "tail"];
const HEADINGS = ["sent", "delivered", "lost", "doubled", "reordered", "altered", "ambiguous", "at the end"];
const ROWS = { recovered: "sessions that were recovered", steady: "sessions that never were" };

function table(title, totals) {
  const rows = Object.entries(ROWS).map(([key, label]) => [`  ${label}`, ...COLUMNS.map((c) => String(totals[key][c]))]);
  const all = [[title, ...HEADINGS], ...rows];
  const width = all[0].map((_, i) => Math.max(...all.map((r) => r[i].length)));
  return all.map((r) => r.map((cell, i) => (i ? cell.padStart(width[i]) : cell.padEnd(width[i]))).join("  ")).join("\n");
}

const list = (counts) =>
  Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([name, n]) => `${name} ${n}`)
    .join(", ") || "none";

function laneText(l) {
  const { before, after, peakRSS } = l.resources;
  return [
    `${l.name}, ack_events ${l.options.ackEvents}: ${l.options.clients} real clients, ${l.options.simulated} simulated, 2 namespaces each`,
    "",
    table("server to client", l.down),
    table("client to server", l.up),
    "",
    `sessions        recovered ${l.sessions.recovered}, never recovered ${l.sessions.steady}; ended ${l.sessions.ended}, live to the last ${l.sessions.live}`,
    `reconnections   recovered ${l.reconnections.recovered}, fresh ${l.reconnections.fresh}, as the clients saw them`,
    `answers         ${l.answers.clients} by clients, ${l.answers.server} by the server`,
    `recoveries      ${list(l.recoveries)}; takeovers ${l.takeovers}, events replayed ${l.replayed}, requests forwarded to other replicas ${l.forwarded}`,
    `sessions closed ${list(l.closed)}`,
    `parked by       ${list(l.parkings)}`,
    `faults          ${list(l.faults)}`,
    `memory          ${mib(before.rss)} before, ${mib(peakRSS)} at its peak, ${mib(after.rss)} after; links paused ${l.pauses} times`,
    `left over       goroutines ${before.goroutines} -> ${after.goroutines}, file descriptors ${before.fds} -> ${after.fds}`,
  ].join("\n");
}

export function text(run) {
  const broken = run.lanes.flatMap((l) => l.broken.map((b) => `${l.name}: ${b}`));
  const parts = run.lanes.map(laneText);
  parts.push(
    [
      `"ambiguous" are events with an ack, and those of clients with a key that do not count, in flight when a connection died: lost or`,
      `doubled as ack_events and keyed.redeliver have it. "at the end" is what was under way when a session ended or, towards the server, a connection.`,
    ].join("\n"),
  );
  if (broken.length === 0) parts.push(`All promises kept in ${run.minutes} min with seed ${run.seed}.`);
  else {
    const shown = broken.slice(0, 30);
    parts.push([`${broken.length} promises broken with seed ${run.seed}:`, ...shown.map((b) => `  ${b}`), ...(broken.length > 30 ? ["  ..."] : [])].join("\n"));
    parts.push(run.lanes.flatMap((l) => l.traces).join("\n"));
  }
  return `${parts.join("\n\n")}\n`;
}
