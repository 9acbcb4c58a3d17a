// What `make dist` builds, for this platform: reproducible, with checksums, and a Debian package
// that installs, serves and goes without a trace.
import { after, before, describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, readdir, rm, stat } from "node:fs/promises";
import { once } from "node:events";
import os from "node:os";
import path from "node:path";
import { accepts, onlyHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { ROOT, missing, run } from "../lib/tools.js";
import { until } from "../lib/wait.js";

const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_")));
const notLinux = process.platform !== "linux" && "deb and rpm packages are for Linux";

/** Runs a program that has to end well, and returns what it writes. */
function output(program, args, options) {
  const r = run(program, args, options);
  assert.equal(r.status, 0, `${program} ${args.join(" ")}\n${r.output}`);
  return r.output;
}

function skipInstall() {
  if (process.getuid?.() !== 0) return "needs root";
  if (run("dpkg-query", ["-W", "holdfast"]).status === 0) return "a package holdfast is installed here";
  return false;
}

describe("what make dist builds", { skip: onlyHoldfast || notLinux || missing("dpkg") }, () => {
  let dir;
  let files;
  const file = (end) => path.join(dir, "1", files.find((f) => f.endsWith(end)));
  before(async () => {
    dir = await mkdtemp(path.join(os.tmpdir(), "holdfast-e2e-dist-"));
    // Twice: the same commit makes the same bytes.
    for (const n of ["1", "2"]) {
      const release = ["-out", path.join(dir, n), "-platforms", "host", "-version", "v0.1.2", "-commit", "0123abcd", "-date", "2026-01-02T03:04:05Z"];
      output("go", ["run", "./scripts/release", "dist", ...release], { cwd: ROOT });
    }
    files = await readdir(path.join(dir, "1"));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it("has checksums, and is the same each time", async () => {
    const sums = await readFile(path.join(dir, "1", "SHA256SUMS"), "utf8");
    assert.equal(sums, await readFile(path.join(dir, "2", "SHA256SUMS"), "utf8"));
    assert.equal(sums.trim().split("\n").length, files.length - 1);
    output("sha256sum", ["--check", "--strict", "SHA256SUMS"], { cwd: path.join(dir, "1") });
  });

  it("has an archive that runs, with all that belongs to it", async () => {
    output("tar", ["-xzf", file(".tar.gz"), "-C", dir]);
    const unpacked = path.join(dir, path.basename(file(".tar.gz"), ".tar.gz"));
    const binary = path.join(unpacked, "holdfast");
    assert.match(output(binary, ["-version"], { env }), /^holdfast v0\.1\.2 \(commit 0123abcd, 2026-01-02T03:04:05Z, go/);
    output(binary, ["-check", "-config", path.join(unpacked, "config.example.yaml")], { env });
    for (const name of ["LICENSE", "THIRD-PARTY-NOTICES.txt", "config.schema.json", "completions/_holdfast", "systemd/holdfast.service"])
      assert.ok((await stat(path.join(unpacked, name))).size > 100, name);
    output("bash", ["-n", path.join(unpacked, "completions/holdfast.bash")]);
  });

  it("has a bill of materials that names each module of go.mod that is built in", async () => {
    const bom = JSON.parse(await readFile(file(".cdx.json"), "utf8"));
    assert.deepEqual([bom.bomFormat, bom.metadata.component.version], ["CycloneDX", "v0.1.2"]);
    const deps = output("go", ["list", "-deps", "-f", "{{with .Module}}{{if not .Main}}pkg:golang/{{.Path}}@{{.Version}}{{end}}{{end}}", "."], {
      cwd: ROOT,
      env: { ...process.env, CGO_ENABLED: "0" },
    });
    const listed = bom.components.map((c) => c.purl).filter((p) => !p.startsWith("pkg:golang/std@"));
    assert.deepEqual(listed.sort(), [...new Set(deps.trim().split("\n").filter(Boolean))].sort());
  });

  it("has an rpm with the same files as the deb", { skip: missing("rpm") }, () => {
    const deb = output("dpkg-deb", ["--contents", file(".deb")]);
    const rpm = output("rpm", ["--query", "--package", "--nosignature", "--list", file(".rpm")]).trim().split("\n");
    for (const name of rpm) {
      if (name.includes("/zsh/")) continue; // elsewhere
      assert.ok(deb.includes(` .${name}\n`), `${name} is not in the deb`);
    }
    assert.ok(rpm.includes("/usr/bin/holdfast") && rpm.includes("/usr/lib/systemd/system/holdfast.service"));
    assert.equal(output("rpm", ["--query", "--package", "--nosignature", "--configfiles", file(".rpm")]).trim(), "/etc/holdfast/holdfast.yaml");
  });

  it("has a deb that installs, serves, and is purged without leftovers", { skip: skipInstall() }, async (t) => {
    const wants = "/etc/systemd/system/multi-user.target.wants/holdfast.service";
    t.after(() => run("dpkg", ["--purge", "holdfast"]));
    output("dpkg", ["--install", file(".deb")]);
    const installed = output("dpkg", ["--listfiles", "holdfast"]).trim().split("\n").filter((f) => f.includes("holdfast"));
    assert.ok(installed.length > 10, installed.join());

    const [port, admin] = [await freePort(), await freePort()];
    const settings = { ...env, HOLDFAST_LISTEN: `127.0.0.1:${port}`, HOLDFAST_ADMIN_LISTEN: `127.0.0.1:${admin}` };
    const args = ["-config", "/etc/holdfast/holdfast.yaml"];
    const child = spawn("/usr/bin/holdfast", args, { env: settings, stdio: "ignore" });
    const ended = once(child, "exit");
    t.after(() => child.kill("SIGKILL"));
    await until(() => accepts(port), "holdfast to listen");
    assert.equal(output("/usr/bin/holdfast", ["health", ...args], { env: settings }), "ok\n");
    child.kill("SIGTERM");
    assert.deepEqual(await ended, [0, null]);
    const down = run("/usr/bin/holdfast", ["health", ...args], { env: settings });
    assert.equal(down.status, 1);
    assert.match(down.output, /not healthy: no answer from http:\/\/127\.0\.0\.1:\d+\/readyz/);

    if (!missing("systemd-analyze")) {
      const verify = run("systemd-analyze", ["verify", "--man=no", "--generators=no", "holdfast.service"]);
      assert.ok(verify.status === 0 && !verify.output.includes("holdfast.service"), verify.output);
      output("systemctl", ["enable", "holdfast.service"]);
      assert.ok(existsSync(wants));
    }
    output("dpkg", ["--remove", "holdfast"]);
    assert.ok(!existsSync("/usr/bin/holdfast") && !existsSync(wants));
    assert.ok(existsSync("/etc/holdfast/holdfast.yaml"), "the configuration stays until a purge");
    output("dpkg", ["--purge", "holdfast"]);
    assert.deepEqual(installed.filter((f) => existsSync(f)), []);
  });
});
