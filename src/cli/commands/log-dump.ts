// SPDX-License-Identifier: Apache-2.0
//
// `varve log dump`: every batch and record of the log, for people or as JSON lines. Nothing is written to
// the pool, and a daemon may run meanwhile: the log only grows.

import { StorageError } from "../../base/errors.ts";
import { formatTime } from "../../base/units.ts";
import { type DumpLine, dumpLog } from "../../log/log-dump.ts";
import type { CommandContext } from "../command.ts";
import { openOfflinePool } from "../offline-pool.ts";
import { countOf } from "../values.ts";

/** Thrown through the reader when enough was told. */
class Enough extends Error {}

const SHOWN_REFERENCES = 4;

export async function run(context: CommandContext): Promise<undefined> {
  const { output, isJson } = context;
  const from = countOf("from", (context.option("from") ?? "0").replace(/^(#|lsn:)/, ""));
  const limit = context.option("count");
  const countMax = limit === undefined ? Number.MAX_SAFE_INTEGER : countOf("count", limit);
  if (countMax === 0)
    throw new StorageError("USAGE", 'option "--count": "0" refused: it is at least 1');
  const { log, poolId } = await openOfflinePool(await context.pool(), output);
  let count = 0;
  let waiting: string[] = [];
  const tell = (line: DumpLine): void => {
    const isEarly = line.type === "batch" ? line.firstLsn + line.records <= from : line.lsn < from;
    if (isEarly) return;
    if (count >= countMax) throw new Enough();
    if (line.type === "record") count += 1;
    waiting.push(isJson ? JSON.stringify(line) : describe(line));
  };
  const write = async (): Promise<void> => {
    const text = waiting.length === 0 ? "" : `${waiting.join("\n")}\n`;
    waiting = [];
    if (text !== "") await output.bytes(Buffer.from(text));
  };
  try {
    await dumpLog({ log, poolId }, tell, write);
  } catch (error) {
    if (!(error instanceof Enough)) throw error;
  } finally {
    await write();
  }
}

function describe(line: DumpLine): string {
  if (line.type === "gap")
    return `segments before ${line.segment} were let go: the log goes on with #${line.lsn}`;
  const time = formatTime(line.timeMicros);
  if (line.type === "batch") {
    const what = line.isMarker ? "marker" : "batch";
    return `${time} ${what} segment ${line.segment} at ${line.offset}: #${line.firstLsn} and ${line.records} records, ${line.frameBytes} bytes of frames, incarnation ${line.incarnation}, durable to #${line.durableLsn}`;
  }
  const parts = [`${time}   #${line.lsn} ${line.kind}`];
  if (line.branch !== undefined) parts.push(`branch ${line.branch}`);
  if (line.lba !== undefined) parts.push(`block ${line.lba} +${line.blocks ?? 1}`);
  if (line.references !== undefined) {
    const more = line.references.length > SHOWN_REFERENCES ? " …" : "";
    parts.push(`→ ${line.references.slice(0, SHOWN_REFERENCES).join(" ")}${more}`);
  }
  if (line.place !== undefined) parts.push(`at ${line.place}, ${line.storedBytes} bytes`);
  if (line.body !== undefined) parts.push(JSON.stringify(line.body));
  return parts.join("  ");
}
