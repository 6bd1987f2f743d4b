// SPDX-License-Identifier: Apache-2.0
//
// `varve scrub`: has the daemon read and verify all that is stored, while it serves. What is damaged is a
// result, so it goes to stdout, and the exit code is 13, as with `varve check`.

import type { ScrubReportJson, ScrubStatusJson } from "../../api/types.ts";
import { EXIT_CODE, StorageError } from "../../base/errors.ts";
import { formatDuration, formatSize } from "../../base/units.ts";
import { waitForWork } from "../background-work.ts";
import type { CommandContext } from "../command.ts";
import type { Output } from "../output.ts";
import { counted, shortTime } from "../values.ts";

export async function run(context: CommandContext): Promise<number | undefined> {
  const { output } = context;
  if (context.flag("status") && context.flag("stop")) {
    throw new StorageError("USAGE", "scrub: refused: the options contradict each other", {
      hint: "give one of --status and --stop",
    });
  }
  const daemon = await context.daemon();
  if (context.flag("status")) return show(await daemon.call("getScrub", {}), context);
  if (context.flag("stop")) await daemon.call("stopScrub", {});
  else await daemon.call("startScrub", {});
  const ended = await waitForWork(context, await daemon.call("getScrub", {}), {
    label: "scrub",
    ask: () => daemon.call("getScrub", {}),
    isRunning: ({ isRunning }) => isRunning,
    progressOf: ({ progress }) => progress,
    hint: 'it goes on in the daemon; see "varve scrub --status", or end it with "varve scrub --stop"',
  });
  if (ended.report === undefined && !context.isJson) {
    output.line("no scrub has run since the daemon started");
    return;
  }
  return show(ended, context);
}

function show(status: ScrubStatusJson, { output, isJson }: CommandContext): number | undefined {
  const { progress, report } = status;
  const problemCount = progress?.problemCount ?? report?.problemCount ?? 0;
  if (isJson) output.json(status);
  else if (progress !== undefined) {
    const done = `${formatSize(progress.doneBytes)} of ${formatSize(progress.totalBytes)}`;
    output.facts([
      ["running", `${progress.phase}, ${done}`],
      ["problems", String(progress.problemCount)],
    ]);
  } else if (report !== undefined) print(report, output);
  else output.line("no scrub has run since the daemon started");
  return problemCount > 0 ? EXIT_CODE.corrupt : undefined;
}

function print(report: ScrubReportJson, output: Output): void {
  const { problems, problemCount } = report;
  for (const { code, message } of problems) output.line(`${message} [${code}]`);
  if (problemCount > problems.length) output.line(`and ${problemCount - problems.length} more`);
  const { segmentsChecked, framesChecked } = report;
  output.facts([
    ["scrub", report.isComplete ? "complete" : "stopped before its end"],
    ["problems", problemCount === 0 ? "none" : String(problemCount)],
    [
      "verified",
      `${formatSize(report.bytesChecked)} in ${counted(segmentsChecked, "segment")}, ${counted(framesChecked, "frame")}`,
    ],
    ["begun", `${shortTime(report.startedAt)}, for ${formatDuration(report.durationMs)}`],
  ]);
}
