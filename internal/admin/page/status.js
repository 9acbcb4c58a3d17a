// The status page polls api/status every two seconds and shows the report. It never inserts HTML.

const INTERVAL = 2000;
const MIN_COLUMNS = 60; // of the chart: its left part is empty while the process is young
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function text(id, value) {
  const element = typeof id === "string" ? $(id) : id;
  if (element.textContent !== value) element.textContent = value; // keeps the reader's selection
}

// ---- Formatting

const count = (n) => n.toLocaleString("en");

function plural(n, what) {
  return `${count(n)} ${what}${n === 1 ? "" : "s"}`;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; Math.round(n) >= 1024 && unit < units.length - 1; unit++) n /= 1024;
  return `${n < 10 && unit > 0 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds); // first, or 119.7 would be "1 min 60 s"
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const ago = (status, time) => {
  const seconds = (Date.parse(status.time) - Date.parse(time)) / 1000;
  return seconds < 1 ? "now" : `${duration(Math.floor(seconds)).replace(".0", "")} ago`;
};

// ---- Parts of the page

/** Fills a table: cells(row) returns [text, class] for each column. Existing rows and cells are reused. */
function table(id, list, none, cells) {
  const body = $(id).tBodies[0];
  const rows = list.length ? list.map(cells) : [[[none, "none"]]];
  rows.forEach((columns, i) => {
    const tr = body.rows[i] ?? body.insertRow();
    columns.forEach(([value, cls], k) => {
      const td = tr.cells[k] ?? tr.insertCell();
      td.className = cls ?? "";
      td.colSpan = list.length ? 1 : $(id).tHead.rows[0].cells.length;
      text(td, value);
    });
    while (tr.cells.length > columns.length) tr.deleteCell(-1);
  });
  while (body.rows.length > rows.length) body.deleteRow(-1);
}

function chart({ step_seconds: step, recovered, failed }) {
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  const columns = Math.max(MIN_COLUMNS, recovered.length);
  const up = Math.max(1, ...recovered);
  const down = Math.max(0, ...failed);
  const span = duration(columns * step).replace(" 0 s", "");
  text("sum-recovered", count(sum(recovered)));
  text("sum-failed", count(sum(failed)));
  text("span", `in the last ${span}, ${step} s per column, at most ${count(Math.max(up, down))}`);
  text("from", `${span} ago`);

  const svg = $("chart");
  svg.setAttribute("viewBox", `0 ${-up} ${columns} ${up + down || 1}`);
  svg.setAttribute(
    "aria-label",
    `In the last ${span}: ${count(sum(recovered))} recovered, ${count(sum(failed))} not recovered`,
  );
  const bars = [];
  const bar = (kind, i, y, height) => {
    const rect = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ class: kind, x: i + 0.1, y, width: 0.8, height }))
      rect.setAttribute(name, value);
    bars.push(rect);
  };
  const first = columns - recovered.length;
  recovered.forEach((n, i) => n && bar("good", first + i, -n, n));
  failed.forEach((n, i) => n && bar("bad", first + i, 0, n));
  const base = document.createElementNS(SVG, "line");
  base.setAttribute("x2", columns);
  svg.replaceChildren(...bars, base);
}

function state(word, shown) {
  $("state").dataset.state = word;
  text("state", shown ?? word);
}

function show(s) {
  state(s.holdfast.state);
  text("about", `${s.holdfast.version}, up ${duration(s.holdfast.uptime_seconds)}`);

  const { live, parked, max_parked: most } = s.sessions;
  text("live", count(live));
  text("live-note", `${count(s.clients.websocket)} WebSocket, ${count(s.clients.polling)} polling`);
  text("parked", count(parked));
  text("parked-note", s.parked.length ? `of ${count(most)}, the oldest for ${duration(s.parked[0].age_seconds)}` : `of ${count(most)}`);

  const { recovered, failed, reasons } = s.recoveries;
  text("recovered", recovered + failed ? `${Math.floor((100 * recovered) / (recovered + failed))} %` : "–");
  text("recovered-note", recovered + failed ? `${count(recovered)} of ${count(recovered + failed)} that returned` : "no client has returned yet");

  const { bytes: used, budget_bytes: budget, packets } = s.buffer;
  text("buffered", bytes(used));
  $("budget").value = budget ? Math.min(1, used / budget) : 0;
  text("buffered-note", `${plural(packets, "packet")}, of ${budget ? bytes(budget) : "no limit"}`);

  const up = s.upstream;
  $("health").dataset.health = up.health;
  text("health", up.health);
  const several = up.servers.length !== 1;
  const ups = up.servers.filter((r) => r.state === "up").length;
  text("upstream", several ? `${ups} of ${plural(up.servers.length, "server")} up` : up.servers[0].url);
  text(
    "upstream-note",
    up.health === "failing"
      ? `${ago(s, up.last_failure)}: ${up.last_error}`
      : up.last_answer
        ? `answered a handshake ${ago(s, up.last_answer)}`
        : "no handshake yet",
  );

  chart(s.history);

  table(
    "reasons",
    reasons.filter((r) => r.result === "failed" && r.count).sort((a, b) => b.count - a.count),
    "Every client that returned was recovered.",
    (r) => [[r.reason, "word"], [count(r.count), "n"], [r.meaning, "muted"]],
  );
  table("recoveries", s.latest_recoveries, "None yet.", (r) => [
    [ago(s, r.time), "when"],
    [r.namespace, "word"],
    [r.reason, "word"],
    [duration(r.away_seconds), "n"],
    [count(r.missed), "n"],
    [`#${r.client}`, "n muted"],
  ]);
  $("servers-section").hidden = !several;
  text("servers-count", `${ups} of ${up.servers.length} up`);
  table("servers", up.servers, "None is known.", (r) => [
    [r.url, "word"],
    [r.state, "word"],
    [duration(r.state_seconds), "n"],
    [count(r.links), "n"],
    [r.error, "muted"],
  ]);
  const { id, peers, relays_edge: edge, relays_owner: owner } = s.cluster;
  $("peers-section").hidden = !id;
  text("peers-count", `this one is ${id}; ${plural(edge, "client")} relayed to others, ${count(owner)} from others`);
  table("peers", peers, "None is known.", (p) => [
    [p.id || "?", "word"],
    [p.address, "word"],
    [p.state, "word"],
    [duration(p.state_seconds), "n"],
    [`${(p.round_trip_seconds * 1000).toFixed(1)} ms`, "n"],
    [count(p.streams), "n"],
    [p.error, "muted"],
  ]);
  $("poison-section").hidden = !s.poison.packets;
  text("poison-count", `${plural(s.poison.packets, "packet")} that ${s.poison.packets === 1 ? "its client" : "their clients"} cannot decode`);
  table("poison", s.poison.latest, "None.", (p) => [
    [ago(s, p.time), "when"],
    [p.namespace, "word"],
    [p.event, "word"],
    [count(p.bytes), "n"],
  ]);
  table("failures", s.latest_failures, "None.", (f) => [
    [ago(s, f.time), "when"],
    [f.namespace, "word"],
    [f.reason, "word"],
    [`#${f.client}`, "n muted"],
  ]);
  text("parked-listed", parked > s.parked.length && s.parked.length ? `oldest ${s.parked.length} of ${count(parked)}` : "");
  table("parked-sessions", s.parked, "None: every client is connected.", (p) => [
    [duration(p.age_seconds), "when"],
    [p.namespace, "word"],
    [p.reason, "word"],
    [count(p.packets), "n"],
    [bytes(p.bytes), "n"],
    [duration(p.expires_in_seconds), "n"],
  ]);
}

// ---- The loop

let lastSeen;

async function update() {
  try {
    const response = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const report = await response.json();
    // The page belongs to another version of holdfast.
    if (report.version !== 1) return location.reload();
    show(report);
    lastSeen = new Date();
  } catch (err) {
    const since = lastSeen ? `, last seen at ${lastSeen.toLocaleTimeString()}` : "";
    state("silent", `holdfast does not respond${since}`);
    console.info(String(err));
  }
}

let timer;

/** Updates the page now, and then periodically while it is visible. */
async function run() {
  clearTimeout(timer);
  if (document.hidden) return;
  await update();
  clearTimeout(timer);
  timer = setTimeout(run, INTERVAL);
}

document.addEventListener("visibilitychange", run);
run();
