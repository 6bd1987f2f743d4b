// SPDX-License-Identifier: Apache-2.0
//
// The operations of the control door over a pool: thin translations between the contract's JSON and the
// pool's records, and the two rules that need to know the clients: a volume in use isn't removed, and it
// isn't made smaller unless somebody says --force. While such a change is under way, clients that want to
// attach are kept out: one that came between the check and the change would lose its disk.

import { checkPoolSize, checkVolumeSize } from "../api/operations.ts";
import type {
  CensusJson,
  ClientJson,
  ErrorJson,
  Operations,
  PoolJson,
  RetentionJson,
  ScrubStatusJson,
  VolumeJson,
} from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { checkName, nearest } from "../base/names.ts";
import { formatSize, formatTime } from "../base/units.ts";
import type { Clock } from "../host/ports.ts";
import type {
  Census,
  HistorySpace,
  PoolPolicy,
  PoolPolicyChange,
  PoolStatistics,
  ScrubStatus,
  VolumeSettings,
  VolumeStatistics,
  VolumeSummary,
} from "../pool/types.ts";
import { createBranchOperations } from "./branch-operations.ts";
import type { ClientRegistry, OpenClient } from "./clients.ts";
import { Collections, toProgressJson } from "./collections.ts";
import type { EventLog } from "./event-log.ts";
import { createHistoryOperations } from "./history-operations.ts";
import { changedRetention, createMomentOperations, toRetentionJson } from "./moment-operations.ts";
import { createRetentionOperations } from "./retention-previews.ts";
import {
  createScheduleOperations,
  toScheduleJson,
  toScheduleStatistics,
} from "./schedule-operations.ts";
import type { Schedules } from "./schedules.ts";
import type { ServedPool } from "./served-pool.ts";

/** After so long the census before is good enough. */
const CENSUS_WAIT_MS = 5000;
/** The pool's first watermark. */
const WARNING_SHARE = 0.8;

/** What the daemon knows about itself. */
export interface DaemonFacts {
  readonly directory: string;
  readonly version: string;
  readonly pid: number;
  readonly ack: PoolJson["ack"];
  /** The limit that the daemon was told when it was started, if any. */
  readonly startedPoolSizeBytes: number | undefined;
  readonly startedMicros: number;
  readonly startedMonotoneMicros: number;
  /** URIs without an export name; a function, because listeners come after the pool. */
  readonly listeners: () => readonly string[];
  readonly usage: () => { readonly residentBytes: number; readonly cpuMs: number };
  readonly logLevel: {
    get(): PoolJson["logLevel"];
    set(level: PoolJson["logLevel"]): void;
  };
  readonly shutdown: () => void;
}

export interface OperationsOptions {
  readonly pool: ServedPool;
  readonly clients: ClientRegistry;
  readonly events: EventLog;
  readonly clock: Clock;
  readonly facts: DaemonFacts;
  /** Past moments that clients have open. */
  readonly viewCount: () => number;
  readonly schedules: Schedules;
}

export function createOperations(options: OperationsOptions): Operations {
  const { pool, clients, events, clock, facts, viewCount, schedules } = options;
  const collections = new Collections(pool);
  const uptimeMs = (): number => (clock.monotoneMicros() - facts.startedMonotoneMicros) / 1000;

  const find = (name: string): VolumeSummary => {
    const volumes = pool.volumes();
    const found = volumes.find((volume) => volume.name === name);
    if (found) return found;
    const names = volumes.map((volume) => volume.name);
    const guess = nearest(name, names);
    throw new StorageError("VOLUME_NOT_FOUND", `volume ${JSON.stringify(name)}: not found`, {
      data: { volume: name },
      ...(guess === undefined ? {} : { hint: `did you mean "${guess}"? see "varve list"` }),
    });
  };

  /** Waits for a census as long as somebody may be kept waiting; it goes on without them. */
  const pauseFor = async (census: Promise<void>): Promise<void> => {
    const pause = Promise.withResolvers<void>();
    const cancel = clock.after(CENSUS_WAIT_MS, pause.resolve);
    // What isn't an error of the disk is a bug, and ends the process as any that nobody waits for.
    void census.catch(unlessStorageError).then(pause.resolve);
    await pause.promise;
    cancel();
  };

  const urisOf = (exportName: string): string[] =>
    facts.listeners().map((uri) => withExport(uri, exportName));

  const toVolume = (volume: VolumeSummary): VolumeJson => {
    const isRemoved = volume.removedMicros !== undefined;
    return {
      name: volume.name,
      id: volume.id,
      sizeBytes: volume.sizeBytes,
      isReadOnly: volume.isReadOnly,
      description: volume.description,
      isDeduplicated: volume.isDeduplicated,
      isCompressed: volume.isCompressed,
      ...(volume.isTemporary === true ? { isTemporary: true } : {}),
      ...(volume.retention === undefined ? {} : { retention: toRetentionJson(volume.retention) }),
      createdAt: formatTime(volume.createdMicros),
      ...(isRemoved ? { removedAt: formatTime(volume.removedMicros) } : {}),
      clientCount: clients.countOf(volume.id),
      uris: isRemoved ? [] : urisOf(volume.name),
    };
  };

  const toClient = (client: OpenClient): ClientJson => {
    const { address, unixUid, certificateName, pskIdentity } = client.identity;
    const { moment } = client;
    const volume = pool
      .volumes({ includesRemoved: true })
      .find((candidate) => candidate.id === client.volumeId);
    return {
      id: client.id,
      address,
      ...(unixUid === undefined ? {} : { unixUid }),
      ...(certificateName === undefined ? {} : { certificateName }),
      ...(pskIdentity === undefined ? {} : { pskIdentity }),
      export: client.exportName,
      volume: volume?.name ?? "",
      ...(moment === undefined
        ? {}
        : { view: { name: moment.stableName, at: formatTime(moment.timeMicros) } }),
      connectedAt: formatTime(client.connectedMicros),
      requestCount: client.device.requestCount,
      readBytes: client.device.readBytes,
      writeBytes: client.device.writeBytes,
    };
  };

  const getPool = async (): Promise<PoolJson> => {
    const statistics = pool.stats();
    const problem = pool.stopCause;
    const { retention, poolSizeBytes, whenFull, historyFloorMicros } = pool.policy;
    const { startedPoolSizeBytes } = facts;
    return {
      directory: facts.directory,
      id: pool.poolId,
      state: statistics.state,
      ...(problem === undefined ? {} : { problem: problem.toJSON() as unknown as ErrorJson }),
      version: facts.version,
      pid: facts.pid,
      startedAt: formatTime(facts.startedMicros),
      ack: facts.ack,
      logLevel: facts.logLevel.get(),
      listeners: facts.listeners(),
      volumeCount: pool.volumes().length,
      clientCount: clients.count,
      storedBytes: statistics.storedBytes,
      capacityBytes: statistics.capacityBytes,
      ...toHistorySpace(statistics.history),
      poolSizeBytes,
      ...(startedPoolSizeBytes === undefined ? {} : { startedPoolSizeBytes }),
      retention: toRetentionJson(retention),
      whenFull,
      historyFloorMs: Math.ceil(historyFloorMicros / 1000),
      memoryUsedBytes: statistics.memoryUsedBytes,
      memoryLimitBytes: statistics.memoryLimitBytes,
      headLsn: statistics.headLsn,
      durableLsn: statistics.durableLsn,
      incarnation: statistics.incarnation,
      recoveryMs: statistics.recoveryMicros / 1000,
      warnings: [...warningsOf(statistics, pool.policy), ...schedules.warnings()],
    };
  };

  const setRetention = async (
    volume: VolumeSummary,
    change: Partial<RetentionJson> | null,
  ): Promise<void> => {
    const before = volume.retention ?? pool.policy.retention;
    const retention = change === null ? undefined : changedRetention(before, change);
    await pool.setVolumeRetention(volume.name, retention);
  };

  return {
    ...createMomentOperations({ pool, urisOf }),
    ...createHistoryOperations(pool),
    ...createRetentionOperations({ pool, find }),
    ...createScheduleOperations({ pool: pool.schedules, schedules }),
    ...createBranchOperations({ pool, find, toVolume, changeAlone }),
    getPool,
    setPool: async ({ logLevel, poolSizeBytes, retention, whenFull, historyFloorMs }) => {
      if (poolSizeBytes !== undefined) checkPoolSize(poolSizeBytes);
      const change: PoolPolicyChange = {
        ...(poolSizeBytes === undefined ? {} : { poolSizeBytes }),
        ...(retention === undefined
          ? {}
          : { retention: changedRetention(pool.policy.retention, retention) }),
        ...(whenFull === undefined ? {} : { whenFull }),
        ...(historyFloorMs === undefined ? {} : { historyFloorMicros: historyFloorMs * 1000 }),
      };
      if (Object.keys(change).length > 0) await pool.setPolicy(change);
      if (logLevel !== undefined) {
        facts.logLevel.set(logLevel);
        events.add("info", "pool.set", { logLevel });
      }
      return getPool();
    },
    getStatistics: async ({ fresh }) => {
      if (fresh === "true") await pauseFor(pool.refreshCensus());
      const { volumes, recoveryMicros, census, history, ...statistics } = pool.stats();
      const { dedup, compression, zero, gc, scrub, ...counters } = statistics;
      return {
        pool: {
          uptimeMs: uptimeMs(),
          ...counters,
          liveBytes: census?.liveBytes ?? 0,
          ...toHistorySpace(history),
          recoveryMs: recoveryMicros / 1000,
          clientCount: clients.count,
          viewCount: viewCount(),
          ...facts.usage(),
        },
        dedup,
        compression,
        zero,
        gc,
        scrub,
        ...(census === undefined ? {} : { census: toCensusJson(census, clock.wallMicros()) }),
        volumes: volumes.map((volume) => ({ ...volume, clientCount: clients.countOf(volume.id) })),
        schedules: schedules.statuses().map(toScheduleStatistics),
      };
    },
    getGc: async () => collections.status(),
    startGc: async ({ isDryRun = false }) => {
      collections.start(isDryRun);
      return collections.status();
    },
    getScrub: async () => toScrubJson(pool.scrubStatus()),
    startScrub: async () => {
      pool.startScrub();
      return toScrubJson(pool.scrubStatus());
    },
    stopScrub: async () => {
      pool.stopScrub();
      return toScrubJson(pool.scrubStatus());
    },
    getHealth: async () => {
      const statistics = pool.stats();
      const { state } = statistics;
      const problem = pool.stopCause;
      const warnings = [...warningsOf(statistics, pool.policy), ...schedules.warnings()];
      const reasons = problem === undefined ? warnings : [problem.message, ...warnings];
      const isServing = state === "open" || state === "full";
      const status = !isServing ? "failing" : reasons.length > 0 ? "degraded" : "ok";
      return { status, state, reasons, uptimeMs: uptimeMs() };
    },
    listVolumes: async ({ removed }) => {
      const volumes = pool.volumes({ includesRemoved: removed === "true" });
      const byName = [...volumes].sort((a, b) =>
        a.name === b.name ? a.id - b.id : a.name < b.name ? -1 : 1,
      );
      return { volumes: byName.map(toVolume) };
    },
    createVolume: async ({ name, sizeBytes }) => {
      checkName("volume", name);
      checkVolumeSize(sizeBytes);
      return toVolume(await pool.createVolume(name, sizeBytes));
    },
    getVolume: async ({ volume: name }) => {
      const volume = find(name);
      const counted = pool.stats().volumes.find((candidate) => candidate.id === volume.id);
      return {
        ...toVolume(volume),
        activity: activityOf(counted),
        clients: [...clients.list()]
          .filter((client) => client.volumeId === volume.id)
          .map(toClient),
        schedules: schedules
          .statuses()
          .filter(({ volumes }) => volumes.some(({ id }) => id === volume.id))
          .map(toScheduleJson),
      };
    },
    setVolume: async ({ volume: name, ...wanted }) => {
      const { isReadOnly, description, isDeduplicated, isCompressed, retention } = wanted;
      const volume = find(name);
      const settings: VolumeSettings = {
        ...(isReadOnly === undefined ? {} : { isReadOnly }),
        ...(description === undefined ? {} : { description }),
        ...(isDeduplicated === undefined ? {} : { isDeduplicated }),
        ...(isCompressed === undefined ? {} : { isCompressed }),
      };
      const set = async (): Promise<VolumeJson> => {
        if (retention !== undefined) await setRetention(volume, retention);
        const isOther = Object.keys(settings).length > 0 || retention === undefined;
        return toVolume(isOther ? await pool.setVolume(volume.name, settings) : find(volume.name));
      };
      if (isReadOnly !== true || volume.isReadOnly) return set();
      refuseWhileOpen(volume, "made read-only");
      return clients.keepOut(volume, set);
    },
    resizeVolume: async ({ volume: name, sizeBytes, force = false }) => {
      checkVolumeSize(sizeBytes);
      const volume = find(name);
      const resize = (): Promise<VolumeSummary> => pool.resizeVolume(volume.name, sizeBytes);
      if (sizeBytes >= volume.sizeBytes) return toVolume(await resize());
      // Whoever stayed would write beyond the end; who reconnects sees the new size.
      const what = `shrunk to ${formatSize(sizeBytes)}`;
      const options = { what, reason: "its volume is being shrunk", isForced: force };
      return changeAlone(volume, options, resize);
    },
    renameVolume: async ({ volume: name, to }) => {
      checkName("volume", to);
      return toVolume(await pool.renameVolume(find(name).name, to));
    },
    removeVolume: async ({ volume: name }) => {
      const volume = find(name);
      refuseWhileOpen(volume, "removed");
      return clients.keepOut(volume, async () => toVolume(await pool.removeVolume(volume.name)));
    },
    listClients: async () => ({ clients: [...clients.list()].map(toClient) }),
    markVolume: async ({ volume, extents }) => {
      await pool.mark(find(volume).name, extents);
      return { durableLsn: pool.stats().durableLsn };
    },
    flush: async () => {
      await pool.flush();
      return { durableLsn: pool.stats().durableLsn };
    },
    checkpoint: async () => {
      await pool.checkpoint();
      return { durableLsn: pool.stats().durableLsn };
    },
    shutdown: async () => {
      facts.shutdown();
      return { done: true };
    },
  };

  /** Clients keep it from happening, or with force are hung up first. */
  async function changeAlone(
    volume: VolumeSummary,
    { what, reason, isForced }: { what: string; reason: string; isForced: boolean },
    change: () => Promise<VolumeSummary>,
  ): Promise<VolumeJson> {
    if (!isForced) refuseWhileOpen(volume, what, true);
    return clients.keepOut(volume, async () => {
      for (const client of clients.live(volume.id)) client.hangUp(reason);
      await clients.none(volume.id);
      return toVolume(await change());
    });
  }

  function refuseWhileOpen(volume: VolumeSummary, what: string, canForce = false): void {
    const count = clients.countOf(volume.id);
    if (count === 0) return;
    const who = count === 1 ? "1 client is" : `${count} clients are`;
    throw new StorageError(
      "VOLUME_BUSY",
      `volume "${volume.name}": not ${what}: ${who} connected`,
      {
        hint: `see who with "varve info ${volume.name}"; disconnect them first${canForce ? ", or pass --force" : ""}`,
        data: { volume: volume.name, clientCount: count },
      },
    );
  }
}

function unlessStorageError(error: unknown): void {
  if (!(error instanceof StorageError)) throw error;
}

function toScrubJson({ progress, report }: ScrubStatus): ScrubStatusJson {
  const answer: { -readonly [key in keyof ScrubStatusJson]: ScrubStatusJson[key] } = {
    isRunning: progress !== undefined,
  };
  if (progress !== undefined)
    answer.progress = { ...toProgressJson(progress), problemCount: progress.problemCount };
  if (report !== undefined) {
    const { startedMicros, durationMicros, ...rest } = report;
    const startedAt = formatTime(startedMicros);
    answer.report = { startedAt, durationMs: durationMicros / 1000, ...rest };
  }
  return answer;
}

function toHistorySpace(
  history: HistorySpace | undefined,
): Pick<PoolJson, "historyBytes" | "historyAt"> {
  if (history === undefined) return {};
  return { historyBytes: history.bytes, historyAt: formatTime(history.timeMicros) };
}

function toCensusJson({ timeMicros, isSampled }: Census, nowMicros: number): CensusJson {
  const ageMs = Math.max(0, (nowMicros - timeMicros) / 1000); // clocks are set back
  return { at: formatTime(timeMicros), ageMs, isSampled };
}

/** What an operator should know of a pool that serves. */
export function warningsOf(statistics: PoolStatistics, policy: PoolPolicy): string[] {
  const { state, storedBytes, capacityBytes } = statistics;
  const { damagedBlockCount, damagedPageCount, failedRequestCount } = statistics;
  const warnings: string[] = [];
  const stored = `${formatSize(storedBytes)} of ${formatSize(capacityBytes)}`;
  const filling =
    storedBytes > capacityBytes
      ? `the pool holds more than it may (${stored})`
      : state === "full"
        ? `the pool is full (${stored})`
        : storedBytes >= WARNING_SHARE * capacityBytes
          ? `the pool is ${Math.floor((100 * storedBytes) / capacityBytes)} % full (${stored})`
          : undefined;
  const refused = state === "full" ? ": new data is refused" : "";
  if (filling !== undefined) warnings.push(`${filling}${refused}: ${remedyOf(policy)}`);
  const met = [
    counted(damagedBlockCount, "damaged block"),
    counted(damagedPageCount, "damaged index page"),
    counted(failedRequestCount, "request that failed", "requests that failed"),
  ].filter((part) => part !== undefined);
  if (met.length > 0)
    warnings.push(
      `${met.join(", ")} since the start: stop the daemon and run "varve check" to see what is lost`,
    );
  return warnings;
}

/** How a pool gets space, with the commands. */
function remedyOf({ retention, poolSizeBytes }: PoolPolicy): string {
  const free =
    retention.everyWriteMicros === 0
      ? 'free what nothing needs with "varve gc"'
      : 'keep less history with "varve retention" and free it with "varve gc"';
  const room =
    poolSizeBytes > 0
      ? 'raise the limit with "varve set pool-size=SIZE"'
      : "make room on the file system";
  return `${free}, or ${room}`;
}

/** "1 damaged block"; undefined for none. */
function counted(count: number, one: string, many: string = `${one}s`): string | undefined {
  return count === 0 ? undefined : `${count} ${count === 1 ? one : many}`;
}

function activityOf(volume: VolumeStatistics | undefined): {
  readCount: number;
  readBytes: number;
  writeCount: number;
  writeBytes: number;
  trimCount: number;
  zeroCount: number;
  flushCount: number;
} {
  return {
    readCount: volume?.readCount ?? 0,
    readBytes: volume?.readBytes ?? 0,
    writeCount: volume?.writeCount ?? 0,
    writeBytes: volume?.writeBytes ?? 0,
    trimCount: volume?.trimCount ?? 0,
    zeroCount: volume?.zeroCount ?? 0,
    flushCount: volume?.flushCount ?? 0,
  };
}

/** nbd+unix:///?socket=S → nbd+unix:///db?socket=S; nbd://host:port → nbd://host:port/db. */
function withExport(listener: string, name: string): string {
  const query = listener.indexOf("?");
  if (query === -1) return `${listener.replace(/\/$/, "")}/${name}`;
  return `${listener.slice(0, query)}${name}${listener.slice(query)}`;
}
