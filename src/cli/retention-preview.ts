// SPDX-License-Identifier: Apache-2.0
//
// What a retention would let go of, as `varve retention --dry-run` shows it: asked of the daemon, which counts in the
// background, and printed for people.

import type { RetentionPreviewJson, RetentionPreviewStatusJson } from "../api/retention-preview.ts";
import type { RetentionJson } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { formatSize } from "../base/units.ts";
import { waitForWork } from "./background-work.ts";
import type { CommandContext } from "./command.ts";
import type { Output } from "./output.ts";
import { counted, formatRetention, shortTime } from "./values.ts";

/** Moments that are named one by one. */
const MOMENTS_MAX = 10;

/** Of a volume, or of the pool; of the retention undefined: what holds; null: the pool's. */
export async function previewOf(
  context: CommandContext,
  wish: { volume: string | undefined; retention: Partial<RetentionJson> | null | undefined },
): Promise<RetentionPreviewJson> {
  const daemon = await context.daemon();
  const started = await daemon.call("startRetentionPreview", wish);
  const ended = await waitForWork(context, started, {
    label: "retention --dry-run",
    ask: () => daemon.call("getRetentionPreview", {}),
    isRunning: ({ run, isRunning }) => isRunning && run === started.run,
    progressOf: ({ progress }) => progress,
    hint: "the daemon ends it by itself; nothing is changed",
  });
  return reportOf(ended, started.run);
}

function reportOf(
  { run: newest, report, problem }: RetentionPreviewStatusJson,
  run: number,
): RetentionPreviewJson {
  if (newest === run && problem !== undefined) {
    const { code, message, hint, data } = problem;
    throw new StorageError(code, message, { hint, data });
  }
  if (newest === run && report !== undefined) return report;
  const why = newest < run ? "the daemon was restarted meanwhile" : "another one was asked for";
  throw new StorageError("INTERRUPTED", `retention: the answer is lost: ${why}`, {
    hint: "ask again; nothing was changed",
  });
}

export function printPreview(preview: RetentionPreviewJson, output: Output): void {
  const { volume, retentionNow, retention, historyBytes, freedBytes, isEstimated } = preview;
  const [now, then] = [formatRetention(retentionNow), formatRetention(retention)];
  const about = isEstimated ? "about " : "";
  const whose = volume === undefined ? "" : ", of all volumes";
  output.facts([
    ["now", now],
    now === then ? undefined : ["then", then],
    ["history holds", `${about}${formatSize(historyBytes)} that only the past needs${whose}`],
    [now === then ? "goes next" : "would free", `${about}${formatSize(freedBytes)}`],
    keptBesides(preview),
  ]);
  output.line();
  output.table(
    ["VOLUME", "EVERY WRITE SINCE", "THEN", "MOMENTS", "THEN"],
    preview.volumes.map((volume) => [
      volume.isRemoved
        ? `${volume.name} (removed${volume.isForgotten ? ", then gone" : ""})`
        : volume.name,
      volume.everyWriteFrom === undefined ? "-" : shortTime(volume.everyWriteFrom.at),
      volume.everyWriteFromThen === undefined ? "-" : shortTime(volume.everyWriteFromThen.at),
      volume.keptCount,
      volume.keptCountThen,
    ]),
  );
  printMoments(preview, output);
  if (preview.isBeyondPast) {
    output.line();
    output.line("What was let go before doesn't come back: history only grows from here on.");
  }
}

function keptBesides({
  snapshotCount,
  cloneCount,
  viewCount,
}: RetentionPreviewJson): readonly [string, string] | undefined {
  const parts = [
    [snapshotCount, "snapshot"] as const,
    [cloneCount, "clone"] as const,
    [viewCount, "open view"] as const,
  ].filter(([count]) => count > 0);
  if (parts.length === 0) return undefined;
  return ["stays anyway", parts.map(([count, what]) => counted(count, what)).join(", ")];
}

function printMoments(
  { goneMoments, goneMomentCount }: RetentionPreviewJson,
  output: Output,
): void {
  if (goneMomentCount === 0) return;
  const shown = goneMoments.slice(-MOMENTS_MAX);
  const others = goneMomentCount - shown.length;
  output.line();
  output.line(`${counted(goneMomentCount, "moment")} would go:`);
  if (others > 0) output.line(`  ${others} older; --json lists them`);
  for (const { at } of shown) output.line(`  ${shortTime(at)}`);
}
