// TLS towards clients, with certificates that are renewed, and towards the server.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import net from "node:net";
import { connect as connectTLS, createServer as createTLSServer } from "node:tls";
import { noOpenSSL, secret } from "../lib/certificates.js";
import { Client } from "../lib/client.js";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { request } from "../lib/raw.js";
import { App } from "../lib/server.js";
import { SLOW, never, until } from "../lib/wait.js";

const skip = onlyHoldfast || noOpenSSL;

/** The certificate that a port shows to a new connection. */
const shown = (port) =>
  new Promise((resolve, reject) => {
    const socket = connectTLS({ port, host: "127.0.0.1", rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate());
      socket.destroy();
    });
    socket.once("error", reject);
  });

/** A TLS terminator in front of a plain port. */
async function terminator(t, files, port) {
  const server = createTLSServer({ key: await readFile(files.key), cert: await readFile(files.cert) }, (socket) => {
    const plain = net.connect(port, "127.0.0.1");
    socket.pipe(plain).pipe(socket);
    socket.on("error", () => plain.destroy());
    plain.on("error", () => socket.destroy());
    socket.on("close", () => plain.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return server.address().port;
}

describe("the listener's certificate", { skip }, () => {
  it("is renewed without a restart; a broken one is not used", { timeout: 60000 * SLOW }, async (t) => {
    const files = await secret(t);
    const app = await App.start("4.5.4");
    const hf = await Holdfast.start(app.port, { tls: { cert_file: files.cert, key_file: files.key } });
    const url = `https://127.0.0.1:${hf.port}`;
    const clients = [];
    t.after(async () => {
      for (const c of clients) c.close();
      await app.stop();
      await hf.stop();
    });
    const open = async () => {
      const c = new Client("4.8.4", url, { transports: ["websocket"], ca: await readFile(files.cert) });
      clients.push(c);
      await c.main.connected();
      return c;
    };
    const metric = async (name, labels) => (await hf.metrics()).sum(`holdfast_tls_certificate_${name}`, labels);
    const expires = async () => new Date((await metric("expiry_timestamp_seconds")) * 1000).getTime();

    const first = await open();
    const former = await shown(hf.port);
    assert.equal(await expires(), Date.parse(former.valid_to));

    await files.put(30);
    await until(async () => (await shown(hf.port)).serialNumber !== former.serialNumber, "the new certificate");
    const renewed = await shown(hf.port);
    await until(async () => (await expires()) === Date.parse(renewed.valid_to), "the metric to follow");
    assert.equal(await metric("reloads_total", { result: "ok" }), 1);
    await open(); // trusts the new one only
    assert.equal((await first.main.ask("echo", 1))[0], 1, "the client that was connected continues");
    assert.equal(first.main.disconnects.length, 0);

    await files.break();
    await until(async () => (await metric("reloads_total", { result: "failed" })) === 1, "the failure to be counted", 20000);
    assert.equal((await shown(hf.port)).serialNumber, renewed.serialNumber);
    await hf.says((r) => r.level === "ERROR" && /not reloaded/.test(r.msg) && /tls\.crt/.test(r.error));
    await files.put(60);
    await until(async () => (await metric("reloads_total", { result: "ok" })) === 2, "the corrected one");
    await open();
    assert.equal(await metric("reloads_total", { result: "failed" }), 1, "a broken file is reported once");
  });
});

describe("the server's certificate", { concurrency: 3, skip }, () => {
  const handshake = (hf) => request(`${hf.url}/socket.io/?EIO=4&transport=polling`);
  const cases = {
    "is checked against the CA": { tls: (files) => ({ ca_file: files.cert, server_name: "upstream.test" }), ok: true },
    "of another name is refused": { tls: (files) => ({ ca_file: files.cert, server_name: "other.test" }), why: /other\.test/ },
    "by default has to have the URL's host": { tls: (files) => ({ ca_file: files.cert }), ok: true },
    "of an authority that is not trusted is refused": { tls: () => ({ server_name: "upstream.test" }), why: /x509/ },
    "may be anything with insecure_skip_verify": { tls: () => ({ insecure_skip_verify: true }), ok: true },
  };
  for (const [what, { tls, ok, why }] of Object.entries(cases)) {
    it(what, async (t) => {
      const files = await secret(t, "upstream.test");
      const app = await App.start("4.5.4");
      const port = await terminator(t, files, app.port);
      const hf = await Holdfast.start(0, { upstream: { url: `https://127.0.0.1:${port}`, tls: tls(files) } });
      t.after(async () => {
        await app.stop();
        await hf.stop();
      });
      const res = await handshake(hf);
      assert.equal(res.status, ok ? 200 : 502, `${res.status} ${res.body}`);
      if (ok) return;
      await hf.says((r) => /upstream handshake failed/.test(r.msg) && why.test(r.error));
      await never(() => app.engineConnections > 0, "a connection to a server that is not trusted", 50);
    });
  }
});
