// A DNS server for tests (RFC 1035): it knows the A records of a few names.
import dgram from "node:dgram";
import { once } from "node:events";

const A = 1;
const NXDOMAIN = 3;
const SERVFAIL = 2;

/** records: {name: [IPv4 addresses]}, which a test may change. failing: answer nothing but SERVFAIL. */
export class DNS {
  static async start(t, records) {
    const dns = new DNS();
    dns.records = records;
    dns.questions = 0;
    dns.socket = dgram.createSocket("udp4");
    dns.socket.on("message", (query, from) => dns.socket.send(dns.answer(query), from.port, from.address));
    dns.socket.bind(0, "127.0.0.1");
    await once(dns.socket, "listening");
    dns.address = `127.0.0.1:${dns.socket.address().port}`;
    t.after(() => dns.socket.close());
    return dns;
  }

  answer(query) {
    this.questions++;
    const labels = [];
    let at = 12;
    while (query[at] !== 0) {
      labels.push(query.toString("latin1", at + 1, at + 1 + query[at]));
      at += 1 + query[at];
    }
    const type = query.readUInt16BE(at + 1);
    const question = query.subarray(12, at + 5);
    const addresses = this.records[labels.join(".").toLowerCase()];
    const answers = type === A && !this.failing ? (addresses ?? []) : []; // no AAAA
    const head = Buffer.alloc(12);
    query.copy(head, 0, 0, 2);
    head.writeUInt16BE(0x8180 | (this.failing ? SERVFAIL : addresses ? 0 : NXDOMAIN), 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt16BE(answers.length, 6);
    const records = answers.map((ip) => Buffer.from([0xc0, 12, 0, A, 0, 1, 0, 0, 0, 1, 0, 4, ...ip.split(".").map(Number)]));
    return Buffer.concat([head, question, ...records]);
  }
}
