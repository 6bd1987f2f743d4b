// SPDX-License-Identifier: Apache-2.0
//
// What damage costs: which bytes of which volumes of which points can't be had any more. Only those count that a point
// shows: a damaged block that a later run hides is lost to older points, and not to this one.

import type { Damage, DamageList } from "./damage.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import type { HistoryPart } from "./history-writer.ts";
import { BLOCK_BYTES, GROUP_SLOTS, ordinalOf, slotOf } from "./place.ts";
import type { Run } from "./run-writer.ts";
import type { TargetReader } from "./target-reader.ts";
import { LOST, VolumeMap } from "./volume-map.ts";

const BATCH_EXTENTS = 4096;

/** From this change on the moments of a history can't be had. */
export interface LostChange {
  readonly lsn: number;
  readonly damage: Damage;
}

/** A half-open run of bytes of a volume, and what took them away. */
export interface LostRange {
  readonly start: number;
  readonly end: number;
  readonly damage: Damage;
}

/** Calls back for each lost range of the volume with these runs, ascending. Throws TARGET_UNAVAILABLE. */
export async function visitLosses(
  options: {
    readonly reader: TargetReader;
    readonly damages: DamageList;
    readonly runs: readonly Run[];
    readonly sizeBytes: number;
  },
  visit: (range: LostRange) => void,
): Promise<void> {
  const { reader, damages, runs, sizeBytes } = options;
  const map = new VolumeMap(reader.runs, runs, "lenient");
  const batch = new ExtentBatch(BATCH_EXTENTS);
  let open: LostRange | undefined;
  const add = (lba: number, blockCount: number, damage: Damage) => {
    const start = lba * BLOCK_BYTES;
    const end = Math.min(sizeBytes, start + blockCount * BLOCK_BYTES);
    if (open?.end === start && open.damage.why === damage.why) open = { ...open, end };
    else {
      if (open !== undefined) visit(open);
      open = { start, end, damage };
    }
  };
  const endLba = Math.ceil(sizeBytes / BLOCK_BYTES);
  for (let lba = 0; lba < endLba; ) {
    lba = await map.scan(lba, endLba, batch);
    for (let index = 0; index < batch.length; index += 1) {
      const first = batch.lbas[index]!;
      const blockCount = batch.blockCounts[index]!;
      if (batch.kinds[index] === LOST) {
        const error = map.damageAt(first);
        const object = String(error?.data.object ?? "");
        add(first, blockCount, { object, why: error?.message ?? "it can't be had" });
      }
      const place = batch.places[index]!;
      if (batch.kinds[index] !== EXTENT_KIND.frames || !damages.touches(ordinalOf(place))) continue;
      for (let done = 0; done < blockCount; ) {
        const slot = slotOf(place) + done;
        const count = Math.min(blockCount - done, GROUP_SLOTS - (slot % GROUP_SLOTS));
        const damage = damages.at(ordinalOf(place), Math.floor(slot / GROUP_SLOTS));
        if (damage !== undefined) add(first + done, count, damage);
        done += count;
      }
    }
  }
  if (open !== undefined) visit(open);
}

/** The first change of a history's part that has lost a block. Throws TARGET_CORRUPT, TARGET_UNAVAILABLE. */
export async function firstLostChange(
  reader: TargetReader,
  damages: DamageList,
  part: HistoryPart,
): Promise<LostChange | undefined> {
  const { ordinals } = await reader.histories.open(part);
  if (!ordinals.some((ordinal) => damages.touches(ordinal))) return undefined;
  let lost: LostChange | undefined;
  await reader.histories.read(part, {
    changed: (lsn, _timeMicros, extents) => {
      for (let index = 0; index < extents.length && lost === undefined; index += 1) {
        const damage = damageOf(damages, extents, index);
        if (damage !== undefined) lost = { lsn, damage };
      }
      return undefined;
    },
    flushed: () => undefined,
    named: () => undefined,
  });
  return lost;
}

/** Of any of the extent's blocks. */
function damageOf(damages: DamageList, extents: ExtentBatch, index: number): Damage | undefined {
  const place = extents.places[index]!;
  const ordinal = ordinalOf(place);
  if (extents.kinds[index] !== EXTENT_KIND.frames || !damages.touches(ordinal)) return undefined;
  const endGroup = Math.ceil((slotOf(place) + extents.blockCounts[index]!) / GROUP_SLOTS);
  for (let group = Math.floor(slotOf(place) / GROUP_SLOTS); group < endGroup; group += 1) {
    const damage = damages.at(ordinal, group);
    if (damage !== undefined) return damage;
  }
  return undefined;
}
