// The status page in a real browser, with real traffic behind it, and its data. Every reason is the
// same word everywhere. HOLDFAST_E2E_SCREENSHOT=file: the page's picture, after traffic of a minute
// and a half (make screenshot).
import { describe, it, before, after } from "node:test";
import assert from "node:assert/strict";
import path from "node:path";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { onlyHoldfast } from "../lib/holdfast.js";
import { Polling, Raw } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { SLOW, sleep, until } from "../lib/wait.js";

const skip = onlyHoldfast;
const SCREENSHOT = process.env.HOLDFAST_E2E_SCREENSHOT;
const report = async (s) => JSON.parse((await s.hf.admin("/api/status")).text);

/** A real client over WebSocket that can be disconnected and brought back. */
async function person(s, nsp = "/", options = {}) {
  const c = s.client("4.8.4", { nsp, transports: ["websocket"], ...options });
  c.sid = (await c.main.connected()).id;
  c.leave = async () => {
    const n = c.main.disconnects.length;
    c.manager.reconnection(false);
    c.ws.terminate(); // no close frame: the network is gone
    await c.main.disconnected(n + 1);
  };
  c.back = async () => {
    const n = c.main.connects.length;
    c.manager.reconnection(true);
    c.socket.connect();
    await c.main.connected(n + 1);
    return c.main.last.recovered;
  };
  return c;
}

describe("the status page", { skip: skip || noBrowser }, () => {
  let browser;
  const suite = {};
  before(async () => (browser = await openBrowser({ after: (fn) => (suite.stop = fn) })));
  after(() => suite.stop?.());

  it("shows what happens to real clients, live", { timeout: 300000 * SLOW }, async (t) => {
    const s = await stack(t, {
      config: {
        recovery: { max_parked_sessions: SCREENSHOT ? 100 : 3, buffer: { max_packets: 500, total_bytes: "64MiB" } },
      },
    });
    const page = await browser.newPage({ viewport: { width: 1000, height: 1060 }, colorScheme: "light" });
    const shown = (id) => page.locator(`#${id}`).innerText();
    const cells = (id) => page.locator(`#${id} tbody tr`).allInnerTexts();
    const showing = (what, fn) => until(fn, () => `the page to show ${what}`, 15000);
    await page.goto(`http://127.0.0.1:${s.hf.adminPort}/`);
    await showing("an idle proxy", async () => (await shown("live")) === "0" && (await shown("state")) === "serving");
    assert.equal(await shown("health"), "unknown");

    const people = [];
    for (const nsp of ["/", "/", "/chat", "/admin", "/chat"]) people.push(await person(s, nsp));
    const [a, b, c, d, e] = people;
    await showing("five live sessions", async () => (await shown("live")) === "5");
    assert.match(await shown("live-note"), /^5 WebSocket, 0 polling$/);
    assert.equal(await shown("health"), "ok");
    assert.equal(await shown("upstream"), `http://127.0.0.1:${s.app.port}`);

    // Two come back, one of them to what it missed.
    for (const p of [a, c]) await p.leave();
    s.app.stream("/", a.sid, 1, 7);
    await showing("two parked sessions", async () => (await shown("parked")) === "2");
    const parked = await cells("parked-sessions");
    assert.equal(parked.length, 2);
    assert.match(parked[0], /^[\d.]+ s\s+\/\s+transport_(close|error)\s+7\s+[\d.]+ \w+\s+/);
    assert.match(parked[1], /\/chat/);
    assert.ok(await a.back());
    assert.ok(await c.back());
    await a.main.stream(1, 7);
    await showing("the recoveries", async () => (await shown("recovered")) === "100 %" && (await cells("recoveries")).length === 2);
    assert.match((await cells("recoveries")).join("\n"), /\/\s+resumed\s+[\d.]+ s\s+7\s+#6/);
    assert.equal(await shown("sum-recovered"), "2");
    assert.match(await page.locator("#chart").getAttribute("aria-label"), /2 recovered, 0 not recovered/);
    assert.ok((await page.locator("#chart rect.good").count()) >= 1);

    // One is disconnected by the server while away, one presents an unknown pid, one misses too
    // much.
    for (const p of [b, d, e]) await p.leave();
    s.app.socket(b.sid).disconnect();
    assert.equal(await b.back(), false);
    d.socket._pid = `hf${"A".repeat(27)}`;
    const known = (await report(s)).recoveries.failed;
    assert.equal(await d.back(), false);
    assert.equal((await report(s)).recoveries.failed, known + 1);
    s.app.stream("/chat", e.sid, 1, 501);
    // d's previous session stays.
    await until(async () => (await report(s)).sessions.parked === 1, "the log to be full");
    assert.equal(await e.back(), false);
    await showing("the failures", async () => (await cells("failures")).length === 3);
    const failures = (await cells("failures")).join("\n");
    const reasons = (await cells("reasons")).join("\n");
    for (const reason of ["server_disconnect", "unknown_pid", "buffer_full"]) {
      assert.ok(failures.includes(reason), `${reason} in ${failures}`);
      assert.ok(reasons.includes(`${reason}\t1`), `${reason} in ${reasons}`);
    }
    assert.equal(await shown("recovered"), "40 %");
    assert.equal(await shown("sum-failed"), "3");
    assert.ok((await page.locator("#chart rect.bad").count()) >= 1);

    if (SCREENSHOT) await crowd(s);

    // Nothing that identifies a client is in the data or on the page.
    const all = JSON.stringify(await report(s)) + (await page.content());
    for (const p of people) for (const secret of [p.sid, p.main.id, p.socket._pid, p.socket._lastOffset]) assert.ok(!secret || !all.includes(secret), secret);

    if (SCREENSHOT) {
      await page.screenshot({ path: path.resolve(SCREENSHOT) });
    }
    for (const view of [
      { viewport: { width: 1080, height: 900 }, colorScheme: "light" },
      { viewport: { width: 360, height: 740 }, colorScheme: "dark" },
    ]) {
      const other = await browser.newPage(view);
      await other.goto(page.url());
      await until(async () => (await other.locator("#recoveries tbody tr").count()) >= 2, "the page to be filled", 15000);
      const { wide, faint } = await other.evaluate(inspect);
      assert.ok(wide <= view.viewport.width, `wider than the screen: ${wide}`);
      assert.deepEqual(faint, [], `text without contrast (${view.colorScheme})`);
      assert.equal(await other.locator("table:has(th:not([scope]))").count(), 0);
      if (process.env.HOLDFAST_E2E_LOOK) await other.screenshot({ path: `${process.env.HOLDFAST_E2E_LOOK}.${view.colorScheme}.png`, fullPage: true });
      await other.close();
    }
    assert.deepEqual(browser.complaints, []);
  });

  it("says that holdfast does not respond, and recovers when it does", async (t) => {
    const s = await stack(t, { server: false, upstreamPort: 9 });
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${s.hf.adminPort}/`);
    await until(async () => (await page.locator("#state").innerText()) === "serving", "the page to be filled", 15000);
    await assert.rejects(Raw.open(s.direct));
    await until(async () => (await page.locator("#health").innerText()) === "failing", "the upstream's failure", 15000);
    assert.match(await page.locator("#upstream-note").innerText(), /refused/);
    await page.route("**/api/status", (route) => route.abort());
    await until(async () => /does not respond, last seen/.test(await page.locator("#state").innerText()), "the silence to be told", 15000);
    await page.unroute("**/api/status");
    await until(async () => (await page.locator("#state").innerText()) === "serving", "the page to continue", 15000);
  });
});

/** For the picture: people who come and go for a minute and a half, and some who are away at its end. */
async function crowd(s) {
  const people = [];
  for (let i = 0; i < 40; i++) people.push(await person(s, ["/", "/chat", "/chat", "/admin"][i % 4]));
  const news = setInterval(() => {
    for (const nsp of ["/", "/chat", "/admin"]) s.app.io.of(nsp).emit("news", { text: "x".repeat(300 + Math.random() * 2000) });
  }, 400);
  const trip = async (p, ms) => {
    await p.leave();
    await sleep(ms);
    if (Math.random() < 0.06) p.socket._pid = `hf${"A".repeat(27)}`;
    await p.back();
  };
  const trips = [];
  for (const end = Date.now() + 90000; Date.now() < end; ) {
    const at = (90000 - (end - Date.now())) / 90000;
    const i = Math.floor(Math.random() * 30);
    if (!people[i].busy) {
      people[i].busy = true;
      trips.push(trip(people[i], 200 + Math.random() * 3000).then(() => (people[i].busy = false)));
    }
    await sleep(150 + 500 * (1 + Math.sin(at * 14)));
  }
  await Promise.all(trips);
  for (const p of people.slice(31)) {
    await p.leave();
    await sleep(700);
  }
  await sleep(3000);
  clearInterval(news);
}

/** In the page: how wide it is, and which texts have less than 4.5 to 1 of contrast. */
function inspect() {
  const parse = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim())) continue;
    if (!element.getClientRects().length) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)}: ${element.textContent.slice(0, 40)}`);
  }
  return { wide: document.documentElement.scrollWidth, faint };
}

describe("reasons", { skip, concurrency: 4 }, () => {
  /** A session whose client has gone: its {sid, pid}, parked. */
  async function away(s, nsp = "/") {
    const raw = await Raw.open(s.direct);
    const session = await raw.connect(undefined, nsp);
    const { parked } = (await report(s)).sessions;
    raw.close();
    await until(async () => (await report(s)).sessions.parked !== parked, "the session to be parked");
    return session;
  }
  const max = { max_disconnection_duration: "200ms" };

  for (const [reason, config, lose] of [
    ["expired", { recovery: max }, async (s) => {
      const session = await away(s);
      await until(() => s.app.disconnects.length === 1, "the session to expire");
      return session;
    }],
    ["evicted", { recovery: { max_parked_sessions: 1 } }, async (s) => {
      const session = await away(s);
      const other = await Raw.open(s.direct);
      await other.connect();
      other.close();
      await until(() => s.app.disconnects.length === 1, "the eviction");
      return session;
    }],
    ["buffer_full", { recovery: { buffer: { max_packets: 10 } } }, async (s) => {
      const session = await away(s);
      s.app.stream("/", session.sid, 1, 20);
      await until(() => s.app.disconnects.length === 1, "the session's end");
      return session;
    }],
    ["server_disconnect", {}, async (s) => {
      const session = await away(s);
      s.app.socket(session.sid).disconnect();
      await until(async () => (await report(s)).sessions.parked === 0, "the session's end");
      return session;
    }],
    ["client_disconnect", {}, async (s) => {
      const raw = await Raw.open(s.direct);
      const session = await raw.connect();
      raw.send("41");
      await until(() => s.app.disconnects.length === 1, "the disconnect");
      raw.close();
      return session;
    }],
    ["upstream_lost", {}, async (s) => {
      const session = await away(s);
      s.app.socket(session.sid).conn.close();
      await until(async () => (await report(s)).sessions.parked === 0, "the session's end");
      return session;
    }],
    ["unknown_pid", {}, async () => ({ pid: `hf${"A".repeat(27)}` })],
    ["bad_offset", {}, async (s) => ({ ...(await away(s)), offset: "not-ours" })],
    ["wrong_namespace", {}, (s) => away(s, "/chat")],
    ["excluded", { recovery: { clients: { mode: "opt-out", query: "norecover" } } }, async (s) => ({ ...(await away(s)), query: "norecover=1" })],
    ["limit", { limits: { failed_resumes_per_second_per_address: 1 } }, async (s) => {
      const raw = await Raw.open(s.direct);
      for (let i = 0; i < 10; i++) {
        await raw.connect({ pid: `hf${"A".repeat(27)}` });
        raw.send("41");
      }
      raw.close();
      return away(s);
    }],
  ])
    it(`${reason} is the same word in metrics, log, and status`, async (t) => {
      const s = await stack(t, { config });
      const { pid, offset, query, sid } = await lose(s);
      const before = (await s.hf.metrics()).sum("holdfast_recoveries_total", { result: "failed", reason });
      const again = await Raw.open(s.direct, { query });
      const reply = await again.connect({ pid, ...(offset && { offset }) });
      assert.ok(reply.sid && reply.sid !== sid && reply.pid !== pid, "a fresh session");
      const metrics = await s.hf.metrics();
      assert.equal(metrics.sum("holdfast_recoveries_total", { result: "failed", reason }), before + 1);
      const { recoveries, latest_failures: latest } = await report(s);
      assert.equal(recoveries.reasons.find((r) => r.reason === reason && r.result === "failed").count, before + 1);
      assert.equal(latest[0].reason, reason);
      assert.equal(latest[0].namespace, "/");
      const told = () => s.hf.records.filter((r) => r.msg === "not recovered");
      await until(() => told().length === recoveries.failed, "the log");
      assert.equal(told().at(-1).reason, reason);
      assert.equal(told().at(-1).client, latest[0].client);
      again.close();
    });

  it("a client that is not recovered over polling is reported too", async (t) => {
    const s = await stack(t);
    const p = await Polling.open(s.direct);
    await p.connect({ pid: `hf${"A".repeat(27)}` });
    assert.equal((await report(s)).latest_failures[0].reason, "unknown_pid");
    await p.post("1");
  });
});
