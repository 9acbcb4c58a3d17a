/// <reference types="node" />
import type { AddressInfo } from "node:net";

/** One line of holdfast's log. */
export interface LogEntry {
  level: string;
  msg: string;
  time?: string;
  [attribute: string]: unknown;
}

/** A server that listens: one of node:http, node:https, or a framework's. */
export interface ListeningServer {
  address(): AddressInfo | string | null;
}

/** A Server of socket.io, which is attached to a server that listens. Its types hide which one that is before 4.6. */
export interface SocketIOServer {
  readonly sockets: object;
  attach(...args: any[]): unknown;
}

export interface StartOptions {
  /**
   * The Socket.IO server: a URL, an http or https server that listens, or a socket.io Server attached to one. Required unless
   * `config` or `settings` names it.
   */
  upstream?: string | URL | ListeningServer | SocketIOServer;
  /** Where clients connect. 0, the default, is a free port. */
  port?: number;
  /** The address to listen on. Default 127.0.0.1; 0.0.0.0 lets other machines connect. */
  host?: string;
  /** Where metrics and health are, on 127.0.0.1. 0, the default, is a free port. */
  adminPort?: number;
  /** The path of a YAML file with settings. The options above win over it. */
  config?: string;
  /**
   * Settings by the names of the YAML file, such as `{ recovery: { max_disconnection_duration: "30s" } }`. They win over the
   * file. Without a file `shutdown.drain_timeout` is 1s.
   */
  settings?: Record<string, unknown>;
  /** Gets each line of the log. By default lines go to standard error; false drops them. */
  log?: ((entry: LogEntry) => void) | false;
  /** The least level to log. Default warn. */
  logLevel?: "debug" | "info" | "warn" | "error";
  /** How many milliseconds holdfast may take to be ready. Default 10000. */
  timeout?: number;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface Holdfast {
  /** What clients connect to, such as http://127.0.0.1:8080. */
  readonly url: string;
  /** Where /metrics, /readyz and the status page are. */
  readonly adminUrl: string;
  readonly pid: number;
  /** Resolves when holdfast has ended, for whatever reason. */
  readonly exited: Promise<Exit>;
  /** Lets holdfast drain and end. It may be called again. */
  stop(): Promise<Exit>;
}

/** Why holdfast did not start. */
export class HoldfastError extends Error {
  readonly code: "BAD_OPTION" | "BAD_SETTING" | "EADDRINUSE" | "NO_BINARY" | "CANNOT_RUN" | "EXITED" | "TIMEOUT";
}

/**
 * Starts holdfast in front of a Socket.IO server, and resolves when it is ready for clients. Rejects with a HoldfastError.
 * holdfast never outlives the process that started it, and does not keep it from ending.
 */
export function startHoldfast(options: StartOptions): Promise<Holdfast>;
