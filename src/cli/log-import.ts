// SPDX-License-Identifier: Apache-2.0
//
// `varve import` of another system's log: a volume with the log's history. The log is read once before
// anything is made, so that its size is known and a log that is none changes nothing; then the base image
// is copied, if there is one, and the log's changes are applied through the NBD door, one record each.
//
// A log that is damaged gives what it holds up to there: that is a state the disk once had. The volume
// stays, and the exit code says that it isn't all.

import { VOLUME_BYTES_MAX } from "../api/schemas.ts";
import { StorageError } from "../base/errors.ts";
import { stableName } from "../base/moment.ts";
import { formatSize } from "../base/units.ts";
import { onStopSignal } from "../host/node/signals.ts";
import { IMAGE_FORMATS, type ImageSource } from "../image/image.ts";
import { type ReplayResult, replayLog } from "../image/log-replay.ts";
import { openImage } from "../image/open-image.ts";
import { type LogSurvey, logCorrupt, type SeedLog, type SeedLogFormat } from "../image/seed-log.ts";
import type { CommandContext } from "./command.ts";
import { runCopy } from "./copy-run.ts";
import type { DaemonClient } from "./daemon-client.ts";
import { discard, findVolume, fitting, notOverwritten } from "./import-volume.ts";
import { MomentsFile } from "./moments-file.ts";
import { checkReadable, openNamed } from "./named-file.ts";
import { meterOf } from "./progress-meter.ts";
import { openSeedLog } from "./seed-log-files.ts";
import { counted } from "./values.ts";
import { isBlank, openVolume, VolumeSink } from "./volume-image.ts";

export interface LogImport {
  readonly format: SeedLogFormat;
  /** The log, or the pairs of one. */
  readonly paths: readonly string[];
  readonly name: string;
  /** What the user said. */
  readonly sizeBytes: number | undefined;
}

interface Plan extends LogImport {
  readonly log: SeedLog;
  readonly survey: LogSurvey;
  readonly base: ImageSource | undefined;
}

interface LogImportResult extends ReplayResult {
  readonly volumeBytes: number;
  /** The volume before the first change, and behind the last. */
  readonly firstLsn: number;
  readonly lastLsn: number;
}

export async function importLog(context: CommandContext, asked: LogImport): Promise<undefined> {
  const daemon = await context.daemon();
  const log = await openSeedLog(context, asked.format, asked.paths);
  try {
    const survey = await log.survey();
    const name = asked.paths.join(" ");
    if (survey.changeCount === 0 && survey.damage !== undefined)
      throw damageOf(name, survey.damage, "nothing was imported");
    const base = await openBase(context);
    try {
      const result = await fill(context, daemon, { ...asked, log, survey, base });
      tell(context, { ...asked, log, survey, base }, result);
      if (survey.damage !== undefined)
        throw damageOf(name, survey.damage, `volume "${asked.name}" has what came before`);
    } finally {
      await base?.close();
    }
  } finally {
    await log.close();
  }
}

function damageOf(
  name: string,
  { place, reason }: NonNullable<LogSurvey["damage"]>,
  outcome: string,
): StorageError {
  return logCorrupt(
    name,
    `at ${place}: ${reason}: ${outcome}`,
    "what comes behind damage is no state that the disk ever had; get the log again, or look at it there",
  );
}

async function openBase(context: CommandContext): Promise<ImageSource | undefined> {
  const path = context.option("base");
  if (path === undefined) return undefined;
  await checkReadable(path);
  const format = IMAGE_FORMATS.find((known) => known === context.option("base-format"));
  const allowBacking = context.flag("allow-backing");
  const base = await openImage(path, { openFile: openNamed, format, allowBacking });
  for (const warning of base.warnings) context.output.note(`image "${path}": ${warning}`);
  return base;
}

async function fill(
  context: CommandContext,
  daemon: DaemonClient,
  plan: Plan,
): Promise<LogImportResult> {
  const { name } = plan;
  const existing = await findVolume(daemon, name);
  const volumeBytes = existing?.sizeBytes ?? newSize(plan);
  checkFits(plan, volumeBytes, existing !== undefined);
  const momentsPath = context.option("moments");
  const moments =
    momentsPath === undefined ? undefined : await MomentsFile.create(momentsPath, name);
  try {
    if (existing === undefined) await daemon.call("createVolume", { name, sizeBytes: volumeBytes });
    try {
      const result = await apply(context, daemon, plan, moments);
      await moments?.close();
      return { ...result, volumeBytes };
    } catch (error) {
      if (existing === undefined) await discard(daemon, name);
      throw error;
    }
  } catch (error) {
    await moments?.discard();
    throw error;
  }
}

/** Of a volume that isn't there yet. */
function newSize({ sizeBytes, base, survey }: Plan): number {
  return sizeBytes ?? fitting(base?.sizeBytes ?? survey.endBytes);
}

function checkFits(
  { name, sizeBytes, base, survey }: Plan,
  volumeBytes: number,
  isThere: boolean,
): void {
  const subject = `volume "${name}": log refused`;
  if (survey.endBytes > VOLUME_BYTES_MAX) {
    throw new StorageError("SIZE_INVALID", `${subject}: it writes up to byte ${survey.endBytes}`, {
      hint: "no volume is larger than 64T: is it a log of this format?",
    });
  }
  if (isThere && sizeBytes !== undefined && sizeBytes !== volumeBytes) {
    throw new StorageError(
      "SIZE_INVALID",
      `volume "${name}": size ${sizeBytes} refused: it exists and has ${volumeBytes} bytes`,
      { hint: `leave --size out, or resize it first: varve resize ${name} SIZE` },
    );
  }
  const grow = isThere ? `make room first: varve resize ${name} SIZE` : "give a larger --size";
  if ((base?.sizeBytes ?? 0) > volumeBytes) {
    throw new StorageError(
      "SIZE_INVALID",
      `volume "${name}": base image refused: it has ${base?.sizeBytes} bytes, the volume ${volumeBytes}`,
      { hint: grow },
    );
  }
  if (survey.endBytes <= volumeBytes) return;
  throw new StorageError(
    "SIZE_INVALID",
    `${subject}: it writes up to byte ${survey.endBytes}, the volume has ${volumeBytes} bytes`,
    { hint: base === undefined ? grow : `is it this disk's base? Else ${grow}` },
  );
}

async function apply(
  context: CommandContext,
  daemon: DaemonClient,
  plan: Plan,
  moments: MomentsFile | undefined,
): Promise<Omit<LogImportResult, "volumeBytes">> {
  const { name, base } = plan;
  const client = await openVolume(daemon, name);
  try {
    const isEmpty = await isBlank(client);
    if (!isEmpty && !context.flag("force")) {
      throw notOverwritten(
        name,
        base === undefined
          ? "pass --force to apply the log onto what it holds, or import into a new volume"
          : "import into a new volume, or pass --force to overwrite this one",
      );
    }
    if (base !== undefined) {
      const sink = new VolumeSink(client, { isBlank: isEmpty });
      await runCopy(context, context.option("base") ?? "", { source: base, sink });
    }
    const nextLsn = async (): Promise<number> => (await daemon.call("getPool", {})).headLsn;
    const firstLsn = (await nextLsn()) - 1;
    const result = await replay(context, plan, {
      target: client,
      ...(moments === undefined ? {} : { moments, nextLsn }),
    });
    await client.flush();
    return { ...result, firstLsn, lastLsn: (await nextLsn()) - 1 };
  } finally {
    await client.close();
  }
}

async function replay(
  context: CommandContext,
  { name, log, survey }: Plan,
  {
    target,
    moments,
    nextLsn,
  }: {
    target: Awaited<ReturnType<typeof openVolume>>;
    moments?: MomentsFile;
    nextLsn?: () => Promise<number>;
  },
): Promise<ReplayResult> {
  const meter = meterOf(context, name);
  const abort = new AbortController();
  const ignoreSignals = onStopSignal((signal) => {
    abort.abort(
      new StorageError("INTERRUPTED", `${name}: ended by ${signal}: the import is incomplete`),
    );
  });
  try {
    const result = await replayLog(log, target, {
      signal: abort.signal,
      onProgress: (doneBytes) => meter.update(doneBytes, survey.logBytes),
      nextLsn,
      onReplayed: moments && ((changes) => moments.add(changes)),
    });
    meter.finish();
    return result;
  } finally {
    meter.stop();
    ignoreSignals();
  }
}

function tell(context: CommandContext, plan: Plan, result: LogImportResult): void {
  const { output } = context;
  const { name, paths, format, survey, base } = plan;
  const { leftOut, leftOutCount, warnings, damage } = survey;
  const { counts, writtenBytes, volumeBytes, firstLsn, lastLsn } = result;
  const log = paths.join(" ");
  if (context.isJson) {
    const moments = context.option("moments");
    output.json({
      ...{ volume: name, log: paths, format, sizeBytes: volumeBytes },
      ...(base === undefined ? {} : { base: context.option("base"), baseBytes: base.sizeBytes }),
      ...{ changes: counts, writtenBytes, firstLsn, lastLsn, leftOutCount, leftOut, warnings },
      ...(damage === undefined ? {} : { damage }),
      ...(moments === undefined ? {} : { moments }),
    });
    return;
  }
  const parts = [
    counted(counts.write, "write"),
    ...(counts.zero > 0 ? [`${counts.zero} of zeroes`] : []),
    ...(counts.trim > 0 ? [counted(counts.trim, "trim")] : []),
    ...(counts.flush > 0 ? [counted(counts.flush, "flush").replace(/hs$/, "hes")] : []),
  ];
  output.line(
    `volume "${name}" imported: ${formatSize(volumeBytes)}, ${parts.join(", ")}, ${formatSize(writtenBytes)} of data`,
  );
  output.line(
    `history: from ${stableName(name, firstLsn)}, before the log, to ${stableName(name, lastLsn)}`,
  );
  for (const warning of warnings) output.note(`log "${log}": ${warning}`);
  for (const { place, kind, offsetBytes, lengthBytes, why } of leftOut)
    output.note(`left out: ${place}: ${kind} of ${lengthBytes} bytes at ${offsetBytes}: ${why}`);
  if (leftOutCount > leftOut.length)
    output.note(`and ${leftOutCount - leftOut.length} more that didn't take effect`);
}
