// SPDX-License-Identifier: Apache-2.0
//
// One copy as import and export run it: progress on stderr while it lasts, Ctrl-C ends it in good order,
// and what it did at the end.

import { StorageError } from "../base/errors.ts";
import { createClock } from "../host/node/clock.ts";
import { onStopSignal } from "../host/node/signals.ts";
import { type CopyResult, copyImage } from "../image/copy.ts";
import type { ImageSink, ImageSource, StreamSource } from "../image/image.ts";
import type { CommandContext } from "./command.ts";
import { ProgressMeter, type ProgressStyle, renderSummary } from "./progress.ts";

const PROGRESS_STYLES = ["bar", "lines", "json", "none"] as const;

export async function runCopy(
  context: CommandContext,
  label: string,
  { source, sink }: { readonly source: ImageSource | StreamSource; readonly sink: ImageSink },
): Promise<CopyResult> {
  const meter = new ProgressMeter({
    label,
    style: styleOf(context),
    clock: createClock(),
    write: (text) => void process.stderr.write(text),
    columns: () => process.stderr.columns ?? 80,
  });
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

function styleOf(context: CommandContext): ProgressStyle {
  const wanted = PROGRESS_STYLES.find((style) => style === context.option("progress"));
  return wanted ?? (process.stderr.isTTY === true ? "bar" : "lines");
}
