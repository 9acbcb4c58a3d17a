// The proxies of deploy/fronts, with those configurations. Only addresses are replaced.
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { accepts } from "./holdfast.js";
import { freePort } from "./ports.js";
import { Daemon, ROOT } from "./tools.js";

/** Replaces every `from`, which must occur. */
function swap(text, from, to) {
  if (!text.includes(from)) throw new Error(`the configuration has no ${from}`);
  return text.replaceAll(from, to);
}

const quoted = (text) => text.replaceAll(".", "\\.");

const kinds = {
  nginx: {
    file: "nginx.conf",
    adapt(text, port, replicas) {
      text = swap(text, "listen 80;", `listen 127.0.0.1:${port};`);
      replicas.forEach((hf, i) => {
        text = swap(text, `10.0.0.1${i + 1}:8080`, `127.0.0.1:${hf.port}`);
        text = swap(text, quoted(`10.0.0.1${i + 1}:8080`), quoted(`127.0.0.1:${hf.port}`));
      });
      return text;
    },
    // The file belongs inside an nginx.conf, of which this is the minimum.
    async command(dir, file) {
      const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((p) => `${p}_temp_path ${dir}/${p};`);
      const main = `daemon off; master_process off; pid ${dir}/pid; error_log stderr warn; events { worker_connections 512; }
        http { access_log off; ${paths.join(" ")} include ${file}; }`;
      await writeFile(path.join(dir, "main.conf"), main);
      return { args: ["-p", dir, "-e", "stderr", "-c", path.join(dir, "main.conf")] };
    },
  },
  haproxy: {
    file: "haproxy.cfg",
    adapt(text, port, replicas) {
      text = swap(text, "bind :80\n", `bind 127.0.0.1:${port}\n`);
      text = swap(text, "maxconn 50000", "maxconn 500");
      replicas.forEach((hf, i) => {
        const name = "ab"[i];
        text = swap(text, `server ${name} 10.0.0.1${i + 1}:8080`, `server ${name} 127.0.0.1:${hf.port} port ${hf.adminPort}`);
      });
      return text;
    },
    command: (dir, file) => ({ args: ["-db", "-f", file] }),
  },
  caddy: {
    file: "Caddyfile",
    adapt(text, port, replicas) {
      text = swap(text, "\nchat.example.com {", `\n{\n\tadmin off\n}\n\nhttp://127.0.0.1:${port} {`);
      text = swap(text, "health_port 9090", `health_port ${replicas[0].adminPort}`);
      replicas.forEach((hf, i) => (text = swap(text, `10.0.0.1${i + 1}:8080`, `127.0.0.1:${hf.port}`)));
      return text;
    },
    command: (dir, file) => ({ args: ["run", "--config", file, "--adapter", "caddyfile"], env: { HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir } }),
  },
};

/** Starts nginx, haproxy or caddy in front of two replicas, until the test ends. Returns its address. */
export async function front(t, kind, replicas) {
  const { file, adapt, command } = kinds[kind];
  const port = await freePort();
  const text = adapt(await readFile(path.join(ROOT, "deploy/fronts", file), "utf8"), port, replicas);
  const daemon = await Daemon.start(t, kind, async (dir) => {
    const conf = path.join(dir, file);
    await writeFile(conf, text);
    return { ready: () => accepts(port), ...(await command(dir, conf)) };
  });
  daemon.port = port;
  daemon.url = `http://127.0.0.1:${port}`;
  return daemon;
}
