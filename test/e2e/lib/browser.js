// A real browser: headless Chromium (Debian's package, or CHROMIUM=path), driven by
// playwright-core.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";
import { SLOW } from "./wait.js";

const CHROMIUM = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find(
  (path) => path && existsSync(path),
);

/** For page tests: {skip: noBrowser}. In CI a browser is required, and tests without one fail. */
export const noBrowser = CHROMIUM || process.env.CI ? false : "needs Debian's package chromium";

/**
 * Starts Chromium. It is closed, and its profile removed, after the test `t` or, without one, by browser.close().
 *
 *   const browser = await openBrowser(t);
 *   const page = await browser.newPage({ viewport: { width: 390, height: 844 }, colorScheme: "dark" });
 *   await page.goto(url);
 *
 * It is a playwright Browser. Each page of newPage has its own cookies and cache. browser.complaints lists what pages did
 * wrong: uncaught errors, and errors on the console. A browser takes about a second to start, so share one per file.
 */
export async function openBrowser(t) {
  if (!CHROMIUM) throw new Error("no Chromium here: install Debian's package chromium, or set CHROMIUM to its path");
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    timeout: 30000 * SLOW,
    chromiumSandbox: process.getuid() !== 0, // the sandbox does not work as root
    args: ["--disable-gpu", "--disable-dev-shm-usage"],
  });
  t?.after(() => browser.close());

  browser.complaints = [];
  const { newContext } = browser;
  browser.newContext = async (...args) => {
    const context = await newContext.apply(browser, args);
    context.setDefaultTimeout(10000 * SLOW);
    context.on("weberror", (event) => browser.complaints.push(String(event.error())));
    context.on("console", (message) => {
      const { url } = message.location();
      // Chromium requests it by itself.
      if (message.type() !== "error" || url.endsWith("/favicon.ico")) return;
      browser.complaints.push(`${message.text()} (${url})`);
    });
    return context;
  };
  return browser;
}
