// The process of a ChildApp (server.js).
import { App } from "./server.js";

const { version, ...options } = JSON.parse(process.argv[2]);
const app = await App.start(version, options);

process.on("message", async ({ id, name, args }) => {
  try {
    const value = typeof app[name] === "function" ? await app[name](...args) : app[name];
    process.send({ id, value: JSON.parse(JSON.stringify(value ?? null)) });
  } catch (err) {
    process.send({ id, error: String(err.stack) });
  }
});
process.on("disconnect", () => process.exit(0));
process.send({ port: app.port });
