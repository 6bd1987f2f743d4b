// SPDX-License-Identifier: Apache-2.0
//
// `varve import`: an image becomes a volume. A new volume gets the image's size; of a stream whose end
// nobody knows it gets the largest first, which costs nothing, and is cut to the stream's length at the
// end. A volume that was made for an import that failed is removed again: half a disk is no disk.

import { checkVolumeSize } from "../../api/operations.ts";
import { VOLUME_BYTES_MAX } from "../../api/schemas.ts";
import { StorageError } from "../../base/errors.ts";
import { checkName } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import type { CopyResult } from "../../image/copy.ts";
import {
  IMAGE_FORMATS,
  type ImageFormat,
  type ImageSource,
  type StreamSource,
} from "../../image/image.ts";
import { openImage } from "../../image/open-image.ts";
import { SEED_LOG_FORMATS } from "../../image/seed-log.ts";
import { openStream } from "../../image/stream.ts";
import { type CommandContext, required } from "../command.ts";
import { runCopy } from "../copy-run.ts";
import type { DaemonClient } from "../daemon-client.ts";
import { discard, findVolume, fitting, notOverwritten } from "../import-volume.ts";
import { importLog } from "../log-import.ts";
import { checkReadable, openNamed } from "../named-file.ts";
import { sizeOf } from "../values.ts";
import { isBlank, openVolume, VolumeSink } from "../volume-image.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const images = context.variadic("IMAGE");
  const name = required(context, "VOLUME");
  checkName("volume", name);
  const sizeText = context.option("size");
  const sizeBytes = sizeText === undefined ? undefined : sizeOf("volume size", sizeText);
  if (sizeBytes !== undefined) checkVolumeSize(sizeBytes);
  const format = SEED_LOG_FORMATS.find((known) => known === context.option("format"));
  if (format !== undefined) return importLog(context, { format, paths: images, name, sizeBytes });
  refuseLogOptions(context, images);
  await importImage(context, { image: images[0] ?? "", name, sizeBytes });
}

/** What only a log can be imported with. */
function refuseLogOptions(context: CommandContext, images: readonly string[]): void {
  const hint = `logs are imported with --format ${SEED_LOG_FORMATS.join(" or --format ")}`;
  const option = ["base", "base-format", "utc-offset", "moments"].find(
    (known) => context.option(known) !== undefined,
  );
  if (option !== undefined)
    throw new StorageError("USAGE", `option "--${option}": refused: it belongs to logs`, { hint });
  if (images.length > 1) {
    throw new StorageError("USAGE", `image "${images[1]}": refused: a volume takes one image`, {
      hint,
    });
  }
}

async function importImage(
  context: CommandContext,
  { image, name, sizeBytes }: { image: string; name: string; sizeBytes: number | undefined },
): Promise<void> {
  const { output } = context;
  const daemon = await context.daemon();
  // The image first: nothing is made for one that can't be read.
  const source = await openSource(context, image, sizeBytes);
  for (const warning of source.warnings) output.note(`image "${image}": ${warning}`);
  try {
    const target = await prepareVolume(daemon, name, { source, sizeBytes });
    const result = await fillVolume(context, daemon, { name, image, source, target });
    if (context.isJson) {
      output.json({ volume: name, image, format: source.format, ...result });
      return;
    }
    const data = formatSize(result.writtenBytes);
    output.line(`volume "${name}" imported: ${formatSize(result.sizeBytes)}, ${data} of it data`);
    if (result.volumeBytes > result.sizeBytes) {
      output.note(
        `volume "${name}": it has ${result.volumeBytes} bytes, the image ${result.sizeBytes}: the rest reads as zeros`,
      );
    }
  } finally {
    await source.close();
  }
}

async function openSource(
  context: CommandContext,
  image: string,
  sizeBytes: number | undefined,
): Promise<ImageSource | StreamSource> {
  const format = formatOf(context.option("format"));
  if (image === "-") return openStream(process.stdin, { format, sizeBytes });
  await checkReadable(image);
  const source = await openImage(image, {
    openFile: openNamed,
    format,
    allowBacking: context.flag("allow-backing"),
  });
  if (source.sizeBytes > 0) return source;
  await source.close();
  throw new StorageError("IMAGE_CORRUPT", `image "${image}": not read: it is empty`, {
    hint: "see whether the program that wrote it failed; an empty disk needs no image: varve create",
  });
}

function formatOf(text: string | undefined): ImageFormat | undefined {
  return IMAGE_FORMATS.find((format) => format === text);
}

interface Target {
  readonly isNew: boolean;
  readonly volumeBytes: number;
  /** The volume must be cut to the stream's length. */
  readonly isCutAtEnd: boolean;
}

async function prepareVolume(
  daemon: DaemonClient,
  name: string,
  { source, sizeBytes }: { source: ImageSource | StreamSource; sizeBytes: number | undefined },
): Promise<Target> {
  const isThere = await findVolume(daemon, name);
  const imageBytes = source.sizeBytes;
  if (isThere !== undefined) {
    if (sizeBytes !== undefined && imageBytes !== sizeBytes && sizeBytes !== isThere.sizeBytes) {
      throw new StorageError(
        "SIZE_INVALID",
        `volume "${name}": size ${sizeBytes} refused: it exists and has ${isThere.sizeBytes} bytes`,
        {
          hint: `leave --size out, or resize it first: varve resize ${name} SIZE`,
        },
      );
    }
    if (imageBytes !== undefined && imageBytes > isThere.sizeBytes) {
      throw new StorageError(
        "SIZE_INVALID",
        `volume "${name}": image refused: it has ${imageBytes} bytes, the volume ${isThere.sizeBytes}`,
        {
          hint: `make room first: varve resize ${name} SIZE`,
        },
      );
    }
    return { isNew: false, volumeBytes: isThere.sizeBytes, isCutAtEnd: false };
  }
  if (sizeBytes !== undefined && imageBytes !== undefined && sizeBytes < imageBytes) {
    throw new StorageError(
      "SIZE_INVALID",
      `volume "${name}": size ${sizeBytes} refused: the image has ${imageBytes} bytes`,
      {
        hint: "leave --size out, or give a larger one",
      },
    );
  }
  const volumeBytes =
    sizeBytes ?? (imageBytes === undefined ? VOLUME_BYTES_MAX : fitting(imageBytes));
  await daemon.call("createVolume", { name, sizeBytes: volumeBytes });
  const isCutAtEnd = sizeBytes === undefined && imageBytes === undefined;
  return { isNew: true, volumeBytes, isCutAtEnd };
}

interface ImportResult extends CopyResult {
  /** The volume's size at the end; sizeBytes is the image's. */
  readonly volumeBytes: number;
}

interface Filling {
  readonly name: string;
  readonly image: string;
  readonly source: ImageSource | StreamSource;
  readonly target: Target;
}

async function fillVolume(
  context: CommandContext,
  daemon: DaemonClient,
  { name, image, source, target }: Filling,
): Promise<ImportResult> {
  try {
    const client = await openVolume(daemon, name);
    let result: CopyResult;
    try {
      const isEmpty = target.isNew || (await isBlank(client));
      if (!isEmpty && !context.flag("force")) {
        throw notOverwritten(
          name,
          "import into a new volume, or pass --force to overwrite this one",
        );
      }
      const sink = new VolumeSink(client, { isBlank: isEmpty });
      result = await runCopy(context, image, { source, sink });
    } finally {
      await client.close();
    }
    if (!target.isCutAtEnd) return { ...result, volumeBytes: target.volumeBytes };
    const volumeBytes = fitting(result.sizeBytes);
    await daemon.call("resizeVolume", { volume: name, sizeBytes: volumeBytes, force: true });
    return { ...result, volumeBytes };
  } catch (error) {
    if (target.isNew) await discard(daemon, name);
    throw error;
  }
}
