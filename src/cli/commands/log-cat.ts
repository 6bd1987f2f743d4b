// SPDX-License-Identifier: Apache-2.0
//
// `varve log cat`: a volume's newest content from the pool's files, raw on stdout. The last way to the data when the
// daemon won't have it. It gives all or ends with an error; with --salvage it gives what can be read, zeros for
// the rest, and says on stderr what that is.

import { EXIT_CODE, hasCode, StorageError } from "../../base/errors.ts";
import { formatSize, formatTime } from "../../base/units.ts";
import { createZstd } from "../../host/node/zstd.ts";
import { READER_MEMORY_BYTES } from "../../log/log-dump.ts";
import { giveContent, type LostRange } from "../../log/volume-content.ts";
import { type Salvage, salvagePool } from "../../pool/salvage.ts";
import { BlockMemory, shapeOf } from "../../reduce/block-memory.ts";
import { type CommandContext, required } from "../command.ts";
import { contentOutput } from "../content-output.ts";
import { openOfflinePool } from "../offline-pool.ts";
import type { Output } from "../output.ts";

const SHOWN_RANGES = 20;

export async function run(context: CommandContext): Promise<number | undefined> {
  const { output, isJson } = context;
  const name = required(context, "VOLUME");
  const isSalvage = context.flag("salvage");
  output.refuseTerminal(`volume "${name}"`);
  const { log, poolId } = await openOfflinePool(await context.pool(), output);
  const memory = new BlockMemory(shapeOf(READER_MEMORY_BYTES));
  const found = await salvagePool({ memory, log, poolId });
  if (found.damage !== undefined && !isSalvage) throw refusal(found.damage, name, found);
  const volume = found.state.volumeNamed(name);
  const map = found.state.mapOf(volume);
  const { moves } = found.state;
  const lost = new LostRanges(isJson);
  if (isSalvage && !isJson) tellReach(output, name, found);
  const sink = contentOutput(output);
  try {
    await giveContent({
      memory,
      log,
      zstd: createZstd(),
      volume,
      map,
      moves,
      onContent: (bytes, offset) => sink.write(bytes, offset),
      ...(isSalvage ? { onLost: (range) => lost.add(range) } : {}),
    });
  } catch (error) {
    throw hasCode(error, "FRAME_CORRUPT") ? refusal(error, name) : error;
  }
  await sink.finish(volume.sizeBytes);
  const { sizeBytes } = volume;
  if (isJson) output.noteJson({ volume: name, sizeBytes, ...(isSalvage ? json(found, lost) : {}) });
  else lost.tell(output, name);
  return found.damage === undefined && lost.count === 0 ? undefined : EXIT_CODE.corrupt;
}

/** The error, with what --salvage would give. */
function refusal(cause: StorageError, volume: string, found?: Salvage): StorageError {
  const gives =
    found === undefined
      ? "gives all other blocks, and zeros for what can't be read"
      : `gives its content ${upTo(found)}`;
  const hint = `"varve log cat ${volume} --salvage" ${gives}; see "varve check"`;
  return new StorageError(cause.code, cause.message, { hint, data: cause.data, cause });
}

/** "up to #17 (2026-03-01T12:00:00.000Z)" */
function upTo({ reach }: Salvage): string {
  return reach.nextLsn === 1
    ? "as far as it goes: not one record"
    : `up to #${reach.nextLsn - 1} (${formatTime(reach.timeMicros)})`;
}

function tellReach(output: Output, volume: string, found: Salvage): void {
  const { damage, cutLsn, reach } = found;
  if (damage !== undefined) output.note(damage.message);
  if (cutLsn !== undefined && reach.damage !== undefined) output.note(reach.damage.message);
  const source = cutLsn === undefined ? "" : `, below #${cutLsn} by a checkpoint`;
  output.note(`volume "${volume}": content ${upTo(found)}${source}`);
}

function json(found: Salvage, lost: LostRanges): Readonly<Record<string, unknown>> {
  const { reach, cutLsn, damage } = found;
  const { nextLsn: lsn, timeMicros } = reach;
  return {
    isComplete: damage === undefined && lost.count === 0,
    lsn,
    timeMicros,
    ...(cutLsn === undefined ? {} : { checkpointLsn: cutLsn }),
    ...(damage === undefined ? {} : { damage }),
    lostBytes: lost.bytes,
    lost: lost.ranges,
  };
}

/** What wasn't given back: all of it for programs, the first for people. */
class LostRanges {
  readonly ranges: LostRange[] = [];
  readonly #keptMax: number;
  count = 0;
  bytes = 0;

  constructor(isEachKept: boolean) {
    this.#keptMax = isEachKept ? Number.POSITIVE_INFINITY : SHOWN_RANGES;
  }

  add(range: LostRange): void {
    this.count += 1;
    this.bytes += range.end - range.start;
    if (this.ranges.length < this.#keptMax) this.ranges.push(range);
  }

  tell(output: Output, volume: string): void {
    for (const { start, end, reason } of this.ranges)
      output.note(`volume "${volume}": bytes ${start} to ${end} are zeros: ${reason}`);
    if (this.count > this.ranges.length)
      output.note(`and ${this.count - this.ranges.length} more ranges`);
    if (this.count > 0)
      output.note(
        `volume "${volume}": ${formatSize(this.bytes)} in ${this.count} ${this.count === 1 ? "range" : "ranges"} not given back`,
      );
  }
}
