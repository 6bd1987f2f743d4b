// SPDX-License-Identifier: Apache-2.0
//
// Where the frames of a home segment are now, when the index's own list can't be read: each moved frame lies in one batch
// with the record that says whose it is, so the segments that hold them tell. The newest record of a home counts, and
// segments are read in their order.
//
// Nothing is guessed: a frame that were missing in the list could be taken for garbage. So each segment must tell all that
// it has, which a footer proves; or as many must be found as the list had.

import type { StorageError } from "../base/errors.ts";
import type { StoredTable } from "../index/relocation-node.ts";
import { ENTRY_WORDS, PLACE_STATE, RelocationTable } from "../index/relocation-table.ts";
import type { LogFiles } from "../log/known-segments.ts";
import { segmentNumberOf } from "../log/segment.ts";
import { readSegmentFrames, type SegmentFrames } from "./segment-frames.ts";

/** The entries of the home segment's table. Throws `cause` where it can't be sure of all of them; LOG_CORRUPT, DISK_IO. */
export async function rebuildRelocations(
  files: LogFiles,
  homeSegment: number,
  { places, entryCount }: StoredTable,
  cause: StorageError,
): Promise<Uint32Array> {
  const table = new RelocationTable();
  const names = await files.directory.list();
  const present = names.map(segmentNumberOf).filter((number) => number > 0);
  const named = new Set(places ?? present);
  let areAllProven = true;
  for (const segment of present.sort((a, b) => a - b)) {
    if (!named.delete(segment)) continue;
    const frames = await readSegmentFrames(files, segment);
    areAllProven &&= frames.hasFooter;
    take(table, homeSegment, frames);
  }
  const entries = table.entries();
  const areAllFound = named.size === 0 && entries.length >= entryCount * ENTRY_WORDS;
  if (!areAllProven && !areAllFound) throw cause;
  return entries;
}

function take(table: RelocationTable, homeSegment: number, { number, moved }: SegmentFrames): void {
  const entry = new Uint32Array(ENTRY_WORDS);
  for (const { offset8, storedBytes, isShared, homes } of moved) {
    const state = isShared ? PLACE_STATE.SHARED : PLACE_STATE.ALONE;
    for (let slot = 0; slot * 2 < homes.length; slot++) {
      if (homes[slot * 2] !== homeSegment) continue;
      entry[0] = homes[slot * 2 + 1] as number;
      entry[1] = number;
      entry[2] = (state << 30) | (offset8 << 6) | slot;
      entry[3] = storedBytes;
      table.put(entry, 0);
    }
  }
}
