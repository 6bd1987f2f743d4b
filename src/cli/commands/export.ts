// SPDX-License-Identifier: Apache-2.0
//
// `varve export`: a volume, now or at a moment, becomes an image (image-file.ts). Damaged data ends it, or reads as zeros
// where that is asked for; then it is listed, and the exit code says that the image isn't what the volume was.

import { StorageError } from "../../base/errors.ts";
import { formatSize } from "../../base/units.ts";
import type { CopyResult } from "../../image/copy.ts";
import { type CommandContext, required } from "../command.ts";
import { imageFormatOf, writeImage } from "../image-file.ts";
import { type DamagedExtent, openVolume, VolumeSource } from "../volume-image.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = required(context, "VOLUME[@MOMENT]");
  const image = required(context, "IMAGE");
  const format = imageFormatOf(context, image);
  if (image === "-") output.refuseTerminal(`volume "${volume}"`);
  const client = await openVolume(await context.daemon(), volume);
  const isDamageFilled = context.flag("fill-damaged");
  const source = new VolumeSource(client, { volume, isDamageFilled });
  let result: CopyResult;
  try {
    result = await writeImage(context, { label: volume, image, format, source });
  } finally {
    await source.close();
  }
  const { damaged } = source;
  const answer = { volume, image, format, ...result, ...(isDamageFilled ? { damaged } : {}) };
  if (image === "-") {
    if (context.isJson) output.noteJson(answer);
  } else if (context.isJson) {
    output.json(answer);
  } else {
    const data = formatSize(result.writtenBytes);
    output.line(
      `volume "${volume}" exported: "${image}", ${formatSize(result.sizeBytes)}, ${data} of it data`,
    );
  }
  for (const { startBytes, endBytes } of damaged) {
    output.note(`volume "${volume}": bytes ${startBytes} to ${endBytes} were damaged, now zeros`);
  }
  if (damaged.length > 0) throw filled(volume, damaged);
}

/** The image is complete, but not what the volume was: said last, and with the exit code for damage. */
function filled(volume: string, damaged: readonly DamagedExtent[]): StorageError {
  const bytes = damaged.reduce((sum, { startBytes, endBytes }) => sum + endBytes - startBytes, 0);
  return new StorageError(
    "FRAME_CORRUPT",
    `volume "${volume}": exported with zeros for ${bytes} damaged bytes`,
    { data: { damagedBytes: bytes } },
  );
}
