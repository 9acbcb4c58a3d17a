// `holdfast probe` against real servers, through holdfast and with faults in between. Its codes and
// exit status are checked, and compared with what a real client does in the same place.
import { describe, it, before } from "node:test";
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { Client } from "../lib/client.js";
import { accepts, Holdfast, onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { stack } from "../lib/stack.js";
import { Daemon, missing, run } from "../lib/tools.js";
import { until } from "../lib/wait.js";

/** Runs the probe: {code, checks: {name: check}, ...report}. */
async function probe(...args) {
  const { code, stdout, all } = await runHoldfast(["probe", "-json", "-away", "100ms", ...args], { timeout: 30000 });
  assert.ok(stdout.startsWith("{"), all);
  const report = JSON.parse(stdout);
  assert.equal(report.exit, code);
  return { code, ...report, checks: Object.fromEntries(report.checks.map((c) => [c.name, c])) };
}

const codes = ({ checks }) => Object.fromEntries(Object.entries(checks).map(([name, c]) => [name, c.code]));
const ALL_WELL = { polling: "recovered", websocket: "recovered", upgrade: "recovered" };

/** A TCP balancer: each connection goes to the next of the ports. */
async function balancer(t, ports) {
  let turn = 0;
  const sockets = new Set();
  const server = net.createServer((a) => {
    const b = net.connect(ports[turn++ % ports.length], "127.0.0.1");
    for (const [from, to] of [[a, b], [b, a]]) {
      sockets.add(from);
      from.on("error", () => {}).on("close", () => to.destroy());
      from.pipe(to);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const s of sockets) s.destroy();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/** nginx in front of holdfast, with `location` as its lines. */
async function nginx(t, port, location) {
  const own = await freePort();
  await Daemon.start(t, "nginx", async (dir) => {
    const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((p) => `${p}_temp_path ${dir}/${p};`).join(" ");
    const conf = `daemon off; master_process off; pid ${dir}/pid; error_log stderr warn; events {}
      http { access_log off; ${temp} server { listen 127.0.0.1:${own}; location / { proxy_pass http://127.0.0.1:${port}; ${location} } } }`;
    await writeFile(path.join(dir, "nginx.conf"), conf);
    return { args: ["-p", dir, "-e", "stderr", "-c", path.join(dir, "nginx.conf")], ready: () => accepts(own) };
  });
  return `http://127.0.0.1:${own}`;
}

describe("probe", { skip: onlyHoldfast, concurrency: 4 }, () => {
  for (const server of ["3.1.2", "4.5.4"])
    it(`finds nothing wrong in front of socket.io ${server}, and leaves nothing behind`, async (t) => {
      const s = await stack(t, { server });
      assert.deepEqual(codes(await probe(`${s.direct}/chat`)), ALL_WELL);
      const text = await runHoldfast(["probe", s.direct]);
      assert.equal(text.code, 0);
      assert.match(text.stdout, /gets its session back\.\n$/);
      const metrics = await s.hf.metrics();
      assert.equal(metrics.sum("holdfast_recoveries_total", { result: "recovered" }), 6);
      assert.equal(metrics.sum("holdfast_recoveries_total", { result: "failed" }), 0);
      await until(() => s.app.disconnects.length === 6, "the server to see six sockets go");
      assert.equal(s.app.connections.length, 6, "each of which it had seen once");
      assert.deepEqual(s.app.received, [], "the application gets no event");
      assert.doesNotMatch(text.all, new RegExp("hf[\\w-]{27}"), "the pid is not shown");
    });

  it("says that holdfast is not in the way", async (t) => {
    const s = await stack(t);
    const r = await probe(s.app.url);
    assert.equal(r.code, 1);
    assert.deepEqual(codes(r), { polling: "no_pid", websocket: "no_pid", upgrade: "not_asked" });
    assert.match(r.checks.polling.remedy, /does not go through holdfast/);
  });

  it("says that the server recovers by itself", async (t) => {
    const s = await stack(t, { server: "4.8.4", recovery: true });
    const r = await probe(s.direct);
    assert.equal(r.code, 1);
    assert.equal(r.checks.websocket.code, "own_recovery");
  });

  it("finds two replicas without stickiness, as a real client does", async (t) => {
    const s = await stack(t);
    const second = await Holdfast.start(s.app.port);
    s.cleanups.push(() => second.stop());
    const url = await balancer(t, [s.hf.port, second.port]);
    const r = await probe("-transport", "websocket", url);
    assert.equal(r.code, 1);
    assert.equal(r.checks.websocket.code, "other_replica");
    const c = new Client("4.8.4", url, { transports: ["websocket"] });
    t.after(() => c.close());
    await c.main.connected();
    c.ws.terminate();
    await c.main.connected(2);
    assert.equal(c.main.last.recovered, false);
  });

  it("finds that nginx does not pass WebSocket on, and that it does", { skip: missing("nginx") }, async (t) => {
    const s = await stack(t);
    const blocked = await probe(await nginx(t, s.hf.port, ""));
    assert.equal(blocked.code, 1);
    assert.deepEqual(codes(blocked), { polling: "recovered", websocket: "websocket_blocked", upgrade: "not_asked" });
    const passes = await nginx(t, s.hf.port, "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;");
    assert.deepEqual(codes(await probe(passes)), ALL_WELL);
  });

  it("finds a wrong path, a namespace's auth, a missing header, and a page that may not connect", async (t) => {
    const s = await stack(t, {
      io: {
        cors: { origin: "https://chat.example.com" },
        allowRequest: (req, done) => done(null, req.headers["x-key"] !== "no"),
      },
    });
    const path = await probe("-path", "/nope/", s.direct);
    assert.deepEqual([path.code, path.checks.polling.code], [3, "not_found"]);
    const auth = await probe("-auth", '{"deny":true}', s.direct);
    assert.deepEqual([auth.code, auth.checks.polling.code], [3, "connect_refused"]);
    assert.match(auth.checks.polling.detail, /"not you"/);
    const header = await probe("-header", "X-Key: no", s.direct);
    assert.deepEqual([header.code, header.checks.polling.code], [3, "handshake_auth"]);
    const good = await probe("-transport", "polling", "-origin", "https://chat.example.com", s.direct);
    assert.deepEqual([good.code, good.checks.cors.code], [0, "allowed"]);
    const cors = await probe("-transport", "polling", "-origin", "https://elsewhere.example.com", s.direct);
    assert.deepEqual([cors.code, cors.checks.cors.code], [1, "cors"]);
  });

  it("through TLS with a certificate of its own making", { skip: missing("openssl") }, async (t) => {
    const s = await stack(t);
    const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-tls-"));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const [key_file, cert_file] = ["key.pem", "cert.pem"].map((f) => path.join(dir, f));
    const { status, output } = run("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
      "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key_file, "-out", cert_file]);
    assert.equal(status, 0, output);
    const secure = await Holdfast.start(s.app.port, { tls: { cert_file, key_file } });
    s.cleanups.push(() => secure.stop());
    const url = secure.url.replace("http", "https");
    const strict = await probe(url);
    assert.deepEqual([strict.code, strict.checks.polling.code], [3, "tls"]);
    assert.deepEqual(codes(await probe("-insecure", url)), ALL_WELL);
  });

  describe("its command line", () => {
    let help;
    before(async () => (help = await runHoldfast(["probe", "-h"])));

    it("has a help text, and exits with 2 for a wrong URL", async () => {
      assert.equal(help.code, 0);
      assert.match(help.stdout, /Exit status: 0 recovered/);
      const wrong = await runHoldfast(["probe", "localhost:3000"]);
      assert.equal(wrong.code, 2);
      assert.match(wrong.stderr, /^holdfast: probe: .*http:\/\//);
      assert.match((await runHoldfast(["-h"])).stdout, /holdfast probe URL/);
    });
  });
});
