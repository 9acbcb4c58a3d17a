// examples/chat: started by its one command, and used in Chromium.
import { after, before, describe, it } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { noBrowser, openBrowser } from "../lib/browser.js";
import { accepts, binary, onlyHoldfast } from "../lib/holdfast.js";
import { freePort } from "../lib/ports.js";
import { until } from "../lib/wait.js";

const start = fileURLToPath(new URL("../../../examples/chat/start.js", import.meta.url));

/** Starts the chat, in which no bot talks, and stops it after the test. */
async function startChat(t) {
  const port = await freePort();
  const child = spawn(process.execPath, [start, "--port", `${port}`, "--bot", "0"], {
    env: { ...process.env, HOLDFAST_BIN: await binary() },
  });
  const exited = once(child, "close");
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  t.after(async () => {
    child.kill("SIGTERM");
    const [code] = await exited;
    assert.equal(code, 0, output);
    assert.doesNotMatch(output, /panic:|DATA RACE/);
  });
  // On its first start it installs its packages.
  await until(
    async () => {
      if (child.exitCode !== null) throw new Error(`the chat ended: ${output}`);
      return accepts(port);
    },
    () => `the chat to listen\n${output}`,
    60000,
  );
  await until(() => /The chat is at (\S+)/.test(output), "its address");
  assert.equal(/The chat is at (\S+)/.exec(output)[1], `http://localhost:${port}`);
  return `http://localhost:${port}`;
}

describe("the example chat", { skip: onlyHoldfast || noBrowser }, () => {
  let browser;
  before(async () => (browser = await openBrowser()));
  after(() => browser?.close());

  it("keeps the socket, the room and what was said while the connection was cut", async (t) => {
    const url = await startChat(t);
    const open = async (options) => {
      const page = await browser.newPage(options);
      t.after(() => page.close());
      await page.goto(url);
      await page.getByText("connected", { exact: true }).waitFor();
      return page;
    };
    const say = async (page, text) => {
      await page.getByLabel("Message").fill(text);
      await page.getByRole("button", { name: "Send" }).click();
    };
    const log = (page, kind) => page.locator(`#log li.${kind}`).allTextContents();
    const people = (page, ...names) =>
      until(async () => (await page.textContent("#people")).split(", ").sort().join() === names.join(), `the people: ${names}`, 15000);

    const ann = await open({ viewport: { width: 390, height: 700 }, colorScheme: "dark" });
    const bob = await open({ viewport: { width: 1100, height: 700 }, colorScheme: "light" });
    for (const page of [ann, bob]) {
      await page.getByRole("button", { name: "kitchen" }).click();
      await page.locator('button[aria-pressed=true]:text-is("kitchen")').waitFor();
    }
    await people(ann, "Guest 2", "you");
    const id = await ann.textContent("#id");
    await say(bob, "before");
    await ann.getByText("Guest 2: before").waitFor();
    assert.equal(await ann.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0, "it fits a phone");
    const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.deepEqual([await background(ann), await background(bob)], ["rgb(20, 23, 26)", "rgb(255, 255, 255)"], "dark and light");

    await ann.getByRole("button", { name: "Cut the connection" }).click();
    await ann.getByText("away", { exact: true }).waitFor();
    await people(bob, "Guest 1 (away)", "you");
    for (const text of ["one", "two", "three"]) {
      await say(bob, text);
      await bob.getByText(`Guest 2: ${text}`, { exact: true }).waitFor();
    }
    await bob.getByRole("button", { name: "garden" }).click();
    await bob.locator('button[aria-pressed=true]:text-is("garden")').waitFor();
    assert.deepEqual(await log(ann, "missed"), []);

    await ann.getByRole("button", { name: "Let it come back" }).click();
    await ann.getByText("connected", { exact: true }).waitFor();
    await until(async () => (await log(ann, "missed")).length === 3, "what she missed", 15000);
    assert.deepEqual(await log(ann, "missed"), ["Guest 2: one", "Guest 2: two", "Guest 2: three"]);
    assert.equal(await ann.textContent("#id"), id, "the same socket");
    assert.equal((await log(ann, "recovered")).length, 1);
    assert.equal((await log(ann, "fresh")).length, 1, "the first connection only");
    await people(ann, "you");

    // She is still in her room, and messages from now on do not count as missed.
    await say(ann, "I am back");
    await ann.getByText("Guest 1: I am back").waitFor();
    assert.equal((await log(ann, "missed")).length, 3);
    await bob.getByRole("button", { name: "kitchen" }).click();
    await people(bob, "Guest 1", "you");
    await say(bob, "welcome");
    await ann.getByText("Guest 2: welcome").waitFor();
    assert.deepEqual(await log(ann, "message"), ["Guest 2: before", "Guest 1: I am back", "Guest 2: welcome"]);
    assert.deepEqual(browser.complaints, []);
    if (process.env.HOLDFAST_E2E_LOGS) await ann.screenshot({ path: `${process.env.HOLDFAST_E2E_LOGS}/chat.png` });
  });
});
