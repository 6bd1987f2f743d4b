// SPDX-License-Identifier: Apache-2.0
//
// `varve events`: the daemon's latest events, and with --follow those to come, until one end stops. One line each, so that
// grep and cut work on them. With --wait it ends with the first event that was waited for, so that a script can go on when
// history was shortened or the pool is full. Who saw an event before says so with --after: then none is missed in between.

import type { EventJson } from "../../api/types.ts";
import { EXIT_CODE, StorageError } from "../../base/errors.ts";
import { parseTime } from "../../base/moment-time.ts";
import { parseDurationMs } from "../../base/units.ts";
import { createClock } from "../../host/node/clock.ts";
import type { CommandContext } from "../command.ts";

/** As long as timers go. */
const TIMEOUT_MS_MAX: number = 2 ** 31 - 1;

export async function run(context: CommandContext): Promise<number | undefined> {
  const names = context.options("wait");
  if (names.length > 0) return wait(context, names);
  for (const name of ["after", "timeout"])
    if (context.option(name) !== undefined) throw usage(name, "it belongs to --wait");
  const isFollowed = context.flag("follow");
  for await (const event of (await context.daemon()).events({ isFollowed })) print(context, event);
  return undefined;
}

async function wait(context: CommandContext, names: readonly string[]): Promise<number> {
  for (const name of names)
    if (!/^[a-z]+\.[a-z-]*$/.test(name))
      throw usage(
        "wait",
        `"${name}" is no event: it is written like pool.full, or "pool." for all`,
      );
  const afterMicros = timeOf(context.option("after"));
  const timeoutMs = timeoutOf(context.option("timeout"));
  const daemon = await context.daemon();
  const giveUp = new AbortController();
  const isFollowed = true;
  const asked = { isFollowed, isRecentWanted: afterMicros !== undefined, signal: giveUp.signal };
  const cancel =
    timeoutMs === undefined ? undefined : createClock().after(timeoutMs, () => giveUp.abort());
  try {
    for await (const event of daemon.events(asked)) {
      if (!isOneOf(event, names) || !isAfter(event, afterMicros)) continue;
      print(context, event);
      return EXIT_CODE.ok;
    }
  } finally {
    cancel?.();
  }
  const why = giveUp.signal.aborted
    ? `within ${context.option("timeout")}`
    : "and the daemon ended";
  context.output.note(`no event ${names.join(" or ")} came ${why}`);
  return EXIT_CODE.unavailable;
}

/** By its name, or by a beginning that ends in a dot. */
function isOneOf({ event }: EventJson, names: readonly string[]): boolean {
  return names.some((name) => (name.endsWith(".") ? event.startsWith(name) : event === name));
}

function isAfter({ at }: EventJson, afterMicros: number | undefined): boolean {
  const micros = parseTime(at);
  return afterMicros === undefined || typeof micros !== "number" || micros > afterMicros;
}

function timeOf(text: string | undefined): number | undefined {
  const micros = text === undefined ? undefined : parseTime(text);
  if (typeof micros === "string") throw usage("after", micros);
  return micros;
}

function timeoutOf(text: string | undefined): number | undefined {
  const ms = text === undefined ? undefined : parseDurationMs(text);
  if (text === undefined || (ms !== undefined && ms <= TIMEOUT_MS_MAX)) return ms;
  throw usage("timeout", `"${text}" isn't a time: write it like 30s, up to 24d`);
}

function usage(option: string, why: string): StorageError {
  return new StorageError("USAGE", `option "--${option}": refused: ${why}`);
}

function print({ isJson, output }: CommandContext, event: EventJson): void {
  if (isJson) output.jsonLine(event);
  else output.line(describe(event));
}

function describe({ at, level, event, fields }: EventJson): string {
  const facts = Object.entries(fields).map(([key, value]) => {
    return `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`;
  });
  return [at, level.padEnd(5), event, ...facts].join("  ");
}
