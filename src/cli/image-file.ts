// SPDX-License-Identifier: Apache-2.0
//
// A disk image that a command writes: a file, a block device, or stdout. A file is written under another name first and
// takes its own when it is complete and durable, so that a copy that was interrupted neither leaves half a disk that looks
// whole nor has destroyed the one before.

import { basename, dirname } from "node:path";
import { StorageError } from "../base/errors.ts";
import { openDirectory } from "../host/node/directory.ts";
import { PROCESS_ID } from "../host/node/process-usage.ts";
import { fileKind } from "../host/node/text-file.ts";
import type { DiskFile } from "../host/ports.ts";
import type { CopyResult } from "../image/copy.ts";
import type { ImageFormat, ImageSink, ImageSource } from "../image/image.ts";
import { createQcow2Sink } from "../image/qcow2-sink.ts";
import { RawSink } from "../image/raw.ts";
import { createStreamSink } from "../image/stream.ts";
import type { CommandContext } from "./command.ts";
import { runCopy } from "./copy-run.ts";
import { checkPlaceFor, opening } from "./named-file.ts";
import type { ProgressStyle } from "./progress.ts";

export interface ImageFile {
  /** What the progress is called. */
  readonly label: string;
  readonly image: string;
  readonly format: ImageFormat;
  readonly source: ImageSource;
  readonly style?: ProgressStyle | undefined;
}

/** What is said, else what the file's name says, else raw. */
export function imageFormatOf(context: CommandContext, image: string): ImageFormat {
  const said = context.option("format");
  const format =
    said === "raw" || said === "qcow2" ? said : /\.qcow2?$/i.test(image) ? "qcow2" : "raw";
  if (context.option("compress") !== undefined && format === "raw") {
    throw new StorageError(
      "USAGE",
      'option "--compress": refused: a raw image has no compression',
      {
        hint: "write it as qcow2, or send it through a compressor: varve export VOLUME - | zstd",
      },
    );
  }
  return format;
}

export async function writeImage(context: CommandContext, about: ImageFile): Promise<CopyResult> {
  const { image, format, label, source, style } = about;
  if (image === "-") {
    const sink = createStreamSink(format, (bytes) => context.output.bytes(bytes));
    return runCopy(context, label, { source, sink, style });
  }
  const what = `image "${image}": not written`;
  const kind = await opening(what, () => fileKind(image));
  if (kind === "directory" || kind === "other") {
    throw new StorageError(
      "IMAGE_UNSUPPORTED",
      `image "${image}": not written: it is neither a file nor a block device`,
      {
        hint: "name a file, or '-' for stdout",
      },
    );
  }
  if (kind !== "missing" && !context.flag("force")) {
    throw new StorageError("IMAGE_EXISTS", `image "${image}": not written: it exists`);
  }
  if (kind === "block-device") return writeDevice(context, about);
  await checkPlaceFor(image);
  const directory = await opening(what, () => openDirectory(dirname(image)));
  const draft = `.${basename(image)}.${PROCESS_ID}.partial`;
  const file = await opening(what, () => directory.open(draft, "create"));
  try {
    const result = await copyTo(context, about, { file, isEmpty: true });
    await directory.rename(draft, basename(image));
    await directory.sync();
    return result;
  } catch (error) {
    await directory.remove(draft);
    throw error;
  }
}

async function writeDevice(context: CommandContext, about: ImageFile): Promise<CopyResult> {
  if (about.format === "qcow2") {
    throw new StorageError(
      "IMAGE_UNSUPPORTED",
      `image "${about.image}": not written: qcow2 goes into a file, not a device`,
      {
        hint: "write it raw: --format raw",
      },
    );
  }
  const file = await opening(`image "${about.image}": not written`, async () => {
    const directory = await openDirectory(dirname(about.image));
    return directory.open(basename(about.image), "write");
  });
  return copyTo(context, about, { file, isEmpty: false });
}

async function copyTo(
  context: CommandContext,
  { label, format, source, style }: ImageFile,
  { file, isEmpty }: { file: DiskFile; isEmpty: boolean },
): Promise<CopyResult> {
  try {
    const sink = await sinkFor(context, format, { file, isEmpty, sizeBytes: source.sizeBytes });
    return await runCopy(context, label, { source, sink, style });
  } finally {
    await file.close();
  }
}

async function sinkFor(
  context: CommandContext,
  format: ImageFormat,
  { file, isEmpty, sizeBytes }: { file: DiskFile; isEmpty: boolean; sizeBytes: number },
): Promise<ImageSink> {
  if (format === "raw") return new RawSink(file, { isEmpty });
  const said = context.option("compress");
  const compression = said === "zlib" || said === "zstd" ? said : undefined;
  return createQcow2Sink(file, { sizeBytes, compression });
}
