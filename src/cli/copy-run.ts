// SPDX-License-Identifier: Apache-2.0
//
// One copy as import and export run it: progress on stderr while it lasts, Ctrl-C ends it in good order,
// and what it did at the end.

import { StorageError } from "../base/errors.ts";
import { onStopSignal } from "../host/node/signals.ts";
import { type CopyResult, copyImage } from "../image/copy.ts";
import type { ImageSink, ImageSource, StreamSource } from "../image/image.ts";
import type { CommandContext } from "./command.ts";
import { type ProgressStyle, renderSummary } from "./progress.ts";
import { meterOf } from "./progress-meter.ts";

interface Copy {
  readonly source: ImageSource | StreamSource;
  readonly sink: ImageSink;
  /** Of the progress, unless the user asks for one. */
  readonly style?: ProgressStyle | undefined;
}

export async function runCopy(
  context: CommandContext,
  label: string,
  { source, sink, style }: Copy,
): Promise<CopyResult> {
  const meter = meterOf(context, label, style);
  const abort = new AbortController();
  const ignoreSignals = onStopSignal((signal) => {
    abort.abort(
      new StorageError("INTERRUPTED", `${label}: ended by ${signal}: the copy is incomplete`),
    );
    // A copy that waits for more of a stream would never see the abort.
    process.stdin.destroy();
  });
  try {
    const result = await copyImage(source, sink, {
      signal: abort.signal,
      onProgress: ({ doneBytes, totalBytes }) => meter.update(doneBytes, totalBytes),
    });
    meter.finish();
    context.output.note(`${label}: ${renderSummary(result.sizeBytes, meter.elapsedMs)}`);
    return result;
  } finally {
    meter.stop();
    ignoreSignals();
  }
}
