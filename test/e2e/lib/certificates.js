// Certificates for tests, made by openssl.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";

/** Why a test that needs a certificate cannot run here, or false. */
export const noOpenSSL = spawnSync("openssl", ["version"]).status !== 0 && "openssl is not installed";

/** A directory whose files tls.crt and tls.key are those of a mounted Kubernetes Secret; put(days) renews them. */
export async function secret(t, name = "holdfast.test") {
  const dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const s = { cert: path.join(dir, "tls.crt"), key: path.join(dir, "tls.key"), version: 0 };
  s.make = async (days) => {
    const version = `..${++s.version}`;
    await mkdir(path.join(dir, version));
    const [key, cert] = ["tls.key", "tls.crt"].map((f) => path.join(dir, version, f));
    const made = spawnSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", `${days}`, "-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:${name},IP:127.0.0.1`, "-keyout", key, "-out", cert]);
    assert.equal(made.status, 0, String(made.stderr));
    return version;
  };
  s.point = async (version) => {
    await symlink(version, path.join(dir, "..new"));
    await rename(path.join(dir, "..new"), path.join(dir, "..data"));
  };
  s.put = async (days) => s.point(await s.make(days));
  s.break = async () => {
    const version = `..${++s.version}`;
    await mkdir(path.join(dir, version));
    await writeFile(path.join(dir, version, "tls.crt"), "no certificate");
    await writeFile(path.join(dir, version, "tls.key"), "no key");
    await s.point(version);
  };
  await s.put(2);
  for (const f of ["tls.crt", "tls.key"]) await symlink(`..data/${f}`, path.join(dir, f));
  return s;
}
