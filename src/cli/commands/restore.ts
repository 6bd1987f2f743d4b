// SPDX-License-Identifier: Apache-2.0
//
// `varve restore`: a volume of a point becomes a volume again, or an image. A new volume that wasn't filled to its end is
// taken away: half a disk is no disk. An existing one is compared, block by block, and only what differs is written.

import type { ManifestVolume, PointManifest } from "../../backup/manifest.ts";
import { PointImage } from "../../backup/point-image.ts";
import type { TargetReader } from "../../backup/target-reader.ts";
import { must } from "../../base/assert.ts";
import { StorageError } from "../../base/errors.ts";
import { checkName } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import { onStopSignal } from "../../host/node/signals.ts";
import type { CopyResult } from "../../image/copy.ts";
import type { NbdClient } from "../../nbd/client.ts";
import { parseTargetPoint, ReadTarget, volumeOf } from "../backup-point.ts";
import { type CommandContext, required } from "../command.ts";
import { runCopy } from "../copy-run.ts";
import type { DaemonClient } from "../daemon-client.ts";
import { DifferingSink } from "../differing-sink.ts";
import { replayHistory } from "../history-restore.ts";
import { imageFormatOf, writeImage } from "../image-file.ts";
import { discard, findVolume, notOverwritten } from "../import-volume.ts";
import { MomentsFile } from "../moments-file.ts";
import { PointSource, type PointSourceOptions } from "../point-source.ts";
import type { ProgressStyle } from "../progress.ts";
import { counted } from "../values.ts";
import { isBlank, openVolume, VolumeSink } from "../volume-image.ts";

interface Restore {
  readonly target: string;
  readonly point: PointManifest;
  readonly volume: ManifestVolume;
  readonly source: PointSource;
  readonly reader: TargetReader;
  readonly reading: PointSourceOptions;
}

export async function run(context: CommandContext): Promise<undefined> {
  const name = context.argument("VOLUME");
  const image = context.option("to");
  checkPlace(context, name, image);
  const { path, point: pointName } = await parseTargetPoint(required(context, "TARGET[@POINT]"));
  await using target = await ReadTarget.open(context, path, "restore");
  const asked = context.option("volume");
  const likely = asked ?? likelyVolume(target, name);
  const point = await target.manifest(target.find(pointName, likely));
  const volume = volumeOf(point, { asked, likely });
  const { reader } = target;
  const isDamageSkipped = context.flag("skip-damaged");
  const reading = { isDamageSkipped, check: () => target.check() };
  const source = new PointSource(new PointImage(reader, volume), reading);
  const restore = { target: path, point, volume, source, reader, reading };
  const result =
    image === undefined
      ? await intoVolume(context, restore, name ?? "")
      : await intoImage(context, restore, image);
  tell(context, restore, { ...result, place: image ?? name ?? "", isImage: image !== undefined });
}

/** Throws USAGE, NAME_INVALID. */
function checkPlace(
  context: CommandContext,
  name: string | undefined,
  image: string | undefined,
): void {
  if (name !== undefined && image !== undefined)
    throw new StorageError("USAGE", "restore: refused: a volume and --to are both given", {
      hint: "to say which volume of the backup goes into the image, use --volume",
    });
  if (name === undefined && image === undefined)
    throw new StorageError("USAGE", "argument VOLUME: missing", {
      hint: "name the volume that is to be made, or an image with --to",
    });
  if (name !== undefined) {
    checkName("volume", name);
    if (context.option("format") !== undefined)
      throw new StorageError("USAGE", 'option "--format": refused: it is of an image');
  }
  if (image === "-") context.output.refuseTerminal("the volume");
}

/** The volume's own name, where the target has one of that name. */
function likelyVolume({ state }: ReadTarget, name: string | undefined): string | undefined {
  const isThere = state.points.some(({ volumes }) => volumes.some((one) => one.name === name));
  return isThere ? name : undefined;
}

async function intoImage(
  context: CommandContext,
  { volume, source }: Restore,
  image: string,
): Promise<CopyResult> {
  const format = imageFormatOf(context, image);
  const style = styleOf(context);
  return writeImage(context, { label: volume.name, image, format, source, style });
}

/** Programs that read the result as JSON get the progress as such, too. */
function styleOf({ isJson }: CommandContext): ProgressStyle | undefined {
  return isJson ? "json" : undefined;
}

async function intoVolume(
  context: CommandContext,
  restore: Restore,
  name: string,
): Promise<CopyResult> {
  const daemon = await context.daemon();
  const { sizeBytes } = restore.volume;
  const found = await findVolume(daemon, name);
  if (found !== undefined && found.sizeBytes < sizeBytes) {
    const what = `it has ${found.sizeBytes} bytes, the backup ${sizeBytes}`;
    throw new StorageError("SIZE_INVALID", `volume "${name}": not restored: ${what}`, {
      hint: `make room first: varve resize ${name} ${sizeBytes}; or restore into a new volume`,
    });
  }
  if (found === undefined) await daemon.call("createVolume", { name, sizeBytes });
  try {
    return await fill(context, daemon, { restore, name, isNew: found === undefined });
  } catch (error) {
    if (found === undefined) await discard(daemon, name);
    throw error;
  }
}

async function fill(
  context: CommandContext,
  daemon: DaemonClient,
  { restore, name, isNew }: { restore: Restore; name: string; isNew: boolean },
): Promise<CopyResult> {
  const { source } = restore;
  const client = await openVolume(daemon, name);
  try {
    const isEmpty = isNew || (await isBlank(client));
    if (isEmpty && restore.volume.history !== undefined && !context.flag("no-history"))
      return await fillWithHistory(context, daemon, { restore, name, client });
    if (isEmpty)
      return await runCopy(context, name, {
        source,
        sink: new VolumeSink(client, { isBlank: true }),
        style: styleOf(context),
      });
    if (!context.flag("force"))
      throw notOverwritten(
        name,
        "restore into a new volume, or pass --force to overwrite this one",
      );
    const sink = new DifferingSink(client);
    const { sizeBytes } = await runCopy(context, name, { source, sink, style: styleOf(context) });
    return { sizeBytes, writtenBytes: sink.changedBytes };
  } finally {
    await client.close();
  }
}

/** The disk when the window began, each change since, and at last what the point says, whatever the history said. */
async function fillWithHistory(
  context: CommandContext,
  daemon: DaemonClient,
  { restore, name, client }: { restore: Restore; name: string; client: NbdClient },
): Promise<CopyResult> {
  const { reader, source, volume } = restore;
  const history = must(volume.history, "who restores a history has one");
  const begin = { ...volume, sizeBytes: Math.min(history.sizeBytes, client.sizeBytes) };
  const image = new PointImage(reader, { ...begin, runs: history.runs });
  const style = styleOf(context);
  const sink = new VolumeSink(client, { isBlank: true });
  await runCopy(context, name, { source: new PointSource(image, restore.reading), sink, style });
  const path = context.option("moments");
  const table = path === undefined ? undefined : await MomentsFile.create(path, name);
  const abort = new AbortController();
  const ignoreSignals = onStopSignal((signal) =>
    abort.abort(new StorageError("INTERRUPTED", `volume "${name}": ended by ${signal}`)),
  );
  try {
    const signal = abort.signal;
    const onProgress = restore.reading.check;
    const replay = { reader, history, daemon, volume: name, client, table, signal, onProgress };
    const entryCount = await replayHistory(replay);
    await table?.close();
    context.output.note(`volume "${name}": ${counted(entryCount, "change")} of its past made anew`);
  } catch (error) {
    await table?.discard();
    throw error;
  } finally {
    ignoreSignals();
  }
  const rest = new DifferingSink(client);
  return runCopy(context, name, { source, sink: rest, style });
}

function tell(
  { output, isJson }: CommandContext,
  { target, point, volume, source }: Restore,
  result: CopyResult & { readonly place: string; readonly isImage: boolean },
): void {
  const { place, isImage, ...sizes } = result;
  const { damaged } = source;
  const answer = {
    target,
    point: { id: point.id, name: point.name },
    volume: isImage ? volume.name : place,
    ...(isImage ? { image: place } : {}),
    ...sizes,
    ...(damaged.length === 0 ? {} : { damaged }),
  };
  const toStdout = isImage && place === "-";
  if (isJson && toStdout) output.noteJson(answer);
  else if (isJson) output.json(answer);
  else if (!toStdout) {
    const from = `point "${point.name}" of "${volume.name}"`;
    const what = isImage ? `image "${place}"` : `volume "${place}"`;
    const data = formatSize(sizes.writtenBytes);
    output.line(`${what} restored from ${from}: ${formatSize(sizes.sizeBytes)}, ${data} written`);
  }
  for (const { startBytes, endBytes } of damaged)
    output.note(`volume "${volume.name}": bytes ${startBytes} to ${endBytes} are lost, now zeros`);
  if (damaged.length === 0) return;
  const bytes = damaged.reduce((sum, { startBytes, endBytes }) => sum + endBytes - startBytes, 0);
  throw new StorageError(
    "TARGET_CORRUPT",
    `volume "${volume.name}": restored with zeros for ${bytes} lost bytes`,
    { data: { damagedBytes: bytes } },
  );
}
