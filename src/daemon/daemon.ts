// SPDX-License-Identifier: Apache-2.0
//
// The composition root: the one place that knows all parts and connects them.
//
//   start   settings → lock → pool → NBD door → control socket → ready
//           NBD comes first: clients of the daemon before this one are waiting. What can wait (the code
//           of the control door) is loaded later.
//   stop    no new clients; answers to what is in flight; pool flushed and closed; lock given back
//   fail    the pool stopped after an I/O error: clients are hung up, nothing is flushed, the exit code
//           says why. A broken invariant: the process ends at once with 70; recovery does the rest.

import { resolve } from "node:path";
import { EXIT_CODE, StorageError, spell } from "../base/errors.ts";
import { inheritedSockets } from "../host/node/activation.ts";
import { createClock } from "../host/node/clock.ts";
import type { NodeLogger } from "../host/node/logger.ts";
import { createLogger } from "../host/node/logger.ts";
import { startOwnProgram } from "../host/node/own-program.ts";
import type { PoolLock } from "../host/node/pool-lock.ts";
import {
  exitNow,
  notifySystemd,
  PROCESS_ID,
  parentProcessId,
  processUsage,
} from "../host/node/process-usage.ts";
import { productVersion } from "../host/node/product.ts";
import { createRandom } from "../host/node/random.ts";
import { onBug, onStopSignal } from "../host/node/signals.ts";
import { removeFile } from "../host/node/text-file.ts";
import { createThreads } from "../host/node/threads.ts";
import { createZstd } from "../host/node/zstd.ts";
import type { Clock, Logger } from "../host/ports.ts";
import type { Pool } from "../pool/pool.ts";
import { createBackupRunner } from "./backup-runner.ts";
import { VolumeCatalog } from "./catalog.ts";
import { ClientRegistry } from "./clients.ts";
import { type Control, startControl } from "./control.ts";
import { createDiffSource } from "./diff-source.ts";
import { EventLog } from "./event-log.ts";
import { LeveledLogger } from "./leveled-logger.ts";
import { type NbdDoor, startNbdDoor } from "./nbd-door.ts";
import { createOperations, warningsOf } from "./operations.ts";
import { openPool } from "./pool-opener.ts";
import { Schedules } from "./schedules.ts";
import type { DaemonSettings } from "./settings.ts";
import { TemporaryVolumes } from "./temporary-volumes.ts";

/** How long clients may take to get the answers to what is in flight. */
const DRAIN_MS = 5_000;
/** The same after an I/O error: most of what is in flight will never be answered. */
const FAIL_DRAIN_MS = 500;
const PARENT_CHECK_MS = 500;
/** A signal so soon after the first one isn't a second one. */
const SIGNAL_REPEAT_MS = 500;

export interface RunningDaemon {
  readonly directory: string;
  readonly pid: number;
  /** URIs without an export name. */
  readonly listeners: readonly string[];
  /** Resolves with the exit code once everything is down. */
  readonly ended: Promise<{ readonly exitCode: number; readonly error: StorageError | undefined }>;
}

/** Throws what keeps it from starting; nothing is left behind then. */
export async function startDaemon(settings: DaemonSettings): Promise<RunningDaemon> {
  const output = createLogger({ level: "debug" });
  const logger = new LeveledLogger(output, settings.logLevel);
  onBug((error) => {
    logger.log("error", "daemon.bug", { error });
    output.flush();
  });
  const daemon = new Daemon(settings, output, logger);
  try {
    await daemon.start();
  } catch (error) {
    await daemon.abandon();
    output.flush();
    throw error;
  }
  return daemon;
}

class Daemon implements RunningDaemon {
  readonly directory: string;
  readonly pid = PROCESS_ID;
  readonly ended: RunningDaemon["ended"];
  readonly #settings: DaemonSettings;
  readonly #output: NodeLogger;
  readonly #logger: LeveledLogger;
  readonly #clock: Clock = createClock();
  readonly #events: EventLog;
  readonly #clients = new ClientRegistry();
  readonly #startedMicros: number;
  readonly #startedMonotoneMicros: number;
  #resolveEnded: (end: Awaited<RunningDaemon["ended"]>) => void = () => {};
  // Set in this order by start(), taken down in the opposite one.
  #lock: PoolLock | undefined;
  #pool: Pool | undefined;
  #temporary: TemporaryVolumes | undefined;
  #door: NbdDoor | undefined;
  #control: Control | undefined;
  #schedules: Schedules | undefined;
  #cancelParentWatch: (() => void) | undefined;
  #isStopping = false;

  constructor(settings: DaemonSettings, output: NodeLogger, logger: LeveledLogger) {
    this.#settings = settings;
    this.#output = output;
    this.#logger = logger;
    this.directory = resolve(settings.pool);
    this.#startedMicros = this.#clock.wallMicros();
    this.#startedMonotoneMicros = this.#clock.monotoneMicros();
    this.#events = new EventLog(this.#clock, logger);
    this.ended = new Promise((resolveEnded) => {
      this.#resolveEnded = resolveEnded;
    });
  }

  get listeners(): readonly string[] {
    return this.#door?.uris ?? [];
  }

  async start(): Promise<void> {
    const { directory } = this;
    const settings = this.#settings;
    const clock = this.#clock;
    const logger: Logger = this.#logger;
    const threads = createThreads(settings.threadCountMax);
    const machine = { clock, random: createRandom(), zstd: createZstd(), threads, logger };
    const opened = await openPool(settings.pool, settings, machine);
    this.#lock = opened.lock;
    this.#pool = opened.pool;
    const { pool } = opened;
    pool.onEvent((event) => {
      this.#events.tell(event);
      if (pool.stopCause !== undefined) void this.#fail(pool.stopCause);
    });
    const temporary = new TemporaryVolumes({ pool, clients: this.#clients, events: this.#events });
    await temporary.removeAll();
    this.#temporary = temporary;
    const catalog = new VolumeCatalog({
      pool,
      past: pool,
      clients: this.#clients,
      events: this.#events,
      clock,
      temporary,
    });
    this.#door = await startNbdDoor({
      settings,
      directory,
      inherited: inheritedSockets(),
      catalog,
      slab: pool.slab,
      clock,
      logger,
    });
    const runner = createBackupRunner({ directory, clock, start: startOwnProgram });
    const schedules = new Schedules({
      schedules: pool.schedules,
      runner,
      events: this.#events,
      clock,
    });
    this.#schedules = schedules;
    const operations = createOperations({
      pool,
      clients: this.#clients,
      events: this.#events,
      clock,
      viewCount: () => catalog.viewCount,
      schedules,
      facts: {
        directory,
        version: productVersion(),
        pid: this.pid,
        ack: settings.ack,
        startedPoolSizeBytes: settings.poolSizeBytes,
        startedMicros: this.#startedMicros,
        startedMonotoneMicros: this.#startedMonotoneMicros,
        listeners: () => this.listeners,
        usage: processUsage,
        logLevel: {
          get: () => this.#logger.level,
          set: (level) => {
            this.#logger.level = level;
          },
        },
        // After the answer has gone out.
        shutdown: () => void clock.after(0, () => void this.#stop("shutdown was asked for")),
      },
    });
    // Whoever finds the control socket may end the daemon by a signal.
    this.#watchSignals();
    this.#control = await startControl({
      settings,
      directory,
      operations,
      events: this.#events,
      diffs: createDiffSource(pool),
      version: productVersion(),
      clock,
      logger,
      onBug: throwLater(clock),
    });
    if (this.#isStopping) {
      await this.#control.close();
      return;
    }
    if (settings.isBoundToParent) this.#watchParent(parentProcessId());
    this.#events.add("info", "daemon.ready", {
      version: productVersion(),
      directory,
      isNewPool: opened.isNew,
      incarnation: pool.stats().incarnation,
      listeners: this.listeners,
      control: this.#control.addresses,
      startedInMs: Math.round((clock.monotoneMicros() - this.#startedMonotoneMicros) / 1000),
    });
    schedules.look();
    for (const warning of warningsOf(pool.stats(), pool.policy)) {
      this.#events.add("warn", "pool.warning", { warning });
    }
    const isTold = await notifySystemd("READY=1");
    if (!isTold) logger.log("warn", "daemon.notify-failed", { program: "systemd-notify" });
  }

  /** Takes down what start() had put up before it failed. */
  async abandon(): Promise<void> {
    const schedules = this.#schedules?.close();
    await this.#door?.server.close({ graceMs: 0 });
    await schedules;
    await this.#control?.close();
    // The error that made the start fail is the one to tell.
    await this.#pool?.close().catch(() => undefined);
    this.#lock?.release();
  }

  #watchSignals(): void {
    let firstMicros: number | undefined;
    onStopSignal((signal) => {
      const nowMicros = this.#clock.monotoneMicros();
      if (firstMicros === undefined) {
        firstMicros = nowMicros;
        void this.#stop(signal);
        return;
      }
      // Shells and timeout(1) signal the process and its group: that is one wish, not two.
      if (nowMicros - firstMicros < SIGNAL_REPEAT_MS * 1000) return;
      this.#logger.log("warn", "daemon.stopped-at-once", { signal });
      this.#output.flush();
      exitNow(EXIT_CODE.failed);
    });
  }

  #watchParent(parent: number): void {
    this.#cancelParentWatch = this.#clock.after(PARENT_CHECK_MS, () => {
      if (parentProcessId() === parent) this.#watchParent(parent);
      else void this.#stop("the parent process ended");
    });
  }

  /** Drains and ends, in order. */
  async #stop(reason: string): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    this.#cancelParentWatch?.();
    this.#events.add("info", "daemon.stopping", { reason, clients: this.#clients.count });
    void notifySystemd("STOPPING=1");
    // Backups that run are clients, too.
    const schedules = this.#schedules?.close();
    await this.#door?.server.close({ graceMs: DRAIN_MS });
    await schedules;
    await this.#control?.close();
    let error: StorageError | undefined;
    await this.#temporary?.removeAll();
    try {
      await this.#pool?.close();
    } catch (cause) {
      if (!(cause instanceof StorageError)) throw cause;
      error = cause;
    }
    await this.#end(error);
  }

  /** The pool has stopped: nothing can be written any more, and what waits was answered with EIO. */
  async #fail(error: StorageError): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    // Not waited for: those that don't end in time do with this process.
    void this.#schedules?.close();
    await this.#door?.server.close({ graceMs: FAIL_DRAIN_MS, isRefusing: true });
    await this.#control?.close();
    await this.#end(error);
  }

  async #end(error: StorageError | undefined): Promise<void> {
    for (const uri of this.listeners) {
      const path = socketPathOf(uri);
      if (path !== undefined && inheritedSockets().length === 0) await removeFile(path);
    }
    this.#lock?.release();
    const exitCode = error === undefined ? EXIT_CODE.ok : spell(error.code, "exit");
    this.#logger.log(error === undefined ? "info" : "error", "daemon.ended", {
      exitCode,
      ...(error === undefined ? {} : { error }),
    });
    this.#output.flush();
    this.#resolveEnded({ exitCode, error });
  }
}

/** A bug in an asynchronous corner becomes an uncaught error, which ends the process (onBug). */
function throwLater(clock: Clock): (error: unknown) => void {
  return (error) => {
    clock.after(0, () => {
      throw error;
    });
  };
}

function socketPathOf(uri: string): string | undefined {
  const encoded = /^nbd\+unix:\/\/\/\?socket=(.+)$/.exec(uri)?.[1];
  return encoded === undefined ? undefined : decodeURIComponent(encoded);
}
