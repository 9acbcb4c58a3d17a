// client_bundle.dir: pages that load the client from their server get a version that can recover.
import { after, before, describe, it } from "node:test";
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { onlyHoldfast, runHoldfast } from "../lib/holdfast.js";
import { exchange, request } from "../lib/raw.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const require = createRequire(import.meta.url);
const dist = (version) => path.join(path.dirname(require.resolve(`socket.io-client-${version}/package.json`)), "dist");
const config = (version) => ({ client_bundle: { dir: dist(version) } });
const skip = onlyHoldfast;

// A typical page, which knows nothing of recovery.
const page = `<!doctype html><title>news</title><ul id="news"></ul>
<script src="/socket.io/socket.io.js"></script>
<script>
  const socket = io({ reconnectionDelay: 50, reconnectionDelayMax: 200 });
  socket.on("connect", () => { document.title = socket.id; });
  socket.on("disconnect", () => { document.title = "away"; });
  socket.on("news", (text) => { const li = document.createElement("li"); li.textContent = text; news.append(li); });
</script>`;
const modulePage = page
  .replace('<script src="/socket.io/socket.io.js"></script>', "")
  .replace("<script>", '<script type="module">\n  import { io } from "/socket.io/socket.io.esm.min.js"; window.io = io;');
const http = (req, res) => {
  res.setHeader("content-type", "text/html; charset=utf-8");
  if (req.url === "/") res.end(page);
  else if (req.url === "/module") res.end(modulePage);
  else res.writeHead(404).end();
};

describe("the client from the server", { skip: skip || noBrowser }, () => {
  let browser;
  before(async () => (browser = await openBrowser()));
  after(() => browser?.close());

  for (const [name, where] of [["a script", "/"], ["a module", "/module"]]) {
    it(`as ${name}, on a page of a socket.io 4.5.4 server, recovers`, async (t) => {
      const s = await stack(t, { http, config: config("4.8.4") });
      const tab = await browser.newPage();
      t.after(() => tab.close());
      await tab.goto(s.url + where);
      const title = (want) => until(async () => want(await tab.title()), "the page's title", 20000);
      const news = () => tab.locator("#news li").allTextContents();
      await until(() => s.app.connections.length === 1, "the page to connect", 20000);
      const { id } = s.app.connections[0];
      await title((text) => text === id);
      s.app.emit("/", id, "news", "one");
      await until(async () => (await news()).length === 1, "the first news");

      s.relay.down();
      await title((text) => text === "away");
      for (const text of ["two", "three"]) s.app.emit("/", id, "news", text);
      s.relay.up();
      await title((text) => text === id);
      await until(async () => (await news()).length === 3, "the news that it missed");
      assert.deepEqual(await news(), ["one", "two", "three"]);
      assert.deepEqual(s.app.footprint(), { connections: 1, disconnects: 0, middleware: 1 });
      const failed = browser.complaints.filter((c) => !/ERR_CONNECTION|WebSocket connection|ERR_EMPTY/.test(c));
      assert.deepEqual(failed, []);
    });
  }
});

describe("the files of client_bundle.dir", { skip, concurrency: 4 }, () => {
  it("replace the server's, with types, ETags and source maps", async (t) => {
    const s = await stack(t, { config: { ...config("4.8.4"), engineio: { paths: ["/socket.io/", "/other/"] } } });
    for (const at of ["/socket.io/", "/other/"]) {
      for (const name of ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js"]) {
        for (const file of [name, `${name}.map`]) {
          const url = `${s.direct}${at}${file}`;
          const res = await request(url);
          assert.equal(res.status, 200, file);
          assert.ok(res.raw.equals(readFileSync(path.join(dist("4.8.4"), file))), file);
          assert.equal(res.headers["content-type"], `application/${file === name ? "javascript" : "json"}; charset=utf-8`);
          assert.equal(res.headers["cache-control"], "public, max-age=0");
          const again = await request(`${url}?v=1`, { headers: { "if-none-match": res.headers.etag } });
          assert.deepEqual([again.status, again.raw.length, again.headers.etag], [304, 0, res.headers.etag]);
          const head = await request(url, { method: "HEAD" });
          assert.deepEqual([head.status, head.headers["content-length"]], [200, `${res.raw.length}`]);
          const gz = await request(url, { headers: { "accept-encoding": "gzip, deflate, br" } });
          assert.equal(gz.headers["content-encoding"], "gzip");
          assert.ok(gunzipSync(gz.raw).equals(res.raw));
          assert.notEqual(gz.headers.etag, res.headers.etag);
        }
        const { body } = await request(`${s.direct}${at}${name}`);
        assert.ok(body.includes(`sourceMappingURL=${name}.map`), name);
      }
    }
    const m = await s.hf.metrics();
    assert.equal(m.sum("holdfast_passthrough_requests_total"), 0);
  });

  it("leave all other files to the server", async (t) => {
    const urls = [];
    const s = await stack(t, { config: config("4.8.4"), http: (req, res) => res.writeHead(418).end(void urls.push(req.url)) });
    const got = [];
    for (const where of [
      "/socket.io/package.json",
      "/socket.io/..%2fpackage.json",
      "/socket.io/../package.json",
      "/socket.io/%2e%2e/package.json",
      "/socket.io/x/../../package.json",
      "/socket.io/....//package.json",
      "/socket.io/socket.io.js/../../package.json",
      "/socket.io//etc/passwd",
      "/other/socket.io.js",
      "/xsocket.io/socket.io.js",
    ]) {
      const text = await exchange(s.direct, `GET ${where} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
      got.push(where);
      assert.doesNotMatch(text.text ?? text, /"name": "socket\.io-client"|root:/, where);
    }
    assert.equal((await request(`${s.direct}/socket.io/socket.io.js`, { method: "POST" })).status, 200, "socket.io answers any method");
    assert.ok(urls.length > 0 && urls.every((u) => got.includes(u)), `${urls}`);
  });

  it("that are missing or too old cause an error at the start", async () => {
    for (const [dir, why] of [
      ["absent", /no such file or directory/],
      [".", /contains no socket\.io\.js/],
      [dist("4.5.4"), /has version 4\.5\.4: clients before 4\.6 cannot recover/],
    ]) {
      const { code, stderr } = await runHoldfast(["-check"], { env: { HOLDFAST_CLIENT_BUNDLE_DIR: dir } });
      assert.equal(code, 2);
      assert.match(stderr, /HOLDFAST_CLIENT_BUNDLE_DIR: client_bundle\.dir: found .*allowed: the dist folder of socket\.io-client 4\.6 or later/);
      assert.match(stderr, why);
    }
  });
});
