// Registers one test for each client version and transport.
import { it } from "node:test";
import { CLIENTS, TRANSPORTS } from "./client.js";
import { NATIVE } from "./holdfast.js";
import { SLOW } from "./wait.js";

/**
 * combos(name, {versions, transports, native: false | "legacy", ...for stack()}, async (t, make) => ...)
 * make.version and make.transport name the combination, make.options are the client's.
 */
export function combos(name, options, fn) {
  const { versions = CLIENTS, transports = Object.keys(TRANSPORTS), native = true } = options;
  for (const version of versions) {
    for (const transport of transports) {
      const skip = NATIVE && !native ? "only holdfast does this" : (options.skip ?? false);
      it(`${name} (client ${version}, ${transport})`, { skip, timeout: (options.timeout ?? 60000) * SLOW }, (t) =>
        fn(t, {
          version,
          transport,
          options: { transports: TRANSPORTS[transport] ?? ["polling", "websocket"] },
        }),
      );
    }
  }
}
