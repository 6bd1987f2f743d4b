// SPDX-License-Identifier: Apache-2.0
//
// Which slots of which packs are referred to, by all runs that the points name: one bit a slot, 2 KiB a pack. A block that
// a later run of the same volume hides counts as used; it goes with the run that names it.
//
// What histories refer to isn't counted by the slot: their packs are left alone.
//
// With very many packs only a part of them is looked at in one prune, another one each time: memory stays bounded.

import { EXTENT_KIND, type ExtentBatch } from "./extents.ts";
import type { HistoryPart } from "./history-writer.ts";
import { ordinalOf, PACK_SLOTS_MAX, slotOf } from "./place.ts";
import type { RunPart } from "./run-writer.ts";
import type { TargetReader } from "./target-reader.ts";

const WORDS = PACK_SLOTS_MAX / 32;
/** 128 MiB of bits. */
const PACKS_MAX = 65_536;

export interface UsedPack {
  readonly ordinal: number;
  readonly name: string;
  readonly slotCount: number;
  readonly usedCount: number;
}

export class PackUsage {
  readonly #reader: TargetReader;
  readonly #bits: Map<number, Uint32Array> = new Map();
  /** Parts of runs and histories that were added. */
  readonly #parts: Set<string> = new Set();
  /** Packs that histories refer to: they stay as they are. */
  readonly #kept: Set<number> = new Set();
  readonly #turn: number;

  /** `turn` is another number each time. */
  constructor(reader: TargetReader, turn: number) {
    this.#reader = reader;
    this.#turn = turn;
  }

  /** Counts what a part of a run refers to, once. Throws TARGET_CORRUPT. */
  async add(part: RunPart): Promise<void> {
    if (this.#parts.has(part.name)) return;
    this.#parts.add(part.name);
    const open = await this.#reader.runs.open(part);
    for (let page = 0; page < open.head.pageCount; page += 1)
      this.#mark(await this.#reader.runs.page(open, page));
  }

  /** Has the packs of a part of a history left alone. Throws TARGET_CORRUPT. */
  async keep(part: HistoryPart): Promise<void> {
    if (this.#parts.has(part.name)) return;
    this.#parts.add(part.name);
    const { ordinals } = await this.#reader.histories.open(part);
    for (const ordinal of ordinals) this.#kept.add(ordinal);
  }

  isUsed(ordinal: number, slot: number): boolean {
    const bits = this.#bits.get(ordinal);
    return bits !== undefined && (bits[slot >> 5]! & (1 << (slot & 31))) !== 0;
  }

  /** Packs of this turn, with what is used of them. Throws TARGET_CORRUPT. */
  async packs(): Promise<UsedPack[]> {
    const stripes = Math.ceil(this.#bits.size / PACKS_MAX);
    const found: UsedPack[] = [];
    for (const [ordinal, bits] of this.#bits) {
      if (ordinal % stripes !== this.#turn % stripes || this.#kept.has(ordinal)) continue;
      const name = this.#reader.packTable.nameOf(ordinal);
      const { slotCount } = await this.#reader.packs.head(name);
      found.push({ ordinal, name, slotCount, usedCount: countBits(bits) });
    }
    return found;
  }

  #mark(batch: ExtentBatch): void {
    for (let index = 0; index < batch.length; index += 1) {
      if (batch.kinds[index] !== EXTENT_KIND.frames) continue;
      const place = batch.places[index]!;
      const bits = this.#bitsOf(ordinalOf(place));
      const end = slotOf(place) + batch.blockCounts[index]!;
      for (let slot = slotOf(place); slot < end; slot += 1)
        bits[slot >> 5] = bits[slot >> 5]! | (1 << (slot & 31));
    }
  }

  #bitsOf(ordinal: number): Uint32Array {
    let bits = this.#bits.get(ordinal);
    if (bits === undefined) {
      bits = new Uint32Array(WORDS);
      this.#bits.set(ordinal, bits);
    }
    return bits;
  }
}

function countBits(words: Uint32Array): number {
  let count = 0;
  for (let word of words) for (; word !== 0; word &= word - 1) count += 1;
  return count;
}

/**
 * The packs to rewrite, the emptiest first, so that of all slots at most `unusedShareMax` is unused; not more than
 * `countMax` of them.
 */
export function choosePacks(
  packs: readonly UsedPack[],
  { unusedShareMax, countMax }: { readonly unusedShareMax: number; readonly countMax: number },
): UsedPack[] {
  let slots = packs.reduce((sum, { slotCount }) => sum + slotCount, 0);
  let unused = slots - packs.reduce((sum, { usedCount }) => sum + usedCount, 0);
  const emptiestFirst = packs
    .filter(({ slotCount, usedCount }) => usedCount < slotCount)
    .sort((one, other) => one.usedCount / one.slotCount - other.usedCount / other.slotCount);
  const chosen: UsedPack[] = [];
  for (const pack of emptiestFirst) {
    if (unused <= slots * unusedShareMax || chosen.length >= countMax) break;
    chosen.push(pack);
    unused -= pack.slotCount - pack.usedCount;
    slots -= pack.slotCount - pack.usedCount;
  }
  return chosen;
}
