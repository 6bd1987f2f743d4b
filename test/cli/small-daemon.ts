// SPDX-License-Identifier: Apache-2.0
//
// The daemon's parts over a small pool, put together as daemon.ts does it, but without sockets, files and
// a process: for tests of operations, catalog and control door.

import type { DiffSource } from "../../src/api/diff.ts";
import type { Operations } from "../../src/api/types.ts";
import { VolumeCatalog } from "../../src/daemon/catalog.ts";
import { ClientRegistry } from "../../src/daemon/clients.ts";
import { createDiffSource } from "../../src/daemon/diff-source.ts";
import { EventLog } from "../../src/daemon/event-log.ts";
import { createOperations } from "../../src/daemon/operations.ts";
import { Schedules } from "../../src/daemon/schedules.ts";
import { TemporaryVolumes } from "../../src/daemon/temporary-volumes.ts";
import { createClock } from "../../src/host/node/clock.ts";
import type { Logger } from "../../src/host/ports.ts";
import type { ClientIdentity, OpenExport } from "../../src/nbd/block-device.ts";
import { SmallPast } from "./small-past.ts";
import { SmallPool } from "./small-pool.ts";
import { SmallRunner } from "./small-runner.ts";

export interface SmallDaemon {
  readonly pool: SmallPool;
  readonly past: SmallPast;
  readonly clients: ClientRegistry;
  readonly events: EventLog;
  readonly diffs: DiffSource;
  readonly catalog: VolumeCatalog;
  readonly operations: Operations;
  /** Of scheduled backups. */
  readonly runner: SmallRunner;
  readonly logger: Logger;
  /** A client comes and opens an export. */
  readonly attach: (exportName: string, client?: ClientIdentity) => Promise<OpenExport>;
  /** Names of exports whose clients were hung up. */
  readonly hungUp: string[];
}

export function smallDaemon(): SmallDaemon {
  const clock = createClock();
  const logger: Logger = { log: () => {} };
  const pool = new SmallPool();
  const past = new SmallPast(pool);
  const clients = new ClientRegistry();
  const events = new EventLog(clock, logger);
  const temporary = new TemporaryVolumes({ pool, clients, events });
  const catalog = new VolumeCatalog({ pool, past, clients, events, clock, temporary });
  const hungUp: string[] = [];
  const runner = new SmallRunner();
  const schedules = new Schedules({ schedules: pool.schedules, runner, events, clock });
  let logLevel: "debug" | "info" | "warn" | "error" = "info";
  const operations = createOperations({
    pool,
    clients,
    events,
    clock,
    viewCount: () => catalog.viewCount,
    schedules,
    facts: {
      directory: "/srv/pool",
      version: "1.2.3",
      pid: 42,
      ack: "written",
      startedPoolSizeBytes: undefined,
      startedMicros: 1e15,
      startedMonotoneMicros: clock.monotoneMicros(),
      listeners: () => ["nbd+unix:///?socket=/srv/pool/nbd.sock", "nbd://127.0.0.1:10809"],
      usage: () => ({ residentBytes: 1, cpuMs: 2 }),
      logLevel: {
        get: () => logLevel,
        set: (level) => {
          logLevel = level;
        },
      },
      shutdown: () => {},
    },
  });

  const attach = async (
    exportName: string,
    identity: ClientIdentity = { address: "127.0.0.1:5123" },
  ): Promise<OpenExport> => {
    const hangUp = (): void => void hungUp.push(exportName);
    return (await catalog.find(exportName)).open({ identity, hangUp });
  };
  const diffs = createDiffSource(past);
  const parts = { pool, past, clients, events, diffs, catalog, operations, runner, logger };
  return { ...parts, hungUp, attach };
}
