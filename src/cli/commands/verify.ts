// SPDX-License-Identifier: Apache-2.0
//
// `varve verify`: whether the points of a target can be restored, and if not, which bytes of which volumes are lost. What
// is found is a result: it is listed, and the exit code says that there was something.

import type { PointEntry } from "../../backup/catalog-state.ts";
import {
  type VerifyLevel,
  type VerifyLoss,
  type VerifyReport,
  verifyTarget,
} from "../../backup/verify.ts";
import { EXIT_CODE, StorageError } from "../../base/errors.ts";
import { formatSize } from "../../base/units.ts";
import { createClock } from "../../host/node/clock.ts";
import { onStopSignal } from "../../host/node/signals.ts";
import { ReadTarget } from "../backup-point.ts";
import { type CommandContext, required } from "../command.ts";
import { meterOf } from "../progress-meter.ts";
import { counted } from "../values.ts";

const LISTED_MAX = 100;

export async function run(context: CommandContext): Promise<number | undefined> {
  const path = required(context, "TARGET");
  const { level, share } = levelOf(context);
  await using target = await ReadTarget.open(context, path, "verify");
  const name = context.argument("POINT");
  const points =
    name === undefined ? target.state.points : [target.find(name, context.option("volume"))];
  const report = await verify(context, target, { points, level, share });
  if (context.isJson) context.output.json({ target: path, level, ...report });
  else tell(context, path, report);
  return report.isSound ? undefined : EXIT_CODE.corrupt;
}

/** Throws USAGE. */
function levelOf(context: CommandContext): { level: VerifyLevel; share: number | undefined } {
  const sample = context.option("sample");
  if (context.flag("data") && sample !== undefined)
    throw new StorageError("USAGE", "verify: refused: --data reads everything, --sample a part");
  if (sample === undefined)
    return { level: context.flag("data") ? "data" : "structure", share: undefined };
  const percent = /^(\d{1,3}(?:\.\d+)?)%?$/.exec(sample)?.[1];
  const share = Number(percent) / 100;
  if (percent !== undefined && share > 0 && share <= 1) return { level: "sample", share };
  throw new StorageError("USAGE", `option "--sample": "${sample}" refused: it isn't a share`, {
    hint: "write it like 5%",
  });
}

async function verify(
  context: CommandContext,
  target: ReadTarget,
  wish: {
    readonly points: readonly PointEntry[];
    readonly level: VerifyLevel;
    readonly share: number | undefined;
  },
): Promise<VerifyReport> {
  const { points, level, share } = wish;
  const meter = meterOf(context, "verify", context.isJson ? "json" : undefined);
  const abort = new AbortController();
  const ignoreSignals = onStopSignal((signal) =>
    abort.abort(new StorageError("INTERRUPTED", `verify: ended by ${signal}: nothing was changed`)),
  );
  try {
    return await verifyTarget({
      reader: target.reader,
      points,
      level,
      ...(share === undefined ? {} : { share }),
      seed: Math.floor(createClock().wallMicros() / 1000),
      signal: abort.signal,
      onProgress: ({ step, doneCount, totalCount, bytesRead }) => {
        target.check();
        meter.update(bytesRead, undefined, { phase: step, doneCount, totalCount });
      },
    });
  } finally {
    meter.stop();
    ignoreSignals();
  }
}

function tell({ output }: CommandContext, path: string, report: VerifyReport): void {
  const { damages, damageCount, losses, lossCount, lostBytes, pointCount, packCount } = report;
  for (const { object, why } of damages.slice(0, LISTED_MAX))
    output.line(why.startsWith(object) ? why : `${object}: ${why}`);
  if (damageCount > LISTED_MAX) output.line(`… and ${damageCount - LISTED_MAX} more`);
  for (const loss of losses.slice(0, LISTED_MAX)) output.line(sentenceOf(loss));
  if (lossCount > LISTED_MAX)
    output.line(`… and ${lossCount - LISTED_MAX} more losses; --json has them`);
  const what = `${counted(pointCount, "point")}, ${counted(packCount, "pack")}`;
  const read = report.bytesRead === 0 ? "" : `, ${formatSize(report.bytesRead)} read`;
  const verdict = report.isSound
    ? "sound"
    : `${counted(damageCount, "damaged object")}, ${formatSize(lostBytes)} lost`;
  output.line(`target "${path}": ${what}${read}: ${verdict}`);
}

function sentenceOf(loss: VerifyLoss): string {
  const { pointName, volume, isHistory, fromLsn, offsetBytes, lengthBytes } = loss;
  if (volume === undefined) return `point "${pointName}": all of it is lost`;
  const what = `point "${pointName}": volume "${volume}"`;
  if (fromLsn !== undefined) return `${what}: its moments from #${fromLsn} on are lost`;
  const where = isHistory === true ? " of its history" : "";
  return `${what}: bytes ${offsetBytes} to ${offsetBytes + lengthBytes}${where} are lost`;
}
