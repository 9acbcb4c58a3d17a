// The application behind holdfast, in its own process. It streams numbered events to every session,
// and records what it receives.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { once } from "node:events";
import { serve } from "./child.js";
import { Random } from "./random.js";
import { Arrivals, body, kind } from "./stream.js";

const require = createRequire(import.meta.url);
const { version, port, seed, namespaces, poison, io: ioOptions } = JSON.parse(process.argv[2]);

const TICK = 50; // ms
const PER_TICK = 0.5; // probability of an event for a session
const BURST = 0.001; // probability of 40 events at the same time
const BROADCAST = 0.25; // probability of a broadcast in a namespace
const POISON = 0.0003; // where there is poison: its probability for a session
const POISON_BROADCAST = 0.001; // ... and for a namespace

const random = new Random(seed, "server");
const sessions = new Map(); // sid -> {client, nsp, again: whether an earlier one had this sid, began, sent, firstBroadcast, answered, ended, endedAt}
const times = { own: {}, broadcasts: Object.fromEntries(namespaces.map((nsp) => [nsp, []])) }; // when each event was sent
const arrivals = new Map(); // client and namespace -> Arrivals
const broadcasts = Object.fromEntries(namespaces.map((nsp) => [nsp, 0]));
const live = new Map(); // sid -> socket
let streaming = true;

const lib = require(`socket.io-${version}`);
const Server = lib.Server ?? lib; // before 3.0
const http = createServer();
http.keepAliveTimeout = 60_000;
const io = new Server(http, { serveClient: false, allowEIO3: true, ...ioOptions });

for (const nsp of namespaces) {
  io.of(nsp).on("connection", (socket) => {
    const client = socket.handshake.auth?.client ?? socket.handshake.query.client; // of clients before 3.0
    const session = { client, nsp, again: sessions.has(socket.id), began: Date.now(), sent: 0, firstBroadcast: broadcasts[nsp] + 1, answered: 0, ended: null, endedAt: null };
    sessions.set(socket.id, session);
    times.own[socket.id] = [];
    live.set(socket.id, socket);
    socket.on("disconnect", (reason) => {
      session.ended = reason;
      session.endedAt = Date.now();
      live.delete(socket.id);
    });
    const key = `${client} ${nsp}`;
    if (!arrivals.has(key)) arrivals.set(key, new Arrivals());
    socket.on("u", (i, epoch, content, answer) => {
      arrivals.get(key).take(socket.id, i, epoch, content);
      if (typeof answer === "function") answer(i);
    });
  });
}

/** When a stream's last event was sent. The next one is sent now. */
function before(list) {
  const last = list.at(-1) ?? 0;
  list.push(Date.now());
  return last;
}

/** Sends the next event of a session's own stream, alternately through its socket and its room. */
function emit(socket) {
  const session = sessions.get(socket.id);
  const i = ++session.sent;
  const args = ["n", i, before(times.own[socket.id]), body(i)];
  if (kind(i) === "ask") {
    socket.emit(...args, (answer) => {
      if (answer === i) session.answered++;
    });
  } else if (i % 2) socket.emit(...args);
  else socket.nsp.to(socket.id).emit(...args);
}

setInterval(() => {
  if (!streaming) return;
  for (const socket of live.values()) {
    if (random.chance(PER_TICK)) emit(socket);
    if (random.chance(BURST)) for (let k = 0; k < 40; k++) emit(socket);
  }
  for (const nsp of namespaces) if (random.chance(BROADCAST)) broadcast(nsp);
  if (!poison) return;
  for (const socket of live.values()) if (random.chance(POISON)) emitPoison(socket);
  for (const nsp of namespaces) if (random.chance(POISON_BROADCAST)) emitPoison(io.of(nsp));
}, TICK);

/** What socket.io-client cannot decode, and must not miss other events for. `to` is a socket or a namespace. */
function emitPoison(to) {
  if (random.chance(0.5)) to.emit("poison", ...Array.from({ length: 11 }, () => Buffer.alloc(3)));
  else to.emit("poison", { _placeholder: true, num: 7 }, Buffer.alloc(3));
}

function broadcast(nsp) {
  const i = ++broadcasts[nsp];
  io.of(nsp).emit("b", i, before(times.broadcasts[nsp]), body(i));
}

http.listen({ port, host: "127.0.0.1", backlog: 4096 });
await once(http, "listening");

const ledger = () => ({
  sessions: Object.fromEntries(sessions),
  arrivals: Object.fromEntries(arrivals),
  broadcasts,
});

serve({
  ready: () => http.address().port,

  /**
   * Ends all streams, each with an event that must not be lost. Called again, it sends another one: to those that may lose the
   * last one with a connection.
   */
  finish() {
    streaming = false;
    for (const socket of live.values()) {
      do emit(socket);
      while (kind(sessions.get(socket.id).sent) === "ask");
    }
    for (const nsp of namespaces) broadcast(nsp);
  },

  ledger,

  lastLedger: () => ({ ...ledger(), times }),
  times: () => times,

  /** How many sockets there are. */
  sockets: () => live.size,
}, { last: "lastLedger" });
