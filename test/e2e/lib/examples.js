// The examples of docs/clients.md, which tests run.
import { readFileSync } from "node:fs";

const parts = readFileSync(new URL("../../../docs/clients.md", import.meta.url), "utf8").split("```");

/** The example in a language that has a word. */
export function example(language, word) {
  const found = parts.find((part) => part.startsWith(`${language}\n`) && part.includes(word));
  if (!found) throw new Error(`docs/clients.md has no example in ${language} with ${word}`);
  return found.slice(language.length + 1);
}
