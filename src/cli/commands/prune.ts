// SPDX-License-Identifier: Apache-2.0
//
// `varve prune TARGET`: lets go of points by rules or by name, and gives back what only they needed. With --dry-run it says
// which rule keeps which point, and what would go. What must wait for a backup or a reader is said, and goes the next time.

import type { GarbageReport } from "../../backup/garbage.ts";
import { isDue } from "../../backup/garbage.ts";
import { type Decision, type KeepRules, keepsAnything, timeOf } from "../../backup/keep-rules.ts";
import { holds } from "../../backup/leases.ts";
import { type PruneReport, type PruneWish, prune } from "../../backup/prune.ts";
import { TargetObjects } from "../../backup/reached-objects.ts";
import type { RepackOptions } from "../../backup/repack.ts";
import { endSession } from "../../backup/sessions.ts";
import type { Target } from "../../backup/target.ts";
import { StorageError } from "../../base/errors.ts";
import { formatSize, formatTime, parseDurationMicros } from "../../base/units.ts";
import { hostName } from "../../host/node/host-name.ts";
import { endWithParent } from "../../host/node/own-program.ts";
import { createParallelZstd } from "../../host/node/zstd.ts";
import { openTargetOf } from "../backup-target.ts";
import { type CommandContext, required } from "../command.ts";
import type { Output } from "../output.ts";
import { counted, countOf, shortTime } from "../values.ts";
import { pointJson, volumesText } from "./backups.ts";

const COUNTS = ["last", "hourly", "daily", "weekly", "monthly", "yearly"] as const;
const MAX_UNUSED = "5%";
/** Of a rule; nobody means more. */
const COUNT_MAX = 1_000_000;
const ID_DIGITS = 8;

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  if (context.flag("exit-with-parent")) endWithParent();
  const path = required(context, "TARGET");
  const isDryRun = context.flag("dry-run");
  const ended = context.option("end-session");
  const wish: PruneWish = {
    rules: rulesOf(context),
    volume: context.option("volume"),
    like: context.option("like"),
    remove: context.options("remove"),
    protect: context.options("protect"),
    unprotect: context.options("unprotect"),
  };
  for (const option of ["end-session", "repair"]) {
    const isGiven = context.flag(option) || context.option(option) !== undefined;
    if (isDryRun && isGiven)
      throw new StorageError("USAGE", `option "--${option}": refused: a dry run changes nothing`);
  }
  const target = await openTargetOf(context, path);
  if (context.flag("repair")) await target.catalog.repair();
  if (ended !== undefined) {
    const { id, purpose, volumes } = await endSession(target.catalog, ended);
    const what = volumes.length === 0 ? purpose : `${purpose} of ${volumesText({ volumes })}`;
    output.note(`session ${id.slice(0, ID_DIGITS)} ended: the ${what} can't commit any more`);
  }
  const { store, sealer } = target;
  const reached = new TargetObjects(store, sealer);
  const progress = statusOf(target);
  const repack = repackOf(context, progress);
  const report = await prune(target, { wish, reached, isDryRun, progress, repack });
  if (context.isJson) output.json(jsonOf(report, isDryRun));
  else print(report, { output, isDryRun, target, path });
}

/** undefined: none is given, so no point goes by a rule. Throws USAGE. */
function rulesOf(context: CommandContext): KeepRules | undefined {
  const rules: { -readonly [rule in keyof KeepRules]: KeepRules[rule] } = {};
  for (const rule of COUNTS) {
    const text = context.option(`keep-${rule}`);
    if (text === undefined) continue;
    const count = countOf(`keep-${rule}`, text);
    if (count > COUNT_MAX)
      throw new StorageError(
        "USAGE",
        `option "--keep-${rule}": "${text}" refused: it is too large`,
      );
    rules[rule] = count;
  }
  const within = context.option("keep-within");
  if (within !== undefined) rules.withinMicros = withinOf(within);
  if (Object.keys(rules).length === 0) return undefined;
  if (keepsAnything(rules)) return rules;
  throw new StorageError("USAGE", "prune: refused: these rules keep nothing", {
    hint: 'keep at least one point, as with "--keep-last 1"; single ones go with "--remove POINT"',
  });
}

function withinOf(text: string): number {
  const micros = parseDurationMicros(text);
  if (micros !== undefined && micros > 0) return micros;
  throw new StorageError("USAGE", `option "--keep-within": "${text}" refused: it isn't a time`, {
    hint: "write it like 24h or 7d",
  });
}

/** undefined: no pack is rewritten. Throws USAGE. */
function repackOf(
  context: CommandContext,
  status: ReturnType<typeof statusOf>,
): RepackOptions | undefined {
  const text = context.option("max-unused") ?? MAX_UNUSED;
  const percent = /^(\d{1,3}(?:\.\d{1,3})?)%?$/.exec(text)?.[1];
  if (percent === undefined || Number(percent) > 100) {
    throw new StorageError("USAGE", `option "--max-unused": "${text}" refused: it isn't a share`, {
      hint: "write it like 5% or 0%; 100% never rewrites anything",
    });
  }
  if (Number(percent) === 100) return undefined;
  return {
    zstd: createParallelZstd(),
    unusedShareMax: Number(percent) / 100,
    host: hostName(),
    progress: (doneCount, totalCount) => status.progress("packs", doneCount, totalCount),
  };
}

const STATUS_EVERY_MICROS = 200_000;
const PHASES = {
  packs: "packs rewritten",
  points: "points read",
  objects: "objects seen",
  deletion: "objects deleted",
};

/** On a terminal, a line that is written over and at last taken away. */
function statusOf({ clock }: Target): {
  progress: (phase: keyof typeof PHASES, doneCount: number, totalCount: number) => void;
} {
  let shownMicros = Number.NEGATIVE_INFINITY;
  return {
    progress: (phase, doneCount, totalCount) => {
      const nowMicros = clock.monotoneMicros();
      if (process.stderr.isTTY !== true || nowMicros - shownMicros < STATUS_EVERY_MICROS) return;
      shownMicros = nowMicros;
      const total = totalCount === doneCount ? "" : ` of ${totalCount}`;
      process.stderr.write(`\r\u001b[K${doneCount}${total} ${PHASES[phase]}\r`);
    },
  };
}

function print(
  report: PruneReport,
  options: { output: Output; isDryRun: boolean; target: Target; path: string },
): void {
  const { output, isDryRun, target, path } = options;
  const { decisions, keptCount, removedCount, garbage } = report;
  if (isDryRun && decisions.length > 0) {
    output.table(["POINT", "ID", "TIME", "VOLUMES", "KEPT BY"], decisions.map(rowOf));
    output.line();
  }
  output.facts([
    ["points", `${keptCount} kept, ${removedCount} ${isDryRun ? "would be " : ""}removed`],
    repackFact(report, isDryRun),
    isDryRun ? ["would free", garbageText(garbage)] : ["freed", freedText(garbage)],
    garbage.waitingCount === 0
      ? undefined
      : ["waiting", countedBytes(garbage.waitingCount, garbage.waitingBytes)],
  ]);
  if (!isDryRun) printWaiting(report, { output, target, path });
}

function repackFact(
  { repack, repackProblem }: PruneReport,
  isDryRun: boolean,
): readonly [string, string] | undefined {
  if (repackProblem !== undefined) return ["rewritten", `nothing: ${repackProblem.message}`];
  if (repack === undefined || repack.packCount + repack.damagedCount === 0) return undefined;
  const { packCount, movedBytes, damagedCount, unusedCount, slotCount } = repack;
  const share = `${Math.round((100 * unusedCount) / slotCount)} % of all packs was unused`;
  const damaged = damagedCount === 0 ? "" : `; ${counted(damagedCount, "pack")} can't be read`;
  const moved = `${counted(packCount, "pack")} with ${formatSize(movedBytes)} of blocks in use`;
  return [isDryRun ? "would rewrite" : "rewritten", `${moved}: ${share}${damaged}`];
}

function rowOf({ point, isKept, reasons }: Decision): string[] {
  return [
    point.name,
    point.id.slice(0, ID_DIGITS),
    shortTime(formatTime(timeOf(point))),
    volumesText(point),
    isKept ? reasons.join(", ") : "nothing: it goes",
  ];
}

function garbageText({ garbageCount, garbageBytes }: GarbageReport): string {
  return countedBytes(garbageCount, garbageBytes);
}

function freedText({ deletedCount, deletedBytes, leftoverCount }: GarbageReport): string {
  const left = leftoverCount === 0 ? "" : `, and ${counted(leftoverCount, "leftover")} of crashes`;
  return `${countedBytes(deletedCount, deletedBytes)}${left}`;
}

function countedBytes(count: number, bytes: number): string {
  return `${formatSize(bytes)} in ${counted(count, "object")}`;
}

/** For whom it waits, and what can be done about it. */
function printWaiting(
  { state, garbage }: PruneReport,
  { output, target, path }: { output: Output; target: Target; path: string },
): void {
  if (garbage.waitingCount === 0) return;
  const nowMicros = target.clock.wallMicros();
  const late = state.condemned.filter((entry) => !isDue(entry, state, nowMicros));
  const newest = Math.max(...late.map(({ generation }) => generation));
  for (const session of state.sessions.filter(({ generation }) => generation < newest)) {
    const id = session.id.slice(0, ID_DIGITS);
    const since = shortTime(formatTime(session.beganMicros));
    output.note(
      `it waits for session ${id} (${session.purpose} of ${volumesText(session)} on ${session.host}, since ${since}); the next backup of these volumes goes on with it, and "varve prune ${path} --end-session ${id}" ends it`,
    );
  }
  const readers = state.leases.filter(
    (lease) => lease.generation < newest && holds(lease, nowMicros),
  );
  if (readers.length > 0) output.note(`it waits for ${counted(readers.length, "reader")}`);
}

function jsonOf(report: PruneReport, isDryRun: boolean): object {
  const { decisions, keptCount, removedCount, garbage, repack, repackProblem } = report;
  return {
    isDryRun,
    points: decisions.map(({ point, isKept, reasons }) => ({
      ...pointJson(point),
      isKept,
      keptBy: reasons,
    })),
    keptCount,
    removedCount,
    ...garbage,
    ...(repack === undefined ? {} : { repack }),
    ...(repackProblem === undefined ? {} : { repackProblem }),
  };
}
