// A real Prometheus that scrapes a holdfast under test, with the rules in deploy/prometheus.
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { accepts } from "./holdfast.js";
import { freePort } from "./ports.js";
import { Daemon, ROOT } from "./tools.js";
import { until } from "./wait.js";

export class Prometheus {
  static async start(t, targets) {
    const p = new Prometheus();
    const port = await freePort();
    p.url = `http://127.0.0.1:${port}`;
    p.daemon = await Daemon.start(t, "prometheus", async (dir) => {
      const file = path.join(dir, "prometheus.yaml");
      await writeFile(
        file,
        `global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: ["${ROOT}deploy/prometheus/rules.yaml"]
scrape_configs:
  - job_name: holdfast
    static_configs: [{targets: ${JSON.stringify(targets)}}]
`,
      );
      const args = [`--config.file=${file}`, `--storage.tsdb.path=${dir}/data`, `--web.listen-address=127.0.0.1:${port}`, "--log.level=warn"];
      return { args, ready: async () => (await accepts(port)) && (await fetch(`${p.url}/-/ready`)).ok };
    });
    return p;
  }

  /** A call of the HTTP API; returns its data. */
  async api(where, parameters = {}) {
    const res = await fetch(`${this.url}/api/v1/${where}?${new URLSearchParams(parameters)}`);
    const answer = await res.json();
    if (answer.status !== "success") throw new Error(`${where} ${JSON.stringify(parameters)}: ${answer.error}`);
    return answer.data;
  }

  /** The samples of an expression: [{metric, value: [time, text]}]. */
  async query(expr) {
    const { result, resultType } = await this.api("query", { query: expr });
    return resultType === "scalar" ? [{ metric: {}, value: result }] : result;
  }

  /** Waits until an expression has a sample; returns the first one's number. */
  async value(expr) {
    const [sample] = await until(
      async () => {
        const samples = await this.query(expr);
        return samples.length > 0 && samples;
      },
      () => `a sample of ${expr}`,
      15000,
    );
    return Number(sample.value[1]);
  }
}

/** The selectors in an expression, such as up{job="x"}; one for each alternative of a regular expression. */
export function selectors(expr) {
  const found = expr.matchAll(/\b((?:holdfast|process|go)_\w+|up|[a-z]+:[\w:]+)(\{[^}]*\})?/g);
  return [...found].flatMap(([, name, labels = ""]) => {
    const several = /(\w+)(=~|!~)"(\w+(?:\|\w+)+)"/.exec(labels);
    if (!several) return [name + labels];
    return several[3].split("|").map((value) => name + labels.replace(several[0], `${several[1]}="${value}"`));
  });
}
