// SPDX-License-Identifier: Apache-2.0
//
// What simulated clients write: content that says who wrote it. Each 512-byte sector of a write holds the
// number of the write, the sector's place and its volume, and then words that follow from these, so the
// content of any write at any place can be made again instead of being kept, and a sector found where it
// doesn't belong tells where it came from. Two more patterns exist for the store's shortcuts: zeros, and
// sectors that are the same everywhere (duplicates).

export const SECTOR_BYTES = 512;

const CONTENT_PATTERNS = ["stamped", "zeros", "repeated"] as const;
export type ContentPattern = (typeof CONTENT_PATTERNS)[number];

/** Which write this is the content of. */
export interface ContentSource {
  readonly volumeId: number;
  /** The number of the write in the model's order. */
  readonly sequence: number;
  readonly pattern: ContentPattern;
}

const MAGIC = 0x31415356;
const WORD_COUNT: number = SECTOR_BYTES / 4;
const scratchWords = new Uint32Array(WORD_COUNT);
const scratchBytes = new Uint8Array(scratchWords.buffer);

/** Fills `target` with what the write puts at `offsetBytes` of the volume and after it. */
export function fillContent(target: Uint8Array, source: ContentSource, offsetBytes: number): void {
  if (source.pattern === "zeros") {
    target.fill(0);
    return;
  }
  let done = 0;
  while (done < target.length) {
    const position = offsetBytes + done;
    const sector = Math.floor(position / SECTOR_BYTES);
    const start = position - sector * SECTOR_BYTES;
    const length = Math.min(SECTOR_BYTES - start, target.length - done);
    makeSector(source, sector);
    target.set(
      length === SECTOR_BYTES ? scratchBytes : scratchBytes.subarray(start, start + length),
      done,
    );
    done += length;
  }
}

function makeSector({ volumeId, sequence, pattern }: ContentSource, sector: number): void {
  const isStamped = pattern === "stamped";
  const number = isStamped ? sequence : sequence & 3;
  const place = isStamped ? sector : 0;
  scratchWords[0] = MAGIC;
  scratchWords[1] = number;
  scratchWords[2] = place;
  scratchWords[3] = isStamped ? volumeId : 0;
  let word = Math.imul(number + 1, 0x9e3779b1) ^ Math.imul(place + 1, 0x85ebca77);
  for (let index = 4; index < WORD_COUNT; index++) {
    word = (Math.imul(word, 0x19660d) + 0x3c6ef35f) | 0;
    scratchWords[index] = word;
  }
}

/** What a sector holds, in words, for the report of a failure. */
export function describeContent(sector: Uint8Array): string {
  if (sector.every((byte) => byte === 0)) return "zeros";
  const words = new Uint32Array(sector.slice().buffer, 0, 4);
  if (words[0] !== MAGIC) return "bytes that no client wrote as a whole sector";
  return `the content of #${words[1]} for sector ${words[2]} of volume ${words[3]}`;
}

export function isEqual(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
