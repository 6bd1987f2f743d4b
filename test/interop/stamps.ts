// SPDX-License-Identifier: Apache-2.0
//
// A stamp makes a sector say where it belongs and which write it came from: magic, run id, LBA, sequence
// number, and a filling that follows from them. So whatever is found after a crash is either zeros,
// exactly one write's sector in its right place, or damage: torn, misplaced or of another run.
//
//      0  magic   4  run id   8  LBA (512-byte sectors)   12  sequence number   16 … 511  filling

export const SECTOR_BYTES = 512;
const WORDS = SECTOR_BYTES / 4;
const MAGIC = 0x76617276;

/** What a sector of zeros counts as. Sequence numbers begin at 1. */
export const ZEROS = 0;
/** Neither zeros nor a whole stamp of this run for this place. */
export const DAMAGED = 0xffff_ffff;

/** A payload for `sectorCount` sectors from `lba` on. */
export function stamped(
  runId: number,
  { lba, sectorCount, sequence }: { lba: number; sectorCount: number; sequence: number },
): Buffer {
  const words = new Uint32Array(sectorCount * WORDS);
  for (let sector = 0; sector < sectorCount; sector++)
    stamp(words, sector * WORDS, { runId, lba: lba + sector, sequence });
  return Buffer.from(words.buffer);
}

interface Stamp {
  readonly runId: number;
  readonly lba: number;
  readonly sequence: number;
}

function stamp(words: Uint32Array, at: number, { runId, lba, sequence }: Stamp): void {
  words[at] = MAGIC;
  words[at + 1] = runId;
  words[at + 2] = lba;
  words[at + 3] = sequence;
  let state = seedOf(runId, lba, sequence);
  for (let word = 4; word < WORDS; word++) {
    state = next(state);
    words[at + word] = state;
  }
}

function seedOf(runId: number, lba: number, sequence: number): number {
  return (Math.imul(runId ^ (lba << 8), 0x9e3779b1) ^ Math.imul(sequence, 0x85ebca6b)) >>> 0 || 1;
}

function next(state: number): number {
  let word = state ^ (state << 13);
  word ^= word >>> 17;
  word ^= word << 5;
  return word >>> 0;
}

/** The sequence number that each sector of `bytes` carries, from `lba` on; ZEROS; or DAMAGED. */
export function sequencesIn(runId: number, lba: number, bytes: Buffer): Uint32Array {
  // A copy, so that the words are aligned.
  const words = new Uint32Array(new Uint8Array(bytes).buffer);
  const result = new Uint32Array(words.length / WORDS);
  for (let sector = 0; sector < result.length; sector++)
    result[sector] = sequenceAt(words, sector * WORDS, runId, lba + sector);
  return result;
}

function sequenceAt(words: Uint32Array, at: number, runId: number, lba: number): number {
  if (words[at] === 0) {
    for (let word = 1; word < WORDS; word++) if (words[at + word] !== 0) return DAMAGED;
    return ZEROS;
  }
  const sequence = words[at + 3]!;
  if (words[at] !== MAGIC || words[at + 1] !== runId || words[at + 2] !== lba) return DAMAGED;
  let state = seedOf(runId, lba, sequence);
  for (let word = 4; word < WORDS; word++) {
    state = next(state);
    if (words[at + word] !== state) return DAMAGED;
  }
  return sequence;
}
