// SPDX-License-Identifier: Apache-2.0
//
// `varve backup`: moments of volumes into a target, as one point. The moment gets a name first, so that it stays while it
// is read and until the next backup has asked what changed since:
//
//   open the target → lock → name the moment → send (src/backup/backup-run.ts) → forget the name of the backup before
//
// Two backups of a volume to one target at once would only hinder each other: the second is refused. The lock is a file in
// the pool that the kernel holds for the process, so none is left behind, however this ends.

import { join } from "node:path";
import type { SnapshotJson } from "../../api/types.ts";
import { type BackupResult, type BackupVolume, runBackup } from "../../backup/backup-run.ts";
import type { CatalogState } from "../../backup/catalog-state.ts";
import { RateLimit } from "../../backup/rate-limit.ts";
import type { Target } from "../../backup/target.ts";
import { StorageError } from "../../base/errors.ts";
import { formatMoment, type Moment, parseVolumeMoment } from "../../base/moment.ts";
import { formatDuration, formatSize, formatTime } from "../../base/units.ts";
import { hostName } from "../../host/node/host-name.ts";
import { endWithParent } from "../../host/node/own-program.ts";
import { lockFile, type PoolLock } from "../../host/node/pool-lock.ts";
import { onStopSignal } from "../../host/node/signals.ts";
import { makePrivateDirectory } from "../../host/node/text-file.ts";
import { createParallelZstd } from "../../host/node/zstd.ts";
import { openHistory } from "../backup-history.ts";
import { findMoment, forgetFormerPins, microsOf, newPinName, tidyPins } from "../backup-pins.ts";
import { MomentSource } from "../backup-source.ts";
import { openOrMakeTargetOf, openTargetOf } from "../backup-target.ts";
import { type CommandContext, required } from "../command.ts";
import type { DaemonClient } from "../daemon-client.ts";
import { renderRate } from "../progress.ts";
import { meterOf } from "../progress-meter.ts";
import { counted, keepOf, sizeOf } from "../values.ts";

/** Of the pool: locks of backups that run. */
const LOCKS = "backup";
const POINT_NAME = /^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,62}$/;

/** A volume that is to be backed up, at the moment that was asked for. */
interface Wish {
  readonly volume: string;
  readonly volumeId: number;
  readonly moment: Moment;
  /** Of a moment of the past. */
  readonly place: { readonly nameThen: string; readonly lsn: number } | undefined;
}

export async function run(context: CommandContext): Promise<undefined> {
  if (context.flag("exit-with-parent")) endWithParent();
  const path = required(context, "TARGET");
  const name = pointNameOf(context);
  const pace = paceOf(context);
  const window = context.option("history");
  const windowMicros =
    window === undefined ? undefined : keepOf('option "--history"', window) * 1000;
  const daemon = await context.daemon();
  const wishes = await wishesOf(daemon, context.variadic("VOLUME[@MOMENT]"));
  // A disk that isn't mounted must not become a directory under its mount point.
  const open = context.flag("existing") ? openTargetOf : openOrMakeTargetOf;
  const target = await open(context, path);
  const targetId = target.descriptor.repositoryId;
  const locks = await lockVolumes(daemon, { path, targetId, wishes });
  const sources: { close(): Promise<void> }[] = [];
  try {
    const before = await target.catalog.read();
    const { id: poolId } = await daemon.call("getPool", {});
    for (const { volume, volumeId } of wishes) {
      const isNeeded = (lsn: number): boolean => hasMoment(before, { poolId, volumeId, lsn });
      await tidyPins(daemon, { volume, targetId, isNeeded });
    }
    const pin = newPinName(targetId, target);
    const pinned = await pinMoment(context, daemon, { pin, target, wishes });
    const volumes: BackupVolume[] = [];
    for (const snapshot of pinned) {
      const source = await MomentSource.open(daemon, `${snapshot.volume}@${pin}`);
      sources.push(source);
      const volume = await describe(daemon, { snapshot, pin, source });
      if (windowMicros === undefined) volumes.push(volume);
      else {
        const pinned = `${volume.name}@${pin}`;
        const opened = await openHistory(context, daemon, { volume, pinned, windowMicros });
        sources.push(opened);
        volumes.push({ ...volume, history: opened.history });
      }
    }
    const pointName = name ?? nameOf(wishes, volumes);
    const result = await send(context, { target, poolId, volumes, pointName, path, pace });
    for (const { volume } of pinned) await forgetFormerPins(daemon, { volume, targetId, pin });
    tell(context, path, result);
  } finally {
    await Promise.allSettled(sources.map((source) => source.close()));
    for (const lock of locks) lock.release();
  }
}

function pointNameOf(context: CommandContext): string | undefined {
  const name = context.option("name");
  if (name === undefined || POINT_NAME.test(name)) return name;
  throw new StorageError(
    "NAME_INVALID",
    `point ${JSON.stringify(name.slice(0, 80))}: name refused`,
    {
      hint: "use up to 63 letters, digits and _ . : + -, and begin with a letter or digit",
    },
  );
}

function paceOf(context: CommandContext): ((clock: Target["clock"]) => RateLimit) | undefined {
  const text = context.option("limit-rate");
  if (text === undefined) return undefined;
  const bytesPerSecond = sizeOf('option "--limit-rate"', text);
  if (bytesPerSecond > 0) return (clock) => new RateLimit(clock, bytesPerSecond);
  throw new StorageError("USAGE", 'option "--limit-rate": 0 refused: nothing would ever be read');
}

/** Throws USAGE, VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
async function wishesOf(daemon: DaemonClient, words: readonly string[]): Promise<Wish[]> {
  const asked = words.map((text) => parseVolumeMoment(text));
  const isLive = asked.map(({ moment }) => moment === undefined);
  if (isLive.includes(true) && isLive.includes(false)) {
    throw new StorageError(
      "USAGE",
      "backup: refused: some volumes have a moment and some have none",
      {
        hint: "volumes of one point are of one moment: give all of them a moment, or none",
      },
    );
  }
  const wishes: Wish[] = [];
  for (const { volume, moment } of asked) {
    if (moment === undefined) {
      const { id } = await daemon.call("getVolume", { volume });
      wishes.push({ volume, volumeId: id, moment: { kind: "now" }, place: undefined });
      continue;
    }
    // What means another moment each time is asked for once.
    const first = wishes.find((wish) => sameWords(wish.moment, moment));
    const isNamed = moment.kind === "name" || first?.place === undefined;
    const words = isNamed ? formatMoment(moment) : `#${first.place.lsn}`;
    const found = await daemon.call("resolveMoment", { volume, moment: words });
    const place = { nameThen: found.volume, lsn: found.lsn };
    wishes.push({ volume, volumeId: found.volumeId, moment, place });
  }
  const ids = new Set(wishes.map(({ volumeId }) => volumeId));
  if (ids.size < wishes.length)
    throw new StorageError("USAGE", "backup: refused: a volume is named twice");
  const [one, ...others] = wishes;
  const other = others.find(({ place }) => place?.lsn !== one?.place?.lsn);
  if (one?.place !== undefined && other?.place !== undefined) {
    const what = `"${one.volume}" is of #${one.place.lsn}, "${other.volume}" of #${other.place.lsn}`;
    throw new StorageError("USAGE", `backup: refused: ${what}`, {
      hint: "volumes of one point are of one moment: name it in one command (varve snapshot db@v1 web@v1), or make a point of each",
    });
  }
  return wishes;
}

function sameWords(one: Moment, other: Moment): boolean {
  return formatMoment(one) === formatMoment(other);
}

/** In the order of their ids, so that two backups never wait for each other. Throws BACKUP_RUNNING. */
async function lockVolumes(
  daemon: DaemonClient,
  { path, targetId, wishes }: { path: string; targetId: string; wishes: readonly Wish[] },
): Promise<PoolLock[]> {
  const directory = join(daemon.pool, LOCKS);
  await makePrivateDirectory(directory);
  const locks: PoolLock[] = [];
  try {
    for (const { volume, volumeId } of wishes.toSorted((a, b) => a.volumeId - b.volumeId)) {
      const file = join(directory, `${targetId}-${volumeId}.lock`);
      const lock = lockFile(file, (holder, data) => {
        const what = `volume "${volume}": not backed up: ${holder} is backing it up to "${path}"`;
        return new StorageError("BACKUP_RUNNING", what, { data });
      });
      locks.push(lock);
    }
    return locks;
  } catch (error) {
    for (const lock of locks) lock.release();
    throw error;
  }
}

function hasMoment(
  { points }: CatalogState,
  { poolId, volumeId, lsn }: { poolId: string; volumeId: number; lsn: number },
): boolean {
  return points.some(
    (point) =>
      point.poolId === poolId &&
      point.volumes.some((volume) => volume.volumeId === volumeId && volume.lsn === lsn),
  );
}

/** Names the moment of all volumes. */
async function pinMoment(
  context: CommandContext,
  daemon: DaemonClient,
  { pin, target, wishes }: { pin: string; target: Target; wishes: readonly Wish[] },
): Promise<readonly SnapshotJson[]> {
  const behind = context.option("max-behind");
  const rest = {
    isProtected: true,
    description: `backed up to ${target.store.label}`,
    ...(behind === undefined ? {} : { keepMs: keepOf('option "--max-behind"', behind) }),
  };
  const [first] = wishes;
  if (first?.place === undefined) {
    const targets = wishes.map(({ volume }) => ({ volume, name: pin }));
    return (await daemon.call("takeSnapshot", { targets, ...rest })).snapshots;
  }
  const isNamed = first.moment.kind === "name";
  const at = isNamed ? formatMoment(first.moment) : `#${first.place.lsn}`;
  const targets = wishes.map(({ volume, place }) => ({
    volume: isNamed ? volume : (place?.nameThen ?? volume),
    name: pin,
  }));
  return (await daemon.call("takeSnapshot", { targets, at, ...rest })).snapshots;
}

async function describe(
  daemon: DaemonClient,
  { snapshot, pin, source }: { snapshot: SnapshotJson; pin: string; source: MomentSource },
): Promise<BackupVolume> {
  const { volume: name, volumeId: id } = snapshot;
  const found = await daemon.call("resolveMoment", { volume: name, moment: pin });
  return {
    name,
    volumeId: id,
    sizeBytes: found.sizeBytes,
    moment: { lsn: found.lsn, branch: found.branch, timeMicros: microsOf(found.at) },
    source,
    baseOf: (moment) => findMoment(daemon, { name, id }, moment),
  };
}

/** That of the moment, when all volumes have the same; else its time. */
function nameOf(wishes: readonly Wish[], volumes: readonly BackupVolume[]): string {
  const [wish] = wishes;
  if (wish?.moment.kind === "name" && wishes.every(({ moment }) => sameWords(moment, wish.moment)))
    return wish.moment.name;
  const micros = volumes[0]?.moment.timeMicros ?? 0;
  return formatTime(Math.floor(micros / 1000) * 1000);
}

async function send(
  context: CommandContext,
  work: {
    readonly target: Target;
    readonly poolId: string;
    readonly volumes: readonly BackupVolume[];
    readonly pointName: string;
    readonly path: string;
    readonly pace: ((clock: Target["clock"]) => RateLimit) | undefined;
  },
): Promise<BackupResult & { readonly elapsedMs: number }> {
  const { target, poolId, volumes, pointName, path, pace } = work;
  const label = volumes.map(({ name }) => name).join(", ");
  const meter = meterOf(context, label, context.isJson ? "json" : undefined);
  const abort = new AbortController();
  const ignoreSignals = onStopSignal((signal) => {
    abort.abort(
      new StorageError("INTERRUPTED", `backup of "${label}": ended by ${signal}`, {
        hint: "what was sent stays in the target; start it again, and it goes on",
      }),
    );
  });
  const limit = pace?.(target.clock);
  try {
    const result = await runBackup({
      target,
      zstd: createParallelZstd(),
      poolId,
      host: hostName(),
      name: pointName,
      volumes,
      isFull: context.flag("full"),
      pace: limit === undefined ? undefined : (bytes) => limit.take(bytes),
      signal: abort.signal,
      onMissing: (packCount) =>
        context.output.note(
          `target "${path}": ${counted(packCount, "pack")} of it ${packCount === 1 ? "is" : "are"} gone, and with them a part of its points: what they held is read and sent again; "varve verify ${path}" says what is lost`,
        ),
      onBegin: (begun) => {
        for (const { name, lostParent, isResumed } of begun) {
          if (isResumed) context.output.note(`volume "${name}": goes on where a backup ended`);
          if (lostParent === undefined) continue;
          context.output.note(
            `volume "${name}": everything is read: its moment of point "${lostParent}" isn't kept any more; only what the target lacks is sent`,
          );
        }
      },
      onProgress: ({ phase, doneBytes, totalBytes, storedBytes }) =>
        meter.update(doneBytes, totalBytes, { phase, storedBytes }),
    });
    meter.finish();
    return { ...result, elapsedMs: meter.elapsedMs };
  } catch (error) {
    meter.stop();
    if (error instanceof StorageError && error.code !== "INTERRUPTED")
      context.output.note(`target "${path}": what was sent stays there for the next backup`);
    throw error;
  } finally {
    meter.stop();
    ignoreSignals();
  }
}

function tell(
  { output, isJson }: CommandContext,
  target: string,
  result: BackupResult & { readonly elapsedMs: number },
): void {
  const { point, elapsedMs, ...rest } = result;
  if (isJson) {
    const { id, name, createdMicros } = point;
    output.json({
      target,
      point: { id, name, createdAt: formatTime(createdMicros) },
      ...rest,
      elapsedMs: Math.round(elapsedMs),
    });
    return;
  }
  const what = result.volumes.map(({ name, lsn }) => `${name}@#${lsn}`).join(" ");
  const volumes =
    result.volumes.length === 1 ? what : `${counted(result.volumes.length, "volume")} (${what})`;
  const rate = result.readBytes === 0 ? "" : renderRate(result.readBytes, elapsedMs);
  const facts = [
    `${formatSize(result.readBytes)} read`,
    `${formatSize(result.newBytes)} sent`,
    `${formatSize(result.storedBytes)} stored`,
    ...(result.knownBytes === 0 ? [] : [`${formatSize(result.knownBytes)} deduplicated`]),
  ];
  output.line(
    `point "${point.name}" of ${volumes} made: ${facts.join(", ")}, in ${formatDuration(elapsedMs)}${rate}`,
  );
}
