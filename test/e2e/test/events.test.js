// Events that a client may miss while it is away: events.volatile and events.latest.
import { describe, it } from "node:test";
import assert from "node:assert/strict";
import { combos } from "../lib/combos.js";
import { runHoldfast } from "../lib/holdfast.js";
import { stack } from "../lib/stack.js";
import { until } from "../lib/wait.js";

const parallel = { concurrency: 4 };
const config = { events: { volatile: ["cursor", "typing*", "/admin alarm"], latest: ["position*", "größe"] } };

/** What a client has of everything, without offsets: [name, first argument]. */
const seen = (nsp) => nsp.events.map(([name, value]) => [name, Buffer.isBuffer(value) ? value.toString() : value]);

describe("events while a client is away", parallel, () => {
  combos("volatile ones are dropped, of the latest the newest is kept", { native: false }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const admin = c.of("/admin");
    const adminId = (await admin.connected()).id;
    const emit = (...args) => s.app.emit("/", id, ...args);
    const dropped = (m, reason) => m.sum("holdfast_events_dropped_total", { reason });
    const back = async (former) => {
      s.relay.up();
      for (const nsp of [c.main, admin]) await nsp.connected(former + 1);
    };
    const parked = async () => (await s.hf.metrics()).sum("holdfast_sessions", { state: "parked" }) === 2;
    // The client may not notice a cut between two polls. Then cut once more.
    const lose = async () => {
      for (;;) {
        await s.lose(c);
        try {
          return await until(parked, "the sessions to be parked", 3000);
        } catch {
          await back(c.main.connects.length);
        }
      }
    };
    // How many packets holdfast has read, while none are confirmed.
    const read = async () => {
      const m = await s.hf.metrics();
      return m.sum("holdfast_buffered_packets") + dropped(m, "volatile") + dropped(m, "superseded");
    };

    // While it is connected it gets all of them.
    for (const name of ["cursor", "typing", "position", "news", "position"]) emit(name, name);
    await until(() => c.main.events.length === 5, "the events of a client that is here");

    for (let round = 1; round <= 2; round++) {
      if (how.transport === "default") await c.upgraded();
      // After the upgrade: holdfast has switched too, and will notice the cut.
      await c.main.ask("echo", round);
      await lose();
      c.main.events.length = admin.events.length = 0;
      const before = await read();
      for (let i = 1; i <= 90; i++) {
        emit("cursor", i);
        emit("position", i);
        emit("position:7", Buffer.from(`at ${i}`));
        if (i % 30 === 0) emit("news", i);
      }
      emit("typing:start", Buffer.from("xyz"));
      emit("größe", 1);
      emit("mistyping", 1);
      emit("größe", 2);
      s.app.socket(id).emit("cursor", "asks", () => {}); // the server waits for the answer
      emit("alarm", 1);
      s.app.emit("/admin", adminId, "alarm", 1);
      s.app.emit("/admin", adminId, "last", 1);
      await until(async () => (await read()) === before + 281, "holdfast to have read all of it", 20000);
      await back(c.main.connects.length);
      await until(() => seen(c.main).at(-1)?.[0] === "alarm" && seen(admin).length, () => `the last event; have ${JSON.stringify(seen(c.main))}`, 20000);
      assert.deepEqual(seen(c.main), [
        ["news", 30],
        ["news", 60],
        ["position", 90],
        ["position:7", "at 90"],
        ["news", 90],
        ["mistyping", 1],
        ["größe", 2],
        ["cursor", "asks"],
        ["alarm", 1],
      ]);
      assert.deepEqual(seen(admin), [["last", 1]]);
    }
    c.main.assertRecovered();
    assert.deepEqual(s.app.disconnects, []);

    // The client is served as before.
    c.main.events.length = 0;
    for (const name of ["cursor", "position", "position"]) emit(name, name);
    await until(() => c.main.events.length === 3, "the events of a client that is back");
    // Some of the first events may be counted as well: they had arrived, but were not confirmed.
    const m = await s.hf.metrics();
    const [volatile, superseded] = [dropped(m, "volatile"), dropped(m, "superseded")];
    assert.ok(volatile >= 2 * 92 && volatile <= 2 * 92 + 2, `${volatile} volatile`);
    assert.ok(superseded >= 2 * 179 && superseded <= 2 * 179 + 8, `${superseded} superseded`);
  });

  combos("none comes twice or out of order, whatever the moment of the cut", { native: false, versions: ["4.8.4"] }, async (t, how) => {
    const s = await stack(t, { config });
    const c = s.client(how.version, how.options);
    const { id } = await c.main.connected();
    const names = ["cursor", "n2", "position"];
    const numbers = [];
    for (const name of names) c.socket.on(name, (i) => numbers.push([name, i]));
    let sent = 0;
    const ticker = setInterval(() => {
      for (let k = 0; k < 9; k++) s.app.emit("/", id, names[++sent % 3], sent);
    }, 3);
    t.after(() => clearInterval(ticker));
    for (let cut = 1; cut <= 5; cut++) {
      await c.main.connected(cut);
      const before = sent;
      await until(() => sent > before + 60, "some events");
      await s.hit(c);
    }
    await c.main.connected(6);
    clearInterval(ticker);
    s.app.emit("/", id, "n2", ++sent);
    await until(() => numbers.at(-1)?.[1] === sent, "the last event", 20000);
    c.main.assertRecovered();
    for (let i = 1; i < numbers.length; i++) {
      assert.ok(numbers[i][1] > numbers[i - 1][1], `${numbers[i]} came after ${numbers[i - 1]}`);
    }
    const kept = numbers.filter(([name]) => name === "n2").map(([, i]) => i);
    const want = Array.from({ length: sent }, (_, i) => i + 1).filter((i) => names[i % 3] === "n2" || i === sent);
    assert.deepEqual(kept, want, "every other event came");
  });

  it("an implausible pattern is refused", async () => {
    const { code, stderr } = await runHoldfast(["-check", "-config", "c.yaml"], {
      files: { "c.yaml": 'events:\n  volatile: [cursor, /game]\n  latest: "position"\n' },
    });
    assert.equal(code, 2);
    assert.match(stderr, /c\.yaml:2: events\.volatile: found "\/game"; allowed: an event after the namespace, such as "\/game position"/);
    assert.match(stderr, /c\.yaml:3: events\.latest: found "position"; allowed: a list/);
  });
});
