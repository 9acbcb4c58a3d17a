// What operators see of several replicas: the status page, -check, the probe and the demo. Without
// `cluster` there is none of that.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdir, readFile, readlink } from "node:fs/promises";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { binary, Holdfast, onlyHoldfast, runHoldfast, toYAML } from "../lib/holdfast.js";
import { Client } from "../lib/client.js";
import { App } from "../lib/server.js";
import { RoundRobin, Switch } from "../lib/balancer.js";
import { freePort } from "../lib/ports.js";
import { freePorts, replicas, SECRET } from "../lib/replicas.js";
import { SLOW, until, within } from "../lib/wait.js";

const status = async (hf) => JSON.parse((await hf.admin("/api/status")).text).cluster;

async function app(t) {
  const a = await App.start("4.5.4");
  t.after(() => a.stop());
  return a;
}

describe("what operators see of several replicas", { skip: onlyHoldfast, concurrency: 3 }, () => {
  it("the status page lists the others, also one that was killed", { timeout: 90000 * SLOW }, async (t) => {
    const a = await app(t);
    const [owner, edge] = await replicas(t, 2, () => a.port);
    const way = await Switch.start(owner.port);
    t.after(() => way.close());
    const c = new Client("4.8.4", way.url, { transports: ["websocket"] });
    t.after(() => c.close());
    await c.main.connected();
    way.moveTo(edge.port);
    await c.main.connected(2);
    c.main.assertRecovered(1);

    const { id } = await status(owner);
    assert.match(id, /^[\w-]{8}$/);
    assert.equal(c.socket._pid.slice(0, 10), `hf${id}`, "pids name their replica");
    await until(async () => (await status(edge)).peers[0].round_trip_seconds > 0, "a ping");
    const { peers, ...rest } = await status(edge);
    assert.equal(peers.length, 1);
    assert.deepEqual([peers[0].id, peers[0].address, peers[0].state, peers[0].error], [id, `127.0.0.1:${owner.peerPort}`, "up", ""]);
    assert.ok(peers[0].streams > 0);
    assert.deepEqual([rest.relays_edge, rest.relays_owner, (await status(owner)).relays_owner], [1, 0, 1]);
    assert.match((await edge.admin("/")).text, /^replicas +1 up; 1 clients relayed to others, 0 from others$/m);

    let page;
    if (!noBrowser) {
      const browser = await openBrowser(t);
      page = await browser.newPage();
      await page.goto(`http://127.0.0.1:${edge.adminPort}/`);
      await until(async () => (await page.locator("#peers tbody").innerText()).includes(id), "the page to list it", 20000);
    }
    owner.gone = true;
    await owner.kill();
    await until(async () => /refused/.test((await status(edge)).peers[0].error), "the reason");
    assert.match((await status(edge)).peers[0].state, /suspect|dialling/);
    if (page) await until(async () => /refused/.test(await page.locator("#peers tbody").innerText()), "the page to say so", 20000);
  });

  it("-check asks the others, and says why one does not answer", { timeout: 90000 * SLOW }, async (t) => {
    const a = await app(t);
    const list = await replicas(t, 2, () => a.port);
    const nobody = await freePort();
    const check = async (secret) => {
      const peers = [...list.map((hf) => `127.0.0.1:${hf.peerPort}`), `127.0.0.1:${nobody}`];
      const config = { upstream: { url: a.url }, cluster: { listen: `127.0.0.1:${nobody}`, peers, secret } };
      const { code, stdout } = await runHoldfast(["-check", "-config", "c.yaml"], { files: { "c.yaml": toYAML(config) }, timeout: 20000 });
      assert.equal(code, 0);
      assert.doesNotMatch(stdout, new RegExp(secret));
      return stdout.split("# Other replicas, asked just now:\n")[1].split("\n").slice(0, 3);
    };
    const [first, second, third] = await check(SECRET);
    assert.equal(first.replace(/ \(.*/, ""), `#   127.0.0.1:${list[0].peerPort}: replica ${(await status(list[0])).id}`);
    assert.match(second, /: replica [\w-]{8} \(\d+m?s\)$/);
    assert.match(third, /: .*refused$/);
    for (const line of (await check("another secret, which is long enough as well")).slice(0, 2)) assert.match(line, /: it has another cluster\.secret$/);
  });

  it("peers that lead only to the replica itself: a warning says so", { timeout: 60000 * SLOW }, async (t) => {
    const [port] = await freePorts(1);
    const hf = await Holdfast.start(1, { cluster: { listen: `127.0.0.1:${port}`, peers: [`127.0.0.1:${port}`], secret: SECRET } });
    t.after(() => hf.stop());
    const said = () => hf.records.find((r) => r.msg === "cluster.peers leads to no replica but this one");
    await until(said, () => `the warning\n${hf.log}`, 15000);
    assert.equal(said().level, "WARN");
  });

  it("the probe finds nothing wrong with a balancer without stickiness", { timeout: 90000 * SLOW }, async (t) => {
    const a = await app(t);
    const list = await replicas(t, 3, () => a.port);
    const way = await RoundRobin.start(list.map((hf) => hf.port));
    t.after(() => way.close());
    const { code, stdout, all } = await runHoldfast(["probe", "-json", "-away", "100ms", way.url], { timeout: 30000 });
    assert.equal(code, 0, all);
    const codes = Object.fromEntries(JSON.parse(stdout).checks.map((c) => [c.name, c.code]));
    assert.deepEqual(codes, { polling: "recovered", websocket: "recovered", upgrade: "recovered" });
  });

  it("-demo -replicas 3 shows a client that recovers through another replica", { timeout: 90000 * SLOW }, async (t) => {
    const child = spawn(await binary(), ["-demo", "-replicas", "3"], { env: { PATH: process.env.PATH, HOME: "/" } });
    const exited = new Promise((resolve) => child.once("exit", (code) => resolve(code)));
    t.after(() => child.kill("SIGKILL"));
    let out = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (d) => (out += d));
    await until(() => /Recovered:/.test(out), () => `the demo's story:\n${out}`, 40000);
    const [, from] = /connected, id \S+\n.*the balancer has sent it to replica (\d) of 3/.exec(out);
    const [, to] = /\(the same\), recovered: true\n.*the balancer has sent it to replica (\d) of 3/.exec(out);
    assert.notEqual(from, to);
    assert.doesNotMatch(out, /level=WARN/);
    child.kill("SIGINT");
    assert.equal(await within(exited, "the demo to end", 15000), 0);
  });

  it("without cluster there is no port, no goroutine and no replica", { timeout: 60000 * SLOW, skip: process.platform !== "linux" && "reads /proc" }, async (t) => {
    const a = await app(t);
    const config = { admin: { profiling: true } };
    const hf = await Holdfast.start(a.port, config);
    t.after(() => hf.stop());
    const c = new Client("4.8.4", hf.url, { transports: ["websocket"] });
    t.after(() => c.close());
    await c.main.connected();
    c.ws.terminate();
    await c.main.connected(2);
    c.main.assertRecovered(1);
    const goroutines = async (hf) => (await hf.admin("/debug/pprof/goroutine?debug=2")).text;
    assert.match(await goroutines(hf), /holdfast\/internal\/netpoll/);
    assert.doesNotMatch(await goroutines(hf), /holdfast\/internal\/cluster|go-redis/);
    const [replica] = await replicas(t, 1, () => a.port, { config });
    assert.match(await goroutines(replica), /holdfast\/internal\/cluster/);
    const sockets = new Set();
    for (const fd of await readdir(`/proc/${hf.pid}/fd`)) {
      const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`/proc/${hf.pid}/fd/${fd}`).catch(() => ""))?.[1];
      if (inode) sockets.add(inode);
    }
    const listening = [];
    for (const file of ["tcp", "tcp6"])
      for (const line of (await readFile(`/proc/net/${file}`, "utf8")).split("\n")) {
        const words = line.trim().split(/\s+/);
        if (words[3] === "0A" && sockets.has(words[9])) listening.push(parseInt(words[1].split(":")[1], 16));
      }
    assert.deepEqual(listening.toSorted(), [hf.port, hf.adminPort].toSorted());
    assert.deepEqual(await status(hf), { id: "", peers: [], relays_edge: 0, relays_owner: 0 });
    assert.equal((await hf.metrics()).sum("holdfast_peers"), 0);
  });
});
