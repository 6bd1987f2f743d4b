// SPDX-License-Identifier: Apache-2.0
//
// Merges runs: what the newest one says of each block, as one new run. No block is read, only extents. Runs stay as they
// are, for older points need them; a merge writes a new one, which the new point names instead.
//
// Which ones (`mergedCount`): from the newest on, as long as the next is not much larger than all before it together. So
// sizes at least double from each run to the next older one: there are never many, and an extent is written again once
// for each doubling of the volume's runs, not once for each backup. Small runs count as 64 KiB: a request costs the same
// for all of them.
//
// Into the oldest run no trimmed extents go: nothing is left that they could hide. Written zeros stay what they are.

import { assert } from "../base/assert.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import { LBA_END_MAX } from "./place.ts";
import type { RunReader } from "./run-reader.ts";
import type { Run, RunPart, RunWriter } from "./run-writer.ts";
import { UNMAPPED, VolumeMap } from "./volume-map.ts";

/** Of a point's volume: what a read has to look at. */
export const RUNS_MAX = 24;

const SMALL_BYTES: number = 64 << 10;
const BATCH_EXTENTS = 4096;

export function runBytes(run: Run): number {
  return run.parts.reduce((sum, part) => sum + part.sizeBytes, 0);
}

/** How many of the newest runs become one; 1: none need to. */
export function mergedCount(runs: readonly Run[]): number {
  let count = 1;
  let bytes = 0;
  for (const [index, run] of runs.entries()) {
    const own = Math.max(SMALL_BYTES, runBytes(run));
    const isOneTooMany = runs.length - index >= RUNS_MAX;
    if (index > 0 && own > bytes && !isOneTooMany) break;
    bytes += own;
    count = index + 1;
  }
  return count;
}

/**
 * Writes what `runs` (newest first) say as one run, into `writer`, whose packs are the reader's. `isOldest`: no other
 * run lies below them.
 */
export async function mergeRuns(options: {
  readonly reader: RunReader;
  readonly writer: RunWriter;
  readonly runs: readonly Run[];
  readonly isOldest: boolean;
}): Promise<Run> {
  const { reader, writer, runs, isOldest } = options;
  assert(runs.length > 0, "there is something to merge");
  const map = new VolumeMap(reader, runs);
  const batch = new ExtentBatch(BATCH_EXTENTS);
  const end = Math.max(...runs.map((run) => run.parts.at(-1)?.endLba ?? 0));
  assert(end <= LBA_END_MAX, "runs keep to the largest volume");
  const parts: RunPart[] = [];
  for (let lba = 0; lba < end; ) {
    lba = await map.scan(lba, end, batch);
    for (let index = 0; index < batch.length; index += 1) {
      const kind = batch.kinds[index]!;
      if (kind === UNMAPPED || (isOldest && kind === EXTENT_KIND.hole)) continue;
      if (writer.isPartFull) parts.push(...(await finished(writer)));
      writer.add(batch.lbas[index]!, batch.blockCounts[index]!, kind, batch.places[index]!);
    }
  }
  parts.push(...(await finished(writer)));
  return { parts };
}

async function finished(writer: RunWriter): Promise<RunPart[]> {
  const part = await writer.finishPart();
  return part === undefined ? [] : [part];
}
