// SPDX-License-Identifier: Apache-2.0
//
// `varve gc`: has the daemon collect garbage now, shows how far it is, and what came of it; with --dry-run
// what would come of it, and what holds the rest.

import type { GcReportJson, GcStatusJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import { formatDuration, formatSize } from "../../base/units.ts";
import { waitForWork } from "../background-work.ts";
import type { CommandContext } from "../command.ts";
import type { Output } from "../output.ts";
import { counted } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const isDryRun = context.flag("dry-run");
  const daemon = await context.daemon();
  const started = await daemon.call("startGc", { isDryRun });
  const label = isDryRun ? "gc --dry-run" : "gc";
  const ended = await waitForWork(context, started, {
    label,
    ask: () => daemon.call("getGc", {}),
    isRunning: ({ run: newest, isRunning }) => isRunning && newest === started.run,
    progressOf: ({ progress }) => progress,
    hint: `it goes on in the daemon; "varve ${label}" waits for its end`,
  });
  const report = reportOf(ended, started.run);
  if (context.isJson) output.json(report);
  else print(report, output);
}

function reportOf({ run: newest, report, problem }: GcStatusJson, run: number): GcReportJson {
  if (newest === run && problem !== undefined) {
    const { code, message, hint, data } = problem;
    throw new StorageError(code, message, { hint, data });
  }
  if (newest === run && report !== undefined) return report;
  const why = newest < run ? "the daemon was restarted meanwhile" : "another has begun meanwhile";
  throw new StorageError("INTERRUPTED", `gc: its report is lost: ${why}`, {
    hint: 'start it again; "varve gc --dry-run" says what there is to free',
  });
}

function print(report: GcReportJson, output: Output): void {
  const { isDryRun, bytesBefore, bytesAfter } = report;
  output.facts([
    isDryRun ? ["would free", predicted(report)] : ["freed", done(report)],
    ["stored", `${formatSize(bytesBefore)} before, ${formatSize(bytesAfter)} after`],
    ["garbage", formatSize(report.garbageBytes)],
    [
      "looked at",
      `${counted(report.segmentsExamined, "segment")} in ${formatDuration(report.durationMs)}`,
    ],
  ]);
  if (report.holders.length === 0) return;
  output.line();
  output.table(
    ["HELD BY", "BYTES"],
    report.holders.map(({ what, bytes }) => [what, formatSize(bytes)]),
  );
}

function done({ segmentsFreed, segmentsCompacted, bytesFreed, bytesMoved }: GcReportJson): string {
  const moved =
    bytesMoved === 0
      ? ""
      : `, ${formatSize(bytesMoved)} moved out of ${counted(segmentsCompacted, "segment")}`;
  // What was moved is stored again.
  const freedBytes = Math.max(0, bytesFreed - bytesMoved);
  return `${formatSize(freedBytes)}; ${counted(segmentsFreed, "segment")} deleted${moved}`;
}

function predicted({ segmentsFreed, bytesFreed, coldGainBytes = 0 }: GcReportJson): string {
  const segments = segmentsFreed === 0 ? "" : ` out of ${counted(segmentsFreed, "segment")}`;
  const cold =
    coldGainBytes === 0
      ? ""
      : `, about ${formatSize(coldGainBytes)} of it by compressing cold data better`;
  return `${formatSize(bytesFreed)}${segments}${cold}`;
}
