// SPDX-License-Identifier: Apache-2.0
//
// `varve schedule`: backups that the daemon makes by itself. With volumes and --backup it makes a schedule, with a name it
// shows or changes that one, without anything it lists them all. What only a backup would find out later (a wrong key, a
// target that can't be made) is found out here, where somebody looks.

import { resolve } from "node:path";
import type { ScheduleJson, ScheduleKeepJson } from "../../api/schedule.ts";
import { EVERY_MS_MAX, EVERY_MS_MIN } from "../../api/schemas.ts";
import { StorageError } from "../../base/errors.ts";
import { checkName } from "../../base/names.ts";
import { formatDuration, formatSize, parseDurationMs, spellDuration } from "../../base/units.ts";
import { openOrMakeTargetOf } from "../backup-target.ts";
import type { CommandContext } from "../command.ts";
import type { Output } from "../output.ts";
import { keepText, nextText, resultText, volumesText } from "../schedule-text.ts";
import { countOf, keepOf, shortTime, sizeOf } from "../values.ts";

const COUNTS = ["last", "hourly", "daily", "weekly", "monthly", "yearly"] as const;
/** What is said of a schedule that is there. */
const ACTIONS = ["pause", "resume", "run-now", "remove"] as const;
/** What is said of one that is made. */
const SETTINGS = [
  ...["every", "key-file", "passphrase-file", "limit-rate", "name", "keep-within"],
  ...COUNTS.map((rule) => `keep-${rule}`),
];
const RATE_MIN = 1024;

export async function run(context: CommandContext): Promise<undefined> {
  const names = context.variadic("NAME");
  const actions = ACTIONS.filter((action) => context.flag(action));
  const target = context.option("backup");
  const setting = SETTINGS.find((option) => context.option(option) !== undefined);
  const [action, other] = actions;
  if (other !== undefined) throw refused(`--${action} and --${other} are two wishes`);
  if (target !== undefined && action !== undefined)
    throw refused(`--${action} is for a schedule that is there, --backup makes one`);
  if (target !== undefined) return make(context, names, target);
  if (setting !== undefined || context.flag("encrypt"))
    throw refused(`--${setting ?? "encrypt"} is for a new schedule: say where to with --backup`);
  const [name, ...rest] = names;
  if (rest.length > 0)
    throw refused("one schedule at a time; --backup makes one of several volumes");
  if (name === undefined && action !== undefined) throw refused(`--${action} needs a name`);
  if (name === undefined) return list(context);
  return action === undefined ? show(context, name) : change(context, name, action);
}

async function make(
  context: CommandContext,
  volumes: readonly string[],
  path: string,
): Promise<undefined> {
  const [first] = volumes;
  if (first === undefined) throw refused("it names no volume");
  if (new Set(volumes).size < volumes.length) throw refused("it names a volume twice");
  const everyMs = everyOf(context);
  const keep = keepRulesOf(context);
  const limit = context.option("limit-rate");
  const limitBytesPerSecond = limit === undefined ? undefined : rateOf(limit);
  const name = context.option("name") ?? first;
  checkName("schedule", name);
  const daemon = await context.daemon();
  // Before a directory is made.
  for (const volume of volumes) await daemon.call("getVolume", { volume });
  await openOrMakeTargetOf(context, path);
  const schedule = await daemon.call("createSchedule", {
    name,
    volumes,
    target: resolve(path),
    everyMs,
    keep,
    ...pathOf("keyFile", context.option("key-file")),
    ...pathOf("passphraseFile", context.option("passphrase-file")),
    ...(limitBytesPerSecond === undefined ? {} : { limitBytesPerSecond }),
  });
  if (context.isJson) context.output.json(schedule);
  else
    context.output.line(
      `schedule "${name}" made: ${volumesText(schedule)} to ${schedule.target} every ${spellDuration(everyMs * 1000)}, the first time now`,
    );
}

async function change(
  { daemon, output, isJson }: CommandContext,
  name: string,
  action: (typeof ACTIONS)[number],
): Promise<undefined> {
  const client = await daemon();
  const schedule =
    action === "remove"
      ? await client.call("removeSchedule", { schedule: name })
      : action === "run-now"
        ? await client.call("runSchedule", { schedule: name })
        : await client.call("setSchedule", { schedule: name, isPaused: action === "pause" });
  if (isJson) return output.json(schedule) as undefined;
  const what = {
    remove: "removed; its backups stay",
    "run-now": schedule.state === "running" ? "runs now" : "runs as soon as its target is free",
    pause: "paused",
    resume: `resumed, ${nextText(schedule)}`,
  }[action];
  output.line(`schedule "${name}" ${what}`);
}

async function list({ daemon, output, isJson }: CommandContext): Promise<undefined> {
  const answer = await (await daemon()).call("listSchedules", {});
  if (isJson) return output.json(answer) as undefined;
  if (answer.schedules.length === 0) {
    output.note(
      'there is no schedule; make one with "varve schedule VOLUME --backup TARGET --every 1h"',
    );
    return;
  }
  output.table(
    ["NAME", "VOLUMES", "TARGET", "EVERY", "STATE", "LAST BACKUP", "LAST RUN"],
    answer.schedules.map((schedule) => [
      schedule.name,
      volumesText(schedule),
      schedule.target,
      spellDuration(schedule.everyMs * 1000),
      nextText(schedule),
      schedule.lastDone === undefined ? "none" : shortTime(schedule.lastDone.startedAt),
      resultText(schedule.lastRun),
    ]),
  );
}

async function show({ daemon, output, isJson }: CommandContext, name: string): Promise<undefined> {
  const { schedules } = await (await daemon()).call("listSchedules", {});
  const schedule = schedules.find((one) => one.name === name);
  if (schedule === undefined)
    throw new StorageError("SCHEDULE_NOT_FOUND", `schedule "${name}": not found`, {
      hint: `see "varve schedule"; one is made with "varve schedule ${name} --backup TARGET --every 1h"`,
    });
  if (isJson) output.json(schedule);
  else print(schedule, output);
}

function print(schedule: ScheduleJson, output: Output): void {
  const { keyFile, passphraseFile, limitBytesPerSecond, lastRun, lastDone } = schedule;
  output.facts([
    ["schedule", schedule.name],
    ["volumes", volumesText(schedule)],
    ["target", schedule.target],
    keyFile === undefined ? undefined : ["key", keyFile],
    passphraseFile === undefined ? undefined : ["passphrase", passphraseFile],
    ["every", spellDuration(schedule.everyMs * 1000)],
    ["keeps", keepText(schedule)],
    limitBytesPerSecond === undefined
      ? undefined
      : ["limit", `${formatSize(limitBytesPerSecond)} a second`],
    ["state", `${nextText(schedule)}${schedule.isOverdue ? ", overdue" : ""}`],
    lastRun === undefined
      ? undefined
      : ["last run", `${shortTime(lastRun.startedAt)}: ${resultText(lastRun)}`],
    lastDone === undefined
      ? undefined
      : [
          "last backup",
          `${shortTime(lastDone.startedAt)}: point "${lastDone.point ?? ""}", ${formatSize(lastDone.sentBytes)} sent, ${formatSize(lastDone.storedBytes)} stored, in ${formatDuration(lastDone.durationMs)}`,
        ],
  ]);
}

function everyOf(context: CommandContext): number {
  const text = context.option("every");
  if (text === undefined) throw refused("how often is missing: --every 1h");
  const everyMs = parseDurationMs(text);
  if (everyMs !== undefined && everyMs >= EVERY_MS_MIN && everyMs <= EVERY_MS_MAX) return everyMs;
  throw new StorageError(
    "USAGE",
    `option "--every": "${text}" refused: it isn't a time of 1 minute to 1 year`,
    { hint: "write it like 15m, 1h or 1d" },
  );
}

function keepRulesOf(context: CommandContext): ScheduleKeepJson {
  const keep: { -readonly [rule in keyof ScheduleKeepJson]: ScheduleKeepJson[rule] } = {};
  for (const rule of COUNTS) {
    const text = context.option(`keep-${rule}`);
    if (text !== undefined) keep[rule] = countOf(`keep-${rule}`, text);
  }
  const within = context.option("keep-within");
  if (within !== undefined) keep.withinMs = keepOf('option "--keep-within"', within);
  const rules = Object.values(keep);
  if (rules.length > 0 && rules.every((count) => count === 0))
    throw refused("the rules would keep nothing");
  return keep;
}

function rateOf(text: string): number {
  const rate = sizeOf('option "--limit-rate"', text);
  if (rate >= RATE_MIN) return rate;
  throw refused(`--limit-rate ${text} is less than 1K a second`);
}

/** The daemon doesn't run where the command does. */
function pathOf<K extends string>(field: K, path: string | undefined): { [key in K]?: string } {
  return (path === undefined ? {} : { [field]: resolve(path) }) as { [key in K]?: string };
}

function refused(why: string): StorageError {
  return new StorageError("USAGE", `schedule: refused: ${why}`, {
    hint: 'see "varve schedule --help"',
  });
}
