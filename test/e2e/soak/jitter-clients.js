// The clients of jitter.js: real ones with their defaults, over WebSocket.
import { createRequire } from "node:module";
import { serve } from "./child.js";

const require = createRequire(import.meta.url);
const { urls } = JSON.parse(process.argv[2]);
const { io } = require("socket.io-client-4.8.4");

class Client {
  constructor(url) {
    this.seen = new Set();
    this.first = 0; // number of the first event: those before were not for this client
    this.highest = 0;
    this.doubled = 0;
    this.reordered = 0;
    this.connections = 0;
    this.recovered = 0;
    this.socket = io(url, { transports: ["websocket"], forceNew: true });
    this.socket.on("connect", () => {
      this.connections++;
      if (this.socket.recovered) this.recovered++;
    });
    this.socket.on("tick", (i) => this.#take(i));
  }

  #take(i) {
    this.first ||= i;
    if (this.seen.has(i)) {
      this.doubled++;
      return;
    }
    this.seen.add(i);
    if (i < this.highest) this.reordered++;
    this.highest = Math.max(this.highest, i);
  }
}

const clients = urls.map((url) => new Client(url));
const sum = (value) => clients.reduce((n, c) => n + value(c), 0);

serve({
  connected: () => clients.every((c) => c.socket.connected),
  receiving: () => clients.every((c) => c.first > 0),
  /** The outcome of the events up to number `last`. */
  result: (last) => ({
    sent: sum((c) => last - c.first + 1),
    delivered: sum((c) => c.seen.size),
    doubled: sum((c) => c.doubled),
    reordered: sum((c) => c.reordered),
    reconnections: sum((c) => c.connections - 1),
    recovered: sum((c) => c.recovered),
  }),
});
