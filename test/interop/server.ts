// SPDX-License-Identifier: Apache-2.0
//
// A server under test: a real process that serves one disk on a Unix socket, that can be killed and
// started again on the same store. Varve is one kind; the others are the peers of the benchmark, which
// also prove the tests themselves: SERVER_UNDER_TEST=nbdkit runs the interop suite against a server that
// is known to be good, and what fails there is a fault of the test.
//
// Each kind says how its store is made, how it is started, and what it promises; the life cycle is the
// same for all. Nothing here outlives the process that started it.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, rm } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { closed, delay, type Outcome, programEnv, type RunOptions, run } from "./command.ts";
import type { Scratch } from "./scratch.ts";

export type ServerKind = "varve" | "nbdkit" | "qemu-raw" | "qemu-qcow2";

export const SERVER_KINDS: readonly ServerKind[] = ["varve", "qemu-raw", "qemu-qcow2", "nbdkit"];

/** Which kind the interop tests run against. */
export const KIND_UNDER_TEST: ServerKind =
  SERVER_KINDS.find((kind) => kind === process.env.SERVER_UNDER_TEST) ?? "varve";

export interface ServerOptions {
  /** Holds the store and the sockets; made if it isn't there. */
  readonly directory: string;
  readonly sizeBytes: number;
  readonly exportName?: string;
  /** More arguments for `varve serve`; the peers take none. */
  readonly serveArgs?: readonly string[];
  /** HOST:PORT for TCP beside the socket; Varve only. */
  readonly listen?: string;
}

const repository = join(import.meta.dirname, "..", "..");
/** The program under test; VARVE_PROGRAM names an installed one. */
export const VARVE: string = process.env.VARVE_PROGRAM ?? join(repository, "bin", "varve");

interface Recipe {
  readonly socket: string;
  readonly command: readonly string[];
  /** Runs before the first start. */
  readonly prepare: () => Promise<unknown>;
  /** Runs once, when the first start has come up. */
  readonly populate: () => Promise<unknown>;
}

const RECIPES: { readonly [kind in ServerKind]: (options: ServerOptions) => Recipe } = {
  varve: ({ directory, sizeBytes, exportName = "db", serveArgs = [], listen = "none" }) => {
    const pool = join(directory, "pool");
    return {
      socket: join(pool, "nbd.sock"),
      command: [VARVE, "serve", "--pool", pool, "--listen", listen, ...serveArgs],
      prepare: async () => {},
      populate: () => run(VARVE, ["create", exportName, `${sizeBytes}`, "--pool", pool]),
    };
  },
  nbdkit: (options) => {
    const disk = join(options.directory, "disk.raw");
    const socket = join(options.directory, "nbd.sock");
    return {
      socket,
      command: ["nbdkit", "--foreground", "--unix", socket, "file", disk],
      prepare: () => run("truncate", ["-s", `${options.sizeBytes}`, disk]),
      populate: async () => {},
    };
  },
  "qemu-raw": (options) => qemuRecipe(options, "raw"),
  "qemu-qcow2": (options) => qemuRecipe(options, "qcow2"),
};

function qemuRecipe(options: ServerOptions, format: "raw" | "qcow2"): Recipe {
  const disk = join(options.directory, `disk.${format}`);
  const socket = join(options.directory, "nbd.sock");
  const { exportName = "db", sizeBytes } = options;
  const flags = ["--persistent", "--shared=0", "--discard=unmap", `--export-name=${exportName}`];
  return {
    socket,
    command: ["qemu-nbd", ...flags, `--format=${format}`, `--socket=${socket}`, disk],
    prepare: () => run("qemu-img", ["create", "-q", "-f", format, disk, `${sizeBytes}`]),
    populate: async () => {},
  };
}

const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export class Server {
  readonly kind: ServerKind;
  readonly directory: string;
  readonly exportName: string;
  readonly socket: string;
  /** As the peers' tools spell it. */
  readonly uri: string;
  /** As QEMU's tools spell it. */
  readonly qemuName: string;
  readonly commandLine: string;
  readonly #recipe: Recipe;
  #child: ChildProcess | undefined;
  #ended: Promise<number> = Promise.resolve(0);
  #output = "";

  private constructor(kind: ServerKind, options: ServerOptions) {
    this.kind = kind;
    this.directory = options.directory;
    this.exportName = options.exportName ?? "db";
    this.#recipe = RECIPES[kind](options);
    this.socket = this.#recipe.socket;
    this.uri = `nbd+unix:///${this.exportName}?socket=${this.socket}`;
    this.qemuName = `nbd:unix:${this.socket}:exportname=${this.exportName}`;
    this.commandLine = this.#recipe.command.join(" ").replaceAll(`${repository}/`, "");
  }

  /** Makes the store and serves it. */
  static async start(kind: ServerKind, options: ServerOptions): Promise<Server> {
    const server = new Server(kind, options);
    await mkdir(options.directory, { recursive: true });
    await server.#recipe.prepare();
    await server.restart();
    try {
      await server.#recipe.populate();
    } catch (error) {
      await server.kill9();
      throw error;
    }
    return server;
  }

  /** The kind under test, in `scratch`, ended with it. */
  static async inScratch(
    scratch: Scratch,
    options: Partial<ServerOptions> & { readonly sizeBytes: number },
  ): Promise<Server> {
    const directory = scratch.path(`server-${options.exportName ?? "db"}`);
    // Should this process be killed, the daemon isn't left behind.
    const serveArgs = [...(options.serveArgs ?? []), "--exit-with-parent"];
    const server = await Server.start(KIND_UNDER_TEST, { directory, ...options, serveArgs });
    scratch.defer(`the server ${server.commandLine}`, () => server.stop());
    return server;
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error(`${this.kind} isn't running`);
    return this.#child.pid;
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null;
  }

  /** What the process printed since it was last started. */
  get output(): string {
    return this.#output;
  }

  /** Starts the process without waiting until it answers. */
  async launch(): Promise<void> {
    if (this.#child) throw new Error(`${this.kind} is running already`);
    // The peers leave their socket behind when they are killed, and nbdkit then refuses to start.
    if (this.kind !== "varve") await rm(this.socket, { force: true });
    const [command, ...args] = this.#recipe.command;
    const child = spawn(command!, args, { env: programEnv(), stdio: ["ignore", "pipe", "pipe"] });
    this.#output = "";
    const keep = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString("utf8")).slice(-64 * 1024);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    running.add(child);
    this.#child = child;
    this.#ended = closed(child).finally(() => {
      running.delete(child);
      if (this.#child === child) this.#child = undefined;
    });
    this.#ended.catch(() => {});
  }

  /** Waits until the socket takes connections. */
  async ready(timeoutMs = 30_000): Promise<void> {
    const start = performance.now();
    while (!(await accepts(this.socket))) {
      if (!this.#child) {
        const status = await this.#ended;
        throw new Error(`${this.commandLine}: ended with status ${status}\n${this.#output}`);
      }
      if (performance.now() - start > timeoutMs) {
        await this.kill9();
        throw new Error(`${this.commandLine}: no answer in ${timeoutMs} ms\n${this.#output}`);
      }
      await delay(2);
    }
  }

  async restart(): Promise<void> {
    await this.launch();
    await this.ready();
  }

  /** SIGKILL, and the process is gone on return. */
  async kill9(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#ended;
  }

  /** SIGTERM, and SIGKILL if that takes too long; returns the exit status. */
  async stop(timeoutMs = 20_000): Promise<number> {
    const child = this.#child;
    child?.kill("SIGTERM");
    const timer = setTimeout(() => child?.kill("SIGKILL"), timeoutMs);
    return await this.#ended.finally(() => clearTimeout(timer));
  }

  /** Runs a command of `varve` on this server's pool. */
  varve(args: readonly string[], options?: RunOptions): Promise<Outcome> {
    return run(VARVE, [...args, "--pool", join(this.directory, "pool")], options);
  }
}

/** Whether something takes connections on this socket. */
export function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket);
    connection.once("connect", () => {
      connection.destroy();
      resolve(true);
    });
    connection.once("error", () => resolve(false));
  });
}
