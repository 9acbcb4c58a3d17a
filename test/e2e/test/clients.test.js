// Every minor version of socket.io-client from 2.0 on, and clients in other languages: `make
// clients`. docs/compatibility.md has the results.
import { after, describe, it } from "node:test";
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { combos } from "../lib/combos.js";
import { Holdfast, onlyHoldfast } from "../lib/holdfast.js";
import { OTHERS, VERSIONS, discard, missingOther, notAsked, startOther } from "../lib/more-clients.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const options = { concurrency: 3, skip: onlyHoldfast || notAsked };
const newKey = () => randomBytes(16).toString("hex");
const keyed = { recovery: { keyed: { query: "hf_key" } } };
const serverOf = (version) => (version < "3" ? { server: "4.8.4", io: { allowEIO3: true } } : {});
const confirmed = (s) => until(async () => (await s.hf.metrics()).sum("holdfast_buffered_packets") === 0, "the client to confirm");
const parked = async (s) => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" });
const resumes = (version) => version >= "4.6";

after(discard);

describe("each minor version of socket.io-client", options, () => {
  combos("as it is by default", { versions: VERSIONS }, async (t, how) => {
    const s = await stack(t, serverOf(how.version));
    const c = s.client(how.version, how.options);
    const lengths = [];
    c.socket.on("n", (...args) => lengths.push(args.length));
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    s.app.stream("/", id, 1, 3);
    await c.main.stream(1, 3);
    // Clients of 3.0 to 4.5 look like those of 4.6, and clients of 2.x pass through.
    assert.deepEqual(lengths, how.version < "3" ? [1, 1, 1] : [2, 2, 2]);
    await s.lose(c);
    if (resumes(how.version)) s.app.stream("/", id, 4, 6);
    s.relay.up();
    const again = await c.main.connected(2);
    if (resumes(how.version)) {
      assert.deepEqual(again, { id, recovered: true });
      await c.main.stream(1, 6);
      assert.equal(s.app.disconnects.length, 0);
    } else {
      assert.notEqual(again.id, id);
    }
  });

  combos("recovers from its first drop before any event", { versions: VERSIONS.filter(resumes) }, async (t, how) => {
    const s = await stack(t);
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    await s.lose(c);
    s.app.stream("/", id, 1, 3);
    s.relay.up();
    assert.deepEqual(await c.main.connected(2), { id, recovered: true });
    await c.main.stream(1, 3);
  });

  combos("recovers by a key, without an extra argument", { versions: VERSIONS }, async (t, how) => {
    const s = await stack(t, { ...serverOf(how.version), config: keyed });
    const c = s.client(how.version, { ...how.options, query: { hf_key: newKey() } });
    const lengths = [];
    c.socket.on("n", (...args) => lengths.push(args.length));
    const { id } = await c.main.connected();
    if (how.transport === "default") await c.upgraded();
    for (let i = 1; i <= 3; i++) {
      s.app.stream("/", id, 2 * i - 1, 2 * i - 1);
      await c.main.stream(1, 2 * i - 1);
      await confirmed(s);
      await s.lose(c);
      s.app.stream("/", id, 2 * i, 2 * i);
      s.relay.up();
      assert.equal((await c.main.connected(1 + i)).id, id);
      await c.main.stream(1, 2 * i);
      await confirmed(s);
    }
    assert.deepEqual(lengths, [1, 1, 1, 1, 1, 1]);
    assert.equal(s.app.disconnects.length, 0);
  });
});

for (const other of Object.values(OTHERS)) {
  describe(other.name, { concurrency: 2, skip: onlyHoldfast || missingOther(other) }, () => {
    for (const transport of other.transports) {
      it(`by default, gets exactly what was sent, unless it can resume (${transport})`, async (t) => {
        const s = await stack(t);
        const c = await startOther(t, other, s.url, transport, "plain");
        const id = await c.connected(1);
        s.app.stream("/", id, 1, 3);
        await until(() => c.numbersOf().length === 3, () => `its events\n${c.output}`);
        assert.deepEqual(c.said.filter((x) => "n" in x).map((x) => x.args), other.recovers ? [2, 2, 2] : [1, 1, 1]);
        s.relay.down();
        await c.disconnected(1);
        s.relay.up();
        const again = await c.connected(2);
        if (other.recovers) assert.equal(again, id);
        else assert.notEqual(again, id);
        if (!other.recovers && transport === "websocket") await until(async () => (await parked(s)) === 0, "no parked session");
      });

      it(`recovers by its key, and the server sees nothing (${transport})`, async (t) => {
        const s = await stack(t, { config: keyed });
        const c = await startOther(t, other, s.url, transport, "key");
        const id = await c.connected(1);
        if (!other.oneID) await c.connected(1, "/admin");
        for (let i = 1; i <= 4; i++) {
          s.app.stream("/", id, 3 * i - 2, 3 * i - 2);
          await until(() => c.numbersOf().length === 3 * i - 2, () => `its event\n${c.output}${c.errors ?? ""}`);
          await confirmed(s);
          // In every second round only the client's side ends, and holdfast's stays open.
          s.relay[i % 2 ? "down" : "abandon"]();
          await c.disconnected(i);
          s.app.stream("/", id, 3 * i - 1, 3 * i);
          s.relay.up();
          assert.equal(await c.connected(i + 1), id);
          await until(() => c.numbersOf().length === 3 * i, () => `what it missed\n${c.output}`);
          await confirmed(s);
        }
        assert.deepEqual(c.numbersOf(), Array.from({ length: 12 }, (_, i) => i + 1));
        assert.deepEqual(new Set(c.said.filter((x) => "n" in x).map((x) => x.args)), new Set([1]));
        assert.equal(s.app.disconnects.length, 0);
      });

      it(`comes back immediately when its server is lost, and when holdfast stops (${transport})`, async (t) => {
        const s = await stack(t, { config: { ...keyed, shutdown: { drain_timeout: "100ms" } }, upstreamRelay: true });
        const c = await startOther(t, other, s.url, transport, "key");
        await c.connected(1);
        s.upRelay.cut();
        await c.connected(2);
        if (other.stuck === transport) return;
        await s.hf.stop();
        s.hf = await Holdfast.start(s.upRelay.port, { ...keyed, listen: s.hf.config.listen });
        await c.connected(3);
      });

      if (!other.counts) continue;
      it(`gets each event exactly once by counting (${transport})`, async (t) => {
        const s = await stack(t, { config: keyed, io: { pingInterval: 1000, pingTimeout: 2000 } });
        const c = await startOther(t, other, s.url, transport, "count");
        const id = await c.connected(1);
        const ticker = s.app.ticker("/", id, { every: 3 });
        for (let i = 1; i <= 8; i++) {
          const at = c.numbersOf().length;
          await until(() => c.numbersOf().length > at + 10, () => `some events\n${c.output.slice(-400)}${c.errors ?? ""}`);
          const gone = c.said.filter((x) => x.disconnected && x.nsp === "/").length;
          await until(() => {
            s.relay.cut(); // between two polls there is nothing to cut
            return c.said.filter((x) => x.disconnected && x.nsp === "/").length > gone;
          }, "it to notice", 20000);
          await c.connected(i + 1);
        }
        const last = ticker.stop();
        await until(() => c.numbersOf().length >= last, () => `all events\n${c.errors ?? ""}`);
        assert.deepEqual(c.numbersOf(), Array.from({ length: last }, (_, i) => i + 1));
        assert.deepEqual(new Set(c.ids), new Set([id]));
        assert.equal(s.app.disconnects.length, 0);
      });
    }
  });
}
