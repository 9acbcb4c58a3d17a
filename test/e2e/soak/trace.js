// What is known about a client of which a promise was broken: its connections, the replicas they reached, and what those said
// about it. One file for each client.
import { mkdirSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";

const SHOWN = 8; // lines of a client in the report

const clock = (ms) => (ms ? new Date(ms).toISOString().slice(11, 23) : "-");

/** Remembers a relay's connections: where each came from, where it went, and the port by which holdfast knows it. */
export class Connections {
  constructor(relay) {
    this.list = [];
    relay.on("connection", (conn) => this.#remember(conn));
    relay.on("gone", (conn) => {
      const known = this.list.findLast((c) => c.conn === conn);
      if (known) Object.assign(known, { ended: Date.now(), conn: null, request: conn.request?.slice(0, 100), up: conn.up.passed, down: conn.down.passed });
    });
  }

  #remember(conn) {
    const known = { conn, opened: Date.now(), ended: null, client: conn.client.remotePort, to: conn.server.connecting ? null : conn.server.remotePort };
    conn.server.once("connect", () => Object.assign(known, { from: conn.server.localPort, to: conn.server.remotePort }));
    this.list.push(known);
  }
}

/**
 * Which clients holdfast says that it did not recover for one of these reasons: {name, reason}. It does not know those that
 * another replica has moved, or that were closed before their handshake was answered.
 */
export function toldNotRecovered(reasons, holdfasts, connections) {
  const told = [];
  for (const { port, records } of holdfasts.map((hf) => ({ port: hf.port, records: hf.records }))) {
    const opened = new Map(records.filter((r) => r.msg === "client opened").map((r) => [r.client, r]));
    for (const r of records)
      if (r.msg === "not recovered" && reasons.includes(r.reason) && opened.has(r.client)) told.push({ name: nameOf(opened.get(r.client), port, connections), reason: r.reason });
  }
  return told.filter(({ name }) => name !== null);
}

/** The client that came from this port at this time; "" is a simulated one behind replicas. */
function nameOf(record, port, connections) {
  for (const [name, { list }] of connections) if (list.some((c) => isFrom(record, c, port))) return name;
  return null; // another replica has forwarded its handshake
}

/** Whether a client that the holdfast at this port says is open came over this connection. The system uses ports again. */
function isFrom({ from, time }, connection, port) {
  const at = Date.parse(time);
  const { opened, ended } = connection;
  return (!connection.to || connection.to === port) && from.endsWith(`:${connection.from}`) && opened <= at + 100 && (ended ?? Infinity) >= at - 100;
}

/**
 * Writes the traces of the clients named in `broken` into a folder. Returns what to show of them: a few lines for each of the
 * first three, and where the files are. `ledgers` are those that compare() had; `connections` are Connections by client's name,
 * under "" those of simulated ones; `packets` are what real clients have noted. `statuses` are those of holdfasts that still have
 * clients after the last one: any client may be it.
 */
export function writeTraces({ dir, lane, broken, ledgers, connections, holdfasts, statuses, packets }) {
  if (broken.length === 0) return [];
  const named = (c) => broken.some((b) => b.startsWith(`${c.name} (`));
  const clients = [...ledgers.clients.filter(named), ...ledgers.clients.filter((c) => statuses && packets?.[c.name] && !named(c))];
  const logs = holdfasts.map((hf) => ({ pid: hf.pid, port: hf.port, records: hf.records }));
  const kept = dir; // Fleet writes the logs there
  dir ??= path.join(os.tmpdir(), `holdfast-soak-failure-${process.pid}`);
  mkdirSync(dir, { recursive: true });
  const write = (name, text) => {
    const file = path.join(dir, `soak.${name.replaceAll(/[^\w.-]+/g, "-")}`);
    writeFileSync(file, text);
    return file;
  };
  if (!kept) for (const hf of holdfasts) write(`${lane}.${hf.port}.${hf.pid}.log`, hf.log);
  write(`${lane}.ledgers.json`, JSON.stringify(ledgers));
  for (const { pid, status, goroutines } of statuses ?? []) {
    write(`${lane}.${pid}.status.json`, status);
    write(`${lane}.${pid}.goroutines.txt`, goroutines);
  }
  const shown = [];
  for (const [i, c] of clients.entries()) {
    const lines = describe(c, { ledgers, logs, packets: packets?.[c.name], connections: connections.get(c.name) ?? ofSimulated(c, connections.get("")) });
    const file = write(`${lane}.${c.name}.trace`, `${[...broken.filter((b) => b.startsWith(`${c.name} (`)), ...lines].join("\n")}\n`);
    shown.push(`${c.name}: ${file}`);
    if (i < 3 && named(c)) shown.push(...lines.filter((l) => !/^\S+ client /.test(l)).slice(-SHOWN).map((l) => `    ${l}`));
  }
  return [`Ledgers, logs and traces are in ${dir}`, ...shown];
}

/** A simulated client reaches its holdfast directly, or shares a relay with all others. */
function ofSimulated(client, shared) {
  return (client.connections ?? []).map(({ at, port }) => shared?.list.find((c) => c.client === port && Math.abs(c.opened - at) < 5000) ?? { opened: at, from: port });
}

/** All that is known about a client, in the order of time. */
function describe(client, { ledgers, logs, packets, connections }) {
  const lines = []; // [time, text]
  const add = (time, text) => lines.push([time, text]);
  for (const n of client.namespaces) sessionsOf(n, ledgers, add);
  for (const c of connections.list ?? connections) {
    const request = c.request ?? c.conn?.request ?? "";
    const to = logs.filter((hf) => hf.port === c.to).map((hf) => hf.pid);
    add(c.opened, `connection ${c.from}: to ${c.to ?? "holdfast"} (pid ${to.join(" or ")}), until ${clock(c.ended)}, ${c.up ?? "?"} bytes up, ${c.down ?? "?"} down: ${request.slice(0, 100)}`);
    for (const hf of logs) saidAbout(hf, c, logs, add);
  }
  for (const line of packets ?? []) add(Date.parse(`${new Date().toISOString().slice(0, 11)}${line.slice(0, 13)}`), `client ${line.slice(14)}`);
  return lines.sort(([a], [b]) => a - b).map(([time, text]) => `${clock(time)} ${text}`);
}

function sessionsOf(n, { server, killed }, add) {
  for (const s of n.sessions) {
    const known = [...killed, server].map((x) => x.sessions[s.sid]).find(Boolean);
    const pid = s.pid ? `, pid ${s.pid}` : "";
    add(known?.began ?? s.connection?.connectedAt ?? 0, `session ${s.sid}${pid} in ${n.nsp}: ${s.connections} connections, the last at ${clock(s.connection?.connectedAt)}; the server sent ${known?.sent}, ${s.own.last ?? 0} came last`);
    if (known?.ended) add(known.endedAt, `session ${s.sid} in ${n.nsp}: the server saw its end: ${known.ended}`);
  }
  for (const e of n.epochs) if (e.at) add(e.at, `connection ${e.epoch} of ${n.nsp} begins, session ${e.sid}: it sends ${e.first} to ${e.last}`);
}

/** What a holdfast has said about the clients of one connection, and the owner to which one was moved. */
function saidAbout(hf, connection, logs, add) {
  const numbers = new Set(hf.records.filter((r) => r.msg === "client opened" && isFrom(r, connection, hf.port)).map((r) => r.client));
  for (const r of hf.records) {
    if (!numbers.has(r.client)) continue;
    add(Date.parse(r.time), said(hf, r));
    if (r.msg.startsWith("client moved")) saidByOwner(r, logs, hf, add);
  }
}

/** The owner numbers the client anew, by the same time: what it says at the time of the move about the one with the nearest number. */
function saidByOwner(move, logs, edge, add) {
  const at = Date.parse(move.time);
  const distance = (r) => Math.abs(r.client - move.client); // in µs
  for (const hf of logs) {
    if (hf === edge) continue;
    const then = hf.records.filter((r) => Math.abs(Date.parse(r.time) - at) < 100 && distance(r) < 1e6);
    const nearest = Math.min(...then.map(distance));
    for (const r of then) if (distance(r) === nearest) add(Date.parse(r.time), `perhaps: ${said(hf, r)}`);
  }
}

function said(hf, { time, level, msg, ...rest }) {
  return `holdfast ${hf.pid}: ${msg} ${Object.entries(rest).map(([k, v]) => `${k}=${v}`).join(" ")}`;
}
