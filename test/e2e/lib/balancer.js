// Balancers in front of several replicas: one sends connections where the test says, and one
// distributes single requests round-robin, without any stickiness.
import http from "node:http";
import net from "node:net";
import { once } from "node:events";

/** A TCP proxy whose target the test changes. */
export class Switch {
  /** Starts a switch to a port. */
  static async start(port) {
    const s = new Switch();
    s.target = port;
    s.connections = new Set();
    s.server = net.createServer({ noDelay: true, allowHalfOpen: true }, (near) => s.#pass(near));
    s.server.listen(0, "127.0.0.1");
    await once(s.server, "listening");
    s.port = s.server.address().port;
    s.url = `http://127.0.0.1:${s.port}`;
    return s;
  }

  #pass(near) {
    const target = this.target;
    const far = net.connect({ port: target, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
    const pair = { near, far, target };
    this.connections.add(pair);
    const end = () => {
      near.destroy();
      far.destroy();
      this.connections.delete(pair);
    };
    for (const [a, b] of [[near, far], [far, near]]) {
      a.on("error", end);
      a.on("close", end);
      a.pipe(b);
    }
  }

  /** Ends all connections, and sends the next ones to a port. */
  moveTo(port) {
    this.target = port;
    for (const { near, far } of [...this.connections]) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
  }

  async close() {
    this.moveTo(0);
    this.server.close();
  }
}

/** An HTTP proxy that sends each request, and each upgrade, to the next of several ports. */
export class RoundRobin {
  static async start(ports) {
    const b = new RoundRobin();
    b.ports = ports;
    b.next = 0;
    b.counts = new Map(); // port -> requests
    b.sockets = new Set();
    b.server = http.createServer((req, res) => b.#request(req, res));
    b.server.on("upgrade", (req, socket, head) => b.#upgrade(req, socket, head));
    b.server.on("connection", (socket) => {
      b.sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => b.sockets.delete(socket));
    });
    b.server.listen(0, "127.0.0.1");
    await once(b.server, "listening");
    b.port = b.server.address().port;
    b.url = `http://127.0.0.1:${b.port}`;
    return b;
  }

  #pick() {
    const port = this.ports[this.next++ % this.ports.length];
    this.counts.set(port, (this.counts.get(port) ?? 0) + 1);
    return port;
  }

  #request(req, res) {
    const { method, url, rawHeaders: headers } = req;
    const out = http.request({ host: "127.0.0.1", port: this.#pick(), method, path: url, headers, agent: false }, (answer) => {
      res.writeHead(answer.statusCode, answer.rawHeaders);
      answer.pipe(res);
      answer.on("error", () => res.destroy());
    });
    out.on("error", () => res.destroy());
    res.on("close", () => out.destroy());
    req.pipe(out);
  }

  #upgrade(req, near, head) {
    const far = net.connect(this.#pick(), "127.0.0.1");
    const lines = [`${req.method} ${req.url} HTTP/1.1`];
    for (let i = 0; i < req.rawHeaders.length; i += 2) lines.push(`${req.rawHeaders[i]}: ${req.rawHeaders[i + 1]}`);
    far.write(lines.join("\r\n") + "\r\n\r\n");
    far.write(head);
    for (const [a, b] of [[near, far], [far, near]]) {
      a.on("error", () => b.destroy());
      a.on("close", () => b.destroy());
      a.pipe(b);
    }
  }

  /** Ends all connections of clients. */
  cut() {
    for (const socket of this.sockets) socket.destroy();
  }

  async close() {
    this.cut();
    this.server.close();
  }
}
